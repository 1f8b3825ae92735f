"""Exchanges made from the providers' rules: counts in, the bytes a provider would send out.

Each dialect says how its provider spells given counts, whole and streamed; what a reader
must find is what went in. Nothing here imports meterd's readers.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

Json = dict[str, object]


@dataclass(frozen=True)
class Counts:
    """What a call used, in meterd's words: parts inside their wholes."""

    input_tokens: int
    output_tokens: int
    cache_read: int = 0
    cache_write: int = 0
    cache_write_long: int = 0
    reasoning: int = 0
    audio_input: int = 0
    audio_output: int = 0


@dataclass(frozen=True)
class Dialect:
    """How one provider is asked and answers."""

    name: str
    host: str
    path: str
    request: Json
    whole: Callable[[Counts], bytes]
    stream: Callable[[Counts, list[str]], list[bytes]] | None = None
    stream_type: str = "text/event-stream"
    stream_path: str = ""
    kinds: frozenset[str] = frozenset({"cache_read", "reasoning"})
    """Which parts it can state."""
    is_terminated: bool = True
    """Whether an event says that the stream is over."""
    has_output: bool = True


def sse(payload: Json | str, event: str = "") -> bytes:
    text = payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False)
    return (f"event: {event}\n" if event else "").encode() + b"data: " + text.encode() + b"\n\n"


def frame(event_type: str, payload: Json, kind: str = "event") -> bytes:
    """One AWS event-stream message."""
    headers = b"".join(
        bytes([len(name)]) + name.encode() + struct.pack(">BH", 7, len(value)) + value.encode()
        for name, value in (
            (":message-type", kind),
            (":event-type" if kind == "event" else ":exception-type", event_type),
            (":content-type", "application/json"),
        )
    )  # fmt: skip
    body = json.dumps(payload).encode()
    prelude = struct.pack(">II", 16 + len(headers) + len(body), len(headers))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + body
    return message + struct.pack(">I", zlib.crc32(message))


def _chat_usage(c: Counts) -> Json:
    return {
        "prompt_tokens": c.input_tokens,
        "completion_tokens": c.output_tokens,
        "total_tokens": c.input_tokens + c.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": c.cache_read,
            "cache_write_tokens": c.cache_write,
            "cache_write_tokens_details": {
                "ttl_30m_tokens": c.cache_write - c.cache_write_long,
                "ttl_12h_tokens": c.cache_write_long,
            },
            "audio_tokens": c.audio_input,
        },
        "completion_tokens_details": {
            "reasoning_tokens": c.reasoning,
            "audio_tokens": c.audio_output,
            "rejected_prediction_tokens": 0,
        },
    }


def _chat_answer(c: Counts, usage: Callable[[Counts], Json] = _chat_usage) -> bytes:
    message = {"role": "assistant", "content": 'He said "usage": {"prompt_tokens": 9}', "x": None}
    return json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "model-answered",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": usage(c),
        }
    ).encode()


def _chat_events(
    c: Counts, texts: list[str], usage: Callable[[Counts], Json] = _chat_usage
) -> list[bytes]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "model-answered"}
    deltas: list[Json] = [
        {**head, "choices": [{"index": 0, "delta": {"content": text}}], "usage": None}
        for text in texts
    ]
    end: Json = {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    last: Json = {**head, "choices": [], "usage": usage(c)}
    return [*map(sse, deltas), sse(end), sse(last), sse("[DONE]")]


def _responses_usage(c: Counts) -> Json:
    return {
        "input_tokens": c.input_tokens,
        "input_tokens_details": {
            "cached_tokens": c.cache_read,
            "cache_write_tokens": c.cache_write,
            "cache_write_tokens_details": {"ttl_12h_tokens": c.cache_write_long},
        },
        "output_tokens": c.output_tokens,
        "output_tokens_details": {"reasoning_tokens": c.reasoning},
        "total_tokens": c.input_tokens + c.output_tokens,
    }


def _response(c: Counts | None, status: str = "completed") -> Json:
    return {
        "id": "resp_1",
        "object": "response",
        "status": status,
        "background": False,
        "error": None,
        "model": "model-answered",
        "output": [],
        "service_tier": "default",
        "usage": _responses_usage(c) if c else None,
        "metadata": {},
    }


def _responses_events(c: Counts, texts: list[str]) -> list[bytes]:
    def event(kind: str, **more: object) -> bytes:
        return sse({"type": kind, **more}, kind)

    return [
        event("response.created", response=_response(None, "in_progress")),
        event("response.in_progress", response=_response(None, "in_progress")),
        *(event("response.output_text.delta", delta=text, item_id="m") for text in texts),
        event("response.output_text.done", text="".join(texts), item_id="m"),
        event("response.completed", response=_response(c)),
    ]


def _anthropic_usage(c: Counts, *, output: int | None = None) -> Json:
    return {
        "input_tokens": c.input_tokens - c.cache_read - c.cache_write,
        "cache_read_input_tokens": c.cache_read,
        "cache_creation_input_tokens": c.cache_write,
        "cache_creation": {
            "ephemeral_5m_input_tokens": c.cache_write - c.cache_write_long,
            "ephemeral_1h_input_tokens": c.cache_write_long,
        },
        "output_tokens": c.output_tokens if output is None else output,
        "service_tier": "standard",
    }


def _anthropic_message(c: Counts) -> Json:
    tool = {"type": "tool_use", "id": "t", "name": "f", "input": {"usage": {"input_tokens": 7}}}
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "model-answered",
        "content": [{"type": "text", "text": "Hi"}, tool],
        "stop_reason": "end_turn",
        "usage": _anthropic_usage(c),
    }


