"""What single hosts do beside their dialect's rule, as their recorded answers show it."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from hypothesis import given as for_any
from hypothesis import strategies as st

from meterd_middleware.request import ProviderCall, read_request
from tests.wire.dialects import frame, sse
from tests.wire.reading import cut, read
from tests.wire.test_odd_cases import call, chat, stream

if TYPE_CHECKING:
    from tests.wire.dialects import Json


def asked(host: str, path: str, body: object = None) -> ProviderCall | None:
    given = {"model": "m", "messages": []} if body is None else body
    return read_request("POST", host, path, "", {}, json.dumps(given).encode())


# Whose a call is


@pytest.mark.parametrize(
    ("host", "path", "provider"),
    [
        ("r.services.ai.azure.com", "/openai/v1/chat/completions", "azure.ai.openai"),
        ("r.services.ai.azure.com", "/models/chat/completions", "azure.ai.inference"),
        ("r.services.ai.azure.com", "/anthropic/v1/messages", "azure.ai.inference"),
        ("aiplatform.us.rep.googleapis.com", "/v1/models/g:generateContent", "gcp.vertex_ai"),
        ("gateway.ai.cloudflare.com", "/v1/acc/gw/anthropic/v1/messages", "anthropic"),
        ("gateway.ai.cloudflare.com", "/v1/acc/gw/compat/chat/completions", "cloudflare"),
        ("us-east-1.api.x.ai", "/v1/chat/completions", "x_ai"),
        ("dbc-1.cloud.databricks.com", "/serving-endpoints/chat/completions", "databricks"),
        ("us-south.ml.cloud.ibm.com", "/ml/v1/text/chat", "ibm.watsonx.ai"),
        ("api.cohere.com", "/compatibility/v1/chat/completions", "cohere"),
    ],
)
def test_a_host_shared_by_several_providers_is_told_apart_by_its_path(
    host: str, path: str, provider: str
) -> None:
    """The provider decides the price."""
    found = asked(host, path)

    assert found is not None
    assert found.provider == provider


def test_a_refusal_has_the_shape_that_the_path_speaks_not_the_host() -> None:
    """Cohere's OpenAI face is called by OpenAI's SDK."""
    compatible = asked("api.cohere.com", "/compatibility/v1/chat/completions")
    own = asked("api.cohere.com", "/v2/chat")

    assert compatible is not None
    assert own is not None
    assert (compatible.refusal_shape, own.refusal_shape) == ("openai", "cohere")


@pytest.mark.parametrize(
    ("host", "path", "body"),
    [
        ("api.openai.com", "/v1/conversations", {"items": []}),
        ("api.openai.com", "/v1/images", {"prompt": "x"}),
        ("app.example", "/generate", {"inputs": "x"}),
        ("app.example", "/", {"inputs": "x", "parameters": {}}),
        ("app.example", "/v1/complete", {"model": "m", "prompt": "x"}),
        ("bedrock-runtime.us-east-1.amazonaws.com", "/model/m/count-tokens", {}),
    ],
)
def test_paths_that_mean_something_else_elsewhere_make_no_record(
    host: str, path: str, body: object
) -> None:
    """OpenAI's conversations hold messages; Mistral's run an agent."""
    assert asked(host, path, body) is None


def test_a_bedrock_model_named_by_its_arn_is_recognised_and_kept_whole() -> None:
    """Decoded, its path has slashes of its own."""
    arn = "arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-sonnet-4"
    path = f"/model/{arn}/converse-stream"
    found = asked("bedrock-runtime.us-east-1.amazonaws.com", path, {"messages": []})

    assert found is not None
    assert (found.request_model, found.dialect, found.is_stream) == (arn, "bedrock.converse", True)


@pytest.mark.parametrize(
    ("model", "operation"),
    [
        ("amazon.titan-embed-text-v2:0", "embeddings"),
        ("cohere.rerank-v3-5:0", "rerank"),
        ("amazon.titan-text-express-v1", "text_completion"),
        ("anthropic.claude-sonnet-4", "chat"),
    ],
)
def test_what_a_bedrock_model_does_stands_in_its_name(model: str, operation: str) -> None:
    """`invoke` is one path for all."""
    found = asked("bedrock-runtime.us-east-1.amazonaws.com", f"/model/{model}/invoke")

    assert found is not None
    assert found.operation == operation


# What they count


@for_any(taken=st.integers(0, 10**6), given=st.integers(0, 10**6), reasoning=st.integers(0, 10**6))
def test_geminis_reasoning_stands_outside_completion_and_total_at_vercels_gateway(
    taken: int, given: int, reasoning: int
) -> None:
    """As the cost beside it shows; of other providers' models it stands inside."""
    usage: Json = {
        "prompt_tokens": taken, "completion_tokens": given, "total_tokens": taken + given,
        "completion_tokens_details": {"reasoning_tokens": reasoning}, "cost": 0.0001,
    }  # fmt: skip
    one = asked("ai-gateway.vercel.sh", "/v1/chat/completions")
    assert one is not None

    for model, output in (("google/gemini-3-pro", given + reasoning), ("openai/gpt-5", given)):
        body = {"model": model, "choices": [{"finish_reason": "stop"}], "usage": usage}
        found = read(one, [json.dumps(body).encode()]).usages[0]
        assert (found.input_tokens, found.output_tokens) == (taken, output)
        assert found.reasoning_tokens == min(reasoning, output)


