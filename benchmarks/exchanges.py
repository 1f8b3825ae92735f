"""One ordinary exchange a dialect: path, request, JSON answer, stream; what the server plays."""

from __future__ import annotations

import json

from benchmarks.bedrock import bedrock_converse, bedrock_invoke
from benchmarks.exchange import EVENTS, TEXT, Exchange, sse

__all__ = ["EXCHANGES", "Exchange"]


def _openai_chat() -> Exchange:
    messages = [
        {"role": "system", "content": TEXT * 8},
        {"role": "user", "content": TEXT * 4},
    ]
    request: dict[str, object] = {"model": "gpt-4o", "messages": messages, "max_tokens": 256}
    usage = {
        "prompt_tokens": 180,
        "completion_tokens": 120,
        "total_tokens": 300,
        "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }
    head = {"id": "chatcmpl-1", "created": 1, "model": "gpt-4o-2024-08-06"}
    answer = {
        **head,
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": TEXT * 10},
                "finish_reason": "stop",
            }
        ],
        "usage": usage,
    }
    chunk = {**head, "object": "chat.completion.chunk", "usage": None}
    deltas = [
        sse({**chunk, "choices": [{"index": 0, "delta": {"content": TEXT[:20]}}]})
        for _ in range(EVENTS)
    ]
    last = [
        sse({**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
        sse({**chunk, "choices": [], "usage": usage}),
        b"data: [DONE]\n\n",
    ]
    streamed = {**request, "stream": True, "stream_options": {"include_usage": True}}
    path = "/v1/chat/completions"
    return Exchange(
        "oa.chat", path, path, request, streamed, json.dumps(answer).encode(), (*deltas, *last)
    )


def _openai_responses() -> Exchange:
    request: dict[str, object] = {"model": "gpt-4o", "input": TEXT * 12, "max_output_tokens": 256}
    usage = {
        "input_tokens": 180,
        "input_tokens_details": {"cached_tokens": 64},
        "output_tokens": 120,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 300,
    }
    answer: dict[str, object] = {
        "id": "resp_1",
        "object": "response",
        "status": "completed",
        "model": "gpt-4o-2024-08-06",
        "output": [
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": TEXT * 10, "annotations": []}],
            }
        ],
        "usage": usage,
    }
    created = {**answer, "status": "in_progress", "output": [], "usage": None}
    deltas = [
        sse(
            {"type": "response.output_text.delta", "item_id": "msg_1", "delta": TEXT[:20]},
            "response.output_text.delta",
        )
        for _ in range(EVENTS)
    ]
    events = (
        sse({"type": "response.created", "response": created}, "response.created"),
        *deltas,
        sse({"type": "response.completed", "response": answer}, "response.completed"),
    )
    path = "/v1/responses"
    return Exchange(
        "oa.responses", path, path, request, {**request, "stream": True},
        json.dumps(answer).encode(), events,
    )  # fmt: skip


def _anthropic() -> Exchange:
    request: dict[str, object] = {
        "model": "claude-sonnet-4-5",
        "max_tokens": 256,
        "messages": [{"role": "user", "content": TEXT * 12}],
    }
    usage = {
        "input_tokens": 116,
        "cache_read_input_tokens": 64,
        "cache_creation_input_tokens": 0,
        "output_tokens": 120,
    }
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5"}
    answer = {
        **head,
        "content": [{"type": "text", "text": TEXT * 10}],
        "stop_reason": "end_turn",
        "usage": usage,
    }
    deltas = [
        sse(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": TEXT[:20]},
            },
            "content_block_delta",
        )
        for _ in range(EVENTS)
    ]
    start = {**head, "content": [], "usage": {**usage, "output_tokens": 1}}
    events = (
        sse({"type": "message_start", "message": start}, "message_start"),
        *deltas,
        sse(
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn"},
                "usage": {"output_tokens": 120},
            },
            "message_delta",
        ),
        sse({"type": "message_stop"}, "message_stop"),
    )
    path = "/v1/messages"
    return Exchange(
        "an.messages", path, path, request, {**request, "stream": True},
        json.dumps(answer).encode(), events,
    )  # fmt: skip


