"""Verify: the ledger added up once more, row by row, against everything that rests on it.

    ledger ── added up by day, model, rate ──▶ = rollup_day ── by period ──▶ = rollup_month
                                                        rollup_month ── added up ──▶ = rollup_total
    runs, losses, quarantine ── tile ──▶ 1 … watermark of every producer, no gap, no overlap

It reads in short transactions with the end of the ledger fixed at the start, so that it never
holds the writer up; rollups are compared within one last read.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from meterd.errors import StorageFault
from meterd.store.calendar import day_around, day_name
from meterd.store.ledger_row import unpack
from meterd.store.refold import SELECT
from meterd.store.totals import DIFFERENT
from meterd.store.values import VerifyStep

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator

    from meterd.config.agency import Agency
    from meterd.store.readers import Readers

CHUNK_ROWS = 20_000
DIFFERENCES_MAX = 100


class Key(NamedTuple):
    """What ledger and rollup are compared by: names can be pooled under `(other)`."""

    day: int
    model: int
    rate: int


class _Totals:
    """Sums of the ledger by key: input, output, cached, reasoning and rare tokens."""

    def __init__(self, agency: Agency) -> None:
        self._agency = agency
        self._day = day_around(agency, 0)
        self._models: dict[int, int] = {}
        self.by_key: dict[Key, list[int]] = {}

    def add(self, connection: sqlite3.Connection, first: int, end: int) -> None:
        """Add the rows `[first, end)`."""
        uncounted = {row for (row,) in connection.execute("SELECT row FROM uncounted")}
        for number, _, kind, at_ms, took, read, gave, thought, rate, rest in connection.execute(
            f"{SELECT} WHERE l.id >= ? AND l.id < ?", (first, end)
        ):
            if number in uncounted:
                continue
            if not self._day.start_ms <= at_ms < self._day.end_ms:
                self._day = day_around(self._agency, at_ms)
            rare = unpack(rest, at_ms)
            key = Key(self._day.number, self._model(connection, kind), rate or 0)
            sums = self.by_key.setdefault(key, [0] * 8)
            for at, amount in enumerate(
                (took, read, gave, thought, rare.cache_write_tokens,
                 rare.cache_write_long_tokens, rare.audio_input_tokens, rare.audio_output_tokens)
            ):  # fmt: skip
                sums[at] += amount

    def _model(self, connection: sqlite3.Connection, kind: int) -> int:
        model = self._models.get(kind)
        if model is None:
            (model,) = connection.execute(
                "SELECT model FROM kinds WHERE id = ?", (kind,)
            ).fetchone()
            self._models[kind] = model
        return int(model)


_SUMS = (
    "sum({0}input_tokens), sum({0}cache_read_tokens), sum({0}output_tokens), "
    "sum({0}reasoning_tokens), sum({0}cache_write_tokens), sum({0}cache_write_long_tokens), "
    "sum({0}audio_input_tokens), sum({0}audio_output_tokens)"
).format("")


async def steps(readers: Readers, agency: Agency) -> AsyncIterator[VerifyStep]:
    """Go through the whole ledger; the last step is done, and says all that was found."""
    for is_last in (False, True):
        before = await readers.read(_moves)
        async for step in _once(readers, agency):
            # What was accepted or repriced meanwhile was read on one side alone: once more.
            if step.is_done and not is_last and await readers.read(_moves) != before:
                break
            yield step
            if step.is_done:
                return


async def _once(readers: Readers, agency: Agency) -> AsyncIterator[VerifyStep]:
    totals = _Totals(agency)
    end = await readers.read(_end_of_ledger)
    first = await readers.read(_first_row)
    total = max(0, end - first)
    at = first
    unreadable: list[str] = []
    while at < end:
        to = min(at + CHUNK_ROWS, end)
        try:
            await readers.read(partial(totals.add, first=at, end=to))
        except (StorageFault, ValueError) as fault:
            unreadable.append(f"ledger rows {at} to {to - 1} can't be read: {fault}")
        at = to
        yield VerifyStep(checked=at - first, total=total)
    found = await readers.read(lambda connection: _last_look(connection, totals, end))
    differences = (*unreadable, *found)[:DIFFERENCES_MAX]
    yield VerifyStep(checked=total, total=total, differences=tuple(differences), is_done=True)


def _moves(connection: sqlite3.Connection) -> tuple[int, ...]:
    """What changes when rows that were there before are counted otherwise."""
    row: tuple[int, ...] = connection.execute(
        "SELECT (SELECT count(*) FROM uncounted WHERE why = 'late'), "
        "(SELECT count(*) FROM repriced), (SELECT coalesce(max(id), 0) FROM reprices)"
    ).fetchone()
    return row


def _end_of_ledger(connection: sqlite3.Connection) -> int:
    (end,) = connection.execute("SELECT coalesce(max(end_row), 1) FROM runs").fetchone()
    return int(end)


def _first_row(connection: sqlite3.Connection) -> int:
    (first,) = connection.execute("SELECT coalesce(min(first_row), 1) FROM runs").fetchone()
    return int(first)


def _last_look(connection: sqlite3.Connection, totals: _Totals, end: int) -> list[str]:
    """What came since, and all comparisons, in one read."""
    totals.add(connection, end, _end_of_ledger(connection))
    return [
        *_days(connection, totals),
        *_months(connection),
        *_totals(connection),
        *_runs(connection),
        *_sequences(connection),
        *_leases(connection),
    ]


def _days(connection: sqlite3.Connection, totals: _Totals) -> list[str]:
    rolled = {
        Key(*row[:3]): list(row[3:])
        for row in connection.execute(
            f"SELECT day, model, rate, {_SUMS} FROM rollup_day GROUP BY day, model, rate"
        )
    }
    nothing = [0] * 8
    return [
        f"{day_name(key.day)}, model {_model_name(connection, key.model)}, rate {key.rate}: the "
        f"ledger has {ledger[0]} input and {ledger[2]} output tokens, the rollup "
        f"{rollup[0]} and {rollup[2]}" + ("" if ledger[::2] != rollup[::2] else ", parts differ")
        for key in sorted({*totals.by_key, *rolled})
        if (ledger := totals.by_key.get(key, nothing)) != (rollup := rolled.get(key, nothing))
    ]


def _model_name(connection: sqlite3.Connection, model: int) -> str:
    found = connection.execute("SELECT name FROM models WHERE id = ?", (model,)).fetchone()
    return str(found[0]) if found else f"number {model}"


def _months(connection: sqlite3.Connection) -> list[str]:
    """Rollups by day and by month, compared by client, rate and the period that bills them."""
    grouped = f"SELECT client, rate, posted_in, sum(requests), {_SUMS} FROM {{}} GROUP BY 1, 2, 3"
    days = {row[:3]: row[3:] for row in connection.execute(grouped.format("rollup_day"))}
    months = {row[:3]: row[3:] for row in connection.execute(grouped.format("rollup_month"))}
    nothing = (0,) * 9
    return [
        f"client {_client_name(connection, key[0])}, rate {key[1]}: the rollup by day has "
        f"{of_days[1]} input and {of_days[3]} output tokens, the one by month "
        f"{of_months[1]} and {of_months[3]}"
        for key in sorted({*days, *months})
        if (of_days := days.get(key, nothing)) != (of_months := months.get(key, nothing))
    ]


def _totals(connection: sqlite3.Connection) -> list[str]:
    """Each client's period in one row, made once more from the rollup by month."""
    return [
        f"client {_client_name(connection, client)}, {period // 12}-{period % 12 + 1:02d}: the "
        "total of its period is not the sum of its rollup by month"
        for client, period in connection.execute(DIFFERENT)
    ]


