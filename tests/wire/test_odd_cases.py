"""What providers do beside the rule, and what no provider should: each case by itself."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from meterd_middleware.readers import reader_for
from meterd_middleware.request import ProviderCall, read_request
from tests.wire.dialects import frame, sse
from tests.wire.reading import cut, read

if TYPE_CHECKING:
    from meterd_middleware.readers import Reading


def call(host: str, path: str, body: dict[str, Any] | None = None) -> ProviderCall:
    given = body if body is not None else {"model": "m", "messages": [], "input": "x"}
    found = read_request("POST", host, path, "", {}, json.dumps(given).encode())
    assert found is not None
    return found


def chat(usage: object, host: str = "api.openai.com", **more: object) -> Reading:
    body = {"id": "c", "model": "m", "choices": [{"finish_reason": "stop"}], "usage": usage, **more}
    return read(call(host, "/v1/chat/completions"), [json.dumps(body).encode()])


def stream(host: str, path: str, *events: bytes, is_whole: bool = True) -> Reading:
    given = {"model": "m", "messages": [], "input": "x", "stream": True}
    return read(
        call(host, path, given), events, content_type="text/event-stream", is_whole=is_whole
    )


# Anthropic


def test_iterations_are_the_bill_one_usage_for_each_model() -> None:
    """Compaction and advisors run on models of their own, beside the top-level counts."""
    usage = {
        "input_tokens": 100,
        "output_tokens": 10,
        "iterations": [
            {"type": "compaction", "input_tokens": 180_000, "output_tokens": 3_500},
            {"type": "message", "input_tokens": 23_000, "output_tokens": 1_000},
            {"type": "advisor_message", "model": "opus", "input_tokens": 5, "output_tokens": 7,
             "cache_read_input_tokens": 2},
        ],
    }  # fmt: skip
    body = {"id": "msg", "model": "sonnet", "usage": usage}

    reading = read(call("api.anthropic.com", "/v1/messages"), [json.dumps(body).encode()])

    assert [(u.response_model, u.input_tokens, u.output_tokens) for u in reading.usages] == [
        ("sonnet", 203_000, 4_500),
        ("opus", 7, 7),
    ]


@pytest.mark.parametrize(
    ("start", "delta"),
    [
        ({"input_tokens": 0, "output_tokens": 0}, {"input_tokens": 50, "output_tokens": 9}),
        ({"input_tokens": 50, "output_tokens": 1}, {"input_tokens": 0, "output_tokens": 9}),
        ({"input_tokens": 50, "output_tokens": 1}, {"output_tokens": 9}),
    ],
)
def test_the_larger_of_start_and_delta_counts_never_their_sum(
    start: dict[str, int], delta: dict[str, int]
) -> None:
    """Compatible servers put the input into either, and a zero into the other."""
    reading = stream(
        "api.anthropic.com", "/v1/messages",
        sse({"type": "message_start", "message": {"model": "m", "usage": start}}),
        sse({"type": "message_delta", "delta": {"stop_reason": "end"}, "usage": delta}),
        sse({"type": "message_stop"}),
    )  # fmt: skip

    assert (reading.usages[0].input_tokens, reading.usages[0].output_tokens) == (50, 9)


def test_cache_writes_that_grow_in_the_delta_are_five_minute_ones() -> None:
    """The split stands in the start alone."""
    split = {"ephemeral_1h_input_tokens": 30, "ephemeral_5m_input_tokens": 10}
    start = {"input_tokens": 5, "cache_creation_input_tokens": 40, "cache_creation": split}
    delta = {"cache_creation_input_tokens": 100, "output_tokens": 3}

    usage = stream(
        "api.anthropic.com", "/v1/messages",
        sse({"type": "message_start", "message": {"usage": start}}),
        sse({"type": "message_delta", "usage": delta}),
        sse({"type": "message_stop"}),
    ).usages[0]  # fmt: skip

    assert (usage.input_tokens, usage.cache_write_tokens) == (105, 100)
    assert usage.cache_write_long_tokens == 30


def test_hosted_tools_and_what_sets_the_price_are_kept() -> None:
    """Billed apart: not in the tokens."""
    usage = {"input_tokens": 1, "output_tokens": 1, "service_tier": "priority", "speed": "fast",
             "inference_geo": "us", "server_tool_use": {"web_search_requests": 2}}  # fmt: skip

    reading = read(
        call("api.anthropic.com", "/v1/messages"), [json.dumps({"usage": usage}).encode()]
    )

    assert reading.tool_calls == {"web_search": 2}
    assert reading.price_context == {
        "service_tier": "priority", "speed": "fast", "inference_geo": "us",
    }  # fmt: skip


# OpenAI and those who speak like it


def test_an_error_inside_a_200_is_one_and_usage_before_it_counts() -> None:
    """Its kind is kept, never its message, which may quote the prompt."""
    reading = stream(
        "api.openai.com", "/v1/chat/completions",
        sse({"id": "c", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}),
        sse({"error": {"type": "server_error", "message": "your prompt was: secret"}}),
    )  # fmt: skip

    assert reading.error == "server_error"
    assert not reading.is_complete
    assert reading.usages[0].input_tokens == 5
    assert "secret" not in repr(reading)


def test_a_background_response_is_pending_until_it_is_asked_for_again() -> None:
    """Its POST answers without usage."""
    body = {"id": "resp_1", "status": "queued", "background": True, "model": "m", "usage": None}

    reading = read(call("api.openai.com", "/v1/responses"), [json.dumps(body).encode()])

    assert (reading.pending_id, reading.is_background, reading.usages) == ("resp_1", True, ())


def test_searches_that_only_open_a_page_are_not_counted_as_searches() -> None:
    """OpenAI bills the search call."""
    output = [
        {"type": "web_search_call", "action": {"type": "search"}},
        {"type": "web_search_call", "action": {"type": "open_page"}},
        {"type": "message"},
    ]
    body = {"id": "resp_1", "status": "completed", "output": output,
            "usage": {"input_tokens": 1, "output_tokens": 2}}  # fmt: skip

    reading = read(call("api.openai.com", "/v1/responses"), [json.dumps(body).encode()])

    assert reading.tool_calls == {"web_search": 1}


def test_costs_that_a_provider_states_are_kept_beside() -> None:
    """A cross-check, never the price."""
    counts = {"prompt_tokens": 1, "completion_tokens": 1}
    openrouter = chat({**counts, "cost": 0.00095}, "openrouter.ai")
    xai = chat({**counts, "cost_in_usd_ticks": 37_756_000}, "api.x.ai")

    assert openrouter.provider_cost == Decimal("0.00095")
    assert xai.provider_cost == Decimal("0.0037756")


def test_geminis_openai_face_hides_its_reasoning_in_the_total() -> None:
    """The rest of the total is thought."""
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 40}

    reading = chat(usage, "generativelanguage.googleapis.com")

    assert (reading.usages[0].output_tokens, reading.usages[0].reasoning_tokens) == (30, 25)


def test_a_response_without_done_is_complete_after_its_finish_reason() -> None:
    """If the stream ends cleanly."""
    events = (
        sse({"id": "c", "choices": [{"delta": {"content": "x"}, "finish_reason": None}]}),
        sse({"id": "c", "choices": [{"delta": {}, "finish_reason": "stop"}],
             "usage": {"prompt_tokens": 3, "completion_tokens": 1}}),
    )  # fmt: skip

    assert stream("10.0.0.1", "/v1/chat/completions", *events).is_complete
    assert not stream("10.0.0.1", "/v1/chat/completions", *events, is_whole=False).is_complete


# Gemini


def test_gemini_thoughts_are_counted_once_whichever_way_they_are_reported() -> None:
    """Outside candidates as a rule; inside where the total says so."""

    def out(**usage: int) -> tuple[int | None, int]:
        path = "/v1beta/models/g:generateContent"
        body = {"candidates": [], "usageMetadata": usage}
        one = call("generativelanguage.googleapis.com", path, {"contents": []})
        found = read(one, [json.dumps(body).encode()]).usages[0]
        return found.output_tokens, found.reasoning_tokens

    assert out(promptTokenCount=10, candidatesTokenCount=5, thoughtsTokenCount=7,
               totalTokenCount=22) == (12, 7)  # fmt: skip
    assert out(promptTokenCount=10, candidatesTokenCount=12, thoughtsTokenCount=7,
               totalTokenCount=22) == (12, 7)  # fmt: skip
    assert out(promptTokenCount=10, thoughtsTokenCount=7, totalTokenCount=17) == (7, 7)
    assert out(promptTokenCount=10, totalTokenCount=10) == (0, 0)


def test_gemini_tool_use_is_input_but_not_under_search() -> None:
    """Grounding is billed by the search."""
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 5, "toolUsePromptTokenCount": 90,
             "totalTokenCount": 105}  # fmt: skip
    one = call("generativelanguage.googleapis.com", "/v1beta/models/g:generateContent", {})
    grounded = {"candidates": [{"groundingMetadata": {"webSearchQueries": ["a", "b"]}}]}

    plain = read(one, [json.dumps({"usageMetadata": usage}).encode()])
    searched = read(one, [json.dumps({**grounded, "usageMetadata": usage}).encode()])

    assert plain.usages[0].input_tokens == 100
    assert searched.usages[0].input_tokens == 10
    assert searched.tool_calls == {"google_search": 2}


def test_a_chunk_that_states_the_traffic_alone_replaces_nothing() -> None:
    """Vertex sends such chunks after the counts."""
    reading = read(
        call("x-aiplatform.googleapis.com", "/v1/models/g:streamGenerateContent", {}),
        [sse({"usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 4,
                                "totalTokenCount": 13}}),
         sse({"candidates": [{"finishReason": "STOP"}],
              "usageMetadata": {"trafficType": "ON_DEMAND_PRIORITY"}})],
        content_type="text/event-stream",
    )  # fmt: skip

    assert (reading.usages[0].input_tokens, reading.usages[0].output_tokens) == (9, 4)
    assert reading.price_context == {"service_tier": "priority"}


# Bedrock, audio


def test_a_frame_with_a_bad_checksum_is_left_out_and_noted() -> None:
    """The app gets it all the same."""
    events = [
        frame("messageStop", {"stopReason": "end"}),
        frame("metadata", {"usage": {"inputTokens": 3, "outputTokens": 2}}),
    ]
    broken = bytearray(events[0])
    broken[-6] ^= 1
    one = call("bedrock-runtime.us-east-1.amazonaws.com", "/model/m/converse-stream", {})

    reading = read(
        one, [bytes(broken), events[1]], content_type="application/vnd.amazon.eventstream"
    )

    assert reading.usages[0].input_tokens == 3
    assert reading.note == "a frame could not be read"


def test_bedrock_states_the_counts_of_any_model_in_headers() -> None:
    """The body may be a model's own."""
    one = call(
        "bedrock-runtime.us-east-1.amazonaws.com", "/model/meta.llama/invoke", {"prompt": ""}
    )

    usage = read(
        one, [b'{"generation":"x"}'],
        headers={"x-amzn-bedrock-input-token-count": "12",
                 "x-amzn-bedrock-output-token-count": "7"},
    ).usages[0]  # fmt: skip

    assert (usage.input_tokens, usage.output_tokens) == (12, 7)


