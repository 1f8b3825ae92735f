"""Delivery: one producer's side of the Ship stream, without the network.

    new stream ─▶ begin() ─▶ Hello
    response   ─▶ receive()      Welcome │ Acknowledgment │ BatchRefused │ NotNow
    whenever   ─▶ next_request() Loss │ Batch │ Report │ Heartbeat, or None: nothing to say yet
    broken     ─▶ end()          then wait `backoff_ms`, and begin again

Sends from the ledger's watermark on, so that what was lost on the way is sent again and what
was only not acknowledged costs a resend that the ledger skips. What the producer no longer
has is declared lost, with the reason, and stepped over: a gap never blocks what is behind it.
Reads the directory through `Outbox`; moments come in as arguments.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from meterd_middleware.batch import Batches
from meterd_middleware.usage import SCHEMA
from meterd_proto.v1 import usage_pb2

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from meterd_middleware.backlog import Run
    from meterd_middleware.directory import Acknowledged

BATCH_RECORDS_MAX = 4_096
BATCH_BYTES_MAX = 2**20
"""Payload bytes; a batch in columns is smaller. Both also bounded by the Welcome."""

WINDOW_BATCHES = 48
"""How many may be unacknowledged: beyond, the producer waits for the daemon, whose
transactions take what has come, and cost less a record the more that is. With 8, each waited
for the other half of the time."""

BACKOFF_MS = 50
BACKOFF_MS_MAX = 5_000
REPORT_INTERVAL_MS = 1_000
ANSWER_MS_MAX = 30_000
"""A stream on which nothing is acknowledged for so long is given up and begun again."""


class Outbox(Protocol):
    """A producer's directory, as delivery sees it: the process's own spool, or an adopted one."""

    @property
    def producer(self) -> bytes: ...
    @property
    def acknowledged(self) -> Acknowledged: ...
    @property
    def oldest_sequence(self) -> int: ...
    @property
    def next_sequence(self) -> int: ...
    @property
    def open_calls(self) -> int: ...
    @property
    def oldest_open_at_unix_ns(self) -> int: ...
    def read(self, after: int, records_max: int, bytes_max: int) -> Run:
        """The next records beyond a sequence, in order."""
        ...

    def meet(self, watermark: int) -> None:
        """A ledger says up to where it has the records, before anything is sent to it."""
        ...

    def acknowledge(self, ledger_id: bytes, watermark: int) -> None:
        """Remember up to where a ledger has the records."""
        ...

    def set_aside(self, first: int, last: int) -> None:
        """Keep what a daemon refused for somebody to look at."""
        ...

    def report(self) -> usage_pb2.Report:
        """What was counted beside records."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Who sends: what Hello says of the producer beside its sequences."""

    service: str
    host: str
    pid: int
    version: str
    is_adopted: bool = False


class _Range(NamedTuple):
    """Sequences that will not be sent, and why."""

    first: int
    last: int
    reason: str


class _Sent(NamedTuple):
    """A batch or loss on its way, not acknowledged yet."""

    last: int
    at_ns: int


