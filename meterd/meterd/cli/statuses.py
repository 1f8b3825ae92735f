"""How a call ended, as a word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd_proto.v1 import usage_pb2

if TYPE_CHECKING:
    from meterd_proto.v1.usage_pb2 import Status


def status_name(status: Status.ValueType) -> str:
    """The word for a status: complete, abandoned, cut, …; a newer daemon's as a number."""
    try:
        return usage_pb2.Status.Name(status).removeprefix("STATUS_").lower()
    except ValueError:
        return f"status {int(status)}"
