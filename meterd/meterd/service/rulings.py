"""What holds for each client's tokens now: its quotas with what was granted, kept until it changes.

    configuration in force ┐
    grants, rollover ──────┼─▶ Ruling (client) ── until its period ends, or a contract begins
    the moment ────────────┘

A change of either is found by comparing rulings, so that an unrelated `apply` disturbs nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meterd.billing.contract import period_for, quota_terms_at
from meterd.billing.period import day_start
from meterd.clock import moment_of, unix_ns_of
from meterd.quota.scopes import Quota, by_model, by_project
from meterd.service.drafting import Drafting
from meterd.store.values import PeriodIndex

if TYPE_CHECKING:
    from datetime import datetime

    from meterd.billing.contract import Terms
    from meterd.billing.period import Period
    from meterd.clock import Clock
    from meterd.config.agency import Agency
    from meterd.config.in_force import InForce
    from meterd.store.store import Store

RULINGS_KEPT_MAX = 20_000
NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Ruling:
    """What holds for one client from `begins_ms` until before `ends_ms`."""

    terms: Terms
    period: Period
    quotas: tuple[Quota, ...]
    """Its own first, then those of its projects and models, then the agency's."""
    granted: int
    """By hand, and rolled over from earlier periods."""
    begins_ms: int
    """A host's clock may be set back, over the beginning of a period or contract."""
    ends_ms: int

    @property
    def client(self) -> str:
        """Whose it is."""
        return self.terms.client

    @property
    def for_project(self) -> bool:
        """Whether its leases go by project."""
        return by_project(self.quotas)

    @property
    def for_model(self) -> bool:
        """Whether its leases go by model."""
        return by_model(self.quotas)

    @property
    def is_limited(self) -> bool:
        """Whether any quota can refuse."""
        return any(quota.ceiling is not None for quota in self.quotas)

    def differs(self, other: Ruling) -> bool:
        """Whether what a producer was told by one is not what the other says."""
        return (
            self.quotas != other.quotas
            or self.terms.reserve is not other.terms.reserve
            or self.terms.on_unreachable is not other.terms.on_unreachable
            or self.period != other.period
        )


class Rulings:
    """The rulings asked for so far. Belongs to the event loop."""

    def __init__(self, store: Store, in_force: InForce, clock: Clock) -> None:
        self._store = store
        self._in_force = in_force
        self._clock = clock
        self._drafting = Drafting(store, in_force)
        self._kept: dict[str, Ruling] = {}
        self._former: dict[str, Ruling] = {}

    def now_ms(self) -> int:
        """Wall time in milliseconds."""
        return self._clock.unix_ns() // NS_PER_MS

    async def of(self, client: str) -> Ruling:
        """What holds for a client now."""
        kept = self._kept.get(client)
        if kept is not None and kept.begins_ms <= self.now_ms() < kept.ends_ms:
            return kept
        return await self._find(client, moment_of(self._clock.unix_ns()), self._kept)

    async def before(self, client: str) -> Ruling:
        """What held for a client at the end of the period before this one, as it reads now."""
        current = await self.of(client)
        kept = self._former.get(client)
        if kept is not None and kept.period.index == current.period.index - 1:
            return kept
        end = moment_of(current.period.start_unix_ns - NS_PER_MS)
        return await self._find(client, end, self._former)

    async def _find(self, client: str, moment: datetime, kept: dict[str, Ruling]) -> Ruling:
        agency = self._in_force.agency
        period = period_for(agency, client, moment)
        index = PeriodIndex(period.index)
        granted = sum(grant.tokens for grant in await self._store.grants(client, index))
        # What an invoice lets the period use, its quota has to let it use.
        granted += await self._drafting.rolled_over(client, index)
        ruling = _ruling(agency, client, moment, granted)
        if len(kept) >= RULINGS_KEPT_MAX:
            kept.clear()  # a stranger's ids; whoever still calls is asked for anew
        if agency is self._in_force.agency:
            kept[client] = ruling
        return ruling

    def forget(self, client: str) -> None:
        """Ask the store anew: something was granted."""
        self._kept.pop(client, None)
        self._former.pop(client, None)

    def changed(self) -> list[str]:
        """Follow a new configuration; returns the clients for whom it says something else."""
        moment = moment_of(self._clock.unix_ns())
        former, self._kept = self._kept, {}
        self._former.clear()
        changed = []
        for client, ruling in former.items():
            new = _ruling(self._in_force.agency, client, moment, ruling.granted)
            if _rollover_of(new) != _rollover_of(ruling):
                changed.append(client)  # and is asked for anew: other months may be in it now
                continue
            if new.period.index == ruling.period.index:
                self._kept[client] = new
            if new.differs(ruling):
                changed.append(client)
        return changed


def _ruling(agency: Agency, client: str, moment: datetime, granted: int) -> Ruling:
    terms = quota_terms_at(agency, client, moment)
    period = period_for(agency, client, moment)
    quotas = tuple(
        Quota(rule, period.index, granted if rule is terms.own_rule else 0, rule is terms.own_rule)
        for rule in terms.rules
    )
    begins, ends = _bounds(agency, client, moment, period)
    return Ruling(terms, period, quotas, granted, _ms(begins), _ms(ends))


def _rollover_of(ruling: Ruling) -> object:
    """What decides how much rolls over; None where nothing does."""
    plan = ruling.terms.plan
    if plan is None or not plan.rollover_tokens_max:
        return None
    return plan.rollover_tokens_max, plan.rollover_periods, plan.included_tokens


def _bounds(
    agency: Agency, client: str, moment: datetime, period: Period
) -> tuple[datetime, datetime]:
    """Between what moments nothing else holds, as long as the configuration stays."""
    listed = agency.clients.get(client)
    begins, ends = period.start, period.end
    for contract in listed.contracts if listed else ():
        if not begins.date() <= contract.from_day <= ends.date():
            continue  # also the beginning of time, which has no midnight in some zones
        start = day_start(contract.from_day, agency.zone)
        if start <= moment:
            begins = max(begins, start)
        else:
            ends = min(ends, start)
    return begins, ends


def _ms(moment: datetime) -> int:
    return unix_ns_of(moment) // NS_PER_MS