def _anthropic_payloads(c: Counts, texts: list[str]) -> list[Json]:
    start = {
        **_anthropic_message(c),
        "content": [],
        "usage": _anthropic_usage(c, output=min(1, c.output_tokens)),
    }
    delta = {
        "cache_creation_input_tokens": c.cache_write,
        "cache_read_input_tokens": c.cache_read,
        "input_tokens": c.input_tokens - c.cache_read - c.cache_write,
        "output_tokens": c.output_tokens,
    }
    return [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": text},
            }
            for text in texts
        ),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": delta},
        {"type": "message_stop"},
    ]


def _anthropic_events(c: Counts, texts: list[str]) -> list[bytes]:
    return [sse(payload, str(payload["type"])) for payload in _anthropic_payloads(c, texts)]


def _bedrock_frames(c: Counts, texts: list[str]) -> list[bytes]:
    payloads = _anthropic_payloads(c, texts)
    payloads[-1]["amazon-bedrock-invocationMetrics"] = {
        "inputTokenCount": c.input_tokens - c.cache_read - c.cache_write,
        "outputTokenCount": c.output_tokens,
        "cacheReadInputTokenCount": c.cache_read,
        "cacheWriteInputTokenCount": c.cache_write,
        "invocationLatency": 1,
        "firstByteLatency": 1,
    }
    return [
        frame("chunk", {"bytes": base64.b64encode(json.dumps(payload).encode()).decode()})
        for payload in payloads
    ]


def _converse_usage(c: Counts) -> Json:
    return {
        "inputTokens": c.input_tokens - c.cache_read - c.cache_write,
        "outputTokens": c.output_tokens,
        "totalTokens": c.input_tokens + c.output_tokens,
        "cacheReadInputTokens": c.cache_read,
        "cacheWriteInputTokens": c.cache_write,
    }


def _converse_frames(c: Counts, texts: list[str]) -> list[bytes]:
    return [
        frame("messageStart", {"role": "assistant"}),
        *(
            frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": text}})
            for text in texts
        ),
        frame("messageStop", {"stopReason": "end_turn"}),
        frame("metadata", {"usage": _converse_usage(c), "metrics": {"latencyMs": 1}}),
    ]


def _gemini_usage(c: Counts) -> Json:
    usage: Json = {
        "promptTokenCount": c.input_tokens,
        "candidatesTokenCount": c.output_tokens - c.reasoning,
        "totalTokenCount": c.input_tokens + c.output_tokens,
    }
    if c.reasoning:
        usage["thoughtsTokenCount"] = c.reasoning
    if c.cache_read:
        usage["cachedContentTokenCount"] = c.cache_read
    if c.audio_input:
        usage["promptTokensDetails"] = [
            {"modality": "TEXT", "tokenCount": c.input_tokens - c.audio_input},
            {"modality": "AUDIO", "tokenCount": c.audio_input},
        ]
    return usage


def _gemini_chunk(text: str, usage: Json | None, finish: str = "") -> Json:
    candidate: Json = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    chunk: Json = {"candidates": [candidate], "modelVersion": "model-answered", "responseId": "r"}
    if usage:
        chunk["usageMetadata"] = usage
    return chunk


