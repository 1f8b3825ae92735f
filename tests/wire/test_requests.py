"""What is an LLM call, whose it is, and what it asks for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meterd_middleware.request import ProviderCall, history_bytes, read_request


def asked(
    host: str,
    path: str,
    body: dict[str, Any] | None = None,
    *,
    method: str = "POST",
    query: str = "",
    headers: dict[str, str] | None = None,
) -> ProviderCall | None:
    given = {"model": "m", "messages": []} if body is None else body
    return read_request(method, host, path, query, headers or {}, json.dumps(given).encode())


@pytest.mark.parametrize(
    ("host", "path", "dialect", "provider", "operation"),
    [
        ("api.openai.com", "/v1/chat/completions", "oa.chat", "openai", "chat"),
        ("eu.api.openai.com", "/v1/responses", "oa.responses", "openai", "chat"),
        ("api.openai.com", "/v1/responses/compact", "oa.responses", "openai", "chat"),
        ("api.openai.com", "/v1/completions", "oa.completions", "openai", "text_completion"),
        ("api.openai.com", "/v1/embeddings", "oa.embeddings", "openai", "embeddings"),
        ("api.openai.com", "/v1/images/edits", "oa.images", "openai", "image_generation"),
        ("x.openai.azure.com", "/openai/deployments/d/chat/completions", "oa.chat",
         "azure.ai.openai", "chat"),
        ("y.services.ai.azure.com", "/models/chat/completions", "oa.chat", "azure.ai.inference",
         "chat"),
        ("api.anthropic.com", "/v1/messages", "an.messages", "anthropic", "chat"),
        ("eu-aiplatform.googleapis.com", "/v1/x/models/claude:streamRawPredict", "an.messages",
         "gcp.vertex_ai", "chat"),
        ("eu-aiplatform.googleapis.com", "/v1/publishers/mistralai/models/m:rawPredict", "oa.chat",
         "gcp.vertex_ai", "chat"),
        ("bedrock-runtime.us-east-1.amazonaws.com", "/model/a.b/converse-stream",
         "bedrock.converse", "aws.bedrock", "chat"),
        ("api.mistral.ai", "/v1/fim/completions", "oa.chat", "mistral_ai", "text_completion"),
        ("api.cohere.com", "/v2/rerank", "cohere", "cohere", "rerank"),
        ("localhost", "/api/chat", "ollama", "ollama", "chat"),
        ("gpu-7.internal", "/v1/chat/completions", "oa.chat", "openai", "chat"),
    ],
)  # fmt: skip
def test_a_call_is_known_by_its_path_and_its_host(
    host: str, path: str, dialect: str, provider: str, operation: str
) -> None:
    """The dialect by the path, the provider by the host; an unknown host speaks as it does."""
    call = asked(host, path, {"model": "m", "messages": [], "input": "x", "prompt": "x"})

    assert call is not None
    assert (call.dialect, call.provider, call.operation) == (dialect, provider, operation)


@pytest.mark.parametrize(
    ("method", "host", "path"),
    [
        ("GET", "api.openai.com", "/v1/models"),
        ("GET", "api.openai.com", "/v1/chat/completions/chatcmpl-1"),
        ("POST", "api.openai.com", "/v1/chat/completions/chatcmpl-1"),
        ("POST", "api.openai.com", "/v1/responses/input_tokens"),
        ("POST", "api.openai.com", "/v1/moderations"),
        ("POST", "api.openai.com", "/v1/files"),
        ("POST", "api.openai.com", "/v1/batches"),
        ("DELETE", "api.openai.com", "/v1/responses/resp_1"),
        ("POST", "api.anthropic.com", "/v1/messages/count_tokens"),
        ("POST", "api.anthropic.com", "/v1/messages/batches"),
        ("POST", "x-aiplatform.googleapis.com", "/v1/models/count-tokens:rawPredict"),
        ("POST", "generativelanguage.googleapis.com", "/v1beta/models/g:countTokens"),
        ("GET", "localhost", "/api/tags"),
        ("POST", "localhost", "/api/show"),
        ("GET", "huggingface.co", "/api/models/gpt2"),
        ("GET", "app.internal", "/health"),
    ],
)
def test_what_is_no_llm_call_makes_no_record(method: str, host: str, path: str) -> None:
    """Lists, files, token counting, health; and what repeats a usage that was counted."""
    assert asked(host, path, method=method) is None


def test_an_apps_own_chat_route_is_nobodys_llm_call() -> None:
    """A common path on an unknown host has to carry the dialect's own fields."""
    assert asked("app.internal", "/api/chat", {"text": "hello"}) is None
    assert asked("app.internal", "/v1/chat/completions", {"room": 7}) is None
    assert read_request("POST", "app.internal", "/api/chat", "", {}, b"hello") is None