@pytest.mark.parametrize(
    ("host", "path", "provider"),
    [
        ("api.minimax.io", "/v1/text/chatcompletion_v2", "minimax"),
        ("acme.snowflakecomputing.com", "/api/v2/cortex/inference:complete", "snowflake"),
    ],
)
def test_chat_completions_under_a_path_of_their_own_are_read_as_chat(
    host: str, path: str, provider: str
) -> None:
    """On their own hosts alone."""
    found = asked(host, path)

    assert found is not None
    assert (found.provider, found.dialect, found.operation) == (provider, "oa.chat", "chat")
    assert asked("app.example", path) is None


def test_mistrals_audio_stands_outside_its_prompt() -> None:
    """The total says so; with and without the number itself."""
    usage = {"prompt_audio_seconds": 3, "prompt_tokens": 9, "completion_tokens": 248,
             "total_tokens": 632}  # fmt: skip
    stated = {**usage, "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 375}}

    for given in (usage, stated):
        reading = chat(given, "api.mistral.ai")
        found = reading.usages[0]
        assert (found.input_tokens, found.audio_input_tokens, found.output_tokens) == (
            384, 375, 248,
        )  # fmt: skip
        assert reading.note == ""


def test_mistrals_transcriptions_count_as_its_chat_does() -> None:
    """And state their tier inside the usage."""
    one = read_request("POST", "api.mistral.ai", "/v1/audio/transcriptions", "", {}, None)
    assert one is not None
    body = {"model": "voxtral", "text": "x", "usage": {
        "prompt_audio_seconds": 36, "prompt_tokens": 13, "completion_tokens": 151,
        "total_tokens": 164}}  # fmt: skip

    usage = read(one, [json.dumps(body).encode()]).usages[0]

    assert (usage.input_tokens, usage.output_tokens) == (13, 151)
    tiered = chat({"prompt_tokens": 1, "completion_tokens": 1, "service_tier": "standard"})
    assert tiered.price_context == {"service_tier": "standard"}


def test_costs_and_tools_are_read_in_every_dialect_of_a_host() -> None:
    """xAI's responses, Perplexity's responses, OpenRouter's embeddings and pictures."""

    def answer(host: str, path: str, usage: object) -> object:
        body = {"id": "x", "model": "m", "usage": usage}
        return read(call(host, path), [json.dumps(body).encode()])

    xai = answer("api.x.ai", "/v1/responses", {
        "input_tokens": 9, "output_tokens": 4, "cost_in_usd_ticks": 123_456,
        "server_side_tool_usage_details": {"web_search_calls": 2, "x_search_calls": 0,
                                           "mcp_calls": 5}})  # fmt: skip
    perplexity = answer("api.perplexity.ai", "/v1/responses", {
        "input_tokens": 9, "output_tokens": 4, "cost": {"total_cost": 0.006},
        "input_tokens_details": {"cache_read_input_tokens": 3},
        "tool_calls_details": {"search_web": {"invocation": 1}}})  # fmt: skip
    pictures = answer("openrouter.ai", "/api/v1/images", {
        "prompt_tokens": 5, "completion_tokens": 1_120, "cost": 0.03422675})  # fmt: skip

    assert (xai.provider_cost, xai.tool_calls) == (Decimal("0.0000123456"), {"web_search": 2})  # type: ignore[attr-defined]
    assert perplexity.provider_cost == Decimal("0.006")  # type: ignore[attr-defined]
    assert perplexity.usages[0].cache_read_tokens == 3  # type: ignore[attr-defined]
    assert perplexity.tool_calls == {"web_search": 1}  # type: ignore[attr-defined]
    assert pictures.usages[0].output_tokens == 1_120  # type: ignore[attr-defined]
    assert pictures.provider_cost == Decimal("0.03422675")  # type: ignore[attr-defined]


def test_with_a_key_of_ones_own_the_providers_bill_is_added_to_openrouters_fee() -> None:
    """`cost` is the fee alone then."""
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.0001, "is_byok": True,
             "cost_details": {"upstream_inference_cost": 0.002}}  # fmt: skip

    assert chat(usage, "openrouter.ai").provider_cost == Decimal("0.0021")


