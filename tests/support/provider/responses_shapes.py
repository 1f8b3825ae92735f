"""OpenAI's Responses: at once, streamed, and in the background with polling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.support.provider.answer import CREATED, Answer, Part, document, event, stream
from tests.support.provider.ledger import Counts

if TYPE_CHECKING:
    from tests.support.provider.asked import Asked


@dataclass(slots=True)
class Background:
    """A response that is computed while nobody waits."""

    asked: Asked
    polls_left: int
    is_cancelled: bool = False
    was_counted: bool = False


def responses(asked: Asked, ident: str, pending: dict[str, Background]) -> Answer:
    """`POST /responses`; a background one is remembered in `pending`."""
    if asked.body.get("background"):
        pending[ident] = Background(asked, polls_left=asked.wish_int("polls") or 1)
        if not asked.is_stream:
            body = response_object(asked, ident, "queued")
            return document(body, Counts(), response_id=ident, model=asked.model)
    if asked.is_stream:
        return stream(_events(asked, ident), asked.counts, response_id=ident, model=asked.model)
    status = "incomplete" if asked.is_length_limited else "completed"
    body = response_object(asked, ident, status)
    return document(body, asked.counts, response_id=ident, model=asked.model)


def poll(ident: str, pending: dict[str, Background], query: dict[str, str]) -> Answer:
    """`GET /responses/{id}`: queued until its polls are used up, then done, however often read.

    The ledger counts the first finished answer: that is when the work was done.
    """
    waiting = pending[ident]
    asked = waiting.asked
    counts = Counts() if waiting.was_counted else asked.counts
    if query.get("stream") == "true":
        waiting.was_counted = True
        after = int(query.get("starting_after", -1))
        parts = _events(asked, ident)[after + 1 :]
        return stream(parts, counts, response_id=ident, model=asked.model)
    if not waiting.is_cancelled:
        waiting.polls_left -= 1
        if waiting.polls_left > 0:
            body = response_object(asked, ident, "in_progress")
            return document(body, Counts(), response_id=ident, model=asked.model)
    waiting.was_counted = True
    body = response_object(asked, ident, "cancelled" if waiting.is_cancelled else "completed")
    return document(body, counts, response_id=ident, model=asked.model)


def cancel(ident: str, pending: dict[str, Background]) -> Answer:
    """`POST /responses/{id}/cancel`: what was computed is billed."""
    waiting = pending[ident]
    waiting.is_cancelled = True
    return poll(ident, pending, {})


def response_object(asked: Asked, ident: str, status: str) -> dict[str, Any]:
    """A whole response; text and usage are there once it has ended."""
    has_ended = status in ("completed", "incomplete", "cancelled")
    text = {"type": "output_text", "text": asked.text, "annotations": [], "logprobs": []}
    message = {
        "id": f"msg_{ident}",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [text],
    }
    reason = {"reason": "max_output_tokens"} if status == "incomplete" else None
    return {
        "id": ident,
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "background": bool(asked.body.get("background")),
        "error": None,
        "incomplete_details": reason,
        "instructions": None,
        "model": asked.model,
        "output": [message] if has_ended else [],
        "parallel_tool_calls": True,
        "previous_response_id": asked.body.get("previous_response_id"),
        "service_tier": "default",
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "metadata": {},
        "usage": _usage(asked) if has_ended else None,
    }


def _usage(asked: Asked) -> dict[str, Any] | None:
    counts = Counts() if "zero_usage" in asked.wish else asked.counts
    if "no_usage" in asked.wish or "null_usage" in asked.wish:
        return None
    return {
        "input_tokens": counts.input_tokens,
        "input_tokens_details": {
            "cached_tokens": counts.cache_read_tokens,
            "cache_write_tokens": counts.cache_write_tokens,
        },
        "output_tokens": counts.output_tokens,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning_tokens},
        "total_tokens": counts.tokens,
    }


def _events(asked: Asked, ident: str) -> list[Part]:
    number = 0
    parts: list[Part] = []

    def say(kind: str, output_tokens: int = 0, **fields: Any) -> None:
        nonlocal number
        data = {"type": kind, "sequence_number": number, **fields}
        parts.append(event(data, kind, output_tokens))
        number += 1

    place: dict[str, Any] = {"item_id": f"msg_{ident}", "output_index": 0, "content_index": 0}
    item = {"id": f"msg_{ident}", "type": "message", "role": "assistant", "content": []}
    empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    whole = {**empty, "text": asked.text}
    started = response_object(asked, ident, "in_progress")
    say("response.created", response=started)
    say("response.in_progress", asked.counts.reasoning_tokens, response=started)
    say(
        "response.output_item.added",
        output_index=0,
        item={**item, "status": "in_progress"},
    )
    say("response.content_part.added", **place, part=empty)
    for word in asked.words:
        say("response.output_text.delta", 1, **place, delta=word, logprobs=[])
    say("response.output_text.done", **place, text=asked.text, logprobs=[])
    say("response.content_part.done", **place, part=whole)
    say(
        "response.output_item.done",
        output_index=0,
        item={**item, "status": "completed", "content": [whole]},
    )
    status = "incomplete" if asked.is_length_limited else "completed"
    say(f"response.{status}", response=response_object(asked, ident, status))
    return parts
