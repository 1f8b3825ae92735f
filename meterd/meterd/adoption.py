"""Spool adoption: what dead processes left in a spool root goes into the ledger, seconds later.

    every 2 s: SPOOL_ROOT ─▶ whose lock is free? ─▶ Delivery ─▶ ingest ─▶ Store ─▶ finished
                              └─ finished, and this ledger lacks some of it: once more

The only importer of the middleware, whose rules decide what a directory holds and what an
open call becomes. The daemon needs no channel for it: requests and answers of the Ship
stream are handed over in memory. Reading files belongs to a thread; committing to the loop.

A ledger restored from a backup has forgotten what came after it. So each finished directory
is held against the ledger once after every opening of the database, and shipped again where
it says more than the ledger knows.
"""

from __future__ import annotations

import asyncio
import logging
import random
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from meterd.errors import BatchBroken, MeterdError, Unavailable
from meterd.ids import ProducerId
from meterd.ingest import stream
from meterd.ingest.reading import WireBatch
from meterd.store.values import Heartbeat
from meterd_middleware.adoption import adoptable, sweep
from meterd_middleware.delivery import Delivery
from meterd_middleware.disk import OsDisk
from meterd_middleware.shipping import sender_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from pathlib import Path

    from meterd.clock import Clock
    from meterd.store.store import Store
    from meterd_middleware.adoption import Adopted
    from meterd_middleware.directory import Acknowledged
    from meterd_proto.v1 import usage_pb2

_log = logging.getLogger("meterd")

SWEEP_INTERVAL_S = 2.0
TIDY_EVERY = 15
"""Sweeps between two looks for what was kept long enough."""

ACKNOWLEDGED_KEEP_NS = 24 * 3600 * 10**9
ACKNOWLEDGED_KEEP_BYTES = 64 << 20

STREAMS_MAX = 64
"""Tries at one directory in a sweep where batches are refused: each halves one."""

KNOWN_MAX = 100_000
"""Finished directories held in memory as known; those beyond are asked about at every sweep."""

T = TypeVar("T")


class Sweeper:
    """Adopts what it finds in the spool roots, until cancelled."""

    def __init__(self, store: Store, clock: Clock, roots: Sequence[Path], version: str) -> None:
        self._store = store
        self._clock = clock
        self._roots = tuple(str(root) for root in roots)
        self._version = version
        self._disk = OsDisk()
        self._random = random.Random(0)  # only Delivery's backoff asks for it; none is waited for
        self._is_stopped = False
        self._troubles: dict[str, str] = {}
        self._opening = 0
        self._known: set[bytes] = set()
        """Producers with a finished directory of which this opening of the ledger lacks nothing."""

    async def run(self) -> None:
        """Sweep every two seconds."""
        turn = 0
        while True:
            await self._in_thread(turn % TIDY_EVERY == 0)
            turn += 1
            await asyncio.sleep(SWEEP_INTERVAL_S)

    async def _in_thread(self, is_tidying: bool) -> None:
        """One sweep in a thread; cancelled, it ends behind the batch in hand, before the store."""
        loop = asyncio.get_running_loop()
        work = asyncio.ensure_future(asyncio.to_thread(self._sweep, loop, is_tidying))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            self._is_stopped = True
            await work
            raise

    # ── in the thread ──

    def _sweep(self, loop: asyncio.AbstractEventLoop, is_tidying: bool) -> None:
        for root in self._roots:
            try:
                self._adopt_all(loop, root)
                if is_tidying:
                    self._tidy(root)
                self._troubles.pop(root, None)
            except Exception as error:
                self._note(root, f"{root} can't be swept: {_reason(error)}")

    def _adopt_all(self, loop: asyncio.AbstractEventLoop, root: str) -> None:
        if self._opening != self._store.opening:
            self._opening = self._store.opening
            self._known.clear()
        again = partial(self._is_wanted_again, loop)
        for adopted in adoptable(self._disk, root, again=again, tell=self._cannot_read):
            if self._is_stopped:
                return
            try:
                self._adopt(loop, adopted)
                self._troubles.pop(adopted.path, None)
            # Whatever lies in a spool root must not end the daemon, and again at each start.
            except Exception as error:
                self._cannot_read(adopted.path, error)

    def _is_wanted_again(
        self, loop: asyncio.AbstractEventLoop, producer: bytes, acknowledged: Acknowledged
    ) -> bool:
        """Whether the ledger, restored from a backup, lacks some of a finished directory."""
        if producer in self._known or acknowledged.ledger_id != self._store.ledger_id:
            return False
        asked = self._store.watermark(ProducerId(producer))
        watermark = asyncio.run_coroutine_threadsafe(asked, loop).result()
        if acknowledged.watermark > watermark:
            return True
        if len(self._known) < KNOWN_MAX:
            self._known.add(producer)
        return False

    def _adopt(self, loop: asyncio.AbstractEventLoop, adopted: Adopted) -> None:
        """Bring one directory to its end, or as far as the ledger takes it now."""
        delivery = Delivery(adopted, sender_of(adopted), random=self._random)
        for _ in range(STREAMS_MAX):
            passage = _Passage(self._store, self._clock, self._version, delivery, loop)
            was_refused = passage.run(lambda: self._is_stopped)
            if not was_refused:
                break
        if delivery.is_drained:
            adopted.finish()
            self._tell(adopted)
        elif delivery.fault:
            self._note(adopted.path, f"{adopted.path}: {delivery.fault}")

    def _tell(self, adopted: Adopted) -> None:
        if adopted.interrupted_calls:
            who = f"{adopted.identity.service}@{adopted.identity.host}"
            calls = adopted.interrupted_calls
            _log.warning("%s died in mid-call; recorded as interrupted: %d", who, calls)

    def _tidy(self, root: str) -> None:
        sweep(
            self._disk,
            root,
            own="",
            now_unix_ns=self._clock.unix_ns(),
            keep_ns=ACKNOWLEDGED_KEEP_NS,
            keep_bytes=ACKNOWLEDGED_KEEP_BYTES,
        )

    def _cannot_read(self, path: str, error: Exception) -> None:
        self._note(path, f"{path} can't be adopted: {_reason(error)}")

    def _note(self, path: str, trouble: str) -> None:
        """Log a trouble when it begins and when it changes, not every two seconds."""
        if self._troubles.get(path) != trouble:
            self._troubles[path] = trouble
            _log.warning("%s", trouble)


