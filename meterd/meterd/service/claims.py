"""What a producer says it holds and this ledger has never lent: may it be true, and how much?

A ledger that was restored from a backup has forgotten what it lent since; whoever holds such a
lease says so in its next hello. Nobody else can know whether that is so, hence the bounds:

    only in the hour after a start    a lease lasts no longer, so a later claim can't be one
    of the running period, or before  nothing was lent of a period to come
    never more than remains           of every quota that the lease counts against

So a forged claim takes nothing that its producer could not have been lent for the asking.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.ids import LeaseId
from meterd.quota.lending import LEASE_TERM_MS
from meterd.quota.outstanding import Lent
from meterd.quota.scopes import Standing
from meterd.service.rulings import NS_PER_MS
from meterd.service.used import used_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meterd.ids import ProducerId
    from meterd.quota.outstanding import Outstanding
    from meterd.service.rulings import Rulings
    from meterd.store.store import Store
    from meterd_proto.v1 import quota_pb2

CLAIM_TERM_MS = LEASE_TERM_MS
"""How long after a start leases that the ledger doesn't know are believed."""


class Claims:
    """Decides what is believed. Belongs to the event loop."""

    def __init__(self, store: Store, rulings: Rulings, outstanding: Outstanding) -> None:
        self._store = store
        self._rulings = rulings
        self._outstanding = outstanding
        self._started_ms = rulings.now_ms()

    async def believe(
        self, producer: ProducerId, claimed: Sequence[quota_pb2.HeldLease]
    ) -> list[Lent]:
        """The leases that are taken for lent, each with as many tokens as can be.

        They count as outstanding from here on; making them durable is the caller's.
        """
        if self._rulings.now_ms() - self._started_ms > CLAIM_TERM_MS:
            return []
        believed = []
        for held in claimed:
            lent = await self._lent(producer, held)
            if lent is not None:
                self._outstanding.add(lent)
                believed.append(lent)
        return believed

    async def _lent(self, producer: ProducerId, held: quota_pb2.HeldLease) -> Lent | None:
        start_ms = held.period_start_unix_ns // NS_PER_MS
        period = int((await self._store.period(held.client, start_ms)).period)
        ruling = await self._rulings.of(held.client)
        if period > ruling.period.index:
            return None
        now_ms = self._rulings.now_ms()
        lent = Lent(
            id=LeaseId(held.lease_id),
            producer=producer,
            client=held.client,
            project=held.project or None,
            model=held.model or None,
            period=period,
            tokens=held.tokens,
            expires_at_ms=now_ms + min(held.expires_in_ms, LEASE_TERM_MS),
        )
        if period == ruling.period.index:
            quotas = [
                quota
                for quota in ruling.quotas
                if quota.ceiling is not None
                and quota.may_count(lent.client, lent.project, lent.model)
            ]
            # Leased before used, as the lender reads them.
            leased = {quota: self._outstanding.leased(quota) for quota in quotas}
            used = await used_tokens(self._store, quotas)
            standings = [Standing(quota, used[quota], leased[quota]) for quota in quotas]
            remaining = min((standing.remaining for standing in standings), default=0)
            lent.tokens = min(held.tokens, remaining)
        return lent if lent.tokens else None
