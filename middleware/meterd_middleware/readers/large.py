"""Bodies too large to parse: their few fields, from the first bytes and the last.

    head ─┬─ short fields (id, model, tier)          {"id":…,"model":…,"output":[… megabytes …],
    tail ─┴─ whole objects near the top (usage)       "usage":{…},"service_tier":"default"}

An object counts where at most two braces or brackets close after it, so that a tool's input
or a text that speaks of usage is never taken for it. One pass over at most 64 KiB.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from meterd_middleware.readers.parsing import parsed
from meterd_middleware.readers.tally import Fields, fields_of

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD_BYTES = 16 * 1024
TAIL_BYTES = 64 * 1024
LEVELS_MAX = 2
"""How many levels may close after an object: a body's own, and an array's or an event's."""

_STRING_FIELDS = re.compile(
    rb'"(id|model|status|service_tier|modelVersion|responseId|object|type|event_type'
    rb'|generation_id|response_id)"\s*:\s*"([^"\\]{1,200})"'
)
_OBJECTS = re.compile(
    rb'"(usage|usageMetadata|meta|x_groq|tool_usage|svg_usage|usage_breakdown)"'
    rb"\s*:\s*(?=\{)"
)
"""Begins with its one sure letter, which is searched forty times as fast as a condition on what
stands before it."""
_TOKENS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[{}\[\]]', re.DOTALL)
"""A string, closed or cut off by the end (so that nothing is looked at twice), or a bracket."""


def fields_of_large(head: bytes, tail: bytes) -> Fields:
    """What can be read of a body without its middle."""
    fields = _string_fields(head, tail)
    for window in (head, tail):
        fields.update(_objects(window))
    return fields


def fields_of_large_event(data: bytes) -> Fields:
    """The same of an event, whose fields may stand in a `response` of its own."""
    head = data[:HEAD_BYTES]
    fields = fields_of_large(head, data[-TAIL_BYTES:])
    for name in ("response", "interaction"):
        if re.search(rb'"' + name.encode() + rb'"\s*:\s*\{', head[:1024]):
            kinds: Fields = {
                kind: fields.pop(kind) for kind in ("type", "event_type") if kind in fields
            }
            return {**kinds, name: fields}
    return fields


def _string_fields(head: bytes, tail: bytes) -> Fields:
    """Short fields: the head's first, then what the tail alone has."""
    fields: Fields = {}
    for window in (head, tail):
        found: Fields = {}
        for name, value in _STRING_FIELDS.findall(window):
            found.setdefault(name.decode(), value.decode("utf-8", "replace"))
        fields = {**found, **fields}
    return fields


def _objects(window: bytes) -> Fields:
    """The objects near the top of the body that this window ends; the last of each name."""
    starts = [
        found
        for found in _OBJECTS.finditer(window)
        if window[found.start() - 1 : found.start()] != b"\\"  # inside a text it is escaped
    ]
    if not starts:
        return {}
    names = {found.end(): found[1].decode() for found in starts}
    open_objects: dict[int, tuple[int, int]] = {}  # depth → start of the one that is open there
    ended: list[tuple[int, int, int]] = []  # start, end, depth
    depth = 0
    for at, mark in _marks(window, starts[0].end()):
        if mark in b"{[":
            if at in names:
                open_objects[depth] = (at, depth)
            depth += 1
        else:
            depth -= 1
            if depth in open_objects:
                start, level = open_objects.pop(depth)
                ended.append((start, at + 1, level))
    best: dict[str, tuple[int, Fields]] = {}
    for start, end, level in ended:
        closing = max(level - depth, 1)  # cut off before it ends: taken to be at the top
        value = fields_of(parsed(window[start:end])) if closing <= LEVELS_MAX else {}
        name = names[start]
        if value and closing <= best.get(name, (LEVELS_MAX, value))[0]:
            best[name] = (closing, value)
    return {name: value for name, (_, value) in best.items()}


def _marks(window: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    """Braces and brackets from here on, but those inside strings."""
    for token in _TOKENS.finditer(window, start):
        mark = token[0]
        if len(mark) == 1:
            yield token.start(), mark
