"""The writer: the one thread that owns the write connection, and commits what has gathered.

    commit(batch), run(job, after_batches) ─▶ in order ─┐
    run(job) ─▶ first ──────────────────────────────────┴▶ BEGIN ─ what waits ─ COMMIT ─▶ answers

A batch is read, checked and priced on this thread too. `sqlite3` lets go of the interpreter
at every row, and a second busy thread would take it each time for up to 5 ms: two threads
here are slower than one.

A transaction takes all that waits: the more records, the fewer rows of the rollups a record.
A job (a lease, a hello) goes before the batches that wait, and ends the gathering; and for a
while after a lease was asked for, transactions stay small, so that the next waits for less.
"""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from meterd.errors import BatchBroken, MeterdError, Refused, StorageFault, Unavailable
from meterd.ids import LedgerId
from meterd.store import refold
from meterd.store.engine import Engine
from meterd.store.waiting import BatchJob, Job, Waiting, has_batch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meterd.clock import Clock
    from meterd.config.agency import Agency
    from meterd.ids import Sequence
    from meterd.pricing.book import PriceBook
    from meterd.store.batch import UnreadBatch
    from meterd.store.values import Committed

ROWS_MAX = 262_144
"""Records in one transaction, while nobody waits for leases: about two seconds'."""
ROWS_MAX_HURRIED = 16_384
"""Records in one transaction while leases are asked for: a tenth of a second's."""
HURRY_NS = 5_000_000_000
"""For so long after the last lease that was asked for."""
BOOK_AFTER_S = 0.5
"""The price book is imported once nothing has happened for so long, if not needed before."""
COLLECTOR_THRESHOLDS = (100_000, 20, 100)
WAITING_MAX = 8_192
"""Requests that may wait; more are told to come again."""

T = TypeVar("T")


