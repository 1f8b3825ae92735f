"""The lender: one desk for every producer's questions, so that nothing is lent twice.

    streams ─ wanted ─▶ queue ─▶ one batch at a time:
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
from meterd.quota.outstanding import Lent
from meterd.quota.scopes import Standing, limiting
from meterd.service import lease_answers as answers
from meterd.service.claims import Claims
from meterd.service.desk import Desk
from meterd.service.lease_register import LEASE_ID_MAX, SEQUENCE_MAX, LeaseRegister
from meterd.service.used import used_tokens

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from meterd.quota.scopes import Quota
    from meterd.service.rulings import Ruling, Rulings
    from meterd.store.store import Store
    from meterd_proto.v1 import quota_pb2

_log = logging.getLogger("meterd")

QUESTIONS_WAITING_MAX = 65_536
RECALL_WAIT_S = 0.025
"""How long a question may wait for what others give back; half of what its call waits."""
RECALL_PAUSE_MS = 1_000
"""Between two times that a client's leases are called back."""
CLOCK_BACK_MS_MAX = 7 * 86_400_000
PRODUCER_BYTES = 16


@dataclass(eq=False, slots=True)
class _Question:
    desk: Desk
    wanted: quota_pb2.LeaseWanted
    has_waited: bool = False
    """It was parked before: others were asked for what they hold."""
    is_due: bool = False
    """Its time is up: it is decided for good. Said by its timer alone, since a loop's timers
    may come a little before the moment that its clock says they were set for."""


@dataclass(frozen=True, slots=True)
class _Decided:
    question: _Question
    ruling: Ruling
    lent: Lent