def _gemini_events(c: Counts, texts: list[str]) -> list[bytes]:
    running: Json = {"promptTokenCount": c.input_tokens, "totalTokenCount": c.input_tokens}
    return [
        *(sse(_gemini_chunk(text, running)) for text in texts),
        sse(_gemini_chunk("", _gemini_usage(c), "STOP")),
    ]


def _gemini_array(c: Counts, texts: list[str]) -> list[bytes]:
    chunks = [json.dumps(_gemini_chunk(text, None)).encode() for text in texts]
    chunks.append(json.dumps(_gemini_chunk("", _gemini_usage(c), "STOP")).encode())
    return [b"[" + chunks[0], *(b",\r\n" + chunk for chunk in chunks[1:]), b"]"]


def _cohere_usage(c: Counts) -> Json:
    return {
        "billed_units": {
            "input_tokens": float(c.input_tokens),
            "output_tokens": float(c.output_tokens),
        },
        "tokens": {"input_tokens": c.input_tokens + 70.0, "output_tokens": c.output_tokens + 3.0},
        "cached_tokens": float(c.cache_read),
    }


def _cohere_events(c: Counts, texts: list[str]) -> list[bytes]:
    return [
        sse({"id": "c", "type": "message-start", "delta": {"message": {"role": "assistant"}}}),
        *(
            sse({"type": "content-delta", "delta": {"message": {"content": {"text": text}}}})
            for text in texts
        ),
        sse(
            {
                "type": "message-end",
                "delta": {"finish_reason": "COMPLETE", "usage": _cohere_usage(c)},
            }
        ),
        sse("[DONE]"),
    ]


def _cohere_v1_events(c: Counts, texts: list[str]) -> list[bytes]:
    lines: list[Json] = [
        {"is_finished": False, "event_type": "stream-start", "generation_id": "g"},
        *({"is_finished": False, "event_type": "text-generation", "text": t} for t in texts),
        {
            "is_finished": True,
            "event_type": "stream-end",
            "finish_reason": "COMPLETE",
            "response": {"response_id": "r", "text": "x", "meta": _cohere_usage(c)},
        },
    ]
    return [json.dumps(line).encode() + b"\n" for line in lines]


def _ollama_counts(c: Counts) -> Json:
    return {
        "model": "model-answered",
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": c.input_tokens,
        "prompt_eval_cached_count": c.cache_read,
        "eval_count": c.output_tokens,
    }


def _ollama_lines(c: Counts, texts: list[str]) -> list[bytes]:
    lines: list[Json] = [
        *(
            {"model": "model-answered", "message": {"content": text}, "done": False}
            for text in texts
        ),
        {**_ollama_counts(c), "message": {"content": ""}},
    ]
    return [json.dumps(line).encode() + b"\n" for line in lines]


def _interactions_usage(c: Counts) -> Json:
    return {
        "total_input_tokens": c.input_tokens,
        "total_output_tokens": c.output_tokens - c.reasoning,
        "total_thought_tokens": c.reasoning,
        "total_cached_tokens": c.cache_read,
        "total_tokens": c.input_tokens + c.output_tokens,
    }


def _interactions_events(c: Counts, texts: list[str]) -> list[bytes]:
    done = {
        "id": "i",
        "model": "model-answered",
        "status": "completed",
        "usage": _interactions_usage(c),
    }
    return [
        sse({"event_type": "interaction.created", "interaction": {"id": "i", "status": "running"}}),
        *(
            sse({"event_type": "step.delta", "delta": {"type": "text", "text": text}})
            for text in texts
        ),
        sse({"event_type": "interaction.completed", "interaction": done}),
        sse("[DONE]", "done"),
    ]


def _xai_usage(c: Counts) -> Json:
    """xAI counts reasoning beside completion."""
    return {
        "prompt_tokens": c.input_tokens,
        "completion_tokens": c.output_tokens - c.reasoning,
        "total_tokens": c.input_tokens + c.output_tokens,
        "prompt_tokens_details": {"cached_tokens": c.cache_read},
        "completion_tokens_details": {"reasoning_tokens": c.reasoning},
    }