class Delivery:
    """The state of one producer's stream, from one connection to the next. One thread's."""

    def __init__(
        self,
        outbox: Outbox,
        sender: Sender,
        *,
        random: Random,
        heartbeat_interval_ms: int = 10_000,
        report: Callable[[], usage_pb2.Report] | None = None,
    ) -> None:
        """`report`: what was counted beside records; by default what the outbox says."""
        self._outbox, self._sender, self._random = outbox, sender, random
        self._report = report or outbox.report
        self._heartbeat_ns = heartbeat_interval_ms * 1_000_000
        self._batches = Batches()
        self._failures = 0
        self._refused: dict[int, _Range] = {}
        self._suspect_last = 0
        self._suspect_max = 0
        self.watermark = 0
        self.fault = ""
        """What the daemon last said against committing or taking a batch; empty: nothing."""
        self._reset()

    def _reset(self) -> None:
        self.is_welcome = False
        self.is_usurped = False
        """The ledger has records of this producer that it never appended: somebody else, a
        copy of the directory, ships under its id. A living process has to take a new one."""
        self._watermark_at_welcome = 0
        self._cursor = 0
        self._in_flight: deque[_Sent] = deque()
        self._held: Run | None = None
        self._elsewhere = _Range(0, 0, "")
        self._records_max, self._bytes_max = BATCH_RECORDS_MAX, BATCH_BYTES_MAX
        self._silent_until_ns = self._said_at_ns = self._heard_at_ns = 0
        self._report_due_ns = 0
        self._reported = b""

    # ── the life of a stream ──

    def begin(self) -> usage_pb2.ShipRequest:
        """A new stream: its first message."""
        self._reset()
        outbox, sender = self._outbox, self._sender
        acknowledged = outbox.acknowledged
        return usage_pb2.ShipRequest(
            hello=usage_pb2.Hello(
                producer=outbox.producer,
                service=sender.service,
                host=sender.host,
                pid=sender.pid,
                version=sender.version,
                schema=SCHEMA,
                is_adopted=sender.is_adopted,
                ledger_id=acknowledged.ledger_id,
                acknowledged_sequence=acknowledged.watermark,
                oldest_sequence=outbox.oldest_sequence,
                next_sequence=outbox.next_sequence,
            )
        )

    def receive(self, response: usage_pb2.ShipResponse, monotonic_ns: int) -> None:
        """Take one message of the daemon."""
        self._heard_at_ns = monotonic_ns
        kind = response.WhichOneof("message")
        if kind == "welcome":
            self._welcome(response.welcome)
        elif not self.is_welcome:
            return
        elif kind == "acknowledgment":
            self._acknowledge(response.acknowledgment.watermark)
        elif kind == "not_now":
            self._go_back()
            pause_ms = max(BACKOFF_MS, min(BACKOFF_MS_MAX, response.not_now.pause_ms))
            self._silent_until_ns = monotonic_ns + pause_ms * 1_000_000
            self.fault = response.not_now.reason
        elif kind == "batch_refused":
            refused = response.batch_refused
            self._refuse(refused.first_sequence, refused.last_sequence, refused.reason)

    def end(self) -> None:
        """The stream is over, whoever ended it."""
        has_advanced = self.watermark > self._watermark_at_welcome
        if self.is_welcome and (has_advanced or not self._in_flight):
            self._failures = 0
        self._failures += 1
        self.is_welcome = False

    def backoff_ms(self) -> int:
        """How long to wait before the next attempt: doubling up to 5 s, and half of it chance.

        Chance keeps the producers of a host from all coming back at the same moment.
        """
        ceiling = min(BACKOFF_MS_MAX, BACKOFF_MS << min(self._failures, 16))
        return ceiling // 2 + self._random.randrange(ceiling // 2 + 1)

    # ── what to send ──

    def next_request(self, monotonic_ns: int, now_unix_ns: int) -> usage_pb2.ShipRequest | None:
        """The next message; None: nothing to say, or not before something happens."""
        if not self.is_welcome or monotonic_ns < self._silent_until_ns:
            return None
        request = self._next_records(monotonic_ns, now_unix_ns) or self._next_report(monotonic_ns)
        if request is None and monotonic_ns - self._said_at_ns >= self._heartbeat_ns:
            request = self._heartbeat(now_unix_ns)
        if request is not None:
            self._said_at_ns = monotonic_ns
        return request

    def goodbye(self) -> usage_pb2.ShipRequest:
        """The producer ends in good order; to be said only once `is_drained`."""
        return usage_pb2.ShipRequest(goodbye=usage_pb2.Goodbye(last_sequence=self.watermark))

    @property
    def is_drained(self) -> bool:
        """Whether everything appended is in the ledger, or declared lost."""
        return self.is_welcome and self.watermark + 1 >= self._outbox.next_sequence

    @property
    def cursor(self) -> int:
        """The newest sequence that was sent on this stream, or that the ledger had before."""
        return self._cursor

    def has_unsaid(self, monotonic_ns: int) -> bool:
        """Whether records wait that may be sent now."""
        return (
            self._cursor + 1 < self._outbox.next_sequence
            and len(self._in_flight) < WINDOW_BATCHES
            and monotonic_ns >= self._silent_until_ns
        )

    def is_given_up(self, monotonic_ns: int) -> bool:
        """Whether the daemon is silent for too long on something that it has to answer."""
        if not self._in_flight or monotonic_ns < self._silent_until_ns:
            return False
        since = max(self._heard_at_ns, self._silent_until_ns, self._in_flight[0].at_ns)
        return monotonic_ns - since > ANSWER_MS_MAX * 1_000_000

    def wait_ns(self, monotonic_ns: int) -> int:
        """How long nothing new is to be said by the passing of time alone."""
        due = min(self._said_at_ns + self._heartbeat_ns, self._report_due_ns)
        return max(0, self._silent_until_ns - monotonic_ns, due - monotonic_ns)

    # ── answers ──

    def _welcome(self, welcome: usage_pb2.Welcome) -> None:
        self.is_welcome, self.fault = True, ""
        self._ledger_id = welcome.ledger_id
        self.watermark = self._cursor = self._watermark_at_welcome = welcome.watermark
        self._records_max = min(BATCH_RECORDS_MAX, welcome.batch_records_max or BATCH_RECORDS_MAX)
        self._bytes_max = min(BATCH_BYTES_MAX, welcome.batch_bytes_max or BATCH_BYTES_MAX)
        self._outbox.meet(welcome.watermark)
        before = self._outbox.acknowledged
        if before.ledger_id and before.ledger_id != welcome.ledger_id:
            if before.watermark > welcome.watermark:
                reason = f"acknowledged by another ledger, {before.ledger_id.hex()}"
                self._elsewhere = _Range(welcome.watermark + 1, before.watermark, reason)
        elif before != (welcome.ledger_id, welcome.watermark) and welcome.watermark:
            # A lower watermark than before: the ledger was restored from a backup, and is
            # filled again from what is kept.
            self._outbox.acknowledge(welcome.ledger_id, welcome.watermark)
        self.is_usurped = welcome.watermark >= self._outbox.next_sequence

    def _acknowledge(self, watermark: int) -> None:
        if watermark <= self.watermark:
            return
        self.watermark, self.fault = watermark, ""
        while self._in_flight and self._in_flight[0].last <= watermark:
            self._in_flight.popleft()
        if watermark > self._cursor:
            self._cursor, self._held = watermark, None
        before = self._outbox.acknowledged
        if before.ledger_id in (b"", self._ledger_id) or watermark >= before.watermark:
            self._outbox.acknowledge(self._ledger_id, watermark)

    def _go_back(self) -> None:
        """Begin again behind the watermark: what is on its way will not be taken."""
        self._cursor = self.watermark
        self._in_flight.clear()
        self._held = None

    def _refuse(self, first: int, last: int, reason: str) -> None:
        """A batch of ours is broken: halve it until one record is left to blame, and lose that.

        The stream ends with this message; what follows is for the next one.
        """
        self.fault = f"records {first} to {last} refused: {reason}"
        if first > self.watermark + 1 or last >= self._outbox.next_sequence:
            return  # not the next the ledger waits for: sent again, in its turn, it is judged anew
        first = self.watermark + 1
        if last < first:
            return
        if last > first:
            self._suspect_last, self._suspect_max = last, (last - first + 1) // 2
        else:
            self._refused[first] = _Range(first, last, f"refused: {reason}")
            self._outbox.set_aside(first, last)

    # ── messages ──

    def _next_records(self, monotonic_ns: int, now_unix_ns: int) -> usage_pb2.ShipRequest | None:
        following = self._cursor + 1
        if len(self._in_flight) >= WINDOW_BATCHES or following >= self._outbox.next_sequence:
            return None
        if following == self._elsewhere.first:
            return self._lose(self._elsewhere, monotonic_ns)
        if following in self._refused:
            return self._lose(self._refused[following], monotonic_ns)
        run = self._held or self._outbox.read(self._cursor, self._room(), self._bytes_max)
        self._held = None
        if run.first_sequence > following:
            self._held = run if run.frames else None
            lost = _Range(following, run.first_sequence - 1, self._why_missing(run))
            return self._lose(lost, monotonic_ns)
        if not run.frames:
            return None
        self._cursor = run.frames[-1][1]
        self._in_flight.append(_Sent(self._cursor, monotonic_ns))
        batch = self._batches.batch_of(
            run.frames,
            sent_at_unix_ns=now_unix_ns,
            highest_appended_sequence=self._outbox.next_sequence - 1,
        )
        return usage_pb2.ShipRequest(batch=batch)

    def _room(self) -> int:
        """How many records the next batch may have: none beyond one that is refused."""
        room = self._records_max
        if self._cursor < self._suspect_last:
            room = min(room, max(1, self._suspect_max))
        for refused in self._refused:
            if refused > self._cursor:
                room = min(room, refused - self._cursor - 1)
        return room

    def _why_missing(self, run: Run) -> str:
        if run.first_sequence - 1 <= self._outbox.acknowledged.watermark:
            return "acknowledged before, and no longer kept"
        return run.why_missing

    def _lose(self, lost: _Range, monotonic_ns: int) -> usage_pb2.ShipRequest:
        self._cursor = lost.last
        self._in_flight.append(_Sent(lost.last, monotonic_ns))
        return usage_pb2.ShipRequest(
            loss=usage_pb2.Loss(
                first_sequence=lost.first, last_sequence=lost.last, reason=lost.reason
            )
        )

    def _next_report(self, monotonic_ns: int) -> usage_pb2.ShipRequest | None:
        """What the producer counted, where it changed; looked at once a second."""
        if monotonic_ns < self._report_due_ns:
            return None
        self._report_due_ns = monotonic_ns + REPORT_INTERVAL_MS * 1_000_000
        report = self._report()
        spool_bytes, report.spool_bytes = report.spool_bytes, 0
        counted = report.SerializeToString(deterministic=True)
        if counted == self._reported:
            return None
        self._reported, report.spool_bytes = counted, spool_bytes
        return usage_pb2.ShipRequest(report=report)

    def _heartbeat(self, now_unix_ns: int) -> usage_pb2.ShipRequest:
        return usage_pb2.ShipRequest(
            heartbeat=usage_pb2.Heartbeat(
                sent_at_unix_ns=now_unix_ns,
                highest_appended_sequence=self._outbox.next_sequence - 1,
                open_calls=self._outbox.open_calls,
                oldest_open_at_unix_ns=self._outbox.oldest_open_at_unix_ns,
            )
        )
