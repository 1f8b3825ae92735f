"""Providers whose answers have a shape of their own, beside the large dialects: made from rules."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.wire.dialects import Dialect, sse

if TYPE_CHECKING:
    from tests.wire.dialects import Counts, Json


def _conversation_usage(c: Counts) -> Json:
    """What a connector brought in stands outside the prompt."""
    brought_in = c.input_tokens // 3
    return {
        "prompt_tokens": c.input_tokens - brought_in,
        "completion_tokens": c.output_tokens,
        "total_tokens": c.input_tokens + c.output_tokens,
        "connector_tokens": brought_in,
        "connectors": {"web_search": 1},
    }


def _conversation(c: Counts) -> bytes:
    output = {"type": "message.output", "content": "Hi", "model": "model-answered"}
    body = {"conversation_id": "conv_1", "outputs": [output], "usage": _conversation_usage(c)}
    return json.dumps(body).encode()


def _conversation_events(c: Counts, texts: list[str]) -> list[bytes]:
    def event(kind: str, **more: object) -> bytes:
        return sse({"type": kind, **more}, kind)

    return [
        event("conversation.response.started", conversation_id="conv_1"),
        *(event("message.output.delta", content=text, model="model-answered") for text in texts),
        event("conversation.response.done", usage=_conversation_usage(c)),
    ]


def _watsonx(c: Counts) -> bytes:
    result = {
        "generated_text": "Hi",
        "generated_token_count": c.output_tokens,
        "input_token_count": c.input_tokens,
        "stop_reason": "eos_token",
    }
    return json.dumps({"model_id": "model-answered", "results": [result]}).encode()


def _watsonx_events(c: Counts, texts: list[str]) -> list[bytes]:
    """The prompt's tokens in the first event alone, the reply's so far in each."""
    steps: list[tuple[str, int, int, str]] = [
        ("", 0, c.input_tokens, "not_finished"),
        *((text, min(i, c.output_tokens), 0, "not_finished") for i, text in enumerate(texts)),
        ("", c.output_tokens, 0, "eos_token"),
    ]
    return [
        sse({
            "model_id": "model-answered",
            "results": [{"generated_text": text, "generated_token_count": given,
                         "input_token_count": taken, "stop_reason": stop}],
        }, "message")
        for text, given, taken, stop in steps
    ]  # fmt: skip


def _details(c: Counts) -> Json:
    return {
        "finish_reason": "eos_token",
        "generated_tokens": c.output_tokens,
        "input_length": c.input_tokens,
        "seed": None,
    }


def _tgi(c: Counts) -> bytes:
    return json.dumps([{"generated_text": "Hi", "details": _details(c)}]).encode()


def _tgi_events(c: Counts, texts: list[str]) -> list[bytes]:
    return [
        *(
            sse({"index": i, "token": {"id": 7, "text": text}, "generated_text": None,
                 "details": None})
            for i, text in enumerate(texts)
        ),
        sse({"token": {"id": 2, "text": "</s>"}, "generated_text": "".join(texts),
             "details": _details(c)}),
    ]  # fmt: skip


_GENERATE: Json = {"inputs": "Hi", "parameters": {"details": True}}

OWN_SHAPES = (
    Dialect(
        "mistral conversations", "api.mistral.ai", "/v1/conversations",
        {"agent_id": "ag_1", "inputs": "Hi"}, _conversation, _conversation_events,
        kinds=frozenset(),
    ),
    Dialect(
        "watsonx", "us-south.ml.cloud.ibm.com", "/ml/v1/text/generation",
        {"model_id": "model-asked", "input": "Hi"}, _watsonx, _watsonx_events,
        stream_path="/ml/v1/text/generation_stream", kinds=frozenset(), is_terminated=False,
    ),
    Dialect(
        "tgi", "127.0.0.1", "/generate", _GENERATE, _tgi, _tgi_events,
        stream_path="/generate_stream", kinds=frozenset(), is_terminated=False,
    ),
    Dialect(
        "hugging face endpoint", "x.us-east-1.aws.endpoints.huggingface.cloud", "/", _GENERATE,
        _tgi, _tgi_events, kinds=frozenset(), is_terminated=False,
    ),
    Dialect(
        "rerank", "api.voyageai.com", "/v1/rerank",
        {"model": "model-asked", "query": "Hi", "documents": ["a"]},
        lambda c: json.dumps(
            {"object": "list", "data": [], "model": "model-answered",
             "usage": {"total_tokens": c.input_tokens}}
        ).encode(),
        kinds=frozenset(), has_output=False,
    ),
    Dialect(
        "titan embeddings", "bedrock-runtime.us-east-1.amazonaws.com",
        "/model/amazon.titan-embed-text-v2:0/invoke", {"inputText": "Hi"},
        lambda c: json.dumps({"embedding": [0.1], "inputTextTokenCount": c.input_tokens}).encode(),
        kinds=frozenset(), has_output=False,
    ),
    Dialect(
        "vertex embeddings", "us-central1-aiplatform.googleapis.com",
        "/v1/projects/p/locations/l/publishers/google/models/e:predict", {"instances": []},
        lambda c: json.dumps(
            {"predictions": [
                {"embeddings": {"values": [0.1], "statistics": {"token_count": share}}}
                for share in (c.input_tokens // 2, c.input_tokens - c.input_tokens // 2)
            ]}
        ).encode(),
        kinds=frozenset(), has_output=False,
    ),
)  # fmt: skip