class Lender:
    """Decides what is lent to whom. Belongs to the event loop."""

    def __init__(
        self,
        store: Store,
        rulings: Rulings,
        random: random.Random,
        recall_wait_s: float = RECALL_WAIT_S,
    ) -> None:
        self.register = LeaseRegister(store, rulings.now_ms, self._returned)
        self.claims = Claims(store, rulings, self.register.outstanding)
        self.desks: dict[ProducerId, Desk] = {}
        self._store = store
        self._rulings = rulings
        self._random = random
        self._recall_wait_s = recall_wait_s
        self._version = 1
        self._queue: asyncio.Queue[_Question] = asyncio.Queue(QUESTIONS_WAITING_MAX)
        self._one_at_a_time = asyncio.Lock()
        self._parked: list[_Question] = []
        self._recalled_ms: dict[str, int] = {}
        self._started = asyncio.Event()

    async def start(self) -> None:
        """Know what was lent before this start. Until then nothing is lent."""
        if not self._started.is_set():
            self._next_version()
            await self.register.load()
            self._started.set()

    async def run(self) -> None:
        """Answer questions until cancelled."""
        await self.start()
        while True:
            await self.serve()

    async def serve(self) -> None:
        """Wait for questions, and answer all that are there."""
        questions = [await self._queue.get()]
        while not self._queue.empty():
            questions.append(self._queue.get_nowait())
        try:
            async with self._one_at_a_time:
                await self._answer([question for question in questions if question.desk.is_open])
        except Unavailable as error:
            # Nothing was promised: the calls that wait go by their plan's on_unreachable.
            _log.error("no lease can be lent: %s", error)

    # ── what a stream says ──

    async def hello(self, hello: quota_pb2.LeaseHello) -> Desk:
        """Open a producer's desk; its newest stream ends its older one.

        Raises:
            InvalidRequest: the producer's id is none, or a lease is another producer's.
        """
        if len(hello.producer) != PRODUCER_BYTES:
            raise InvalidRequest(
                f"a producer's id has {PRODUCER_BYTES} bytes, this one {len(hello.producer)}"
            )
        await self._started.wait()
        async with self._one_at_a_time:
            self.register.check(hello)
            desk = Desk(ProducerId(hello.producer), f"{hello.service}@{hello.host}", hello.pid)
            former = self.desks.get(desk.producer)
            if former is not None:
                former.close()
            self.desks[desk.producer] = desk
            self.register.connected(desk.producer, desk.name, desk.pid)
            if hello.HasField("last_sequence"):
                await self._reconcile(desk, hello)
        return desk

    def gone(self, desk: Desk) -> None:
        """A stream has ended; what is lent stays lent."""
        desk.is_open = False
        if self.desks.get(desk.producer) is desk:
            del self.desks[desk.producer]
            self.register.disconnected(desk.producer)

    async def wanted(self, desk: Desk, wanted: quota_pb2.LeaseWanted) -> None:
        """Take a question for tokens; its answer comes over the desk.

        Raises:
            InvalidRequest: it names no client, or negative tokens.
        """
        if not wanted.client or wanted.tokens < 0 or wanted.usual_tokens < 0:
            raise InvalidRequest("a lease is wanted for a client, and for 0 tokens or more")
        await self._queue.put(_Question(desk, wanted))

    def reduced(self, desk: Desk, reduced: quota_pb2.LeaseReduced) -> None:
        """Take back what a closed lease doesn't need any more."""
        lent = self.register.of_producer(desk.producer, reduced.lease_id)
        if lent is not None and self.register.outstanding.reduce(lent, reduced.tokens):
            self._returned()

    def released(self, desk: Desk, released: quota_pb2.LeaseReleased) -> None:
        """A lease has come back; its rest returns once the ledger has its last record.

        Raises:
            InvalidRequest: it is another producer's, or its last record can't exist.
        """
        if released.last_sequence > SEQUENCE_MAX:
            raise InvalidRequest(f"no record has the sequence {released.last_sequence}")
        lent = self.register.of_producer(desk.producer, released.lease_id)
        if lent is not None:
            self.register.take_back(lent, released.last_sequence)

    async def _reconcile(self, desk: Desk, hello: quota_pb2.LeaseHello) -> None:
        ahead_max = self._rulings.now_ms() + CLOCK_BACK_MS_MAX
        for held in hello.held:
            # The host's clock may have been set back since; a forged number is not believed.
            if held.quota_version <= ahead_max:
                self._version = max(self._version, held.quota_version)
        ended = await self.register.reconcile(hello, self.claims)
        for client in ended:
            desk.answer(answers.revocation(client, self._next_version()))

    # ── what happened elsewhere ──

    def revoke(self, clients: Iterable[str]) -> None:
        """Have every producer forget what it was told about these clients; the empty one: all."""
        version = self._next_version()
        for client in clients:
            for desk in list(self.desks.values()):
                desk.answer(answers.revocation(client, version))
        self._returned()

    async def end_vanished(self) -> None:
        """Take back what producers hold that were not heard of for `lease_hold_max`."""
        await self.register.end_vanished(self.desks.keys())

    def _next_version(self) -> int:
        """The next quota version: beyond any that was told before, over restarts too."""
        self._version = max(self._version + 1, self._rulings.now_ms())
        return self._version

    # ── deciding ──

    async def _answer(self, questions: list[_Question]) -> None:
        rulings = {q.wanted.client: await self._rulings.of(q.wanted.client) for q in questions}
        limits = [_limits(question, rulings[question.wanted.client]) for question in questions]
        quotas = {quota for found in limits for quota in found}
        leased = {quota: self.register.outstanding.leased(quota) for quota in quotas}
        used = await used_tokens(self._store, quotas)
        decided: list[_Decided] = []
        for question, found in zip(questions, limits, strict=True):
            ruling = rulings[question.wanted.client]
            if not found:
                self._say_unlimited(question, ruling)
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
        wanted, producer = question.wanted, question.desk.producer
        holders = max(
            self.register.outstanding.holders(standing.quota, producer) for standing in standings
        )
        tokens = tokens_to_lend(standings, wanted.tokens, wanted.usual_tokens, holders)
        if isinstance(tokens, Refusal):
            if not self._park(question, ruling, tokens.standing):
                self._refuse(question, ruling, tokens)
            return None
        now_ms = self._rulings.now_ms()
        lent = Lent(
            id=LeaseId(self._random.randint(1, LEASE_ID_MAX)),
            producer=producer,
            client=ruling.client,
            project=wanted.project if ruling.for_project else None,
            model=wanted.model if ruling.for_model else None,
            period=ruling.period.index,
            tokens=tokens,
            expires_at_ms=now_ms + term_ms(LEASE_TERM_MS, now_ms, ruling.ends_ms),
            version=self._version,
        )
        self.register.outstanding.add(lent)
        return lent

    async def _lend(self, decided: list[_Decided]) -> None:
        """Send leases, once they are durable."""
        durable = await self.register.lend([item.lent for item in decided])
        now_ms = self._rulings.now_ms()
        for item, is_durable in zip(decided, durable, strict=True):
            if is_durable:
                item.question.desk.answer(
                    answers.grant(item.question.wanted, item.ruling, item.lent, now_ms)
                )

    def _say_unlimited(self, question: _Question, ruling: Ruling) -> None:
        question.desk.answer(
            answers.unlimited(question.wanted, ruling, self._rulings.now_ms(), self._version)
        )

    def _refuse(self, question: _Question, ruling: Ruling, refusal: Refusal) -> None:
        holders = answers.holders_sentence(
            (*self.register.name_of(producer), tokens, producer in self.desks)
            for producer, (tokens, _) in self.register.holders(refusal.standing.quota).items()
        )
        question.desk.answer(
            answers.denial(
                question.wanted,
                ruling,
                refusal,
                holders=holders,
                now_ms=self._rulings.now_ms(),
                version=self._version,
            )
        )

    # ── a question that has to wait for others ──

    def _park(self, question: _Question, ruling: Ruling, standing: Standing) -> bool:
        """Keep a question for a moment while idle leases of others are called back."""
        if standing.remaining + standing.leased < max(1, question.wanted.tokens):
            return False
        others = [
            desk
            for producer in self.register.holders(standing.quota)
            if (desk := self.desks.get(producer)) is not None and desk is not question.desk
        ]
        if not question.has_waited:
            question.has_waited = True
            self._recall(ruling.client, standing.quota, others)
            asyncio.get_running_loop().call_later(self._recall_wait_s, self._unpark, question)
        if not others or question.is_due:
            return False
        self._parked.append(question)
        return True

    def _recall(self, client: str, quota: Quota, desks: list[Desk]) -> None:
        """Call back what these producers hold of a quota, at most once in a while."""
        now_ms = self._rulings.now_ms()
        if not desks or now_ms - self._recalled_ms.get(quota.name, 0) < RECALL_PAUSE_MS:
            return
        if len(self._recalled_ms) >= QUESTIONS_WAITING_MAX:
            self._recalled_ms.clear()
        self._recalled_ms[quota.name] = now_ms
        version = self._next_version()
        for desk in desks:
            desk.answer(answers.revocation(client if quota.rule.client else "", version))

    def _unpark(self, question: _Question) -> None:
        question.is_due = True
        if question in self._parked:
            self._parked.remove(question)
            self._put(question)

    def _returned(self) -> None:
        """Tokens have come back: who was parked is served."""
        parked, self._parked = self._parked, []
        for question in parked:
            self._put(question)

    def _put(self, question: _Question) -> None:
        try:
            self._queue.put_nowait(question)
        except asyncio.QueueFull:
            pass  # dropped: its call goes by on_unreachable, and the next one asks again


def _limits(question: _Question, ruling: Ruling) -> list[Quota]:
    wanted = question.wanted
    return limiting(ruling.quotas, ruling.client, wanted.project, wanted.model)
