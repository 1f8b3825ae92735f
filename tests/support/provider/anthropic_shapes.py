"""Anthropic's Messages: input apart from both cache counts, usage in start and delta."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.provider.answer import Answer, document, event, stream

if TYPE_CHECKING:
    from tests.support.provider.asked import Asked


def messages(asked: Asked, ident: str) -> Answer:
    """`/v1/messages`."""
    if asked.is_stream:
        return _stream(asked, ident)
    body = {
        **_message(asked, ident),
        "content": [{"type": "text", "text": asked.text}],
        "stop_reason": _why(asked),
        **usage_field(asked, asked.counts.output_tokens),
    }
    return document(
        body, asked.counts, response_id=ident, model=asked.model, headers={"request-id": ident}
    )


def _stream(asked: Asked, ident: str) -> Answer:
    start = {**_message(asked, ident), **usage_field(asked, 1)}
    parts = [
        event({"type": "message_start", "message": start}, "message_start"),
        event(
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "text", "text": ""},
            },
            "content_block_start",
            asked.counts.reasoning_tokens,
        ),
        event({"type": "ping"}, "ping"),
    ]
    for word in asked.words:
        delta = {"type": "text_delta", "text": word}
        data = {"type": "content_block_delta", "index": 0, "delta": delta}
        parts.append(event(data, "content_block_delta", 1))
    parts.append(event({"type": "content_block_stop", "index": 0}, "content_block_stop"))
    end: dict[str, Any] = {
        "type": "message_delta",
        "delta": {"stop_reason": _why(asked), "stop_sequence": None},
    }
    usage = usage_field(asked, asked.counts.output_tokens).get("usage")
    if usage:
        # The delta has no split of the cache write and no tier: only the start has them.
        end["usage"] = {
            name: usage[name]
            for name in (
                "input_tokens",
                "cache_creation_input_tokens",
                "cache_read_input_tokens",
                "output_tokens",
            )
        }
    parts.append(event(end, "message_delta"))
    if "no_done" not in asked.wish:
        parts.append(event({"type": "message_stop"}, "message_stop"))
    return stream(parts, asked.counts, response_id=ident, model=asked.model)


def usage_field(asked: Asked, output_tokens: int) -> dict[str, Any]:
    """`{"usage": …}`: here the input is what was neither read from nor written to the cache."""
    if "no_usage" in asked.wish or "null_usage" in asked.wish:
        return {}
    counts = asked.counts
    if "zero_usage" in asked.wish:
        return {"usage": _usage(0, 0, 0, 0, 0)}
    apart = counts.input_tokens - counts.cache_read_tokens - counts.cache_write_tokens
    return {
        "usage": _usage(
            apart,
            counts.cache_read_tokens,
            counts.cache_write_tokens,
            counts.cache_write_long_tokens,
            output_tokens,
        )
    }


def _usage(apart: int, read: int, written: int, written_long: int, output: int) -> dict[str, Any]:
    return {
        "input_tokens": apart,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": written - written_long,
            "ephemeral_1h_input_tokens": written_long,
        },
        "output_tokens": output,
        "service_tier": "standard",
    }


def _message(asked: Asked, ident: str) -> dict[str, Any]:
    return {
        "id": ident,
        "type": "message",
        "role": "assistant",
        "model": asked.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _why(asked: Asked) -> str:
    return "max_tokens" if asked.is_length_limited else "end_turn"
