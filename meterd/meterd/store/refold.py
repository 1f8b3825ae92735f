"""Folding ledger rows into the rollups once more: late ones accepted, zones or prices changed.

    ledger rows ─ each by itself ─▶ Deltas ─▶ the rollups

Row by row and not by column: this is what is done seldom. The ledger's rows stay as they
are; a rate found later is a row of `repriced`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple

from meterd.config.agency import PriceOverride
from meterd.errors import NotPossibleNow
from meterd.pricing.price_list import matches
from meterd.store.interning import (
    BY_TOKENS,
    REFUSED,
    KindRow,
    Tag,
    call_of,
    counts_as,
    kind_from,
)
from meterd.store.ledger_row import unpack
from meterd.store.rate_column import Counted, is_request
from meterd.store.rollup import rare_sums
from meterd.store.values import Accepted

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from meterd.config.agency import Agency
    from meterd.store.batch import Rare
    from meterd.store.engine import Engine

STEP_ROWS = 2_000
"""Rows folded again in one go: about 20 ms."""

CURRENT_RATE = (
    "CASE WHEN EXISTS (SELECT 1 FROM repriced p WHERE p.row = l.id) THEN "
    "(SELECT p.rate FROM repriced p WHERE p.row = l.id ORDER BY p.reprice DESC LIMIT 1) "
    "ELSE l.rate END"
)
"""The rate that holds for a ledger row now."""

SELECT = (
    "SELECT l.id, l.tag, l.kind, l.billed_at_ms, l.input_tokens, l.cache_read_tokens, "
    f"l.output_tokens, l.reasoning_tokens, {CURRENT_RATE}, l.rest FROM ledger l"
)
_COUNTED = " WHERE NOT EXISTS (SELECT 1 FROM uncounted u WHERE u.row = l.id)"


class Row(NamedTuple):
    """A ledger row, as far as rollups need it."""

    id: int
    tag: Tag
    kind: KindRow
    billed_at_ms: int
    counts: Counted
    rare: Rare
    rate: int | None


class Refold:
    """Reads ledger rows and adds them to the transaction's deltas."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tags: dict[int, Tag] = {}
        self._kinds: dict[int, KindRow] = {}

    def rows(self, where: str = "", values: tuple[object, ...] = ()) -> Iterator[Row]:
        """The rows that a condition on `l` names, in order."""
        connection = self._engine.connection
        # All at once: what is done with a row may write what the query reads.
        for number, tag, kind, at_ms, took, read, gave, thought, rate, rest in connection.execute(
            f"{SELECT}{where} ORDER BY l.id", values
        ).fetchall():
            rare = unpack(rest, at_ms)
            counts = Counted(
                took, read, gave, thought, rare.cache_write_tokens,
                rare.cache_write_long_tokens, rare.audio_input_tokens, rare.audio_output_tokens,
            )  # fmt: skip
            yield Row(number, self._tag(tag), self._kind(kind), at_ms, counts, rare, rate)

    def add(self, row: Row, *, sign: int = 1, rate: int | None) -> None:
        """Add a row to the rollups under a rate, or take it out again."""
        engine = self._engine
        deltas = engine.ledger.deltas
        day = engine.calendar.day(row.billed_at_ms)
        (client, tag, period, posted), _ = engine.own_names.place_at(row.tag, row.billed_at_ms)
        key = (client, day.number, tag, row.kind.model, rate or 0, posted)
        deltas.months[client, day.number] = period
        counts = row.counts
        how = row.kind.counts_as
        counts_as_request = is_request(row.kind, counts)
        plain = deltas.plains.setdefault(key, [0, 0, 0, 0, 0])
        plain[0] += sign * counts_as_request
        plain[1] += sign * counts.input_tokens
        plain[2] += sign * counts.cache_read_tokens
        plain[3] += sign * counts.output_tokens
        plain[4] += sign * counts.reasoning_tokens
        estimated = row.kind.kind.estimated
        sums = list(rare_sums(row.rare))
        sums[0] = int(how == BY_TOKENS and not counts_as_request)
        sums[1] = int(how == REFUSED)
        sums[6] = (counts.input_tokens if estimated & 1 else 0) + (
            counts.output_tokens if estimated & 2 else 0
        )
        if any(sums) or row.rare.tool_calls:
            deltas.extra(key).add(
                [sign * amount for amount in sums],
                [(tool, sign * calls) for tool, calls in row.rare.tool_calls],
            )

    def is_closed(self, row: Row) -> bool:
        """Whether the period of a row is closed, so that nothing of it may change."""
        place, _ = self._engine.own_names.place_at(row.tag, row.billed_at_ms)
        return place.period != place.posted_in

    def rate_now(self, row: Row) -> int | None:
        """The rate that a row takes by the prices in force."""
        engine = self._engine
        quote = engine.quotes.quote(row.kind, row.tag.client_name, row.billed_at_ms)
        return engine.quotes.rate_of(
            quote, row.counts, row.rare.tool_calls, is_request=is_request(row.kind, row.counts)
        )

    def _tag(self, number: int) -> Tag:
        tag = self._tags.get(number)
        if tag is None:
            client, name, project = self._engine.connection.execute(
                "SELECT c.id, c.name, t.project FROM tags t JOIN clients c ON c.id = t.client "
                "WHERE t.id = ?",
                (number,),
            ).fetchone()
            tag = self._tags[number] = Tag(number, client, name, project)
            self._engine.interning.tag(name, project)  # so that its name can be told
        return tag

    def _kind(self, number: int) -> KindRow:
        kind = self._kinds.get(number)
        if kind is None:
            model, fields = self._engine.connection.execute(
                "SELECT model, fields FROM kinds WHERE id = ?", (number,)
            ).fetchone()
            value = kind_from(fields)
            kind = KindRow(number, model, value, counts_as(value), call_of(value))
            self._kinds[number] = kind
            self._engine.interning.model(value.provider, value.model)
        return kind


