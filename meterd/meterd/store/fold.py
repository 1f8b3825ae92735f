"""Folding a transaction's rows into the rollups, in SQL, over the rows just written.

    ledger rows ─ GROUP BY tag, day, kind, rate ─▶ delta ─┬▶ rollup_day
                         joined with the place of each tag └─ GROUP BY client, rate ─▶ rollup_month

Nothing of Python is in it per record, nor per row of the rollups: it measures three times as
fast as sums in dictionaries, leaves the interpreter to the event loop meanwhile, and what the
rollups get is by construction what the ledger holds. Where a tag is rolled up (`place`)
depends on its client's period, so the rows are taken in spans of time within which no period
of theirs changes; nearly always that is one span.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.store.totals import TOUCHED

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterable, Mapping

    from meterd.store.calendar import Calendar
    from meterd.store.interning import Tag
    from meterd.store.naming import OwnNames

_TABLES = (
    "CREATE TEMP TABLE IF NOT EXISTS place (tag INTEGER PRIMARY KEY, client INTEGER, "
    "shown INTEGER, period INTEGER, posted_in INTEGER)",
    "CREATE TEMP TABLE IF NOT EXISTS skipped (row INTEGER PRIMARY KEY)",
    "CREATE TEMP TABLE IF NOT EXISTS delta (client INTEGER, day INTEGER, tag INTEGER, "
    "model INTEGER, rate INTEGER, posted_in INTEGER, period INTEGER, requests INTEGER, "
    "input_tokens INTEGER, cache_read_tokens INTEGER, output_tokens INTEGER, "
    "reasoning_tokens INTEGER, failed_requests INTEGER, refused_requests INTEGER, "
    "estimated_tokens INTEGER)",
    "CREATE TEMP TABLE IF NOT EXISTS delta_month (client INTEGER, period INTEGER, rate INTEGER, "
    "posted_in INTEGER, requests INTEGER, input_tokens INTEGER, cache_read_tokens INTEGER, "
    "output_tokens INTEGER, reasoning_tokens INTEGER, failed_requests INTEGER, "
    "refused_requests INTEGER, estimated_tokens INTEGER)",
    TOUCHED,
)

PLACED_MAX = 100_000
"""Tags whose place is kept from one transaction to the next."""
TAG_MAX, DAYS_MAX, KIND_MAX, RATE_MAX = 1 << 26, 1 << 6, 1 << 15, 1 << 15
"""Numbers that fit into one integer together: sorting by that is twice as fast as by four."""

_SUMS = (
    "requests", "input_tokens", "cache_read_tokens", "output_tokens", "reasoning_tokens",
    "failed_requests", "refused_requests", "estimated_tokens",
)  # fmt: skip
_COLUMNS = ", ".join(_SUMS)
_ADDED = ", ".join(f"sum({name})" for name in _SUMS)
_UPSERT = "ON CONFLICT DO UPDATE SET " + ", ".join(
    f"{name} = {name} + excluded.{name}" for name in _SUMS
)
_COUNTS = (
    "count(*) n, sum(input_tokens) took, sum(cache_read_tokens) read, sum(output_tokens) gave, "
    "sum(reasoning_tokens) thought, sum(input_tokens + output_tokens > 0) used"
)
_ROWS = (
    "FROM main.ledger WHERE id >= :first_row AND billed_at_ms >= :from_ms "
    "AND billed_at_ms < :to_ms {skip} GROUP BY"
)
_DAY = "min((billed_at_ms - :start_ms) / 86400000, :days - 1)"
_PACKED = (
    "SELECT packed >> 36 tag, (packed >> 15) & 32767 kind, packed & 32767 rate, "
    "((packed >> 30) & 63) + :first_day day, n, took, read, gave, thought, used FROM (SELECT "
    f"(tag << 36) | ({{day}} << 30) | (kind << 15) | ifnull(rate, 0) packed, {_COUNTS} "
    f"{_ROWS} packed)"
)
_BY_DAY = (
    f"SELECT tag, kind, ifnull(rate, 0) rate, {_DAY} + :first_day day, {_COUNTS} {_ROWS} 1, 2, 3, 4"
)
# counts_as: 0 a request, 1 refused, 2 neither, 3 a request if it carried tokens, else failed.
_DELTA = (
    "INSERT INTO temp.delta SELECT p.client, g.day, p.shown, k.model, g.rate, p.posted_in, "
    "p.period, CASE k.counts_as WHEN 0 THEN g.n WHEN 3 THEN g.used ELSE 0 END, "
    "g.took, g.read, g.gave, g.thought, "
    "CASE k.counts_as WHEN 3 THEN g.n - g.used ELSE 0 END, "
    "CASE k.counts_as WHEN 1 THEN g.n ELSE 0 END, "
    "(k.estimated & 1) * g.took + (k.estimated >> 1) * g.gave "
    "FROM ({groups}) g CROSS JOIN temp.place p ON p.tag = g.tag "
    "CROSS JOIN main.kinds k ON k.id = g.kind"
)
_DAYS = (
    f"INSERT INTO main.rollup_day (client, day, tag, model, rate, posted_in, {_COLUMNS}) "
    f"SELECT client, day, tag, model, rate, posted_in, {_COLUMNS} FROM temp.delta "
    f"WHERE TRUE {_UPSERT}"
)
_DELTA_MONTH = (
    f"INSERT INTO temp.delta_month SELECT client, period, rate, posted_in, {_ADDED} "
    "FROM temp.delta GROUP BY client, period, rate, posted_in"
)
_MONTHS = (
    f"INSERT INTO main.rollup_month (client, period, rate, posted_in, {_COLUMNS}) "
    f"SELECT client, period, rate, posted_in, {_COLUMNS} FROM temp.delta_month "
    f"WHERE TRUE {_UPSERT}"
)
_SKIP = "AND id NOT IN (SELECT row FROM temp.skipped)"


class Fold:
    """Folds the rows of one transaction. Writer's thread only."""

    def __init__(
        self, connection: sqlite3.Connection, calendar: Calendar, own_names: OwnNames
    ) -> None:
        self._connection = connection
        self._calendar = calendar
        self._own_names = own_names
        for table in _TABLES:
            connection.execute(table)
        self.forget()

    def forget(self) -> None:
        """Drop what is known of places: a transaction was rolled back, or names changed."""
        self._placed: set[int] = set()
        self._from_ms, self._to_ms = -(1 << 62), 1 << 62
        for table in ("place", "skipped", "delta", "delta_month"):
            self._connection.execute(f"DELETE FROM temp.{table}")

    def fold(
        self,
        first_row: int,
        tags: Mapping[int, Tag],
        least_ms: int,
        greatest_ms: int,
        skipped: Collection[int],
        numbers_max: tuple[int, int],
    ) -> None:
        """Add the rows from `first_row` on to the rollups.

        Args:
            tags: those that the rows can have.
            least_ms, greatest_ms: the times of the rows that count.
            skipped: rows that no rollup counts.
            numbers_max: the greatest numbers of a kind and of a rate.
        """
        execute = self._connection.execute
        if skipped:
            self._connection.executemany(
                "INSERT INTO temp.skipped VALUES (?)", [(row,) for row in skipped]
            )
        is_narrow = (
            max(tags, default=0) < TAG_MAX
            and numbers_max[0] < KIND_MAX
            and numbers_max[1] < RATE_MAX
        )
        at_ms = least_ms
        while at_ms <= greatest_ms:
            stretch = self._calendar.stretch(at_ms, greatest_ms)
            to_ms = min(stretch.end_ms, self._place(tags, at_ms), greatest_ms + 1)
            groups = _PACKED if is_narrow and stretch.days <= DAYS_MAX else _BY_DAY
            day = "0" if to_ms <= stretch.first_end_ms else _DAY
            groups = groups.format(skip=_SKIP if skipped else "", day=day)
            execute(
                _DELTA.format(groups=groups),
                {
                    "first_row": first_row,
                    "from_ms": at_ms,
                    "to_ms": to_ms,
                    "start_ms": stretch.start_ms,
                    "first_day": stretch.first_day,
                    "days": stretch.days,
                },
            )
            at_ms = to_ms
        execute(_DAYS)
        execute(_DELTA_MONTH)
        execute(_MONTHS)

    def tokens_by_client(self) -> list[tuple[int, int, int]]:
        """(client, period, tokens) of the rows folded last."""
        return self._connection.execute(
            "SELECT client, period, sum(input_tokens + output_tokens) FROM temp.delta_month "
            "GROUP BY client, period"
        ).fetchall()

    def tokens_in_detail(self, clients: Iterable[int]) -> list[tuple[int, int, int, int, int]]:
        """(client, period, tag, model, tokens) of the rows folded last, of these clients."""
        rows = []
        for client in clients:
            rows += self._connection.execute(
                "SELECT client, period, tag, model, sum(input_tokens + output_tokens) "
                "FROM temp.delta WHERE client = ? GROUP BY period, tag, model",
                (client,),
            ).fetchall()
        return rows

    def clear(self) -> None:
        """The transaction's deltas are in the rollups."""
        for table in ("delta", "delta_month", "skipped"):
            self._connection.execute(f"DELETE FROM temp.{table}")

    def _place(self, tags: Mapping[int, Tag], at_ms: int) -> int:
        """Know where each tag is rolled up at a moment; returns until when all of it holds."""
        if not self._from_ms <= at_ms < self._to_ms or len(self._placed) > PLACED_MAX:
            self._placed.clear()
            self._connection.execute("DELETE FROM temp.place")
            self._from_ms, self._to_ms = -(1 << 62), 1 << 62
        missing = tags.keys() - self._placed
        if missing:
            rows = []
            for number in missing:
                tag = tags[number]
                place, bounds = self._own_names.place_at(tag, at_ms)
                rows.append((number, *place))
                self._from_ms = max(self._from_ms, bounds.start_ms)
                self._to_ms = min(self._to_ms, bounds.end_ms)
            self._connection.executemany(
                "INSERT OR REPLACE INTO temp.place VALUES (?, ?, ?, ?, ?)", rows
            )
            self._placed.update(missing)
        return self._to_ms
