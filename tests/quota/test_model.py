"""The quota against a reference of ten lines, under random schedules.

Asserted after every step: what calls have used and hold never exceeds the quota by more than
the bound of its `reserve` mode, (calls not yet in the ledger) × (ceiling − usual), which is
nothing for `ceiling`, and the replies to calls whose process was killed in the middle, which
nobody saw. Asserted at the end, when all is quiet: nothing is lent, used is what was served to
the token, but for those replies, and what remains can be used to the last token.
"""

from __future__ import annotations

import gc
import os
from random import Random
from typing import TYPE_CHECKING

import pytest

from meterd.config.agency import ReserveMode
from meterd_middleware.lease import Denied
from tests.quota.world import CLIENT, SECOND, Call, Process, World

if TYPE_CHECKING:
    from pathlib import Path

REPLY_MAX = 4_000


class Reference:
    """A quota as anybody would write it down."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.spent = 0
        self.unseen = 0
        self.held: dict[int, int] = {}

    def start(self, call: int, tokens: int) -> None:
        self.held[call] = tokens

    def end(self, call: int, tokens: int) -> None:
        del self.held[call]
        self.spent += tokens

    def strike(self, call: int, tokens: int, reply: int) -> None:
        self.end(call, tokens)
        self.unseen += reply

    @property
    def over(self) -> int:
        return max(0, self.spent + sum(self.held.values()) - self.limit)


class Schedule:
    """What happens, drawn from a seed, and what must hold whatever does."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world.random
        self.references: dict[int, Reference] = {}
        self.grants: dict[int, int] = {}
        self.uncounted_peak = 0

    @property
    def reference(self) -> Reference:
        return self.references.setdefault(self.world.period, Reference(self.world.limit))

    async def step(self) -> None:
        steps = (
            (30, self.start_call), (25, self.end_call), (4, self.release_call), (12, self.pump),
            (10, self.ship), (4, self.cut), (6, self.connect), (2, self.lose_answers),
            (2, self.kill), (3, self.adopt), (4, self.pass_time), (2, self.new_process),
            (1, self.raise_plan), (1, self.lower_plan), (1, self.grant), (1, self.restart),
            (1, self.next_period), (1, self.collect),
        )  # fmt: skip
        weights, acts = zip(*steps, strict=True)
        await self.random.choices(acts, weights)[0]()
        self.check()

    def check(self) -> None:
        world = self.world
        everyone = world.processes + world.dead
        uncounted = sum(len(each.calls) + len(each.spool) for each in everyone)
        self.uncounted_peak = max(self.uncounted_peak, uncounted)
        bound = 0
        if world.reserve is ReserveMode.USUAL:
            bound = self.uncounted_peak * REPLY_MAX
        for reference in self.references.values():
            assert reference.over <= bound + reference.unseen

    def some(self) -> Process:
        if not self.world.processes:
            self.world.start_process()
        return self.random.choice(self.world.processes)

    def some_call(self) -> tuple[Process, Call] | None:
        busy = [each for each in self.world.processes if each.calls]
        if not busy:
            return None
        process = self.random.choice(busy)
        return process, self.random.choice(process.calls)

    async def start_call(self) -> None:
        most = self.random.choice((50, 500, REPLY_MAX))
        call = await self.world.call(
            self.some(), self.random.randint(1, 500), most, self.random.randint(0, most)
        )
        if isinstance(call, Call):
            self.reference.start(call.number, call.held.tokens)

    async def end_call(self) -> None:
        if found := self.some_call():
            process, call = found
            process.end(call)
            self.references[call.period].end(call.number, call.used)

    async def release_call(self) -> None:
        if found := self.some_call():
            process, call = found
            process.calls.remove(call)
            call.held.release()
            self.references[call.period].end(call.number, 0)

    async def pump(self) -> None:
        await self.world.pump(self.some())

    async def lose_answers(self) -> None:
        await self.world.pump(self.some(), loses_answers=True)

    async def ship(self) -> None:
        await self.world.ship(self.some(), self.random.randint(1, 10))

    async def cut(self) -> None:
        self.world.cut(self.some())

    async def connect(self) -> None:
        await self.world.connect(self.some())

    async def kill(self) -> None:
        if len(self.world.processes) > 1:
            process = self.some()
            self.world.kill(process)
            for call in process.calls:
                self.references[call.period].strike(call.number, call.used, call.output_tokens)

    async def adopt(self) -> None:
        if self.world.dead:
            await self.world.adopt(self.random.choice(self.world.dead))

    async def pass_time(self) -> None:
        self.world.clock.ns += self.random.choice((1, 60, 900, 4_000)) * SECOND
        await self.pump()

    async def new_process(self) -> None:
        if len(self.world.processes) < 5:
            await self.world.connect(self.world.start_process())

    async def raise_plan(self) -> None:
        await self.world.change_plan(self.world.limit + self.random.randint(1, 6_000))
        self.reference.limit = max(self.reference.limit, self.world.limit + self.granted)

    async def lower_plan(self) -> None:
        """What was lent stays usable: no stale lease overspends by more than that."""
        world = self.world
        lent = sum(
            lent.tokens
            for lent in world.lender.register.outstanding.all()
            if lent.period == world.period
        )
        await world.change_plan(max(1, world.limit - self.random.randint(1, 6_000)))
        ledger = await world.used(world.period)
        self.reference.limit = max(world.limit + self.granted, ledger + lent)

    async def grant(self) -> None:
        tokens = self.random.randint(1, 2_000)
        self.grants[self.world.period] = self.granted + tokens
        await self.world.grant(tokens)
        self.reference.limit += tokens

    @property
    def granted(self) -> int:
        return self.grants.get(self.world.period, 0)

    async def restart(self) -> None:
        await self.world.close()
        await self.world.open()

    async def next_period(self) -> None:
        if self.random.random() < 0.2:
            self.world.clock.ns += 20 * 86_400 * SECOND

    async def collect(self) -> None:
        gc.collect()

    async def come_to_rest(self) -> None:
        """Every call ends, every spool is shipped, everything lent goes back."""
        world = self.world
        while self.some_call():
            await self.end_call()
        for process in [*world.dead]:
            await world.adopt(process)
        for process in world.processes:
            await world.connect(process)
            await world.pump(process)
            process.leases.close()
            await world.pump(process)
            await world.ship(process, len(process.spool))
        await world.store.accept_late(CLIENT, world.now_ms)  # some are months old by now
        self.check()


