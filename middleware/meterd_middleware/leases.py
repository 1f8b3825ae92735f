"""Leases: the quota decisions of one process, from any thread, any event loop, any moment.

    app threads ── reserve / areserve / check / acheck ─▶ ┐
    finalisers, signal handlers ── Reservation.settle ──▶ ├─ Holdings, under one lock
    shipper thread ── requests, responses, tick ────────▶ ┘

A decision takes microseconds and never waits, but for the first call of a client, or one that
finds less lent than it needs: that one waits for the daemon's answer, `lease_timeout_ms` at
most, without blocking an event loop. Where the daemon is known to be away nobody waits.

The lock is reentrant and knows that it is: a signal handler or finaliser that makes a call
while this thread is inside a decision gets a reservation that holds nothing, not a deadlock.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from meterd_middleware.holding import Holding
from meterd_middleware.holdings import Holdings
from meterd_middleware.lease import REPLY_TOKENS_BEFORE, Denied, Reservation
from meterd_middleware.lease_stream import usual_tokens
from meterd_middleware.lease_wait import Wait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meterd_middleware.holding import OnUnreachable
    from meterd_proto.v1 import quota_pb2

_MS = 10**6
_SUSPENDED_NS = 60 * 10**9
"""Wall time that passed beyond monotonic time: the host slept, and leases grew old unseen."""
START_MS_MAX = 1_000
"""A process's first call may wait so long for grpc's import and the channel: 60 ms where the
machine is idle, five times that where three busy processes share its two cores. A daemon that
is away ends the wait at once."""


class LeaseSettings(Protocol):
    """What of `Settings` decides here."""

    @property
    def on_unreachable(self) -> OnUnreachable: ...
    @property
    def lease_timeout_ms(self) -> int: ...


class Leases:
    """The thread-safe state behind one process's lease stream."""

    def __init__(
        self,
        settings: LeaseSettings,
        *,
        now_ns: Callable[[], int],
        monotonic_ns: Callable[[], int],
        wake: Callable[[], None],
    ) -> None:
        """Nothing starts here; `wake` is called, outside the lock, when something is to be sent."""
        self._settings = settings
        self._now_ns = now_ns
        self._monotonic_ns = monotonic_ns
        self._wake = wake
        self._timeout_ns = settings.lease_timeout_ms * _MS
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Forget everything: a forked child is a new producer, to whom nothing is lent."""
        self._lock = threading.RLock()
        self._is_inside = False
        self._holdings = Holdings(self._settings.on_unreachable)
        self._stream = self._holdings.stream
        self._waiters: dict[str, list[Callable[[], object]]] = {}
        self._appended: deque[tuple[int, int]] = deque()
        self._started_ns = 0
        self._clock_offset_ns = self._now_ns() - self._monotonic_ns()

    # ── decisions ──

    def reserve(
        self,
        client: str,
        project: str,
        model: str,
        input_tokens: int,
        max_output_tokens: int | None,
    ) -> Reservation | Denied:
        """Hold a call's tokens, or say why it may not start.

        Args:
            input_tokens: the estimate of all of them, cached included.
            max_output_tokens: what the request allows for the reply; None: not stated.
        """
        found = self._decide(client, project, model, input_tokens, max_output_tokens)
        if isinstance(found, Holding):
            tags = (client, project, model)
            return self._wait(found, tags, input_tokens, max_output_tokens).block()
        return found

    async def areserve(
        self,
        client: str,
        project: str,
        model: str,
        input_tokens: int,
        max_output_tokens: int | None,
    ) -> Reservation | Denied:
        """As `reserve`; a wait leaves the event loop free."""
        found = self._decide(client, project, model, input_tokens, max_output_tokens)
        if isinstance(found, Holding):
            tags = (client, project, model)
            return await self._wait(found, tags, input_tokens, max_output_tokens).sleep()
        return found

    def check(self, client: str, project: str, model: str, tokens: int) -> Denied | None:
        """Whether a call of `tokens` may start now; None: it may. Nothing is held for it."""
        found = self._look(client, project, model, tokens)
        if isinstance(found, Holding):
            tags = (client, project, model)
            found = self._wait_to_check(found, tags, tokens).block()
        return found if isinstance(found, Denied) else None

    async def acheck(self, client: str, project: str, model: str, tokens: int) -> Denied | None:
        """As `check`; a wait leaves the event loop free."""
        found = self._look(client, project, model, tokens)
        if isinstance(found, Holding):
            tags = (client, project, model)
            found = await self._wait_to_check(found, tags, tokens).sleep()
        return found if isinstance(found, Denied) else None

    def _decide(
        self,
        client: str,
        project: str,
        model: str,
        input_tokens: int,
        max_output_tokens: int | None,
    ) -> Reservation | Denied | Holding:
        with self._lock:
            if self._is_inside:
                return Reservation(0, input_tokens + (max_output_tokens or 0))
            self._is_inside = True
            try:
                found = self._holdings.decide(
                    client, project, model, input_tokens, max_output_tokens, self._monotonic_ns()
                )
            finally:
                self._is_inside = False
        if self._stream.has_news:
            self._tell()
        return found

    def _look(
        self, client: str, project: str, model: str, tokens: int
    ) -> Denied | Holding | Reservation | None:
        with self._lock:
            if self._is_inside:
                return None
            self._is_inside = True
            try:
                found = self._holdings.check(client, project, model, tokens, self._monotonic_ns())
            finally:
                self._is_inside = False
        if self._stream.has_news:
            self._tell()
        return found

    def _tell(self) -> None:
        """Wake the shipper, outside the lock, once for what has come up."""
        self._stream.has_news = False
        self._wake()

    # ── what the shipper's thread calls ──

    def connecting(self) -> None:
        """The channel is being connected: from now a first call waits its time."""
        if not self._started_ns:
            self._started_ns = self._monotonic_ns()
            self._answer_all()

    def connected(self) -> None:
        """A lease stream is open; `hello` is its first message, then what `take_requests` gives."""
        self.connecting()
        with self._locked():
            self._holdings.is_away = False
            self._stream.connected()
        self._answer_all()  # whoever waits for the channel now waits for an answer

    def disconnected(self) -> None:
        """The stream has ended, or none could be opened: until `connected` nobody waits."""
        self.connecting()
        with self._locked():
            self._holdings.is_away = True
            self._stream.disconnected()
        self._answer_all()

    def hello(self, hello: quota_pb2.LeaseHello) -> quota_pb2.LeaseRequest:
        """Complete the stream's first message by what is held.

        Args:
            hello: who the producer is, with `last_sequence`, the newest one appended.
        """
        with self._locked():
            self._note_appended()
            return self._stream.hello(hello, self._monotonic_ns())

    def tick(self) -> None:
        """See what has ended, expired or lies idle; every second, and when woken.

        Call `tick`, then append what finalisers left (`append_later`), then `take_requests`:
        so the last sequence of a lease is known before its release is sent.
        """
        with self._locked() as holdings:
            now = self._monotonic_ns()
            holdings.move_ended()
            self._note_appended()
            if self._has_slept(now):
                holdings.close_all()
            holdings.sweep(now)
            self._stream.gather_ended()

    def take_requests(self) -> list[quota_pb2.LeaseRequest]:
        """What is to be sent now, in this order; empty while no stream is open."""
        with self._locked():
            self._note_appended()
            now = self._monotonic_ns()
            self._stream.has_news = False
            return self._stream.requests(lambda holding: usual_tokens(holding, now), now)

    def on_response(self, response: quota_pb2.LeaseResponse) -> None:
        """Take an answer of the daemon; calls that waited for it go on."""
        client = ""
        with self._locked() as holdings:
            kind = response.WhichOneof("message")
            if kind == "grant":
                client = response.grant.client
                self._stream.on_grant(response.grant)
            elif kind == "denial":
                client = response.denial.client
                self._stream.on_denial(response.denial, self._monotonic_ns())
            elif kind == "revocation":
                client = response.revocation.client
                holdings.revoke(client, response.revocation.quota_version)
        for notify in self._waiters.get(client, ())[:]:
            notify()
        if self._stream.has_news:
            self._tell()

    def record_appended(self, lease_id: int, sequence: int) -> None:
        """Note the last record that names a lease. Takes no lock."""
        if lease_id and sequence:
            self._appended.append((lease_id, sequence))

    def close(self) -> None:
        """Return everything that is lent, as far as no call in flight needs it."""
        with self._locked() as holdings:
            holdings.close_all()
        self.tick()

    @contextmanager
    def _locked(self) -> Iterator[Holdings]:
        with self._lock:
            self._is_inside = True
            try:
                yield self._holdings
            finally:
                self._is_inside = False

    def _note_appended(self) -> None:
        while self._appended:
            lease_id, sequence = self._appended.popleft()
            lease = self._stream.leases.get(lease_id)
            if lease is not None and sequence > lease.last_sequence:
                lease.last_sequence = sequence

    def _has_slept(self, now: int) -> bool:
        """Whether the host was suspended: its wall clock went on, the monotonic one did not."""
        offset_ns = self._now_ns() - now
        has_slept = offset_ns - self._clock_offset_ns > _SUSPENDED_NS
        self._clock_offset_ns = offset_ns
        return has_slept

    # ── waiting ──

    def _wait(
        self,
        holding: Holding,
        tags: tuple[str, str, str],
        input_tokens: int,
        max_output_tokens: int | None,
    ) -> Wait[Reservation | Denied]:
        reply = REPLY_TOKENS_BEFORE if max_output_tokens is None else max_output_tokens
        return Wait(
            self,
            holding,
            tags,
            input_tokens + reply,
            lambda: self._decide(*tags, input_tokens, max_output_tokens),
        )

    def _wait_to_check(
        self, holding: Holding, tags: tuple[str, str, str], tokens: int
    ) -> Wait[Reservation | Denied | None]:
        return Wait(self, holding, tags, tokens, lambda: self._look(*tags, tokens))

    def now(self) -> int:
        """The monotonic clock."""
        return self._monotonic_ns()

    def deadline_ns(self, asked_ns: int) -> int:
        """Until when a call that asked then may wait."""
        if not self._started_ns:
            return asked_ns + START_MS_MAX * _MS + self._timeout_ns
        return max(asked_ns, self._started_ns) + self._timeout_ns

    def join(self, holding: Holding, notify: Callable[[], object], tokens: int) -> None:
        """Have `notify` called with every answer for the holding's client."""
        with self._locked():
            holding.waiting_tokens += tokens
            self._waiters.setdefault(holding.account.client, []).append(notify)

    def leave(self, holding: Holding, notify: Callable[[], object], tokens: int) -> None:
        """Undo `join`."""
        client = holding.account.client
        with self._locked():
            holding.waiting_tokens -= tokens
            waiters = self._waiters.get(client, [])
            if notify in waiters:  # not so in a child forked in between
                waiters.remove(notify)
            if not waiters:
                self._waiters.pop(client, None)

    def give_up(
        self, holding: Holding, client: str, project: str, model: str, tokens: int
    ) -> Reservation | Denied:
        """The decision where the answer did not come in time."""
        with self._locked() as holdings:
            return holdings.give_up(holding, client, project, model, tokens)

    def _answer_all(self) -> None:
        for waiters in list(self._waiters.values()):
            for notify in waiters[:]:
                notify()