def _gemini() -> Exchange:
    request: dict[str, object] = {"contents": [{"role": "user", "parts": [{"text": TEXT * 12}]}]}
    usage = {
        "promptTokenCount": 180,
        "candidatesTokenCount": 120,
        "totalTokenCount": 300,
        "cachedContentTokenCount": 64,
    }

    def chunk(text: str, **more: object) -> dict[str, object]:
        part = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
        return {"candidates": [{**part, **more}], "usageMetadata": usage,
                "modelVersion": "gemini-2.5-flash", "responseId": "r1"}  # fmt: skip

    deltas = [sse(chunk(TEXT[:20])) for _ in range(EVENTS)]
    base = "/v1beta/models/gemini-2.5-flash"
    return Exchange(
        "gemini", f"{base}:generateContent", f"{base}:streamGenerateContent?alt=sse",
        request, request, json.dumps(chunk(TEXT * 10, finishReason="STOP")).encode(),
        (*deltas, sse(chunk("", finishReason="STOP"))),
    )  # fmt: skip


def _cohere() -> Exchange:
    request: dict[str, object] = {
        "model": "command-a-03-2025",
        "messages": [{"role": "user", "content": TEXT * 12}],
    }
    usage = {
        "billed_units": {"input_tokens": 180, "output_tokens": 120},
        "tokens": {"input_tokens": 190, "output_tokens": 122},
    }
    answer = {
        "id": "c1",
        "finish_reason": "COMPLETE",
        "message": {"role": "assistant", "content": [{"type": "text", "text": TEXT * 10}]},
        "usage": usage,
    }
    deltas = [
        sse(
            {
                "type": "content-delta",
                "index": 0,
                "delta": {"message": {"content": {"text": TEXT[:20]}}},
            },
            "content-delta",
        )
        for _ in range(EVENTS)
    ]
    end = {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": usage}}
    path = "/v2/chat"
    return Exchange(
        "cohere", path, path, request, {**request, "stream": True}, json.dumps(answer).encode(),
        (*deltas, sse(end, "message-end"), b"data: [DONE]\n\n"),
    )  # fmt: skip


def _mistral() -> Exchange:
    """Chat of Mistral's: usage unasked, on the last chunk of the reply."""
    chat = _openai_chat()
    usage = {"prompt_tokens": 180, "completion_tokens": 120, "total_tokens": 300}
    head = {"id": "m1", "object": "chat.completion.chunk", "model": "mistral-large-latest"}
    delta = {"index": 0, "delta": {"content": TEXT[:20]}, "finish_reason": None}
    last = {"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}
    answer = {**json.loads(chat.answer), "model": "mistral-large-latest", "usage": usage}
    request = {**chat.request, "model": "mistral-large-latest"}
    path = "/mistral/v1/chat/completions"
    return Exchange(
        "mistral", path, path, request, {**request, "stream": True}, json.dumps(answer).encode(),
        (
            *(sse({**head, "choices": [delta]}) for _ in range(EVENTS)),
            sse({**head, "choices": [last], "usage": usage}),
            b"data: [DONE]\n\n",
        ),
    )  # fmt: skip


def _ollama() -> Exchange:
    request: dict[str, object] = {
        "model": "llama3.2",
        "messages": [{"role": "user", "content": TEXT * 12}],
        "stream": False,
    }
    counts = {"done": True, "done_reason": "stop", "prompt_eval_count": 180, "eval_count": 120}

    def line(text: str, **more: object) -> bytes:
        message = {"role": "assistant", "content": text}
        return json.dumps({"model": "llama3.2", "message": message, **more}).encode() + b"\n"

    deltas = [line(TEXT[:20], done=False) for _ in range(EVENTS)]
    path = "/api/chat"
    return Exchange(
        "ollama", path, path, request, {**request, "stream": True}, line(TEXT * 10, **counts),
        (*deltas, line("", **counts)), "application/x-ndjson",
    )  # fmt: skip


EXCHANGES = {
    exchange.name: exchange
    for exchange in (
        _openai_chat(), _openai_responses(), _anthropic(), _gemini(), _mistral(), _cohere(),
        _ollama(), bedrock_converse(), bedrock_invoke(),
    )
}  # fmt: skip
