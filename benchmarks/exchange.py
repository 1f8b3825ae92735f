"""What the exchanges of all dialects are made of: a request to a provider and its answers."""

from __future__ import annotations

import json
from dataclasses import dataclass

TEXT = "The quarterly report shows that usage rose in every region. "
EVENTS = 100


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request to a provider and its two possible answers, in one dialect."""

    name: str
    path: str
    stream_path: str
    request: dict[str, object]
    stream_request: dict[str, object]
    answer: bytes
    events: tuple[bytes, ...]
    stream_type: str = "text/event-stream"


def sse(payload: object, event: str = "") -> bytes:
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {json.dumps(payload)}\n\n".encode()