def test_litellms_proxy_states_its_cost_in_a_header() -> None:
    """Of a stream it can't know it beforehand, and says None."""
    one = call("litellm.internal", "/v1/chat/completions")
    body = [b'{"usage":{"prompt_tokens":1,"completion_tokens":1}}']

    stated = read(one, body, headers={"x-litellm-response-cost": "3.45e-05"})
    unknown = read(one, body, headers={"x-litellm-response-cost": "None"})

    assert (stated.provider_cost, unknown.provider_cost) == (Decimal("0.0000345"), None)


def test_pictures_of_the_hosted_tool_are_a_record_of_their_own_model() -> None:
    """`tool_usage` stands outside `usage`, at the prices of another model."""
    pictures = {"input_tokens": 50, "output_tokens": 1_056, "total_tokens": 1_106}
    body = {"id": "resp_1", "model": "gpt-5", "status": "completed",
            "tools": [{"type": "image_generation", "model": "gpt-image-1.5"}],
            "tool_usage": {"image_gen": pictures, "web_search": {"num_requests": 0}},
            "usage": {"input_tokens": 10, "output_tokens": 20}}  # fmt: skip

    reading = read(call("api.openai.com", "/v1/responses"), [json.dumps(body).encode()])

    assert [(u.response_model, u.input_tokens, u.output_tokens) for u in reading.usages] == [
        ("gpt-5", 10, 20), ("gpt-image-1.5", 50, 1_056),
    ]  # fmt: skip
    assert reading.tool_calls == {}


def test_coheres_cached_tokens_are_of_what_the_model_saw_and_kept_within_the_bill() -> None:
    """Its own template is cached too; that is no contradiction."""
    usage = {"billed_units": {"input_tokens": 8, "output_tokens": 8},
             "tokens": {"input_tokens": 503, "output_tokens": 11},
             "cached_tokens": 448}  # fmt: skip

    reading = read(call("api.cohere.com", "/v2/chat"), [json.dumps({"usage": usage}).encode()])

    assert (reading.usages[0].input_tokens, reading.usages[0].cache_read_tokens) == (8, 8)
    assert reading.note == ""


def test_grounding_in_maps_makes_tool_use_free_as_search_does() -> None:
    """It is billed by the request."""
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 5, "toolUsePromptTokenCount": 90,
             "totalTokenCount": 105}  # fmt: skip
    grounded = {
        "candidates": [{"groundingMetadata": {"groundingChunks": [{"maps": {"uri": "x"}}]}}]
    }
    one = call("generativelanguage.googleapis.com", "/v1beta/models/g:generateContent", {})

    reading = read(one, [json.dumps({**grounded, "usageMetadata": usage}).encode()])

    assert reading.usages[0].input_tokens == 10


# Anthropic's refusals and thinking


def test_an_attempt_declined_without_output_is_free_and_its_stand_in_is_the_model() -> None:
    """The one that answered is billed; one that declined after a word is billed too."""

    def iterations(declined: int) -> list[tuple[str, int | None]]:
        usage = {"input_tokens": 412, "output_tokens": 264, "iterations": [
            {"type": "message", "model": "first", "input_tokens": 408, "output_tokens": declined},
            {"type": "fallback_message", "model": "second", "input_tokens": 412,
             "output_tokens": 264}]}  # fmt: skip
        body = {"id": "msg", "model": "first", "usage": usage}
        one = call("api.anthropic.com", "/v1/messages")
        reading = read(one, [json.dumps(body).encode()])
        return [(usage.response_model, usage.input_tokens) for usage in reading.usages]

    assert iterations(0) == [("second", 412)]
    assert iterations(3) == [("second", 412), ("first", 408)]


def test_a_refusal_without_a_word_is_free() -> None:
    """Anthropic doesn't bill it, though it states its input."""
    usage = {"input_tokens": 18, "output_tokens": 0}
    body = {"id": "msg", "model": "m", "stop_reason": "refusal", "usage": usage}

    reading = read(call("api.anthropic.com", "/v1/messages"), [json.dumps(body).encode()])

    assert (reading.usages[0].input_tokens, reading.note) == (0, "refused without output: free")