class Writer:
    """Owns the write connection. Methods are for the event loop that made it."""

    def __init__(
        self,
        path: Path,
        agency: Agency,
        book: PriceBook,
        clock: Clock,
        *,
        rows_max: int = ROWS_MAX,
        claim: Callable[[], None] = lambda: None,
        factory: type[sqlite3.Connection] = sqlite3.Connection,
    ) -> None:
        """`claim` makes sure, before each opening, that no other daemon uses the database."""
        self._factory = factory
        self._path = path
        self._agency = agency
        self._book = book
        self._clock = clock
        self._rows_max = rows_max
        self._claim = claim
        self._loop = asyncio.get_running_loop()
        self._ordered: deque[Waiting[object]] = deque()
        self._first: deque[Waiting[object]] = deque()
        self._hurried_at_ns = -HURRY_NS
        self._notes: deque[Callable[[Engine], None]] = deque()
        self._ready = threading.Condition()
        self._is_closing = False
        self._told: list[Callable[[Committed], None]] = []
        self.storage_fault = ""
        self._has_refused_batch = False
        self.ledger_id = LedgerId(b"")
        self.opening = 0
        self._engine: Engine | None = self._open()
        self._thread = threading.Thread(target=self._write, name="meterd-writer")
        self._thread.start()

    def subscribe(self, told: Callable[[Committed], None]) -> Callable[[], None]:
        """Call `told` on the loop after each commit; returns what ends that."""
        self._told.append(told)
        return lambda: self._told.remove(told) if told in self._told else None

    async def commit(self, batch: UnreadBatch) -> Sequence:
        """Add a batch; the answer comes after the commit."""
        future: asyncio.Future[Sequence] = self._loop.create_future()
        return await self._enqueue(BatchJob(batch, future), self._ordered)

    async def run(
        self,
        job: Callable[[Engine], T],
        *,
        after_batches: bool = False,
        alone: bool = False,
        hurried: bool = False,
    ) -> T:
        """Run a job in a transaction; the answer comes after the commit.

        Args:
            after_batches: behind the batches that wait already, and not before them.
            alone: in a transaction of its own, since it changes what records are placed by.
            hurried: an app's call waits for it, and for those that will follow.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        waiting = Job(job, future, is_alone=alone, is_hurried=hurried)
        return await self._enqueue(waiting, self._ordered if after_batches else self._first)

    def note(self, job: Callable[[Engine], None]) -> None:
        """Run a job with the next transaction, whenever that is. Nobody waits for it."""
        if len(self._notes) < WAITING_MAX:
            self._notes.append(job)

    @property
    def agency(self) -> Agency:
        """The configuration that records are placed and priced by."""
        return self._agency

    async def use(self, agency: Agency) -> None:
        """Place and price by this configuration from now on, and so what came before.

        Rows take new prices in steps, between which others are served.
        """
        change = await self.run(lambda engine: refold.begin_using(engine, agency), alone=True)
        self._agency = agency
        if change is None:
            return
        why = "the prices of the configuration changed"
        number = await self.run(lambda engine: refold.begin_reprice(engine, "meterd", why))
        for first in range(1, change.end, refold.STEP_ROWS):
            step = partial(refold.reprice, change=change, number=number, first=first)
            await self.run(step, after_batches=True)
        await self.run(lambda engine: refold.end_using(engine, agency))

    async def close(self) -> None:
        """Answer all that wait, and let go of the database."""
        with self._ready:
            self._is_closing = True
            self._ready.notify()
        await asyncio.to_thread(self._thread.join)

    async def _enqueue(self, waiting: Waiting[T], queue: deque[Waiting[object]]) -> T:
        with self._ready:
            if self._is_closing:
                raise Unavailable("meterd is stopping")
            if len(queue) >= WAITING_MAX:
                raise StorageFault("too many requests wait for the disk")
            queue.append(waiting)  # type: ignore[arg-type]  # the queue holds any answer
            self._ready.notify()
        # Shielded: a caller who leaves does not undo what the writer has begun.
        return await asyncio.shield(waiting.future)

    # ── on the writer's thread ──

    def _open(self) -> Engine:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._claim()
        engine = Engine(self._path, self._agency, self._book, self._now_ms(), self._factory)
        self.ledger_id = engine.ledger_id
        self.opening += 1
        return engine

    def _now_ms(self) -> int:
        return self._clock.unix_ns() // 1_000_000

    def _write(self) -> None:
        # A batch makes thousands of tuples that live for milliseconds; with Python's own
        # thresholds the collector looks through all else for each few of them, and takes a
        # third of the time. What meterd makes has no cycles to speak of.
        gc.set_threshold(*COLLECTOR_THRESHOLDS)
        while self._wait():
            self._transaction()
        if self._notes:
            self._transaction()
        if self._engine is not None:
            self._engine.close()

    def _wait(self) -> bool:
        """Wait for something to write; False once all is written and the writer closes."""
        with self._ready:
            while not self._first and not self._ordered and not self._is_closing:
                if not self._ready.wait(None if self._book.version else BOOK_AFTER_S):
                    self._book.load()
            return bool(self._first or self._ordered)

    def _transaction(self) -> None:
        """One transaction with what has gathered."""
        waiting: list[Waiting[object]] = []
        try:
            engine = self._engine = self._engine or self._open()
            engine.begin(self._now_ms())
        except (sqlite3.Error, MeterdError, OSError) as fault:
            self._failed(fault)
            self._answer(self._take_all(), StorageFault(_sentence(fault)))
            return
        try:
            self._run_notes(engine)
            self._gather(engine, waiting)
            committed = engine.commit()
        except (sqlite3.Error, MeterdError) as fault:
            if _is_of_contents(fault):
                self._broken(waiting)
            else:
                self._failed(fault)
                self._answer(waiting, StorageFault(_sentence(fault)))
        except Exception:
            self._broken(waiting)
        else:
            self._succeeded(waiting)
            self._answer(waiting, None, committed)

    def _succeeded(self, waiting: list[Waiting[object]]) -> None:
        """All is well again; after records that found no room, not before records have found it.

        On a full disk a small job still finds its page between two batches that don't.
        """
        if not self._has_refused_batch or has_batch(waiting):
            self.storage_fault, self._has_refused_batch = "", False

    def _take_all(self) -> list[Waiting[object]]:
        """All that waits: without a database none of it can be done, nor may it spin here."""
        with self._ready:
            waiting = [*self._first, *self._ordered]
            self._first.clear()
            self._ordered.clear()
        return waiting

    def _gather(self, engine: Engine, waiting: list[Waiting[object]]) -> None:
        """Run what waits, until the transaction is full, or somebody is in a hurry."""
        rows_end = engine.runs.next_row + self._rows_now()
        is_full = False
        while True:
            queue = self._first if self._first else self._ordered
            if not queue or (queue is self._ordered and is_full):
                return
            request = queue[0]
            if request.is_alone and waiting:
                return
            queue.popleft()
            waiting.append(request)
            self._run(engine, request)
            if request.is_hurried:
                self._hurried_at_ns = self._clock.monotonic_ns()
            is_full = queue is self._first or engine.runs.next_row >= rows_end
            if request.is_alone:
                return

    def _rows_now(self) -> int:
        is_hurried = self._clock.monotonic_ns() - self._hurried_at_ns < HURRY_NS
        return min(self._rows_max, ROWS_MAX_HURRIED) if is_hurried else self._rows_max

    def _run_notes(self, engine: Engine) -> None:
        while self._notes:
            self._notes.popleft()(engine)

    @staticmethod
    def _run(engine: Engine, request: Waiting[object]) -> None:
        """One request; what it is refused for is its own affair: nothing of it was written."""
        try:
            request.answer = request.run(engine)
        except Refused as refusal:
            request.fault = refusal

    def _broken(self, waiting: list[Waiting[object]]) -> None:
        """Something raised what it never should: do it again one by one, with nothing in memory
        of what went before, so that all others are written and nobody behind is blocked."""
        if self._is_rolled_back(waiting):
            for request in waiting:
                request.answer, request.fault = None, None
                self._single(request)

    def _single(self, request: Waiting[object]) -> None:
        """One request in a transaction of its own."""
        engine = self._engine
        try:
            if engine is None:
                engine = self._engine = self._open()
            engine.begin(self._now_ms())
            self._run(engine, request)
            committed = engine.commit()
        except (sqlite3.Error, MeterdError) as fault:
            if _is_of_contents(fault):
                self._refuse(request, fault)
            else:
                self._failed(fault)
                self._answer([request], StorageFault(_sentence(fault)))
        except Exception as fault:
            self._refuse(request, fault)
        else:
            self._answer([request], None, committed)

    def _refuse(self, request: Waiting[object], fault: Exception) -> None:
        """It fails alone, too: its one record is kept as bytes; a batch of more is halved."""
        if not self._is_rolled_back([request]):
            return
        reason = f"the ledger can't take it: {type(fault).__name__}: {fault}"
        is_kept = isinstance(request, BatchJob) and request.set_aside(reason)
        if is_kept:
            self._single(request)
            return
        refusal = BatchBroken(reason)
        refusal.__cause__ = fault
        self._answer([request], refusal)

    def _is_rolled_back(self, waiting: list[Waiting[object]]) -> bool:
        """Undo the transaction; False where the disk fails at that, and they were told."""
        assert self._engine is not None
        try:
            self._engine.rollback()
        except sqlite3.Error as worse:
            self._failed(worse)
            self._answer(waiting, StorageFault(_sentence(worse)))
            return False
        return True

    def _failed(self, fault: Exception) -> None:
        """The disk is full or failing: begin anew with a fresh connection at the next request."""
        self.storage_fault = _sentence(fault)
        engine, self._engine = self._engine, None
        if engine is not None:
            try:
                engine.connection.close()
            except sqlite3.Error:
                pass

    def _answer(
        self,
        waiting: list[Waiting[object]],
        fault: Exception | None,
        committed: Committed | None = None,
    ) -> None:
        if fault is not None:
            self._has_refused_batch |= isinstance(fault, StorageFault) and has_batch(waiting)
            for request in waiting:
                request.fault = request.fault or fault
        if waiting or committed:
            try:
                self._loop.call_soon_threadsafe(self._deliver, waiting, committed)
            except RuntimeError:
                pass  # the loop is closed: nobody awaits an answer any more

    # ── on the loop ──

    def _deliver(self, waiting: list[Waiting[object]], committed: Committed | None) -> None:
        if committed is not None:
            for told in tuple(self._told):
                told(committed)
        for request in waiting:
            if request.future.done():
                continue
            if request.fault is not None:
                request.future.set_exception(request.fault)
                request.future.exception()  # seen: whoever asked may have left
            else:
                request.future.set_result(request.answer)


def _is_of_contents(fault: Exception) -> bool:
    """Whether SQLite minds what is written, and not where: the same sent again would fail again.

    Taken for a failing disk, one record that no sum can hold would keep all others waiting.
    """
    return isinstance(fault, sqlite3.IntegrityError | sqlite3.DataError) or (
        isinstance(fault, sqlite3.OperationalError) and "integer overflow" in str(fault)
    )


def _sentence(fault: Exception) -> str:
    """What is wrong with the disk or database, as people say it."""
    text = str(fault)
    if "full" in text:
        return "the disk is full: nothing can be committed until there is room"
    if "readonly" in text:
        return f"the database can't be written: {text}"
    return f"the database can't be written: {text}" if isinstance(fault, sqlite3.Error) else text