def accept_late(engine: Engine, client: str) -> Accepted:
    """Roll up what of a client waits because it came late."""
    connection = engine.connection
    refold = Refold(engine)
    records = tokens = 0
    for row in refold.rows(
        " WHERE l.id IN (SELECT u.row FROM uncounted u WHERE u.why = 'late' AND u.client = "
        "(SELECT id FROM clients WHERE name = ?))",
        (client,),
    ):
        refold.add(row, rate=row.rate)
        records += 1
        tokens += row.counts.input_tokens + row.counts.output_tokens
    connection.execute(
        "DELETE FROM uncounted WHERE why = 'late' AND client = "
        "(SELECT id FROM clients WHERE name = ?)",
        (client,),
    )
    return Accepted(records, tokens)


class PriceChange(NamedTuple):
    """What a new configuration prices otherwise, for the rows before it."""

    end: int
    """Where the ledger ended when the new prices came into force."""
    overrides: tuple[PriceOverride, ...]
    """Those that came and those that went: rows that none of them matches keep their rate,
    whatever has become of the book meanwhile."""


def begin_using(engine: Engine, agency: Agency) -> PriceChange | None:
    """Place and price by a configuration from now on.

    While nothing is closed, a new time zone or anchor makes the rollups anew, here and at
    once: an agency's first hours. New prices are taken by the rows up to the returned one in
    steps (`reprice`), so that nobody waits for all of them.

    Returns:
        What rows have to take another look at; None: the prices are the same.

    Raises:
        NotPossibleNow: a period is closed, and the time zone or an anchor would change.
    """
    connection = engine.connection
    zones, prices = _zones_of(agency), _prices_of(agency)
    stored = connection.execute("SELECT zones, prices FROM rollup_basis").fetchone()
    before = stored or (_zones_of(engine.agency), _prices_of(engine.agency))
    end = engine.runs.next_row
    is_rezoned = end > 1 and before[0] != zones
    if is_rezoned and _has_closed(connection):
        raise NotPossibleNow(
            "a period is closed: the time zone and the days on which periods begin can only "
            "change from a period that isn't open yet"
        )
    engine.use(agency)
    if is_rezoned:
        _rebuild(engine, end)
    is_repriced = end > 1 and before[1] != prices
    # Until every step is done the former prices stand here: a daemon that dies between two
    # steps begins them again.
    kept = before[1] if is_repriced else prices
    connection.execute("INSERT OR REPLACE INTO rollup_basis VALUES (1, ?, ?)", (zones, kept))
    return PriceChange(end, _changed(before[1], agency)) if is_repriced else None


