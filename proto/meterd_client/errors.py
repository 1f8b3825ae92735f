"""What a caller may have to handle; the message is the daemon's own sentence.

MeterdError
├── Refused          change something: the argument, the moment, the key
│   ├── InvalidArgument   the daemon, or we, can't read what was asked
│   ├── NotFound          no such client, invoice or month
│   ├── NotIdentified     the daemon asks for an access key
│   ├── NotAllowed        the key's scope doesn't reach that far
│   └── CloseRefused      something stands in the way of a closing: `.obstacles`
└── Unavailable      nothing is known of what was asked: ask again
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from collections.abc import Sequence


class MeterdError(Exception):
    """What meterd, or the way to it, answered instead of figures."""


class Refused(MeterdError):
    """The daemon won't, and says why; asking the same again gets the same answer."""


class InvalidArgument(Refused):
    """What was asked can't be read: a month that is none, an amount with a typing error."""


class NotFound(Refused):
    """There is no such client, invoice or number."""


class NotIdentified(Refused):
    """The daemon asks for an access key: `access_key=` or METERD_ACCESS_KEY."""


class NotAllowed(Refused):
    """The access key's scope doesn't reach this far."""


class CloseRefused(Refused):
    """Something stands in the way of closing a month; nothing was closed."""

    def __init__(self, month: str, obstacles: Sequence[str]) -> None:
        super().__init__(month, obstacles)  # both, so that it pickles
        self.month, self.obstacles = month, tuple(obstacles)

    def __str__(self) -> str:
        return f"{self.month} was not closed: {'; '.join(self.obstacles)}"


class Unavailable(MeterdError):
    """No answer, or none in time: whether it was done is not known, and asking again is safe."""


_CLASSES: dict[grpc.StatusCode, type[MeterdError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.UNAUTHENTICATED: NotIdentified,
    grpc.StatusCode.PERMISSION_DENIED: NotAllowed,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,
}


def error_of(status: grpc.StatusCode, sentence: str, target: str) -> MeterdError:
    """The exception that a gRPC status means; what isn't in the table is a refusal."""
    kind = _CLASSES.get(status, Refused)
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return kind(f"meterd at {target} didn't answer in time")
    if kind is Unavailable:
        return kind(f"meterd at {target} is unavailable: {sentence or status.name}")
    if status is grpc.StatusCode.UNIMPLEMENTED:
        return kind(f"meterd at {target} can't do this: upgrade it")
    return kind(sentence or f"meterd at {target} failed with {status.name}")