def test_an_exception_frame_is_an_error() -> None:
    """Inside a 200."""
    one = call("bedrock-runtime.us-east-1.amazonaws.com", "/model/m/converse-stream", {})

    reading = read(
        one, [frame("throttlingException", {"message": "slow down"}, "exception")],
        content_type="application/vnd.amazon.eventstream",
    )  # fmt: skip

    assert reading.error == "throttlingException"


def test_a_transcription_billed_by_the_minute_used_no_token() -> None:
    """And none may be estimated for it."""
    one = read_request("POST", "api.openai.com", "/v1/audio/transcriptions", "", {}, None)
    assert one is not None

    usage = read(one, [b'{"text":"hi","usage":{"type":"duration","seconds":3}}']).usages[0]

    assert (usage.input_tokens, usage.output_tokens) == (0, 0)


# What can't be believed


@pytest.mark.parametrize(
    "nonsense", [-1, 1.5, True, "many", [], {}, 2**60, "9" * 400, float("inf")], ids=repr
)
def test_nonsense_is_no_count_and_says_so(nonsense: object) -> None:
    """The side is estimated; the other one stands."""
    reading = chat({"prompt_tokens": nonsense, "completion_tokens": 7})

    assert reading.usages[0].input_tokens is None
    assert reading.usages[0].output_tokens == 7
    assert reading.note == "prompt_tokens is no count"


