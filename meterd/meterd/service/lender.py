"""The lender: one desk for every producer's questions, so that nothing is lent twice.

    streams ─ wanted, released ─▶ queue ─▶ one batch at a time:
        what is leased (memory) ▸ what is used (store) ▸ decide ▸ lend (durable) ▸ answer

Leased is read before used: what the ledger settles in between then counts twice for a moment,
never not at all. A question that others' idle leases could answer is parked for some
milliseconds while those are called back; then it is decided for good.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meterd.errors import InvalidRequest, Unavailable
from meterd.ids import LeaseId, ProducerId
from meterd.quota.lending import LEASE_TERM_MS, Refusal, term_ms, tokens_to_lend
from meterd.quota.outstanding import Lent, Outstanding
from meterd.quota.scopes import Quota, Standing, limiting
from meterd.service import lease_answers as answers
from meterd.service.desk import Desk
from meterd.service.rulings import NS_PER_MS
from meterd.service.used import used_tokens
from meterd.store.values import Lease, PeriodIndex

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from meterd.service.rulings import Ruling, Rulings
    from meterd.store.store import Store
    from meterd.store.values import Committed
    from meterd_proto.v1 import quota_pb2

_log = logging.getLogger("meterd")

QUESTIONS_WAITING_MAX = 65_536
RECALL_WAIT_S = 0.025
"""How long a question may wait for what others give back; half of what its call waits."""
RETRY_S = 1.0
RECALL_PAUSE_MS = 1_000
"""Between two times that a client's leases are called back."""
HOLD_MAX_MS = 60 * 60_000
"""`lease_hold_max`: then a vanished producer's leases are taken back, whatever it used of them."""
PRODUCER_BYTES = 16
_ID_MAX = 2**63 - 1


@dataclass(eq=False, slots=True)
class _Question:
    desk: Desk
    wanted: quota_pb2.LeaseWanted
    wait_until_s: float = 0.0
    """Until when it may be parked, in the loop's time; 0: it was not, yet."""


@dataclass(frozen=True, slots=True)
class _Return:
    lent: Lent
    last_sequence: int


@dataclass(frozen=True, slots=True)
class _Decided:
    question: _Question
    ruling: Ruling
    lent: Lent


