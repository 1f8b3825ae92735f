"""Whose name usage is rolled up under: its own, or `(other)` once there are too many.

Ids that `meterd.toml` lists always keep their name. Of others the first `unlisted_ids_max`
clients of a period, and projects of a client and period, keep theirs; the ledger keeps the
real ids of all. So a stranger who sends a million ids can't grow the rollups without bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.ids import UNATTRIBUTED

if TYPE_CHECKING:
    import sqlite3

    from meterd.store.calendar import Calendar, Day
    from meterd.store.interning import Interning, Tag

PLACES_MAX = 200_000
_THE_CLIENT = 0
"""In place of a tag: the row admits the client itself."""


class OwnNames:
    """Where each tag is rolled up, by day. Writer's thread only, inside its transaction."""

    def __init__(
        self, connection: sqlite3.Connection, interning: Interning, calendar: Calendar
    ) -> None:
        self._connection = connection
        self._interning = interning
        self._calendar = calendar
        self._places: dict[tuple[int, int], tuple[int, int, int, int]] = {}
        self._client_counts: dict[int, int] = {}

    def forget(self) -> None:
        """Drop what is in memory."""
        self._places.clear()
        self._client_counts.clear()

    def place(self, tag: Tag, day: Day) -> tuple[int, int, int, int]:
        """Client, tag, period and posted_in of the rollup row for a tag on a day."""
        place = self._places.get((tag.id, day.number))
        if place is None:
            if len(self._places) > PLACES_MAX:
                self._places.clear()
            place = self._places[tag.id, day.number] = self._find(tag, day)
        return place

    def _find(self, tag: Tag, day: Day) -> tuple[int, int, int, int]:
        period = self._period(tag, day)
        shown = self._shown_as(tag, period)
        if shown.client != tag.client:
            period = self._period(shown, day)
        posted = self._calendar.posted_in(shown.client, period)
        return shown.client, shown.id, period, posted

    def _period(self, tag: Tag, day: Day) -> int:
        # The middle of the day: a later tzdata may move a midnight, not by half a day.
        middle = (day.start_ms + day.end_ms) // 2
        return self._calendar.period(tag.client, tag.client_name, middle).period

    def _shown_as(self, tag: Tag, period: int) -> Tag:
        agency = self._calendar.agency
        is_known = agency.is_listed(tag.client_name) or tag.client_name == UNATTRIBUTED
        if not is_known and not self._admits_client(tag.client, period):
            return self._interning.other_client()
        if not tag.project or agency.is_listed(tag.client_name, tag.project):
            return tag
        if self._admits(tag.client, period, tag.id):
            return tag
        return self._interning.other_project(tag.client_name)

    def _admits_client(self, client: int, period: int) -> bool:
        if self._is_admitted(client, period, _THE_CLIENT):
            return True
        count = self._client_counts.get(period)
        if count is None:
            (count,) = self._connection.execute(
                "SELECT count(*) FROM own_names WHERE period = ? AND tag = ?",
                (period, _THE_CLIENT),
            ).fetchone()
        self._client_counts[period] = count
        if count >= self._calendar.agency.unlisted_ids_max:
            return False
        self._client_counts[period] = count + 1
        self._admit(client, period, _THE_CLIENT)
        return True

    def _admits(self, client: int, period: int, tag: int) -> bool:
        if self._is_admitted(client, period, tag):
            return True
        (count,) = self._connection.execute(
            "SELECT count(*) FROM own_names WHERE client = ? AND period = ? AND tag > ?",
            (client, period, _THE_CLIENT),
        ).fetchone()
        if count >= self._calendar.agency.unlisted_ids_max:
            return False
        self._admit(client, period, tag)
        return True

    def _is_admitted(self, client: int, period: int, tag: int) -> bool:
        found = self._connection.execute(
            "SELECT 1 FROM own_names WHERE client = ? AND period = ? AND tag = ?",
            (client, period, tag),
        ).fetchone()
        return found is not None

    def _admit(self, client: int, period: int, tag: int) -> None:
        self._connection.execute("INSERT INTO own_names VALUES (?, ?, ?)", (client, period, tag))
