"""What streams put into an inbox: apart from channel.py, so that reading it needs no grpc."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from meterd_proto.v1.quota_pb2 import LeaseResponse
    from meterd_proto.v1.usage_pb2 import ShipResponse


class Heard(NamedTuple):
    """One response of a stream, or its end: then `response` is None and `ended` says why."""

    stream: object
    response: ShipResponse | LeaseResponse | None
    ended: str = ""
    is_refusal: bool = False
    """The daemon answered, and its answer is no: asking the same again changes nothing."""
