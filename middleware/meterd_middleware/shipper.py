"""The shipper: where an app's records go, from any thread; one thread of its own takes them on.

    open_call, append ─▶ Spools ─▶ disk              nothing of it waits for the network
    append_later ─────▶ a queue ─┐
    wake, flush, close ─▶ inbox ─┴▶ Courier, the thread: ships, trims, adopts

Nothing exists before the first record: no thread, no directory, no grpc. A forked child is a
new producer: it closes what it inherited, unlocks nothing, and begins anew. At exit nobody
waits: what isn't shipped is on disk, for the next adopter.
"""

from __future__ import annotations

import atexit
import os
import random as random_module
import time
import weakref
from threading import Event, Lock, Thread, get_ident
from typing import TYPE_CHECKING

from meterd_middleware import turns
from meterd_middleware.courier import Close, Courier, Flush, LeasePump, Pause
from meterd_middleware.disk import OsDisk
from meterd_middleware.forking import REST_S_MAX, await_rest, is_grpc_at_work
from meterd_middleware.spools import DEFERRED as DEFERRED
from meterd_middleware.spools import Spools

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from meterd_middleware.disk import Disk
    from meterd_middleware.payload import OpenCall
    from meterd_middleware.settings import Settings
    from meterd_middleware.usage import UsageRecord

EXIT_S_MAX = 0.25
"""At exit a connection that stands gets so long to take what is left; none is waited for."""

VOLATILE_EXIT_S_MAX = 5.0
"""The same where the spool dies with its container or with the host's memory."""