def test_thinking_that_only_the_whole_message_states_is_of_the_model_that_answered() -> None:
    """Iterations have no split of their own."""
    usage = {"input_tokens": 3, "output_tokens": 121, "output_tokens_details": {
        "thinking_tokens": 28}, "iterations": [
        {"type": "message", "input_tokens": 1, "output_tokens": 110},
        {"type": "advisor_message", "model": "advisor", "input_tokens": 9, "output_tokens": 22},
        {"type": "message", "input_tokens": 2, "output_tokens": 11}]}  # fmt: skip
    body = {"id": "msg", "model": "m", "usage": usage}

    reading = read(call("api.anthropic.com", "/v1/messages"), [json.dumps(body).encode()])

    assert [(u.output_tokens, u.reasoning_tokens) for u in reading.usages] == [(121, 28), (22, 0)]


# What is labelled wrong


def test_streams_without_a_content_type_are_told_by_their_first_bytes() -> None:
    """AWS frames by their checksum, Ollama's lines by their brace."""
    frames = frame("metadata", {"usage": {"inputTokens": 18, "outputTokens": 181}})
    lines = b'{"message":{},"done":false}\n{"done":true,"prompt_eval_count":21,"eval_count":8}\n'
    bedrock = call("bedrock-runtime.us-east-1.amazonaws.com", "/model/m/converse-stream", {})
    ollama = call("127.0.0.1", "/api/chat", {"model": "m", "messages": []})

    for one, data, counts in ((bedrock, frames, (18, 181)), (ollama, lines, (21, 8))):
        for size in (1, 7, 4096):
            reading = read(one, cut(data, [size] * len(data)), content_type="")
            usage = reading.usages[0]
            assert (usage.input_tokens, usage.output_tokens) == counts
            assert reading.is_complete


def test_events_labelled_as_json_and_json_labelled_as_events_are_both_read() -> None:
    """Gateways do either."""
    usage = {"prompt_tokens": 5, "completion_tokens": 2}
    whole = json.dumps({"id": "c", "model": "m", "usage": usage}).encode()
    events = sse({"id": "c", "model": "m", "choices": [], "usage": usage}) + sse("[DONE]")
    body = {"model": "m", "messages": [], "stream": True}

    for asked_for in (body, {**body, "stream": False}):
        one = call("10.0.0.1", "/v1/chat/completions", asked_for)
        assert read(one, [events]).usages[0].input_tokens == 5
        assert read(one, [whole], content_type="text/event-stream").usages[0].input_tokens == 5


def test_an_error_line_that_is_no_field_of_events_is_an_error() -> None:
    """llama.cpp ends a failed stream with `error: {…}`."""
    reading = stream(
        "10.0.0.1", "/v1/chat/completions",
        sse({"id": "c", "model": "m", "choices": [{"delta": {"content": "x"}}]}),
        b'error: {"error":{"type":"server_error","message":"failed to decode"}}\n\n',
    )  # fmt: skip

    assert reading.error == "server_error"


@pytest.mark.parametrize("spaced", ['"usage" :{', '"usage":  {', '"usage":\t{', '"usage" : {'])
def test_usage_is_found_however_it_is_spaced(spaced: str) -> None:
    """JSON doesn't mind."""
    counts = '"prompt_tokens":5,"completion_tokens":2'
    event = f'data: {{"id":"c","choices":[],{spaced}{counts}}}}}\n\n'

    reading = stream("10.0.0.1", "/v1/chat/completions", event.encode(), sse("[DONE]"))

    assert reading.usages[0].input_tokens == 5


def test_what_follows_the_terminal_frame_is_not_missed() -> None:
    """A chunk may end in the middle of what comes after it."""
    frames = [
        frame("metadata", {"usage": {"inputTokens": 1, "outputTokens": 2}}),
        frame("messageStop", {"stopReason": "end"})[:20],
    ]
    one = call("bedrock-runtime.us-east-1.amazonaws.com", "/model/m/converse-stream", {})

    reading = read(one, [b"".join(frames)], content_type="application/vnd.amazon.eventstream")

    assert (reading.note, reading.is_complete) == ("", True)


# Large bodies whose counts stand elsewhere than in a usage object


