"""The numbers of a message as protobuf serialises them, without making the message.

    (name, value), … ──Numbers.of()──▶ the very bytes that protobuf makes of them

A call writes two frames, and in the pauses of a real call protobuf takes 10 µs for each: its
tables have left the processor's caches by then. These few lines take half of that. What they
don't take to be ordinary is left to protobuf, which also says what is wrong with it.
"""

from __future__ import annotations

from struct import Struct, error
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.message import Message

ORDINARY_MAX = 2**32 - 1
"""What every integer field holds, whichever kind it is."""


class Numbers:
    """Serialises some whole numbers and one moment of a kind of message.

    Args:
        kind: the message's class.
        names: fields of integer types, in the order of their numbers below 2,048.
        moment: which of them is a fixed64.
    """

    __slots__ = ("_kind", "_moment_tag", "_names", "_pack", "_tags")

    def __init__(self, kind: type[Message], names: tuple[str, ...], moment: str) -> None:
        fields = kind.DESCRIPTOR.fields_by_name
        self._kind, self._names = kind, names
        self._tags = tuple(
            b"" if name == moment else _tag(fields[name].number << 3) for name in names
        )
        self._moment_tag = _tag(fields[moment].number << 3 | 1)
        self._pack = Struct("<Q").pack

    def of(self, *values: int) -> bytes:
        """The bytes of the fields with these values; a zero has none, as in protobuf.

        Raises:
            ValueError, TypeError: a field doesn't hold its value.
        """
        out = bytearray()
        for tag, number in zip(self._tags, values, strict=True):
            if not number:
                continue
            if not tag:
                try:
                    out += self._moment_tag + self._pack(number)
                except error:
                    return self._by_protobuf(values)
                continue
            if number.__class__ is not int or not 0 < number <= ORDINARY_MAX:
                return self._by_protobuf(values)
            out += tag
            while number > 127:
                out.append(number & 127 | 128)
                number >>= 7
            out.append(number)
        return bytes(out)

    def _by_protobuf(self, values: tuple[int, ...]) -> bytes:
        message = self._kind(**dict(zip(self._names, values, strict=True)))
        return message.SerializeToString(deterministic=True)


def _tag(key: int) -> bytes:
    return bytes((key,)) if key < 128 else bytes((key & 127 | 128, key >> 7))
