"""Whose name usage is rolled up under: its own, or `(other)` once there are too many.

Ids that `meterd.toml` lists always keep their name. Of others the first `unlisted_ids_max`
clients of a period, and projects of a client and period, keep theirs; the ledger keeps the
real ids of all. So a stranger who sends a million ids can't grow the rollups without bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from meterd.ids import UNATTRIBUTED
from meterd.store.calendar import Bounds

if TYPE_CHECKING:
    import sqlite3

    from meterd.store.calendar import Calendar
    from meterd.store.interning import Interning, Tag

PLACES_MAX = 60_000
"""Places and counts kept in memory."""
_THE_CLIENT = 0
"""In place of a tag: the row admits the client itself."""


class Place(NamedTuple):
    """Where usage of a tag is rolled up."""

    client: int
    tag: int
    period: int
    posted_in: int


class OwnNames:
    """Where each tag is rolled up, and when. Writer's thread only, inside its transaction."""

    def __init__(
        self, connection: sqlite3.Connection, interning: Interning, calendar: Calendar
    ) -> None:
        self._connection = connection
        self._interning = interning
        self._calendar = calendar
        self._places: dict[int, tuple[Place, Bounds]] = {}
        self._client_counts: dict[int, int] = {}
        self._project_counts: dict[tuple[int, int], int] = {}

    def forget(self) -> None:
        """Drop what is in memory."""
        self._places.clear()
        self._client_counts.clear()
        self._project_counts.clear()

    def place_at(self, tag: Tag, at_ms: int) -> tuple[Place, Bounds]:
        """Where a tag is rolled up at a moment, and from when until when that holds."""
        known = self._places.get(tag.id)
        if known is None or not known[1].start_ms <= at_ms < known[1].end_ms:
            if len(self._places) > PLACES_MAX:
                self._places.clear()
            known = self._places[tag.id] = self._find(tag, at_ms)
        return known

    def _find(self, tag: Tag, at_ms: int) -> tuple[Place, Bounds]:
        bounds = self._calendar.period(tag.client, tag.client_name, at_ms)
        shown = self._shown_as(tag, bounds.period)
        if shown.client != tag.client:
            other = self._calendar.period(shown.client, shown.client_name, at_ms)
            bounds = Bounds(
                other.period,
                max(bounds.start_ms, other.start_ms),
                min(bounds.end_ms, other.end_ms),
            )
        posted = self._calendar.posted_in(shown.client, bounds.period)
        return Place(shown.client, shown.id, bounds.period, posted), bounds

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
        count = self._projects_of(client, period)
        if count >= self._calendar.agency.unlisted_ids_max:
            return False
        self._project_counts[client, period] = count + 1
        self._admit(client, period, tag)
        return True

    def _projects_of(self, client: int, period: int) -> int:
        """Unlisted projects of a client that keep their name; counted once, then kept."""
        count = self._project_counts.get((client, period))
        if count is None:
            if len(self._project_counts) > PLACES_MAX:
                self._project_counts.clear()
            (count,) = self._connection.execute(
                "SELECT count(*) FROM own_names WHERE client = ? AND period = ? AND tag > ?",
                (client, period, _THE_CLIENT),
            ).fetchone()
        return int(count)

    def _is_admitted(self, client: int, period: int, tag: int) -> bool:
        found = self._connection.execute(
            "SELECT 1 FROM own_names WHERE client = ? AND period = ? AND tag = ?",
            (client, period, tag),
        ).fetchone()
        return found is not None

    def _admit(self, client: int, period: int, tag: int) -> None:
        self._connection.execute("INSERT INTO own_names VALUES (?, ?, ?)", (client, period, tag))