def test_counts_behind_a_long_body_are_found_in_every_dialect() -> None:
    """Ollama's embeddings, Titan's, watsonx's; Vertex's strewn over all of it."""
    numbers = [[0.123456789] * 768] * 40
    cases: list[tuple[str, str, Json, Json]] = [
        ("127.0.0.1", "/api/embed", {"model": "m", "input": []},
         {"model": "m", "embeddings": numbers, "prompt_eval_count": 77}),
        ("us-south.ml.cloud.ibm.com", "/ml/v1/text/embeddings", {"model_id": "m"},
         {"results": [{"embedding": n} for n in numbers], "input_token_count": 77}),
        ("bedrock-runtime.us-east-1.amazonaws.com", "/model/titan-embed/invoke", {},
         {"embedding": numbers, "inputTextTokenCount": 77}),
        ("aiplatform.googleapis.com", "/v1/models/e:predict", {},
         {"predictions": [{"embeddings": {"values": n, "statistics": {"token_count": i}}}
                          for i, n in zip([1, 38] + [1] * 38, numbers, strict=True)]}),
    ]  # fmt: skip
    for host, path, asked_for, body in cases:
        data = json.dumps(body).encode()
        assert len(data) > 300_000
        for size in (1_000, 40_000, 500_000):
            reading = read(call(host, path, asked_for), cut(data, [size] * 1_000))
            assert reading.usages[0].input_tokens == 77, path
            assert (reading.usages[0].output_tokens, reading.is_complete) == (0, True)


def test_a_picture_in_the_last_chunk_of_gemini_ends_it_whole() -> None:
    """The chunk is too large to be parsed."""
    picture = {"inlineData": {"mimeType": "image/png", "data": "iVBOR" * 60_000}}
    event: Json = {"candidates": [{"content": {"parts": [picture]}, "finishReason": "STOP"}],
             "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 1_290,
                               "totalTokenCount": 1_299}, "modelVersion": "g"}  # fmt: skip
    one = call("generativelanguage.googleapis.com", "/v1beta/models/g:streamGenerateContent", {})

    reading = read(one, cut(sse(event), [9_000] * 40), content_type="text/event-stream")

    assert (reading.usages[0].output_tokens, reading.is_complete) == (1_290, True)


def test_hosted_tools_of_a_long_response_are_counted_too() -> None:
    """Its output items lie in the part that is not kept."""
    output = [
        {"type": "web_search_call", "action": {"type": "search"}},
        {"type": "message", "text": "word " * 50_000},
        {"type": "web_search_call", "action": {"type": "open_page"}},
        {"type": "code_interpreter_call"},
    ]
    body = {"id": "resp_1", "model": "m", "status": "completed", "output": output,
            "usage": {"input_tokens": 1, "output_tokens": 2}}  # fmt: skip
    one = call("api.openai.com", "/v1/responses")

    reading = read(one, cut(json.dumps(body).encode(), [30_000] * 20))

    assert reading.tool_calls == {"web_search": 1, "code_interpreter": 1}


# What is left before its last event


@pytest.mark.parametrize(
    ("host", "path", "events"),
    [
        ("api.anthropic.com", "/v1/messages", [
            {"type": "message_start", "message": {"model": "m", "usage": {
                "input_tokens": 5, "output_tokens": 1}}},
            {"type": "content_block_delta", "delta": {"text": "word " * 90}},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"},
             "usage": {"output_tokens": 41}}]),
        ("10.0.0.1", "/v1/chat/completions", [
            {"id": "c", "choices": [{"delta": {"content": "word " * 90}}]},
            {"id": "c", "choices": [{"delta": {}, "finish_reason": "stop"}]},
            {"id": "c", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 41}}]),
        ("generativelanguage.googleapis.com", "/v1beta/models/g:streamGenerateContent", [
            {"candidates": [{"content": {"parts": [{"text": "word " * 90}]},
                             "finishReason": "STOP"}],
             "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 41,
                               "totalTokenCount": 46}}]),
    ],
    ids=["anthropic", "chat", "gemini"],
)  # fmt: skip
def test_a_stream_left_after_its_last_count_is_counted_to_the_end(
    host: str, path: str, events: list[Json]
) -> None:
    """litellm stops at the last delta: what follows says nothing, and nothing is estimated."""
    one = call(host, path, {"model": "m", "messages": [], "contents": [], "stream": True})
    data = [sse(event) for event in events]

    left = read(one, data, content_type="text/event-stream", is_whole=False)
    earlier = read(one, data[:-1], content_type="text/event-stream", is_whole=False)

    assert (left.is_complete, left.is_counted) == (False, True)
    assert left.usages[0].output_tokens == 41
    assert not earlier.is_counted


def test_a_large_body_that_states_no_usage_is_not_called_broken() -> None:
    """Google's older embeddings: megabytes of numbers, and no count."""
    one = asked("generativelanguage.googleapis.com", "/v1beta/models/e:batchEmbedContents", {})
    assert one is not None
    body = json.dumps({"embeddings": [{"values": [0.045809045] * 20_000}]}).encode()

    reading = read(one, cut(body, [1000] * 500))

    assert reading.usages == ()
    assert reading.note == "the body is too large to be parsed, and its ends say nothing"
