"""The packed column of a ledger row: what few records have, NULL when there is none of it.

    rest = 0x00 │ flags │ the fields that the flags name, each as short as it gets

`flags` is a byte whose lowest three bits are 1, and a second one where its highest bit says so.
Numbers are varints; a tool, and how an id begins, are a number where they are well known; a cost is
an integer and how many of its digits are decimals. Everything set is 23 bytes so, 54 as protobuf.

Rows of schemas 1 to 3 have `varint(zigzag(occurred_at_ms − billed_at_ms)) │ meterd.v1.RareFields`,
whose second byte never has those three bits; they are read for ever, and not written any more.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from meterd.store.batch import Rare
from meterd_proto.v1 import usage_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

PLAIN = Rare()

TOOLS = (
    "", "web_search", "web_search_requests", "web_fetch_requests", "file_search",
    "code_interpreter", "image_generation", "computer_use", "mcp", "google_search",
    "code_execution",
)  # fmt: skip
"""By number; the ledger has them: only ever add to the end. 0: the name is written out."""

BEGINNINGS = ("", "resp_", "msg_", "chatcmpl-", "gen-", "")
"""Of ids that go on in hexadecimal, by number; only ever add to the end. 0: written out."""

DECIMALS_MAX = 18
_MARK = 0b111
_HISTORY, _WRITE, _WRITE_LONG, _DEDUPE, _MORE = (1 << bit for bit in range(3, 8))
_MOVED, _TOOL_CALLS, _COST, _AUDIO_IN, _AUDIO_OUT, _NOTE = (1 << bit for bit in range(6))
_HEX = re.compile(r"(?:[0-9a-f]{2})+")
_AMOUNT = re.compile(r"(?:0|[1-9][0-9]{0,17})(?:\.([0-9]{1,18}))?")


def pack(rare: Rare, billed_at_ms: int) -> bytes | None:
    """The column's bytes; None for a record that has nothing rare."""
    if rare == PLAIN:
        return None
    flags = more = 0
    out = bytearray()
    if rare.history_bytes is not None:
        flags |= _HISTORY
        _put(out, rare.history_bytes)
    for flag, amount in ((_WRITE, rare.cache_write_tokens),
                         (_WRITE_LONG, rare.cache_write_long_tokens)):  # fmt: skip
        if amount:
            flags |= flag
            _put(out, amount)
    if rare.dedupe_id:
        flags |= _DEDUPE
        _put_id(out, rare.dedupe_id)
    if rare.occurred_at_ms is not None and rare.occurred_at_ms != billed_at_ms:
        more |= _MOVED
        _put(out, _zigzag(rare.occurred_at_ms - billed_at_ms))
    if rare.tool_calls:
        more |= _TOOL_CALLS
        _put_calls(out, rare.tool_calls)
    if rare.provider_cost:
        more |= _COST
        _put_amount(out, rare.provider_cost)
    for flag, amount in ((_AUDIO_IN, rare.audio_input_tokens),
                         (_AUDIO_OUT, rare.audio_output_tokens)):  # fmt: skip
        if amount:
            more |= flag
            _put(out, amount)
    if rare.note:
        more |= _NOTE
        _put_text(out, rare.note)
    if more:
        return bytes((0, _MARK | flags | _MORE, more)) + out
    return bytes((0, _MARK | flags)) + out


def unpack(rest: bytes | None, billed_at_ms: int) -> Rare:
    """What `pack` packed.

    Raises:
        ValueError: the bytes were not written by `pack`: a corrupt row.
    """
    if rest is None:
        return PLAIN
    if len(rest) < 2 or rest[0] or rest[1] & _MARK != _MARK:
        return _unpack_message(rest, billed_at_ms)
    try:
        return _unpack_fields(_Reader(rest), billed_at_ms)
    except (IndexError, UnicodeDecodeError) as fault:
        raise ValueError("a ledger row's packed column can't be read") from fault


def _unpack_fields(reader: _Reader, billed_at_ms: int) -> Rare:
    flags = reader.flags
    history = reader.number() if flags & _HISTORY else None
    write = reader.number() if flags & _WRITE else 0
    write_long = reader.number() if flags & _WRITE_LONG else 0
    dedupe_id = reader.id() if flags & _DEDUPE else ""
    more = reader.more
    moved = reader.number() if more & _MOVED else 0
    return Rare(
        cache_write_tokens=write,
        cache_write_long_tokens=write_long,
        tool_calls=reader.calls() if more & _TOOL_CALLS else (),
        provider_cost=reader.amount() if more & _COST else "",
        audio_input_tokens=reader.number() if more & _AUDIO_IN else 0,
        audio_output_tokens=reader.number() if more & _AUDIO_OUT else 0,
        history_bytes=history,
        dedupe_id=dedupe_id,
        note=reader.text() if more & _NOTE else "",
        occurred_at_ms=billed_at_ms + _unzigzag(moved) if moved else None,
    )