def end_using(engine: Engine, agency: Agency) -> None:
    """All rows have taken the prices in force."""
    engine.connection.execute("UPDATE rollup_basis SET prices = ?", (_prices_of(agency),))


def begin_reprice(engine: Engine, who: str, why: str) -> int:
    """A reprice is recorded; its number."""
    number = engine.connection.execute(
        "INSERT INTO reprices (at_ms, who, why) VALUES (?, ?, ?)", (engine.now_ms, who, why)
    ).lastrowid
    assert number is not None
    return number


def reprice(engine: Engine, change: PriceChange, number: int, first: int) -> int:
    """Let some rows from `first` on take the prices in force; closed periods stay as they are.

    The ledger's rows are untouched: a new rate is a row of `repriced`, and what it moves in
    the rollups is taken from one row and added to another.

    Returns:
        How many took another rate.
    """
    refold = Refold(engine)
    changed = 0
    end = min(first + STEP_ROWS, change.end)
    for row in refold.rows(f"{_COUNTED} AND l.id >= ? AND l.id < ?", (first, end)):
        if not any(matches(own, row.tag.client_name, row.kind.call) for own in change.overrides):
            continue
        rate = refold.rate_now(row)
        if rate == row.rate or refold.is_closed(row):
            continue
        engine.connection.execute(
            "INSERT OR REPLACE INTO repriced VALUES (?, ?, ?)", (row.id, number, rate)
        )
        refold.add(row, sign=-1, rate=row.rate)
        refold.add(row, rate=rate)
        changed += 1
    return changed


def _has_closed(connection: sqlite3.Connection) -> bool:
    found = connection.execute("SELECT 1 FROM periods WHERE closed_at_ms IS NOT NULL").fetchone()
    return found is not None


def _rebuild(engine: Engine, end: int) -> None:
    """Make the rollups anew; nothing is closed, so all of them."""
    for table in ("rollup_day", "rollup_month", "rollup_total", "periods", "own_names"):
        engine.connection.execute(f"DELETE FROM {table}")
    engine.calendar.forget()
    engine.own_names.forget()
    engine.ledger.fold.forget()
    refold = Refold(engine)
    for first in range(1, end, STEP_ROWS):
        for row in refold.rows(
            f"{_COUNTED} AND l.id >= ? AND l.id < ?", (first, first + STEP_ROWS)
        ):
            refold.add(row, rate=row.rate)


def _zones_of(agency: Agency) -> str:
    anchors = {
        name: client.anchor
        for name, client in agency.clients.items()
        if client.anchor != agency.anchor
    }
    return json.dumps([agency.timezone, agency.anchor, anchors], sort_keys=True)


def _prices_of(agency: Agency) -> str:
    return json.dumps([_plain(own) for own in agency.prices], sort_keys=True)


def _plain(own: PriceOverride) -> dict[str, object]:
    plain: dict[str, object] = json.loads(json.dumps(asdict(own), default=str))
    return plain


def _changed(before: str, agency: Agency) -> tuple[PriceOverride, ...]:
    """The overrides that came, and those that went, as far as matching them needs."""
    old: list[dict[str, object]] = json.loads(before)
    came = [own for own in agency.prices if _plain(own) not in old]
    new = [_plain(own) for own in agency.prices]
    went = [
        PriceOverride(**{name: str(own.get(name, "")) for name in _MATCHED})  # type: ignore[arg-type]  # all are texts
        for own in old
        if own not in new
    ]
    return (*came, *went)


_MATCHED = (
    "model", "provider", "client", "service_tier", "speed", "processing", "inference_geo"
)  # fmt: skip