def _client_name(connection: sqlite3.Connection, client: int) -> str:
    found = connection.execute("SELECT name FROM clients WHERE id = ?", (client,)).fetchone()
    return str(found[0]) if found else f"number {client}"


def _runs(connection: sqlite3.Connection) -> list[str]:
    """Runs follow one another without gap or overlap, and name every row of the ledger."""
    differences: list[str] = []
    expected: int | None = None
    for first, end in connection.execute("SELECT first_row, end_row FROM runs ORDER BY first_row"):
        if expected is not None and first != expected:
            differences.append(f"ledger rows {expected} to {first - 1} belong to no producer")
        expected = end
    (newest,) = connection.execute("SELECT max(id) FROM ledger").fetchone()
    if (newest or 0) + 1 != (expected or 1):
        differences.append(f"the ledger ends at row {newest}, its runs at row {expected}")
    return differences


def _sequences(connection: sqlite3.Connection) -> list[str]:
    """Of each producer, rows, losses and quarantine tile 1 … watermark."""
    differences: list[str] = []
    for number, producer, name, watermark in connection.execute(
        "SELECT number, producer, service || '@' || host, watermark FROM producers"
    ).fetchall():
        spans = connection.execute(
            "SELECT first_sequence, end_row - first_row FROM runs WHERE producer = ?1 "
            "UNION ALL SELECT first_sequence, last_sequence - first_sequence + 1 FROM losses "
            "WHERE producer = ?2 UNION ALL SELECT sequence, 1 FROM quarantine WHERE producer = ?2 "
            "ORDER BY 1",
            (number, producer),
        )
        at = 1
        for first, count in spans:
            if first != at:
                differences.append(f"{name}: sequence {at} is followed by {first} in the ledger")
            at = first + count
        if at != watermark + 1:
            differences.append(f"{name}: the ledger ends at {at - 1}, its watermark is {watermark}")
    return differences


def _leases(connection: sqlite3.Connection) -> list[str]:
    (negative,) = connection.execute("SELECT count(*) FROM leases WHERE used_tokens < 0").fetchone()
    return [f"{negative} leases have used less than nothing"] if negative else []