class Lender:
    """Decides what is lent to whom, and knows what is outstanding. Belongs to the event loop."""

    def __init__(self, store: Store, rulings: Rulings, random: random.Random) -> None:
        self.outstanding = Outstanding()
        self.desks: dict[ProducerId, Desk] = {}
        self.version = 1
        """Of what producers were told; rises with every change that calls leases back."""
        self._store = store
        self._rulings = rulings
        self._random = random
        self._queue: asyncio.Queue[_Question | _Return] = asyncio.Queue(QUESTIONS_WAITING_MAX)
        self._one_at_a_time = asyncio.Lock()
        self._parked: list[_Question] = []
        self._recalled_ms: dict[str, int] = {}
        self._names: dict[ProducerId, tuple[str, int]] = {}
        self._last_contact_ms: dict[ProducerId, int] = {}
        self._started_ms = rulings.now_ms()
        self._started = asyncio.Event()
        self._commits_seen = 0
        store.subscribe(self._committed)

    async def start(self) -> None:
        """Know what was lent before this start. Until then nothing is lent."""
        if self._started.is_set():
            return
        self.bump()
        for known in (await self._store.status()).producers:
            self._names[known.producer.id] = (known.producer.name, known.producer.pid)
        seen = -1
        while seen != self._commits_seen:
            # Read again if a transaction came in between: its usage would count twice.
            seen = self._commits_seen
            leases = await self._store.outstanding_leases()
        for lease in leases:
            self.outstanding.add(_from_store(lease))
        self._started.set()

    async def run(self) -> None:
        """Answer questions until cancelled."""
        await self.start()
        while True:
            batch = [await self._queue.get()]
            while not self._queue.empty():
                batch.append(self._queue.get_nowait())
            await asyncio.gather(*(self._return(it) for it in batch if isinstance(it, _Return)))
            try:
                await self._serve([it for it in batch if isinstance(it, _Question)])
            except Unavailable as error:
                # Nothing was promised: the calls that wait go by their plan's on_unreachable.
                _log.error("no lease can be lent: %s", error)

    # ── what a stream says ──

    async def hello(self, hello: quota_pb2.LeaseHello) -> Desk:
        """Open a producer's desk; its newest stream ends its older one.

        Raises:
            InvalidRequest: the producer's id is none, or a lease is another producer's.
        """
        producer = _producer(hello)
        await self._started.wait()
        async with self._one_at_a_time:
            self._check_held(producer, hello)
            former = self.desks.get(producer)
            if former is not None:
                former.close()
            desk = Desk(producer, f"{hello.service}@{hello.host}", hello.pid)
            self.desks[producer] = desk
            self._names[producer] = (desk.name, desk.pid)
            if hello.HasField("last_sequence"):
                await self._reconcile(desk, hello)
        return desk

    def gone(self, desk: Desk) -> None:
        """A stream has ended; what is lent stays lent."""
        desk.is_open = False
        self._last_contact_ms[desk.producer] = self._rulings.now_ms()
        if self.desks.get(desk.producer) is desk:
            del self.desks[desk.producer]

    async def wanted(self, desk: Desk, wanted: quota_pb2.LeaseWanted) -> None:
        """Take a question for tokens; its answer comes over the desk."""
        if not wanted.client or wanted.tokens < 0 or wanted.usual_tokens < 0:
            raise InvalidRequest("a lease is wanted for a client, and for no negative tokens")
        await self._queue.put(_Question(desk, wanted))

    def reduced(self, desk: Desk, reduced: quota_pb2.LeaseReduced) -> None:
        """Take back what a closed lease doesn't need any more."""
        lent = self._of(desk, reduced.lease_id)
        if lent is not None and self.outstanding.reduce(lent, reduced.tokens):
            self._returned()

    async def released(self, desk: Desk, released: quota_pb2.LeaseReleased) -> None:
        """A lease has come back; its rest returns once the ledger has its last record."""
        lent = self._of(desk, released.lease_id)
        if lent is not None:
            await self._queue.put(_Return(lent, released.last_sequence))

    # ── what happened elsewhere ──

    def bump(self) -> int:
        """The next version: beyond any that was told before, over restarts too."""
        self.version = max(self.version + 1, self._rulings.now_ms())
        return self.version

    def revoke(self, clients: Iterable[str]) -> None:
        """Have every producer forget what it was told about these clients; the empty one: all."""
        version = self.bump()
        for client in clients:
            for desk in list(self.desks.values()):
                desk.answer(answers.revocation(client, version))
        self._returned()

    async def end_vanished(self) -> None:
        """Take back what producers hold that were not heard of for `lease_hold_max`."""
        now_ms = self._rulings.now_ms()
        vanished = [
            lent
            for lent in self.outstanding.all()
            if lent.producer not in self.desks and now_ms >= self._held_until_ms(lent)
        ]
        for lent in vanished:
            _log.warning(
                "%s vanished an hour ago with %d tokens of %s lent to it: they are lent anew, "
                "and what it used of them may exceed the quota",
                self.name_of(lent.producer)[0], lent.outstanding, lent.client,
            )  # fmt: skip
        if vanished:
            await self._store.end_leases([lent.id for lent in vanished], now_ms)

    def name_of(self, producer: ProducerId) -> tuple[str, int]:
        """What people see of a producer: `service@host`, and its process."""
        return self._names.get(producer, (producer.hex()[:8], 0))

    def holders(self, quota: Quota) -> dict[ProducerId, tuple[int, int]]:
        """Who holds how much of a quota, and until when (in milliseconds)."""
        found: dict[ProducerId, tuple[int, int]] = {}
        for lent in self._lent_of(quota):
            if lent.outstanding:
                tokens, until_ms = found.get(lent.producer, (0, 0))
                until_ms = max(until_ms, lent.expires_at_ms)
                found[lent.producer] = (tokens + lent.outstanding, until_ms)
        return found

    # ── deciding ──

    async def _return(self, item: _Return) -> None:
        """Store that a lease came back; again, until the store takes it."""
        lent, now_ms = item.lent, self._rulings.now_ms()
        try:
            if not lent.is_stored:
                await self._store.lend(_to_store(lent, now_ms))
            lent.is_stored = True
            await self._store.release_lease(lent.id, item.last_sequence, now_ms)
        except Unavailable as error:
            _log.error("a lease of %s can't be returned yet: %s", lent.client, error)
            asyncio.get_running_loop().call_later(RETRY_S, self._put, item)

    async def _serve(self, asked: list[_Question]) -> None:
        questions = [question for question in asked if question.desk.is_open]
        rulings = {q.wanted.client: await self._rulings.of(q.wanted.client) for q in questions}
        async with self._one_at_a_time:
            await self._answer([(q, rulings[q.wanted.client]) for q in questions])

    async def _answer(self, questions: list[tuple[_Question, Ruling]]) -> None:
        limits = {
            id(question): limiting(
                ruling.quotas, ruling.client, question.wanted.project, question.wanted.model
            )
            for question, ruling in questions
        }
        quotas = {quota for found in limits.values() for quota in found}
        leased = {quota: self.outstanding.leased(quota) for quota in quotas}
        used = await used_tokens(self._store, quotas)
        now_ms = self._rulings.now_ms()
        decided: list[_Decided] = []
        for question, ruling in questions:
            found = limits[id(question)]
            if not found:
                question.desk.answer(
                    answers.unlimited(question.wanted, ruling, now_ms, self.version)
                )
                continue
            standings = [Standing(quota, used[quota], leased[quota]) for quota in found]
            lent = self._decide(question, ruling, standings)
            if lent is not None:
                for quota in found:
                    leased[quota] += lent.tokens
                decided.append(_Decided(question, ruling, lent))
        await self._lend(decided)

    def _decide(
        self, question: _Question, ruling: Ruling, standings: list[Standing]
    ) -> Lent | None:
        wanted = question.wanted
        tightest = min(standings, key=lambda standing: standing.remaining).quota
        holders = {lent.producer for lent in self._lent_of(tightest)} | {question.desk.producer}
        tokens = tokens_to_lend(standings, wanted.tokens, wanted.usual_tokens, len(holders))
        if isinstance(tokens, Refusal):
            if not self._park(question, ruling, tokens.standing):
                question.desk.answer(self._denial(question, ruling, tokens))
            return None
        now_ms = self._rulings.now_ms()
        lent = Lent(
            id=LeaseId(self._random.randint(1, _ID_MAX)),
            producer=question.desk.producer,
            client=ruling.client,
            project=wanted.project if ruling.for_project else None,
            model=wanted.model if ruling.for_model else None,
            period=ruling.period.index,
            tokens=tokens,
            expires_at_ms=now_ms + term_ms(LEASE_TERM_MS, now_ms, ruling.ends_ms),
            version=self.version,
        )
        self.outstanding.add(lent)
        return lent

    def _denial(
        self, question: _Question, ruling: Ruling, refusal: Refusal
    ) -> quota_pb2.LeaseResponse:
        return answers.denial(
            question.wanted,
            ruling,
            refusal,
            holders=answers.holders_sentence(
                (*self.name_of(producer), tokens, producer in self.desks)
                for producer, (tokens, _) in self.holders(refusal.standing.quota).items()
            ),
            now_ms=self._rulings.now_ms(),
            version=self.version,
        )

    async def _lend(self, decided: list[_Decided]) -> None:
        """Make leases durable, all in one group commit, and only then send them."""
        now_ms = self._rulings.now_ms()
        outcomes = await asyncio.gather(
            *(self._store.lend(_to_store(item.lent, now_ms)) for item in decided),
            return_exceptions=True,
        )
        for item, outcome in zip(decided, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                # It may be durable all the same. Nobody has it: it goes straight back.
                _log.error("a lease of %s could not be stored: %s", item.lent.client, outcome)
                self._put(_Return(item.lent, 0))
                continue
            item.lent.is_stored = True
            item.question.desk.answer(
                answers.grant(item.question.wanted, item.ruling, item.lent, now_ms)
            )

    # ── a question that has to wait for others ──

    def _park(self, question: _Question, ruling: Ruling, standing: Standing) -> bool:
        """Keep a question for a moment while idle leases of others are called back."""
        if standing.remaining + standing.leased < question.wanted.tokens:
            return False
        others = [
            desk
            for producer in self.holders(standing.quota)
            if (desk := self.desks.get(producer)) is not None and desk is not question.desk
        ]
        loop = asyncio.get_running_loop()
        if not question.wait_until_s:
            question.wait_until_s = loop.time() + RECALL_WAIT_S
            self._recall(ruling.client, others)
            loop.call_at(question.wait_until_s, self._unpark, question)
        if not others or loop.time() >= question.wait_until_s:
            return False
        self._parked.append(question)
        return True

    def _recall(self, client: str, desks: list[Desk]) -> None:
        """Call back what these producers hold of a client, at most once in a while."""
        now_ms = self._rulings.now_ms()
        if not desks or now_ms - self._recalled_ms.get(client, 0) < RECALL_PAUSE_MS:
            return
        if len(self._recalled_ms) >= QUESTIONS_WAITING_MAX:
            self._recalled_ms.clear()
        self._recalled_ms[client] = now_ms
        version = self.bump()
        for desk in desks:
            desk.answer(answers.revocation(client, version))

    def _unpark(self, question: _Question) -> None:
        if question in self._parked:
            self._parked.remove(question)
            self._put(question)

    def _returned(self) -> None:
        """Tokens have come back: who was parked is served."""
        parked, self._parked = self._parked, []
        for question in parked:
            self._put(question)

    def _put(self, item: _Question | _Return) -> None:
        try:
            self._queue.put_nowait(item)
        except asyncio.QueueFull:
            if isinstance(item, _Return):
                asyncio.get_running_loop().call_later(RETRY_S, self._put, item)
            # A question is dropped: its call goes by on_unreachable, and the next asks again.

    # ── keeping in step ──

    def _committed(self, committed: Committed) -> None:
        self._commits_seen += 1
        for lease, tokens in committed.leases.items():
            self.outstanding.use(lease, tokens)
        ended = [self.outstanding.end(lease) for lease in committed.ended_leases]
        if self._parked and any(ended):
            self._returned()

    def _check_held(self, producer: ProducerId, hello: quota_pb2.LeaseHello) -> None:
        for held in hello.held:
            known = self.outstanding.get(LeaseId(held.lease_id))
            if known is not None and known.producer != producer:
                raise InvalidRequest(f"lease {held.lease_id} is lent to another producer")
            if not 0 < held.lease_id <= _ID_MAX or held.tokens < 0 or not held.client:
                raise InvalidRequest("a lease that is held has an id, a client and no less than 0")

    async def _reconcile(self, desk: Desk, hello: quota_pb2.LeaseHello) -> None:
        """Make what is lent and what is held the same again, whatever was lost on the way."""
        held = {LeaseId(lease.lease_id): lease for lease in hello.held}
        for lent in self.outstanding.of_producer(desk.producer):
            if lent.id not in held:
                await self._return(_Return(lent, hello.last_sequence))
        unknown = []
        for lease, message in held.items():
            self.version = max(self.version, message.quota_version)
            lent_to = self.outstanding.get(lease)
            if lent_to is None:
                unknown.append(message)
            elif not message.expires_in_ms:
                self.outstanding.reduce(lent_to, message.tokens)
        if unknown:
            await self._lend_again(desk, unknown)
        self._returned()

    async def _lend_again(self, desk: Desk, unknown: list[quota_pb2.HeldLease]) -> None:
        """Know leases again that a restored ledger has forgotten; call back those it has ended."""
        now_ms = self._rulings.now_ms()
        for held in unknown:
            await self._store.lend(await self._held_again(desk.producer, held, now_ms))
        known = {lease.id: lease for lease in await self._store.outstanding_leases()}
        for held in unknown:
            stored = known.get(LeaseId(held.lease_id))
            if stored is None:
                desk.answer(answers.revocation(held.client, self.bump()))
            else:
                self.outstanding.add(_from_store(stored))

    async def _held_again(
        self, producer: ProducerId, held: quota_pb2.HeldLease, now_ms: int
    ) -> Lease:
        bounds = await self._store.period(held.client, held.period_start_unix_ns // NS_PER_MS)
        return Lease(
            id=LeaseId(held.lease_id),
            producer=producer,
            client=held.client,
            project=held.project,
            model=held.model,
            period=bounds.period,
            tokens=held.tokens,
            lent_at_ms=now_ms,
            expires_at_ms=now_ms + held.expires_in_ms,
        )

    def _of(self, desk: Desk, lease_id: int) -> Lent | None:
        """A lease that the producer speaks of; None if it has ended.

        Raises:
            InvalidRequest: it is another producer's.
        """
        lent = self.outstanding.get(LeaseId(lease_id))
        if lent is not None and lent.producer != desk.producer:
            raise InvalidRequest(f"lease {lease_id} is lent to another producer")
        return lent

    def _lent_of(self, quota: Quota) -> list[Lent]:
        client, period = quota.rule.client, quota.period
        leases = self.outstanding.of_client(client, period) if client else self.outstanding.all()
        return [
            lent
            for lent in leases
            if lent.period == period and quota.may_count(lent.client, lent.project, lent.model)
        ]

    def _held_until_ms(self, lent: Lent) -> int:
        contact_ms = self._last_contact_ms.get(lent.producer, self._started_ms)
        return max(contact_ms + HOLD_MAX_MS, lent.expires_at_ms)


def _producer(hello: quota_pb2.LeaseHello) -> ProducerId:
    if len(hello.producer) != PRODUCER_BYTES:
        raise InvalidRequest(
            f"a producer's id has {PRODUCER_BYTES} bytes, this one {len(hello.producer)}"
        )
    return ProducerId(hello.producer)


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