@pytest.mark.parametrize("reserve", list(ReserveMode))
@pytest.mark.parametrize("seed", range(int(os.environ.get("METERD_TEST_SEEDS", "12"))))
async def test_a_hard_quota_holds_whatever_happens(
    seed: int, reserve: ReserveMode, tmp_path: Path
) -> None:
    """Reserve, settle, crash, expiry, renewal, changes, skew and loss, in any order."""
    world = World(tmp_path, Random(seed), limit=20_000, reserve=reserve)
    await world.open()
    schedule = Schedule(world)
    for _ in range(250):
        await schedule.step()

    await schedule.come_to_rest()

    outstanding = world.lender.register.outstanding
    assert not list(outstanding.all())
    assert not await world.store.outstanding_leases()
    for process in world.processes:
        assert not process.leases._stream.leases
    for period, reference in schedule.references.items():
        assert not reference.held
        assert await world.used(period) == reference.spent - reference.unseen
    await _use_the_rest(schedule)
    await world.close()


async def _use_the_rest(schedule: Schedule) -> None:
    """What remains can be used to the last token by anybody, and not one more."""
    world = schedule.world
    reference = schedule.reference
    rest = world.limit + schedule.granted - (reference.spent - reference.unseen)
    process = world.start_process()
    await world.connect(process)
    if rest > 0:
        call = await world.call(process, rest, 0, 0)
        assert isinstance(call, Call), (rest, call)
        process.end(call)

    refused = await world.call(process, 1, 0, 0)

    assert isinstance(refused, Denied)
    assert refused.reason == "quota"
    assert refused.remaining == 0