def test_missing_is_not_zero() -> None:
    """A reported zero is a count."""
    assert chat({"prompt_tokens": 0, "completion_tokens": 0}).usages[0].input_tokens == 0
    assert chat({"completion_tokens": 7}).usages[0].input_tokens is None
    assert chat(None).usages == ()


def test_a_part_beyond_its_whole_is_clamped_and_noted() -> None:
    """A contradiction must not make a negative."""
    usage = {"prompt_tokens": 10, "completion_tokens": 5,
             "prompt_tokens_details": {"cached_tokens": 99}}  # fmt: skip

    reading = chat(usage)

    assert reading.usages[0].cache_read_tokens == 10
    assert reading.note == "cache_read_tokens beyond its whole"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"[]", b'"x"', b"<html>502</html>", b"\xff\xfe\x00",
        b"[" * 10_000, b'{"a":' * 10_000, b'{"usage":' + b"9" * 5_000 + b"}",
        b'{"usage":{"prompt_tokens":1,"prompt_tokens":2}}', b'{"usage":[1]}',
    ],
    ids=range(12),
)  # fmt: skip
def test_a_body_that_makes_no_sense_never_raises(body: bytes) -> None:
    """Whatever comes, in one piece or in bytes."""
    one = call("api.openai.com", "/v1/chat/completions")
    for content_type in ("application/json", "text/event-stream", "text/html", ""):
        for size in (1, 4096):
            reading = read(one, cut(body, [size] * len(body)), content_type=content_type)
            assert all((u.input_tokens or 0) >= 0 for u in reading.usages)


