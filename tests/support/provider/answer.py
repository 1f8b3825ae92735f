"""What goes back: a status, headers, and a body in parts, each with the output tokens it bears."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support.provider.ledger import Counts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CREATED = 1_764_000_000
"""A constant, so that the same request gets the same bytes."""


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a body: one event of a stream, or a whole document."""

    data: bytes
    output_tokens: int = 0
    is_trailer: bool = False
    """After everything that says anything: a caller who leaves before it has all there was."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One response. `parts` of a stream go out one by one, chunked; else in one body."""

    parts: Sequence[Part]
    content_type: str = "application/json"
    status: int = 200
    is_stream: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    """What the provider enters in its ledger for this answer."""
    response_id: str = ""
    model: str = ""


def encoded(value: object) -> bytes:
    """JSON as providers send it: compact, UTF-8."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def event(data: object, name: str = "", output_tokens: int = 0) -> Part:
    """A server-sent event with JSON data, named or not."""
    head = f"event: {name}\n".encode() if name else b""
    return Part(head + b"data: " + encoded(data) + b"\n\n", output_tokens)


DONE = Part(b"data: [DONE]\n\n")


def document(
    value: object,
    counts: Counts,
    *,
    response_id: str = "",
    model: str = "",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """A JSON answer in one body."""
    return Answer(
        [Part(encoded(value), counts.output_tokens)],
        counts=counts,
        response_id=response_id,
        model=model,
        headers=headers or {},
    )


def stream(
    parts: Sequence[Part],
    counts: Counts,
    *,
    response_id: str = "",
    model: str = "",
    content_type: str = "text/event-stream; charset=utf-8",
) -> Answer:
    """A streamed answer."""
    return Answer(
        parts, content_type, is_stream=True, counts=counts, response_id=response_id, model=model
    )