# ── writing ──


def _put(out: bytearray, number: int) -> None:
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def _put_text(out: bytearray, text: str) -> None:
    data = text.encode()
    _put(out, len(data))
    out += data


def _put_id(out: bytearray, text: str) -> None:
    for number, beginning in enumerate(BEGINNINGS[1:], start=1):
        if text.startswith(beginning) and _HEX.fullmatch(text, len(beginning)):
            data = bytes.fromhex(text[len(beginning) :])
            _put(out, number)
            _put(out, len(data))
            out += data
            return
    _put(out, 0)
    _put_text(out, text)


def _put_calls(out: bytearray, calls: Iterable[tuple[str, int]]) -> None:
    calls = tuple(calls)
    _put(out, len(calls))
    for tool, count in calls:
        number = TOOLS.index(tool) if tool in TOOLS else 0
        _put(out, number)
        if not number:
            _put_text(out, tool)
        _put(out, count)


def _put_amount(out: bytearray, text: str) -> None:
    """Digits and their decimals where the text is nothing but that, else as it stands."""
    found = _AMOUNT.fullmatch(text)
    if found is None:
        _put(out, 0)
        _put_text(out, text)
        return
    _put(out, 1 + len(found[1] or ""))
    _put(out, int(text.replace(".", "")))


# ── reading ──


class _Reader:
    """Goes through a packed column from left to right."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.flags = data[1]
        self.more = data[2] if self.flags & _MORE else 0
        self._at = 3 if self.flags & _MORE else 2

    def number(self) -> int:
        number = shift = 0
        while True:
            byte = self._data[self._at]
            self._at += 1
            number |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return number
            shift += 7

    def bytes(self) -> bytes:
        size = self.number()
        taken = self._data[self._at : self._at + size]
        if len(taken) < size:
            raise IndexError("the column ends too early")
        self._at += size
        return taken

    def text(self) -> str:
        return self.bytes().decode()

    def id(self) -> str:
        number = self.number()
        return BEGINNINGS[number] + self.bytes().hex() if number else self.text()

    def calls(self) -> tuple[tuple[str, int], ...]:
        return tuple((self._tool(), self.number()) for _ in range(self.number()))

    def _tool(self) -> str:
        number = self.number()
        return TOOLS[number] if number else self.text()

    def amount(self) -> str:
        code = self.number()
        if not code:
            return self.text()
        decimals = code - 1
        if decimals > DECIMALS_MAX:
            raise IndexError("no amount was written with so many decimals")
        digits = f"{self.number():0{decimals + 1}d}"
        return f"{digits[:-decimals]}.{digits[-decimals:]}" if decimals else digits


def _unpack_message(rest: bytes, billed_at_ms: int) -> Rare:
    moved, length = _read_varint(rest)
    message = usage_pb2.RareFields()
    try:
        message.ParseFromString(rest[length:])
    except Exception as fault:  # protobuf's DecodeError is not a ValueError
        raise ValueError("a ledger row's packed column can't be read") from fault
    return Rare(
        cache_write_tokens=message.cache_write_tokens,
        cache_write_long_tokens=message.cache_write_long_tokens,
        audio_input_tokens=message.audio_input_tokens,
        audio_output_tokens=message.audio_output_tokens,
        tool_calls=tuple(sorted(message.tool_calls.items())),
        provider_cost=message.provider_cost,
        history_bytes=message.history_bytes if message.HasField("history_bytes") else None,
        dedupe_id=message.dedupe_id,
        note=message.note,
        occurred_at_ms=billed_at_ms + _unzigzag(moved) if moved else None,
    )


def _zigzag(number: int) -> int:
    return number << 1 if number >= 0 else (-number << 1) - 1


def _unzigzag(number: int) -> int:
    return (number >> 1) ^ -(number & 1)


def _read_varint(data: bytes) -> tuple[int, int]:
    number = 0
    for position, byte in enumerate(data[:10]):
        number |= (byte & 0x7F) << 7 * position
        if not byte & 0x80:
            return number, position + 1
    raise ValueError("a ledger row's packed column has no beginning")
