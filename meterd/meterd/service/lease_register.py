"""The register of leases: what is lent, in memory and in the store, kept in step with producers.

    lend ─▶ durable ─▶ outstanding ◀─ used, ended: told by the store after each transaction
    hello: what a producer holds ─▶ what it lacks goes back, what the ledger lost is lent again

Every change for the worse (tokens lent) is in memory before it is durable, every change for
the better (tokens returned) after: so nothing is lent twice, whenever the daemon dies.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from meterd.errors import InvalidRequest, Unavailable
from meterd.ids import LeaseId, ProducerId
from meterd.quota.outstanding import Lent, Outstanding
from meterd.store.values import Lease, PeriodIndex

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from meterd.quota.scopes import Quota
    from meterd.service.claims import Claims
    from meterd.store.store import Store
    from meterd.store.values import Committed
    from meterd_proto.v1 import quota_pb2

_log = logging.getLogger("meterd")

RETRY_S = 1.0
"""Before the store is asked again to take a lease back."""
HOLD_MAX_MS = 60 * 60_000
"""`lease_hold_max`: then a vanished producer's leases are taken back, whatever it used of them."""
PRODUCERS_KNOWN_MAX = 10_000
"""Names kept of producers that hold nothing."""
LEASE_ID_MAX = 2**63 - 1
SEQUENCE_MAX = 2**63 - 1
LEASE_TOKENS_MAX = 10**16
"""More than any plan and its grants include: nobody can have been lent as much."""