def _reason(error: Exception) -> str:
    """Why something failed: a sentence where it is one, else what a bug report needs."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error) if isinstance(error, MeterdError) else f"{type(error).__name__}: {error}"


class _Passage:
    """One stream of an adopted directory, with the ledger at its other end."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        version: str,
        delivery: Delivery,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._store, self._clock, self._version = store, clock, version
        self._delivery = delivery
        self._loop = loop

    def run(self, is_stopped: Callable[[], bool]) -> bool:
        """Say everything there is to say; True where a batch was refused: try again."""
        delivery = self._delivery
        producer = stream.greeting(delivery.begin())
        watermark = self._await(self._store.hello(producer, self._now_ms()))
        self._receive(stream.welcome(self._store.ledger_id, watermark, self._version))
        messages = stream.Stream(producer.id)
        while not is_stopped():
            request = delivery.next_request(self._clock.monotonic_ns(), self._clock.unix_ns())
            if request is None:
                break  # all is said; or it is to wait, which the next sweep does
            answer = self._answer(messages.asked(request, self._now_ms()), producer.id)
            if answer is not None:
                self._receive(answer)
                if answer.HasField("batch_refused"):
                    delivery.end()
                    return True
        if delivery.is_drained:
            self._say_goodbye(messages, producer.id)
        return False

    def _answer(
        self, asked: stream.Asked | None, producer: ProducerId
    ) -> usage_pb2.ShipResponse | None:
        """What the daemon answers to one message; some are only noted."""
        try:
            if isinstance(asked, WireBatch):
                return stream.acknowledgment(self._await(self._store.commit(asked)))
            if isinstance(asked, stream.Loss):
                lost = self._store.declare_lost(
                    producer, asked.first, asked.last, asked.reason, self._now_ms()
                )
                return stream.acknowledgment(self._await(lost))
        except BatchBroken as fault:
            assert isinstance(asked, WireBatch)
            return stream.batch_refused(asked, fault)
        except Unavailable as fault:
            return stream.not_now(str(fault))
        self._loop.call_soon_threadsafe(self._note, asked, producer)
        return None

    def _note(self, asked: stream.Asked | None, producer: ProducerId) -> None:
        if isinstance(asked, Heartbeat):
            self._store.heartbeat(asked)
        elif isinstance(asked, stream.Report):
            self._store.report(producer, asked.payload)

    def _say_goodbye(self, messages: stream.Stream, producer: ProducerId) -> None:
        asked = messages.asked(self._delivery.goodbye(), self._now_ms())
        if isinstance(asked, stream.Goodbye):
            self._await(self._store.goodbye(producer, asked.last_sequence, self._now_ms()))

    def _receive(self, response: usage_pb2.ShipResponse) -> None:
        self._delivery.receive(response, self._clock.monotonic_ns())

    def _await(self, work: Coroutine[object, object, T]) -> T:
        """Have the loop do something, and wait for it; only the sweeper's thread may."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _now_ms(self) -> int:
        return self._clock.unix_ns() // 1_000_000