def _deepseek_usage(c: Counts) -> Json:
    return {
        "prompt_tokens": c.input_tokens,
        "completion_tokens": c.output_tokens,
        "total_tokens": c.input_tokens + c.output_tokens,
        "prompt_cache_hit_tokens": c.cache_read,
        "prompt_cache_miss_tokens": c.input_tokens - c.cache_read,
        "completion_tokens_details": {"reasoning_tokens": c.reasoning},
    }


def _perplexity_usage(c: Counts) -> Json:
    return {
        "prompt_tokens": c.input_tokens,
        "completion_tokens": c.output_tokens - c.reasoning,
        "reasoning_tokens": c.reasoning,
        "citation_tokens": 0,
        "total_tokens": c.input_tokens + c.output_tokens - c.reasoning,
        "num_search_queries": 2,
        "cost": {"total_cost": 0.006},
    }


def _perplexity_events(c: Counts, texts: list[str]) -> list[bytes]:
    """Cumulative usage on every chunk, and no [DONE]."""
    head = {"id": "p", "model": "model-answered"}
    events = []
    for index, text in enumerate(texts):
        partial = Counts(c.input_tokens, min(index, c.output_tokens - c.reasoning), 0)
        events.append(
            sse(
                {
                    **head,
                    "usage": _perplexity_usage(partial),
                    "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
                }
            )
        )
    last: Json = {
        **head,
        "usage": _perplexity_usage(c),
        "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}],
    }
    return [*events, sse(last)]


def _groq_events(c: Counts, texts: list[str]) -> list[bytes]:
    """Usage in `x_groq` of the last chunk, unasked."""
    head = {"id": "g", "model": "model-answered", "object": "chat.completion.chunk"}
    usage = _chat_usage(c)
    return [
        *(sse({**head, "choices": [{"index": 0, "delta": {"content": text}}]}) for text in texts),
        sse(
            {
                **head,
                "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
                "x_groq": {"id": "req", "usage": usage},
            }
        ),
        sse({**head, "choices": [], "usage": usage}),
        sse("[DONE]"),
    ]


_MESSAGES: Json = {"model": "model-asked", "messages": [{"role": "user", "content": "Hi"}]}
_PLAIN = frozenset({"cache_read", "reasoning"})
_OPENAI = _PLAIN | {"cache_write", "cache_write_long", "audio_input", "audio_output"}
_ANTHROPIC = frozenset({"cache_read", "cache_write", "cache_write_long"})
_EVENTSTREAM = "application/vnd.amazon.eventstream"


def _chat(name: str, host: str, path: str, **more: object) -> Dialect:
    return Dialect(name, host, path, _MESSAGES, _chat_answer, _chat_events, **more)  # type: ignore[arg-type]  # a test's shorthand


