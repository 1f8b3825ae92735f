"""Bedrock's exchanges: AWS event-stream frames, an event each."""

from __future__ import annotations

import base64
import json
import zlib

from benchmarks.exchange import EVENTS, TEXT, Exchange

FRAMES = "application/vnd.amazon.eventstream"
_MODEL = "/model/anthropic.claude-sonnet-4-5-v1:0"


def bedrock_converse() -> Exchange:
    """The Converse API: the event's kind stands in its frame's head."""
    usage = {"inputTokens": 180, "outputTokens": 120, "totalTokens": 300}
    request: dict[str, object] = {
        "messages": [{"role": "user", "content": [{"text": TEXT * 12}]}],
        "inferenceConfig": {"maxTokens": 256},
    }
    message = {"role": "assistant", "content": [{"text": TEXT * 10}]}
    answer = {"output": {"message": message}, "stopReason": "end_turn", "usage": usage}
    delta = {"contentBlockIndex": 0, "delta": {"text": TEXT[:20]}}
    events = (
        _frame("messageStart", {"role": "assistant"}),
        *(_frame("contentBlockDelta", delta) for _ in range(EVENTS)),
        _frame("contentBlockStop", {"contentBlockIndex": 0}),
        _frame("messageStop", {"stopReason": "end_turn"}),
        _frame("metadata", {"usage": usage, "metrics": {"latencyMs": 500}}),
    )
    return Exchange(
        "bedrock.converse", f"{_MODEL}/converse", f"{_MODEL}/converse-stream", request, request,
        json.dumps(answer).encode(), events, FRAMES,
    )  # fmt: skip


def bedrock_invoke() -> Exchange:
    """InvokeModel with a model of Anthropic's: its own events, each wrapped in base64."""
    request: dict[str, object] = {
        "anthropic_version": "bedrock-2023-05-31",
        "max_tokens": 256,
        "messages": [{"role": "user", "content": TEXT * 12}],
    }
    usage = {"input_tokens": 180, "output_tokens": 120}
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5"}
    text = [{"type": "text", "text": TEXT * 10}]
    answer = {**head, "content": text, "stop_reason": "end_turn", "usage": usage}
    started = {**head, "content": [], "usage": {**usage, "output_tokens": 1}}
    delta = {"type": "text_delta", "text": TEXT[:20]}
    metrics = {"inputTokenCount": 180, "outputTokenCount": 120}
    events = (
        _wrapped({"type": "message_start", "message": started}),
        *(
            _wrapped({"type": "content_block_delta", "index": 0, "delta": delta})
            for _ in range(EVENTS)
        ),
        _wrapped({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}),
        _wrapped({"type": "message_stop", "amazon-bedrock-invocationMetrics": metrics}),
    )
    return Exchange(
        "bedrock.invoke", f"{_MODEL}/invoke", f"{_MODEL}/invoke-with-response-stream", request,
        request, json.dumps(answer).encode(), events, FRAMES,
    )  # fmt: skip


def _wrapped(event: object) -> bytes:
    return _frame("chunk", {"bytes": base64.b64encode(json.dumps(event).encode()).decode()})


def _frame(event_type: str, payload: object) -> bytes:
    """One frame: lengths, their checksum, headers, payload, checksum of it all."""
    body = json.dumps(payload).encode()
    headers = b"".join(
        bytes((len(name),)) + name + b"\x07" + len(value).to_bytes(2) + value
        for name, value in (
            (b":event-type", event_type.encode()),
            (b":content-type", b"application/json"),
            (b":message-type", b"event"),
        )
    )
    lengths = (len(headers) + len(body) + 16).to_bytes(4) + len(headers).to_bytes(4)
    framed = lengths + zlib.crc32(lengths).to_bytes(4) + headers + body
    return framed + zlib.crc32(framed).to_bytes(4)