class Shipper:
    """What a Meter gives its records to. Safe for threads, forks and interruptions."""

    def __init__(
        self,
        settings: Settings,
        leases: LeasePump | None = None,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        random: Random | None = None,
        disk: Disk | None = None,
    ) -> None:
        """Nothing starts here."""
        self._settings, self._leases = settings, leases
        self._now_ns, self._monotonic_ns = now_ns, monotonic_ns
        self._random = random or random_module.Random()
        self._disk: Disk = disk or OsDisk()
        self._begin()
        _shippers.add(self)

    def _begin(self) -> None:
        self._starting = Lock()
        self._starter = 0
        self._thread: Thread | None = None
        self._courier: Courier | None = None
        self._spools = Spools(
            self._settings,
            self._disk,
            self._leases,
            now_ns=self._now_ns,
            monotonic_ns=self._monotonic_ns,
            producer_id=lambda: os.urandom(16),
            pid=os.getpid(),
            wake=self.wake,
        )

    # ── records ──

    def open_call(self, call: OpenCall) -> int:
        """Write that a call is about to be sent; its number, 0 where it could not be written."""
        number = self._spools.open_call(call)
        if self._thread is None:
            self._start()
        return number

    def append(self, record: UsageRecord, closes: int = 0) -> int:
        """Write a finished record.

        Args:
            closes: what `open_call` returned for its call; 0: nothing.

        Returns:
            Its sequence; 0: refused and counted; DEFERRED: the shipper's thread writes it, the
            disk being slow just now.
        """
        sequence = self._spools.append(record, closes)
        courier = self._courier
        if courier is None:
            self._start()
        elif courier.is_idle:
            courier.is_idle = False
            courier.inbox.put(None)
        return sequence

    def append_later(self, record: UsageRecord, closes: int = 0) -> None:
        """Leave a finished record to the shipper's thread: no lock, no I/O, for finalisers."""
        self._spools.append_later(record, closes)
        courier = self._courier
        if courier is not None and courier.is_idle:
            courier.is_idle = False
            courier.inbox.put(None)

    def note_untagged(self, place: str) -> None:
        """Count a call that names no client, by its place in the app's code."""
        self._spools.note_untagged(place)

    def note_fault(self, kind: str, message: str) -> None:
        """Count a fault of the middleware that was kept from the app."""
        self._spools.note_fault(kind, message)

    # ── the thread ──

    def wake(self) -> None:
        """Something is to be said: a lease is wanted, a record was left for later."""
        courier = self._courier
        if courier is None:
            if self._spools.ensure() is None and self._leases is not None:
                self._leases.disconnected()  # no producer, so nobody asks: no call may wait
            self._start()
        else:
            courier.is_idle = False
            courier.inbox.put(None)

    def flush(self, timeout: float) -> bool:
        """Whether everything appended so far is durable in meterd within `timeout` seconds."""
        spool = self._spools.current
        if self._spools.has_later:
            self._spools.drain()
            spool = self._spools.current
        if spool is None or spool.next_sequence - 1 <= spool.acknowledged.watermark:
            return self._spools.is_all_written
        self._start()
        courier = self._courier
        if courier is None:
            return False
        done = Event()
        courier.inbox.put(Flush(spool.producer, spool.next_sequence - 1, done))
        return done.wait(timeout) and self._spools.is_all_written

    def close(self, timeout: float) -> None:
        """Ship what can be shipped within `timeout` seconds, then end the thread.

        What isn't shipped stays on disk, free to be adopted. A record after it begins anew.
        """
        self._stop(timeout, is_patient=True)

    def _start(self) -> None:
        if self._starter == get_ident():
            return  # interrupted in the middle of starting
        with self._starting:
            if self._thread is not None or self._spools.is_empty:
                return
            self._starter = get_ident()
            try:
                courier = Courier(
                    self._settings,
                    self._disk,
                    self._spools,
                    self._leases,
                    now_ns=self._now_ns,
                    monotonic_ns=self._monotonic_ns,
                    random=self._random,
                    may_connect=_may_use_grpc and not turns.are_eventlets(),
                )
                thread = Thread(target=courier.run, name="meterd-shipper", daemon=True)
                thread.start()
                self._courier, self._thread = courier, thread
            except RuntimeError:
                pass  # the interpreter is ending; the records are on disk
            finally:
                self._starter = 0

    def _stop(self, timeout: float, *, is_patient: bool) -> None:
        thread, courier = self._thread, self._courier
        if thread is not None and courier is not None:
            deadline = self._monotonic_ns() + int(timeout * 1e9)
            courier.inbox.put(Close(deadline, is_patient))
            thread.join(timeout + JOIN_S)
            self._thread = self._courier = None
        self._spools.drain()
        spool = self._spools.current
        if spool is not None:
            self._spools.end(spool, is_shipped=False)

    def _at_exit(self) -> None:
        try:
            volatile = self._courier is not None and self._courier.is_volatile
            self._stop(VOLATILE_EXIT_S_MAX if volatile else EXIT_S_MAX, is_patient=volatile)
        except Exception:  # the app ends; nothing of ours may speak now
            pass

    def _before_fork(self) -> Pause | None:
        """Have the thread let go of grpc; returns what lets it go on."""
        courier = self._courier
        if courier is None or self._thread is None or not self._thread.is_alive():
            return None
        pause = Pause(Event(), Event())
        courier.inbox.put(pause)
        pause.done.wait(REST_S_MAX)
        return pause

    def _after_fork_in_child(self) -> None:
        """Become a new producer. What the parent's thread held is kept from being destroyed:
        tearing down a channel whose threads are gone can wait for ever."""
        _inherited.append((self._courier, self._thread, self._spools))
        for fd in self._spools.take_inherited():
            try:
                self._disk.close(fd)
            except OSError:
                pass
        self._random.seed()
        self._begin()
        if self._leases is not None:
            self._leases.reset_after_fork()


JOIN_S = 0.25
"""Beyond its deadline the thread gets so long to notice; a stuck one is left behind."""

_shippers: weakref.WeakSet[Shipper] = weakref.WeakSet()
_inherited: list[object] = []
_paused: list[Pause] = []
_may_use_grpc = True
"""False in a child whose parent's grpc ran while it forked, and in all its children."""

_will_be_able = True


def _before_fork() -> None:
    global _will_be_able
    for shipper in list(_shippers):
        pause = shipper._before_fork()
        if pause is not None:
            _paused.append(pause)
    _will_be_able = await_rest() if _paused else not is_grpc_at_work()


def _after_fork_in_parent() -> None:
    while _paused:
        _paused.pop().resumed.set()


def _after_fork_in_child() -> None:
    global _may_use_grpc
    _paused.clear()
    _may_use_grpc = _may_use_grpc and _will_be_able
    for shipper in list(_shippers):
        shipper._after_fork_in_child()


def _at_exit() -> None:
    for shipper in list(_shippers):
        shipper._at_exit()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
atexit.register(_at_exit)