DIALECTS = (
    _chat("openai", "api.openai.com", "/v1/chat/completions", kinds=_OPENAI),
    _chat(
        "azure",
        "x.openai.azure.com",
        "/openai/deployments/d/chat/completions",
        kinds=_OPENAI,
    ),
    _chat("vllm", "10.0.0.9", "/v1/chat/completions"),
    _chat("together", "api.together.xyz", "/v1/chat/completions"),
    _chat("fireworks", "api.fireworks.ai", "/inference/v1/chat/completions"),
    _chat("openrouter", "openrouter.ai", "/api/v1/chat/completions"),
    _chat("mistral", "api.mistral.ai", "/v1/chat/completions"),
    _chat("huggingface", "router.huggingface.co", "/nebius/v1/chat/completions"),
    Dialect(
        "groq", "api.groq.com", "/openai/v1/chat/completions", _MESSAGES, _chat_answer,
        _groq_events,
    ),
    Dialect(
        "xai", "api.x.ai", "/v1/chat/completions", _MESSAGES,
        lambda c: _chat_answer(c, _xai_usage), lambda c, t: _chat_events(c, t, _xai_usage),
    ),
    Dialect(
        "deepseek", "api.deepseek.com", "/chat/completions", _MESSAGES,
        lambda c: _chat_answer(c, _deepseek_usage),
        lambda c, t: _chat_events(c, t, _deepseek_usage),
    ),
    Dialect(
        "perplexity", "api.perplexity.ai", "/chat/completions", _MESSAGES,
        lambda c: _chat_answer(c, _perplexity_usage), _perplexity_events,
        kinds=frozenset({"reasoning"}), is_terminated=False,
    ),
    Dialect(
        "responses", "api.openai.com", "/v1/responses", {"model": "model-asked", "input": "Hi"},
        lambda c: json.dumps(_response(c)).encode(), _responses_events,
        kinds=_PLAIN | {"cache_write", "cache_write_long"},
    ),
    Dialect(
        "embeddings", "api.openai.com", "/v1/embeddings", {"model": "model-asked", "input": "Hi"},
        lambda c: json.dumps(
            {
                "object": "list",
                "data": [{"embedding": [0.1, 0.2]}],
                "model": "model-answered",
                "usage": {"prompt_tokens": c.input_tokens, "total_tokens": c.input_tokens},
            }
        ).encode(),
        kinds=frozenset(), has_output=False,
    ),
    Dialect(
        "anthropic", "api.anthropic.com", "/v1/messages", _MESSAGES,
        lambda c: json.dumps(_anthropic_message(c)).encode(), _anthropic_events, kinds=_ANTHROPIC,
    ),
    Dialect(
        "anthropic on vertex", "us-east5-aiplatform.googleapis.com",
        "/v1/projects/p/locations/l/publishers/anthropic/models/claude:rawPredict", _MESSAGES,
        lambda c: json.dumps(_anthropic_message(c)).encode(), _anthropic_events,
        stream_path="/v1/projects/p/locations/l/publishers/anthropic/models/claude"
        ":streamRawPredict",
        kinds=_ANTHROPIC,
    ),
    Dialect(
        "anthropic on bedrock", "bedrock-runtime.us-east-1.amazonaws.com",
        "/model/anthropic.claude/invoke", _MESSAGES,
        lambda c: json.dumps(_anthropic_message(c)).encode(), _bedrock_frames, _EVENTSTREAM,
        "/model/anthropic.claude/invoke-with-response-stream", _ANTHROPIC,
    ),
    Dialect(
        "bedrock converse", "bedrock-runtime.us-east-1.amazonaws.com",
        "/model/amazon.nova/converse", {"messages": []},
        lambda c: json.dumps({"stopReason": "x", "usage": _converse_usage(c)}).encode(),
        _converse_frames, _EVENTSTREAM, "/model/amazon.nova/converse-stream",
        frozenset({"cache_read", "cache_write"}),
    ),
    Dialect(
        "gemini", "generativelanguage.googleapis.com",
        "/v1beta/models/gemini-2.5-flash:generateContent", {"contents": []},
        lambda c: json.dumps(_gemini_chunk("Hi", _gemini_usage(c), "STOP")).encode(),
        _gemini_events, stream_path="/v1beta/models/gemini-2.5-flash:streamGenerateContent",
        kinds=_PLAIN | {"audio_input"}, is_terminated=False,
    ),
    Dialect(
        "gemini array", "generativelanguage.googleapis.com",
        "/v1beta/models/gemini-2.5-flash:generateContent", {"contents": []},
        lambda c: json.dumps(_gemini_chunk("Hi", _gemini_usage(c), "STOP")).encode(),
        _gemini_array, "application/json",
        "/v1beta/models/gemini-2.5-flash:streamGenerateContent", _PLAIN | {"audio_input"}, False,
    ),
    Dialect(
        "interactions", "generativelanguage.googleapis.com", "/v1beta/interactions",
        {"model": "model-asked", "input": "Hi"},
        lambda c: json.dumps(
            {"id": "i", "model": "model-answered", "usage": _interactions_usage(c)}
        ).encode(),
        _interactions_events,
    ),
    Dialect(
        "cohere", "api.cohere.com", "/v2/chat", _MESSAGES,
        lambda c: json.dumps({"id": "c", "message": {}, "usage": _cohere_usage(c)}).encode(),
        _cohere_events, kinds=frozenset({"cache_read"}),
    ),
    Dialect(
        "cohere v1", "api.cohere.com", "/v1/chat", {"model": "model-asked", "message": "Hi"},
        lambda c: json.dumps({"generation_id": "g", "text": "", "meta": _cohere_usage(c)}).encode(),
        _cohere_v1_events, "application/stream+json", kinds=frozenset({"cache_read"}),
    ),
    Dialect(
        "ollama", "127.0.0.1", "/api/chat", _MESSAGES,
        lambda c: json.dumps({**_ollama_counts(c), "message": {"content": "x"}}).encode(),
        _ollama_lines, "application/x-ndjson", kinds=frozenset({"cache_read"}),
    ),
)  # fmt: skip
