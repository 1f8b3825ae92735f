"""Quarantine: what of a record can't be believed. Pure; one clause says why.

A well-framed record is never refused for what it says: it is kept as bytes, moves the
watermark, and is shown. So nothing blocks those behind it, and a newer daemon, or a person,
can read it later.
"""

from __future__ import annotations

from operator import lt
from typing import TYPE_CHECKING

from meterd_proto.v1 import usage_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meterd.store.batch import Kind, Rare

TOKENS_MAX = 1 << 40
"""A count above this, a trillion for one call, is nonsense; eight million of it still fit into
the 64 bits of a sum."""
MILLISECONDS_MAX = 1 << 45
"""Beyond the year 3000."""
NAME_CHARACTERS_MAX = 512
"""Longer than any id, model or address; what is longer was not meant as one."""
STATUSES = frozenset(number for number in usage_pb2.Status.values() if number)

COLUMNS = (
    "duration_ms",
    "input_tokens",
    "cache_read_tokens",
    "output_tokens",
    "reasoning_tokens",
    "input_bytes",
)
_PARTS = (("cache_read_tokens", "input_tokens"), ("reasoning_tokens", "output_tokens"))


def suspects(
    columns: Mapping[str, Sequence[int]], occurred_at_ms: Sequence[int], rare: Mapping[int, Rare]
) -> dict[int, str]:
    """Positions whose counts can't be believed, with the reason; empty for nearly every batch.

    Args:
        columns: by name, without those that hold nothing but zeros.
    """
    found: dict[int, str] = {}
    for name, column in columns.items():
        if min(column) < 0:
            _note(found, column, lambda value: value < 0, f"{name} is negative")
        if max(column) > TOKENS_MAX:
            _note(found, column, lambda value: value > TOKENS_MAX, f"{name} is absurdly large")
    for part, whole in _PARTS:
        if part in columns:
            _note_parts(found, columns[part], columns.get(whole), f"{part} exceeds {whole}")
    if min(occurred_at_ms) < 0 or max(occurred_at_ms) > MILLISECONDS_MAX:
        _note(
            found,
            occurred_at_ms,
            lambda moment: not 0 <= moment <= MILLISECONDS_MAX,
            "occurred_at is no date",
        )
    for at, fields in rare.items():
        reason = why_unbelievable(
            fields, _at(columns, "input_tokens", at), _at(columns, "output_tokens", at)
        ) or _overfull(columns, fields, at)
        if reason:
            found.setdefault(at, reason)
    return found


def why_unbelievable(rare: Rare, input_tokens: int, output_tokens: int) -> str:
    """Why the rare counts of a record can't be believed; empty if they can."""
    counts = {
        "cache_write_tokens": (rare.cache_write_tokens, "input_tokens", input_tokens),
        "cache_write_long_tokens": (
            rare.cache_write_long_tokens, "cache_write_tokens", rare.cache_write_tokens,
        ),
        "audio_input_tokens": (rare.audio_input_tokens, "input_tokens", input_tokens),
        "audio_output_tokens": (rare.audio_output_tokens, "output_tokens", output_tokens),
    }  # fmt: skip
    for name, (count, whole, most) in counts.items():
        if count < 0:
            return f"{name} is negative"
        if count > most:
            return f"{name} exceeds {whole}"
    for tool, calls in rare.tool_calls:
        if not 0 <= calls <= TOKENS_MAX:
            return "tool_calls has a count that can't be"
        if len(tool) > NAME_CHARACTERS_MAX:
            return "tool_calls has a name that is too long"
    return ""


def why_not_kept(names: tuple[object, ...]) -> str:
    """Why names (of a tag, or among a kind's fields) can't be kept; empty if they can."""
    for name in names:
        if isinstance(name, str) and len(name) > NAME_CHARACTERS_MAX:
            return f"a name has more than {NAME_CHARACTERS_MAX} characters"
    return ""


def why_unknown(kind: Kind) -> str:
    """Why records of a kind can't be counted; empty if they can."""
    if kind.status not in STATUSES:
        return f"status {kind.status} is unknown"
    if kind.estimated > 3:
        return "estimated has unknown bits"
    return why_not_kept(kind)


def _overfull(columns: Mapping[str, Sequence[int]], rare: Rare, at: int) -> str:
    """Cached tokens of both sorts are different ones: together they can't exceed the input."""
    cached = _at(columns, "cache_read_tokens", at) + rare.cache_write_tokens
    return "cached tokens exceed input_tokens" if cached > _at(columns, "input_tokens", at) else ""


def _at(columns: Mapping[str, Sequence[int]], name: str, at: int) -> int:
    column = columns.get(name)
    return column[at] if column else 0


def _note(found: dict[int, str], column: Sequence[int], is_bad: _Test, reason: str) -> None:
    for at, value in enumerate(column):
        if is_bad(value):
            found.setdefault(at, reason)


def _note_parts(
    found: dict[int, str], parts: Sequence[int], wholes: Sequence[int] | None, reason: str
) -> None:
    whole = wholes if wholes is not None else [0] * len(parts)
    if any(map(lt, whole, parts)):
        for at, (most, part) in enumerate(zip(whole, parts, strict=True)):
            if part > most:
                found.setdefault(at, reason)


if TYPE_CHECKING:
    from collections.abc import Callable

    _Test = Callable[[int], bool]
