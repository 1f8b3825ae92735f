"""Watching what is used come up to its thresholds, and telling of each once.

    committed usage ─▶ how much was used, in memory ─▶ may a threshold be reached?
        ─▶ ask the ledger ─▶ prepared, claimed in the store, told

The figures in memory only say when it is worth asking: an event rests on the ledger's own. So
nothing is lost with the process: what was committed and not told is found by the look at every
quota that follows a start, that of the period before included where it ended within a day.
Usage that comes late is looked at for its own period, as long as that is the one before.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from meterd.errors import Unavailable
from meterd.hooks import ThresholdEvent
from meterd.quota.thresholds import Mark, next_mark, reached
from meterd.service.rulings import NS_PER_MS
from meterd.service.used import used_tokens
from meterd.store.values import PeriodIndex

if TYPE_CHECKING:
    from collections.abc import Collection

    from meterd.clock import Clock
    from meterd.quota.scopes import Quota
    from meterd.service.rulings import Ruling, Rulings
    from meterd.store.store import Store
    from meterd.store.values import Committed, UsageKey

_log = logging.getLogger("meterd")

COMMITS_WAITING_MAX = 1_024
"""Transactions between two looks; beyond them their usage is added up at once."""
QUOTAS_WATCHED_MAX = 100_000
LOOKS_LEFT_OUT = 10
"""After one that failed: the next asks for every quota, and the disk may be full for hours."""
FORMER_MS = 86_400_000
"""For so long after a period's end a start looks at it, too: the daemon may have died with it."""


class Teller(Protocol):
    """Who is told: `hooks.Hooks`."""

    async def prepare(self, event: ThresholdEvent) -> bool:
        """Write an event where a crash can't lose it; before it is claimed. True: it is new."""
        ...

    async def withdraw(self, event: ThresholdEvent) -> None:
        """Forget an event that was prepared but had been told before."""
        ...

    def tell(self, event: ThresholdEvent) -> None:
        """Tell of an event that was prepared and claimed."""
        ...

    def looked(self) -> None:
        """Every quota has been looked at: what was prepared and never claimed has been told."""
        ...


@dataclass(slots=True)
class _Watched:
    """How near a quota is to its next threshold, by what memory knows."""

    used: int
    next_at: int | None


class ThresholdWatch:
    """Follows the ledger; `look` does the asking and telling. Belongs to the event loop."""

    def __init__(self, store: Store, rulings: Rulings, teller: Teller, clock: Clock) -> None:
        self._store = store
        self._rulings = rulings
        self._teller = teller
        self._clock = clock
        self._commits: list[Committed] = []
        self._used: dict[UsageKey, int] = {}
        self._watched: dict[Quota, _Watched] = {}
        self._told: set[tuple[Quota, str]] = set()
        self._looks_at_all = True
        self._looks_at_former = True
        self._left_out = 0
        store.subscribe(self._committed)

    def forget(self, client: str) -> None:
        """Ask the ledger anew for a client's quotas: they have changed."""
        for quota in [quota for quota in self._watched if quota.rule.client in ("", client)]:
            del self._watched[quota]

    def forget_all(self) -> None:
        """Ask the ledger anew for every quota: a smaller one may be reached already."""
        self._watched.clear()
        self._looks_at_all = True

    async def look(self, clients: Collection[str]) -> None:
        """See what the usage since the last look has reached.

        Args:
            clients: those that the configuration lists, for the look at all of them that
                follows a start or a change.
        """
        if self._left_out:
            self._left_out -= 1
            return
        self._add_up()
        used, self._used = self._used, {}
        try:
            if self._looks_at_all:
                self._looks_at_all = False
                for client in ("", *clients):
                    await self._look_at_all_of(client)
                self._looks_at_former = False
                self._teller.looked()
            for key, tokens in used.items():
                await self._look_at(key, tokens)
        except Unavailable as error:
            _log.error("thresholds can't be looked at now: %s", error)
            self.forget_all()  # what was added up is lost; the next look asks the ledger
            self._left_out = LOOKS_LEFT_OUT

    def _committed(self, committed: Committed) -> None:
        if committed.end_row > committed.first_row:
            self._commits.append(committed)
            if len(self._commits) >= COMMITS_WAITING_MAX:
                self._add_up()

    def _add_up(self) -> None:
        commits, self._commits = self._commits, []
        for committed in commits:
            for key, tokens in committed.usage().items():
                self._used[key] = self._used.get(key, 0) + tokens

    async def _look_at(self, key: UsageKey, tokens: int) -> None:
        ruling = await self._rulings.of(key.client)
        if key.period == ruling.period.index - 1:
            ruling = await self._rulings.before(key.client)
        if key.period != ruling.period.index:
            return  # the usage of months ago alarms nobody any more
        for quota in ruling.quotas:
            if quota.counts(key.client, key.project, key.model):
                watched = self._watched.get(quota)
                if watched is not None:
                    watched.used += tokens
                    if watched.next_at is None or watched.used < watched.next_at:
                        continue
                await self._ask(ruling, quota)

    async def _look_at_all_of(self, client: str) -> None:
        rulings = [await self._rulings.of(client)]
        began_ms = rulings[0].period.start_unix_ns // NS_PER_MS
        if self._looks_at_former and self._rulings.now_ms() - began_ms < FORMER_MS:
            rulings.append(await self._rulings.before(client))
        for ruling in rulings:
            for quota in ruling.quotas:
                if quota not in self._watched:
                    await self._ask(ruling, quota)

    async def _ask(self, ruling: Ruling, quota: Quota) -> None:
        """Ask the ledger what is used, and tell of what that has reached."""
        used = (await used_tokens(self._store, [quota]))[quota]
        shares = ruling.terms.thresholds
        for mark in reached(quota, shares, used):
            if (quota, mark.event) not in self._told:
                await self._tell(ruling, mark, used)
        if len(self._watched) >= QUOTAS_WATCHED_MAX:
            self._watched.clear()
            self._told.clear()
        self._watched[quota] = _Watched(used, next_mark(quota, shares, used))

    async def _tell(self, ruling: Ruling, mark: Mark, used: int) -> None:
        now_ns = self._clock.unix_ns()
        event = ThresholdEvent(
            rule=mark.quota.name,
            client=mark.quota.rule.client,
            period=ruling.period.name,
            percent=mark.percent,
            of="cap" if mark.of_cap else "quota",
            used=used,
            limit=mark.limit,
            quota_version=mark.limit,
            at_unix_ns=now_ns,
            plan=ruling.terms.plan_name if mark.quota.is_own else "",
        )
        is_new = await self._teller.prepare(event)
        is_first = await self._store.claim_event(
            mark.quota.rule.client,
            PeriodIndex(mark.quota.period),
            mark.limit,
            mark.event,
            now_ns // NS_PER_MS,
        )
        if is_first:
            self._teller.tell(event)
        elif is_new:
            await self._teller.withdraw(event)
        self._told.add((mark.quota, mark.event))