def test_truncated_gzip_and_a_wrong_label_are_survived() -> None:
    """A plain body labelled gzip is read as it is."""
    body = b'{"usage":{"prompt_tokens":3,"completion_tokens":1}}'
    one = call("api.openai.com", "/v1/chat/completions")

    half = read(one, [gzip.compress(body)[:-12]], encoding="gzip")
    plain = read(one, [body], encoding="gzip")
    odd = read(one, [body], encoding="rot13")

    assert half.usages == ()
    assert plain.usages[0].input_tokens == 3
    assert (odd.usages, odd.note) == (
        (), "the body is no JSON that can be read; unknown content-encoding rot13",
    )  # fmt: skip


# Large bodies


def chunks_kept(reader: Any) -> list[bytes]:
    """What a reader holds: its bound is the point here."""
    kept: list[bytes] = reader._chunks
    return kept


def test_usage_at_the_end_of_four_megabytes_is_found_and_little_is_kept() -> None:
    """Embeddings and pictures; the text inside may speak of usage too."""
    vectors = [{"embedding": [0.123456789] * 30, "x": {"usage": {"prompt_tokens": 9}}}] * 8_000
    body = json.dumps({"object": "list", "data": vectors, "model": "m",
                       "usage": {"prompt_tokens": 77, "total_tokens": 77}}).encode()  # fmt: skip
    assert len(body) > 3_000_000
    one = call("api.openai.com", "/v1/embeddings", {"model": "m", "input": []})
    reader = reader_for(one, 200, {"content-type": "application/json"})
    for chunk in cut(body, [65_536] * 100):
        reader.feed(chunk)
        assert sum(len(kept) for kept in chunks_kept(reader)) < 400_000
    reading = reader.finish(True)

    assert reading.usages[0].input_tokens == 77
    assert reading.is_complete


def test_a_long_answer_is_read_by_its_two_ends() -> None:
    """Model and id from the head, usage from the tail."""
    text = 'so "usage": {"prompt_tokens": 1} ' * 20_000
    body = {"id": "chatcmpl-9", "model": "gpt-x", "choices": [{"message": {"content": text}}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 160_000, "total_tokens": 160_005},
            "service_tier": "flex"}  # fmt: skip

    reading = read(
        call("api.openai.com", "/v1/chat/completions"),
        cut(json.dumps(body).encode(), [10_000] * 200),
    )

    assert reading.usages[0].output_tokens == 160_000
    assert (reading.response_id, reading.response_model) == ("chatcmpl-9", "gpt-x")
    assert reading.price_context == {"service_tier": "flex"}
    assert reading.is_complete


def test_the_last_event_of_a_long_response_is_read_without_being_parsed() -> None:
    """`response.completed` repeats all of the output."""
    response = {"id": "resp_1", "model": "gpt-x", "output": [{"text": "word " * 100_000}],
                "usage": {"input_tokens": 8, "output_tokens": 100_000,
                          "output_tokens_details": {"reasoning_tokens": 3}}}  # fmt: skip

    reading = stream(
        "api.openai.com", "/v1/responses",
        sse({"type": "response.completed", "response": response}, "response.completed"),
    )  # fmt: skip

    assert reading.usages[0].output_tokens == 100_000
    assert reading.usages[0].reasoning_tokens == 3
    assert reading.is_complete
