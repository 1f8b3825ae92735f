"""Header fields of a request or response, decoded only where somebody asks.

A call has two dozen of them and metering looks at five: decoding all would cost more than
reading the usage. httpx and httpx2 keep each field's lower-case name beside the one given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from meterd_middleware.tags import CLIENT_HEADER, PROJECT_HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS = frozenset({CLIENT_HEADER.encode(), PROJECT_HEADER.encode()})


class Fields(Mapping[str, str]):
    """The header fields of an httpx or httpx2 message, by lower-case name.

    Several fields of one name are joined by a comma, as RFC 9110 has it; but two of ours
    that contradict each other by a NUL, which no field can hold.
    """

    __slots__ = ("_values",)

    def __init__(self, headers: Any) -> None:
        kept = getattr(headers, "_list", None)
        if kept is not None:
            self._values: dict[bytes, bytes] = {name: value for _, name, value in kept}
        else:
            kept = headers.raw
            self._values = {name.lower(): value for name, value in kept}
        if len(self._values) != len(kept):
            self._join(headers)

    def _join(self, headers: Any) -> None:
        values: dict[bytes, bytes] = {}
        for name, value in headers.raw:
            lower = name.lower()
            if lower not in values:
                values[lower] = value
            elif lower not in OURS:
                values[lower] += b", " + value
            elif value not in values[lower].split(b"\0"):
                values[lower] += b"\0" + value
        self._values = values

    @property
    def has_ours(self) -> bool:
        """Whether `X-Client-ID` or `X-Project-ID` is among them."""
        return not OURS.isdisjoint(self._values)

    def get(self, name: str, default: Any = None) -> Any:
        """The field's value, or the default."""
        value = self._values.get(name.encode())
        return default if value is None else value.decode("latin-1")

    def __getitem__(self, name: str) -> str:
        return self._values[name.encode()].decode("latin-1")

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.encode() in self._values

    def __iter__(self) -> Iterator[str]:
        return (name.decode("latin-1") for name in self._values)

    def __len__(self) -> int:
        return len(self._values)


def without_ours(headers: Any) -> Any:
    """A copy of a message's headers that lacks ours."""
    kind: Any = type(headers)
    kept = getattr(headers, "_list", None)
    if kept is None:
        left = [(name, value) for name, value in headers.raw if name.lower() not in OURS]
        return kind(left)
    copy = kind.__new__(kind)  # the constructor would normalise each field anew: 12 µs a call
    copy.__dict__.update(headers.__dict__)
    copy._list = [field for field in kept if field[1] not in OURS]
    return copy