class LeaseRegister:
    """All leases that have not ended. Belongs to the event loop."""

    def __init__(
        self, store: Store, now_ms: Callable[[], int], returned: Callable[[], None]
    ) -> None:
        """`returned` is called whenever tokens have come back."""
        self.outstanding = Outstanding()
        self._store = store
        self._now_ms = now_ms
        self._returned = returned
        self._names: dict[ProducerId, tuple[str, int]] = {}
        self._last_contact_ms: dict[ProducerId, int] = {}
        self._started_ms = now_ms()
        self._commits_seen = 0
        self._returning: set[asyncio.Task[None]] = set()
        store.subscribe(self._committed)

    async def load(self) -> None:
        """Know what was lent before this start."""
        for known in (await self._store.status()).producers:
            self._names[known.producer.id] = (known.producer.name, known.producer.pid)
        seen = -1
        while seen != self._commits_seen:
            # Read again if a transaction came in between: its usage would count twice.
            seen = self._commits_seen
            leases = await self._store.outstanding_leases()
        for lease in leases:
            self.outstanding.add(_from_store(lease))

    # ── lending and returning ──

    async def lend(self, leases: Sequence[Lent]) -> list[bool]:
        """Make leases durable, all in one group commit; which of them may be sent.

        They count as outstanding already. What could not be stored may be durable all the
        same; nobody has it, so it goes straight back.
        """
        now_ms = self._now_ms()
        outcomes = await asyncio.gather(
            *(self._store.lend(_to_store(lent, now_ms)) for lent in leases), return_exceptions=True
        )
        for lent, outcome in zip(leases, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                _log.error("a lease of %s could not be stored: %s", lent.client, outcome)
                self.take_back(lent, 0)
            else:
                lent.is_stored = True
        return [lent.is_stored for lent in leases]

    def take_back(self, lent: Lent, last_sequence: int) -> None:
        """Have a lease end once the ledger has its last record; asked of the store until it is."""
        task = asyncio.get_running_loop().create_task(self._take_back(lent, last_sequence))
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def _take_back(self, lent: Lent, last_sequence: int) -> None:
        while self.outstanding.get(lent.id) is lent:
            try:
                if not lent.is_stored:
                    await self._store.lend(_to_store(lent, self._now_ms()))
                    lent.is_stored = True
                await self._store.release_lease(lent.id, last_sequence, self._now_ms())
            except Unavailable as error:
                _log.error("a lease of %s can't be taken back yet: %s", lent.client, error)
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def end_vanished(self, connected: Collection[ProducerId]) -> None:
        """Take back what producers hold that were not heard of for `lease_hold_max`."""
        now_ms = self._now_ms()
        vanished = [
            lent
            for lent in self.outstanding.all()
            if lent.producer not in connected
            and now_ms >= self.held_until_ms(lent.producer, lent.expires_at_ms)
        ]
        for lent in vanished:
            _log.warning(
                "%s was not heard of for an hour and holds %d tokens of %s: they are lent anew, "
                "and what it used of them may exceed the quota",
                self.name_of(lent.producer)[0],
                lent.outstanding,
                lent.client,
            )
        if vanished:
            await self._store.end_leases([lent.id for lent in vanished], now_ms)
        self._forget_names(connected)

    # ── producers ──

    def check(self, hello: quota_pb2.LeaseHello) -> None:
        """See that what a producer says it holds can be its own.

        Raises:
            InvalidRequest: a lease is another producer's, or none that could have been lent.
        """
        if hello.last_sequence > SEQUENCE_MAX:
            raise InvalidRequest(f"no record has the sequence {hello.last_sequence}")
        for held in hello.held:
            if held.tokens > LEASE_TOKENS_MAX:
                raise InvalidRequest(f"nobody was lent {held.tokens} tokens in one lease")
            if not 0 < held.lease_id <= LEASE_ID_MAX or held.tokens < 0 or not held.client:
                raise InvalidRequest(
                    "a lease that is held has an id, a client and 0 tokens or more"
                )
            self.of_producer(ProducerId(hello.producer), held.lease_id)

    def of_producer(self, producer: ProducerId, lease_id: int) -> Lent | None:
        """A lease that a producer speaks of; None if it has ended.

        Raises:
            InvalidRequest: it is another producer's.
        """
        lent = self.outstanding.get(LeaseId(lease_id))
        if lent is not None and lent.producer != producer:
            raise InvalidRequest(f"lease {lease_id} is lent to another producer")
        return lent

    async def reconcile(self, hello: quota_pb2.LeaseHello, claims: Claims) -> list[str]:
        """Make what is lent and what is held the same again, whatever was lost on the way.

        Args:
            claims: says what to believe of leases that the ledger doesn't know.

        Returns:
            The clients of leases that have ended here: the producer must not use them.
        """
        producer = ProducerId(hello.producer)
        held = {LeaseId(lease.lease_id): lease for lease in hello.held}
        for lent in self.outstanding.of_producer(producer):
            if lent.id not in held:
                self.take_back(lent, hello.last_sequence)
            elif not held[lent.id].expires_in_ms:
                self.outstanding.reduce(lent, held[lent.id].tokens)
        unknown = [
            lease for lease in held.values() if not self.outstanding.get(LeaseId(lease.lease_id))
        ]
        ended: list[str] = []
        if unknown:
            ended = await self._lend_again(unknown, await claims.believe(producer, unknown))
        self._returned()
        return ended

    def connected(self, producer: ProducerId, name: str, pid: int) -> None:
        """A producer's stream is open."""
        self._names[producer] = (name, pid)

    def disconnected(self, producer: ProducerId) -> None:
        """A producer's stream has ended; what it holds stays lent."""
        self._last_contact_ms[producer] = self._now_ms()

    def name_of(self, producer: ProducerId) -> tuple[str, int]:
        """What people see of a producer: `service@host`, and its process."""
        return self._names.get(producer, (producer.hex()[:8], 0))

    def holders(self, quota: Quota) -> dict[ProducerId, tuple[int, int]]:
        """Who holds how much of a quota, and until when (in milliseconds)."""
        found: dict[ProducerId, tuple[int, int]] = {}
        for lent in self.outstanding.of_quota(quota):
            if lent.outstanding:
                tokens, until_ms = found.get(lent.producer, (0, 0))
                until_ms = max(until_ms, lent.expires_at_ms)
                found[lent.producer] = (tokens + lent.outstanding, until_ms)
        return found

    def held_until_ms(self, producer: ProducerId, expires_at_ms: int) -> int:
        """When what a producer holds is taken back if it is never heard of again."""
        contact_ms = self._last_contact_ms.get(producer, self._started_ms)
        return max(contact_ms + HOLD_MAX_MS, expires_at_ms)

    # ── keeping in step ──

    def _committed(self, committed: Committed) -> None:
        self._commits_seen += 1
        for lease, tokens in committed.leases.items():
            self.outstanding.use(lease, tokens)
        ended = [self.outstanding.end(lease) for lease in committed.ended_leases]
        if any(ended):
            self._returned()

    async def _lend_again(
        self, claimed: Sequence[quota_pb2.HeldLease], believed: Sequence[Lent]
    ) -> list[str]:
        """Write down leases that a restored ledger has forgotten.

        The same id twice changes nothing in the store, so what it has ended stays ended.

        Returns:
            The clients of those that are not, or not wholly, lent.
        """
        now_ms = self._now_ms()
        for lent in believed:
            await self._store.lend(_to_store(lent, now_ms))
            lent.is_stored = True
        stored = {lease.id for lease in await self._store.outstanding_leases()}
        for lent in believed:
            if lent.id not in stored:
                self.outstanding.end(lent.id)
        lent_now = {lent.id: lent.tokens for lent in believed if lent.id in stored}
        return [
            held.client
            for held in claimed
            if lent_now.get(LeaseId(held.lease_id), 0) < held.tokens or not held.tokens
        ]

    def _forget_names(self, connected: Collection[ProducerId]) -> None:
        if len(self._names) <= PRODUCERS_KNOWN_MAX:
            return
        holding = {lent.producer for lent in self.outstanding.all()}
        for producer in [*self._names]:
            if producer not in connected and producer not in holding:
                del self._names[producer]
                self._last_contact_ms.pop(producer, None)


def _to_store(lent: Lent, now_ms: int) -> Lease:
    return Lease(
        id=lent.id,
        producer=lent.producer,
        client=lent.client,
        project=lent.project or "",
        model=lent.model or "",
        period=PeriodIndex(lent.period),
        tokens=lent.tokens,
        lent_at_ms=now_ms,
        expires_at_ms=lent.expires_at_ms,
    )


def _from_store(lease: Lease) -> Lent:
    """A lease as it was stored; one without a project may be of any, the safe reading."""
    return Lent(
        id=lease.id,
        producer=lease.producer,
        client=lease.client,
        project=lease.project or None,
        model=lease.model or None,
        period=lease.period,
        tokens=lease.tokens,
        expires_at_ms=lease.expires_at_ms,
        used=lease.used_tokens,
        is_stored=True,
    )
