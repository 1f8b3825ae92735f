"""What goes into the ledger: one producer's consecutive records in columns, checked and placed.

    wire batch ─ ingest: checked, placed, quarantined ─▶ PlacedBatch ─▶ Store.commit

Columns as on the wire, so that nobody makes an object a record: position `i` of each column
belongs to sequence `first_sequence + i`. A column that is None holds zeros.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol

from meterd.ids import ProducerId, Sequence

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Sequence as Column


class Kind(NamedTuple):
    """What the calls of one sort have in common beside who pays: interned by the ledger.

    Few distinct ones exist (models × statuses × prices), however many clients there are.
    """

    provider: str = ""
    operation: str = ""
    request_model: str = ""
    response_model: str = ""
    status: int = 0
    http_status: int = 0
    estimated: int = 0
    service_tier: str = ""
    speed: str = ""
    processing: str = ""
    inference_geo: str = ""
    account: str = ""
    server_address: str = ""
    attempt: int = 0
    is_continuation: bool = False
    is_stream: bool = False

    @property
    def model(self) -> str:
        """The model that is shown and priced: the response's word, else the request's."""
        return self.response_model or self.request_model


class Rare(NamedTuple):
    """What few records have beside the columns."""

    cache_write_tokens: int = 0
    cache_write_long_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    tool_calls: tuple[tuple[str, int], ...] = ()
    provider_cost: str = ""
    history_bytes: int | None = None
    dedupe_id: str = ""
    note: str = ""
    occurred_at_ms: int | None = None
    """Only where it isn't `billed_at_ms`: the producer's clock was corrected."""


class Quarantined(NamedTuple):
    """A record that can't be read or believed: kept as bytes, moves the watermark all the same."""

    position: int
    reason: str
    schema: int
    payload: bytes
    """A serialised `meterd.v1.UsageRecord`."""


NOTHING_RARE: Mapping[int, Rare] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedBatch:
    """Consecutive records of one producer, ready for the ledger."""

    producer: ProducerId
    first_sequence: Sequence
    received_at_ms: int
    skew_ms: int
    """Received − sent; beyond 5 min the times below were corrected by it."""
    highest_appended: Sequence
    tags: Column[tuple[str, str]]
    """The distinct (client, project)."""
    kinds: Column[Kind]
    """The distinct kinds of call."""
    tag: Column[int]
    """Per record: position in `tags`."""
    kind: Column[int]
    """Per record: position in `kinds`."""
    billed_at_ms: Column[int]
    duration_ms: Column[int] | None = None
    input_tokens: Column[int] | None = None
    cache_read_tokens: Column[int] | None = None
    output_tokens: Column[int] | None = None
    reasoning_tokens: Column[int] | None = None
    input_bytes: Column[int] | None = None
    lease: Column[int] | None = None
    """Per record: the lease it settles; 0 is none."""
    rare: Mapping[int, Rare] = field(default_factory=lambda: NOTHING_RARE)
    quarantined: tuple[Quarantined, ...] = ()
    """Sorted by position; what the columns hold there counts for nothing."""
    late: frozenset[int] = frozenset()
    """Positions of what is more than 35 days old: kept, but rolled up only once accepted."""

    def __len__(self) -> int:
        return len(self.tag)

    @property
    def last_sequence(self) -> Sequence:
        """The sequence of the last record."""
        return Sequence(self.first_sequence + len(self.tag) - 1)

    def between(self, start: int, end: int) -> PlacedBatch:
        """The records at positions `[start, end)`, as a batch."""
        if start == 0 and end == len(self):
            return self
        return replace(
            self,
            first_sequence=Sequence(self.first_sequence + start),
            tag=self.tag[start:end],
            kind=self.kind[start:end],
            lease=_cut(self.lease, start, end),
            billed_at_ms=self.billed_at_ms[start:end],
            duration_ms=_cut(self.duration_ms, start, end),
            input_tokens=_cut(self.input_tokens, start, end),
            cache_read_tokens=_cut(self.cache_read_tokens, start, end),
            output_tokens=_cut(self.output_tokens, start, end),
            reasoning_tokens=_cut(self.reasoning_tokens, start, end),
            input_bytes=_cut(self.input_bytes, start, end),
            rare={at - start: rare for at, rare in self.rare.items() if start <= at < end},
            quarantined=tuple(
                kept._replace(position=kept.position - start)
                for kept in self.quarantined
                if start <= kept.position < end
            ),
            late=frozenset(at - start for at in self.late if start <= at < end),
        )

    def read(self) -> PlacedBatch:
        """Itself: a batch that is read already."""
        return self

    def set_aside(self, reason: str) -> PlacedBatch | None:
        """None: what it was read from is gone."""
        return None


def _cut(column: Column[int] | None, start: int, end: int) -> Column[int] | None:
    return None if column is None else column[start:end]


class UnreadBatch(Protocol):
    """A batch as it came; the writer's thread reads it, so that the event loop doesn't."""

    def read(self) -> PlacedBatch:
        """Check and place it.

        Raises:
            BatchBroken: its framing, size or order is wrong; only its sender hears of it.
        """
        ...

    def set_aside(self, reason: str) -> PlacedBatch | None:
        """Its one record as bytes for the quarantine, where a bug of ours can't take it.

        None for more than one record: its sender halves a batch that is refused until one is
        left, so that no other goes into quarantine with it.
        """
        ...