def test_a_background_response_is_recognised_when_it_is_asked_for_again() -> None:
    """And when it is cancelled."""
    again = asked("api.openai.com", "/v1/responses/resp_1", method="GET")
    cancelled = asked("api.openai.com", "/v1/responses/resp_1/cancel")

    assert again is not None and again.poll_id == "resp_1"
    assert cancelled is not None and cancelled.poll_id == "resp_1"


@pytest.mark.parametrize(
    ("body", "ceiling"),
    [
        ({"max_tokens": 10}, 10),
        ({"max_completion_tokens": 10, "n": 3}, 30),
        ({"max_output_tokens": 7}, 7),
        ({"generationConfig": {"maxOutputTokens": 5}}, 5),
        ({"options": {"num_predict": 9}}, 9),
        ({"max_tokens": -1}, None),
        ({"max_tokens": True}, None),
        ({}, None),
    ],
)
def test_the_ceiling_of_a_reply_is_found(body: dict[str, Any], ceiling: int | None) -> None:
    """For all choices together."""
    call = asked("api.openai.com", "/v1/chat/completions", {"model": "m", "messages": [], **body})

    assert call is not None and call.max_output_tokens == ceiling


@pytest.mark.parametrize(
    ("host", "query", "body", "takes"),
    [
        ("api.openai.com", "", {}, True),
        ("x.openai.azure.com", "api-version=2024-10-21", {}, True),
        ("x.openai.azure.com", "api-version=2024-09-01-preview", {}, True),
        ("x.openai.azure.com", "api-version=2024-06-01", {}, False),
        ("x.openai.azure.com", "api-version=2024-08-01-preview", {}, False),
        ("x.openai.azure.com", "api-version=2024-10-21", {"data_sources": []}, False),
        ("api.mistral.ai", "", {}, False),
        ("y.services.ai.azure.com", "", {}, False),
        ("10.0.0.7", "", {}, False),
    ],
)
def test_usage_is_asked_for_only_where_it_is_known_to_be_taken(
    host: str, query: str, body: dict[str, Any], takes: bool
) -> None:
    """Others answer 400 or 422."""
    given = {"model": "m", "messages": [], **body}

    call = asked(host, "/v1/chat/completions", given, query=query)

    assert call is not None and call.takes_include_usage is takes


def test_a_signed_request_is_seen_as_one() -> None:
    """Nothing of it may be changed."""
    headers = {"authorization": "AWS4-HMAC-SHA256 Credential=x"}

    call = asked("bedrock-mantle.us-east-1.api.aws", "/openai/v1/chat/completions", headers=headers)

    assert call is not None and call.is_signed


def test_a_large_body_is_scanned_at_its_ends() -> None:
    """Model, stream and ceiling, without parsing megabytes."""
    body = {"model": "m-1", "messages": [{"role": "user", "content": "x" * 600_000}],
            "stream": True, "max_tokens": 99}  # fmt: skip

    call = asked("api.openai.com", "/v1/chat/completions", body)

    assert call is not None
    assert (call.request_model, call.is_stream, call.max_output_tokens) == ("m-1", True, 99)


def test_a_large_body_is_known_though_its_model_stands_between_long_fields() -> None:
    """As the openai client sends a long history with many tools, one with a model of its own."""
    tool = {"type": "function", "function": {"name": "f", "description": "d" * 9_000}}
    body = {
        "messages": [{"role": "user", "content": 'the "model": "x" ' * 40_000}],
        "model": "m-1",
        "max_completion_tokens": 77,
        "stream": True,
        "tools": [tool, {"type": "image_generation", "model": "gpt-image-1"}],
    }

    call = asked("api.openai.com", "/v1/chat/completions", body)

    assert call is not None
    assert (call.request_model, call.is_stream, call.max_output_tokens) == ("m-1", True, 77)


def test_history_is_what_lies_before_the_last_three_exchanges() -> None:
    """Without the system prompt."""
    turns = [{"role": "system", "content": "s"}]
    for number in range(5):
        turns += [{"role": "user", "content": f"q{number}"}, {"role": "assistant", "content": "a"}]
    body = json.dumps({"model": "m", "messages": turns}).encode()
    call = asked("api.openai.com", "/v1/chat/completions")
    assert call is not None

    old = json.dumps(turns[1:5], separators=(",", ":")).encode()
    assert history_bytes(call, body) == len(old)
    assert history_bytes(call, b'{"messages":[]}') == 0
    assert history_bytes(call, b"x" * 300_000) is None
