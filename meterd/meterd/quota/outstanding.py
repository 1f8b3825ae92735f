"""What is lent and has not come back, summed by client and period as it changes.

    lent = in the ledger (used) + returned + outstanding

A lease is outstanding with what it was lent minus what the ledger has of it. It ends when it
was released and the ledger has its last record, when its producer has ended, or by force.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd.ids import LeaseId, ProducerId
    from meterd.quota.scopes import Quota


@dataclass(slots=True)
class Lent:
    """One lease that has not ended."""

    id: LeaseId
    producer: ProducerId
    client: str
    project: str | None
    """None: whatever the project."""
    model: str | None
    period: int
    tokens: int
    expires_at_ms: int
    version: int = 0
    used: int = 0
    is_stored: bool = False

    @property
    def outstanding(self) -> int:
        """What of it is neither in the ledger nor returned."""
        return max(0, self.tokens - self.used)


class Outstanding:
    """All leases that have not ended."""

    def __init__(self) -> None:
        self._leases: dict[LeaseId, Lent] = {}
        self._by_client: dict[tuple[str, int], dict[LeaseId, Lent]] = {}
        self._by_producer: dict[ProducerId, dict[LeaseId, Lent]] = {}
        self._sums: dict[tuple[int, str], dict[tuple[str | None, str | None], int]] = {}
        self._holders: dict[tuple[str, int], dict[ProducerId, int]] = {}

    def get(self, lease: LeaseId) -> Lent | None:
        """The lease, unless it has ended or never was."""
        return self._leases.get(lease)

    def add(self, lent: Lent) -> None:
        """Count a lease that was lent, before it is committed: nothing is lent twice meanwhile."""
        self._leases[lent.id] = lent
        self._by_client.setdefault((lent.client, lent.period), {})[lent.id] = lent
        self._by_producer.setdefault(lent.producer, {})[lent.id] = lent
        holders = self._holders.setdefault((lent.client, lent.period), {})
        holders[lent.producer] = holders.get(lent.producer, 0) + 1
        self._change(lent, lent.outstanding)

    def use(self, lease: LeaseId, tokens: int) -> None:
        """Note what the ledger has settled from a lease since it was last told."""
        lent = self._leases.get(lease)
        if lent is not None:
            before = lent.outstanding
            lent.used += tokens
            self._change(lent, lent.outstanding - before)

    def reduce(self, lent: Lent, tokens: int) -> int:
        """Take back what a lease can't use any more; `tokens` is what it may use in all.

        Returns:
            How many tokens came back.
        """
        before = lent.outstanding
        lent.tokens = min(lent.tokens, max(0, tokens))
        self._change(lent, lent.outstanding - before)
        return before - lent.outstanding

    def end(self, lease: LeaseId) -> Lent | None:
        """Return what is outstanding of a lease; None if it has ended before."""
        lent = self._leases.pop(lease, None)
        if lent is None:
            return None
        self._change(lent, -lent.outstanding)
        for index, key in (
            (self._by_client, (lent.client, lent.period)),
            (self._by_producer, lent.producer),
        ):
            leases = index[key]  # type: ignore[index]  # the two indexes differ in their keys
            del leases[lease]
            if not leases:
                del index[key]  # type: ignore[arg-type]  # as above
        self._let_go(lent)
        return lent

    def of_producer(self, producer: ProducerId) -> list[Lent]:
        """What one producer holds."""
        return list(self._by_producer.get(producer, {}).values())

    def of_quota(self, quota: Quota) -> list[Lent]:
        """What is lent that counts, or may come to count, against a quota."""
        client, period = quota.rule.client, quota.period
        leases = self._by_client.get((client, period), {}) if client else self._leases
        return [
            lent
            for lent in leases.values()
            if lent.period == period and quota.may_count(lent.client, lent.project, lent.model)
        ]

    def holders(self, quota: Quota, asking: ProducerId) -> int:
        """How many producers share a quota's client, or the agency, the asking one included."""
        client = quota.rule.client
        sharing = self._holders.get((client, quota.period), {}) if client else self._by_producer
        return len(sharing) + (asking not in sharing)

    def all(self) -> Iterator[Lent]:
        """Every lease that has not ended."""
        return iter(self._leases.values())

    def leased(self, quota: Quota) -> int:
        """The sum outstanding that counts, or may come to count, against a quota."""
        client = quota.rule.client
        sums = self._sums.get((quota.period, client), {})
        return sum(
            tokens
            for (project, model), tokens in sums.items()
            if quota.may_count(client, project, model)
        )

    def _let_go(self, lent: Lent) -> None:
        holders = self._holders[lent.client, lent.period]
        holders[lent.producer] -= 1
        if not holders[lent.producer]:
            del holders[lent.producer]
            if not holders:
                del self._holders[lent.client, lent.period]

    def _change(self, lent: Lent, tokens: int) -> None:
        """Keep the sums of the client, and those of the agency (the client named "")."""
        if not tokens:
            return
        key = (lent.project, lent.model)
        for owner in (lent.client, ""):
            sums = self._sums.setdefault((lent.period, owner), {})
            left = sums.get(key, 0) + tokens
            if left:
                sums[key] = left
            else:
                del sums[key]
                if not sums:
                    del self._sums[lent.period, owner]
