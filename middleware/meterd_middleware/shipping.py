"""Shipping dead producers' directories to their end, by whoever adopts them.

    adoptable(root) ─▶ Adopted ─▶ ship_directory over a channel ─▶ finished

The shipper's thread of a living process does it beside its own stream, `meterctl ship` does
nothing else. meterd itself has no need of a channel: it talks to its own ledger (delivery.py).
"""

from __future__ import annotations

import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

from meterd_middleware.adoption import Adopted, adoptable
from meterd_middleware.delivery import Delivery, Sender
from meterd_middleware.heard import Heard
from meterd_middleware.version import VERSION
from meterd_proto.v1.usage_pb2 import ShipResponse

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from meterd_middleware.channel import Channel, Inbox, ShipStream
    from meterd_middleware.disk import Disk

STREAMS_MAX = 64
"""How many streams one directory gets where the daemon refuses batches of it: each halves one."""
GOODBYE_S_MAX = 1.0
POLITE_RATIO = 4


class Shipped(NamedTuple):
    """What became of one directory."""

    path: str
    producer: str
    """`service@host`, as people see it."""
    records: int
    """That this adopter brought to the ledger."""
    interrupted_calls: int
    torn_bytes: int
    is_finished: bool
    """All of it is in the ledger, or declared lost."""
    fault: str = ""
    """Why it isn't finished, or can't be read; empty: it is."""
    is_daemon_away: bool = False
    """The fault is the connection's: the next directory would fare no better."""


def sender_of(adopted: Adopted) -> Sender:
    """How an adopted producer introduces itself: as the process that died."""
    who = adopted.identity
    return Sender(
        service=who.service,
        host=who.host,
        pid=who.pid,
        version=who.version or VERSION,
        is_adopted=True,
    )


def ship_root(
    disk: Disk,
    root: str,
    channel: Channel,
    *,
    random: Random,
    again: bool = False,
    is_polite: bool = False,
    is_stopped: Callable[[], bool] = lambda: False,
    tell: Callable[[Shipped], object] = lambda shipped: None,
) -> list[Shipped]:
    """Ship every dead producer's directory of a spool root; returns what became of each.

    Args:
        again: also those that are finished, for a ledger that was restored from a backup.
        is_polite: work a fifth of the time at most: an app has other things to do.
        is_stopped: asked between messages.
        tell: called with each as it ends.
    """
    done = []

    def cannot_read(path: str, error: OSError) -> None:
        unread = Shipped(path, "", 0, 0, 0, False, f"{type(error).__name__}: {error.strerror}")
        done.append(unread)
        tell(unread)

    for adopted in adoptable(disk, root, again=again, tell=cannot_read):
        shipped = ship_directory(
            adopted, channel, random=random, is_polite=is_polite, is_stopped=is_stopped
        )
        done.append(shipped)
        tell(shipped)
        if is_stopped() or shipped.is_daemon_away:
            break
    return done


def ship_directory(
    adopted: Adopted,
    channel: Channel,
    *,
    random: Random,
    is_polite: bool = False,
    is_stopped: Callable[[], bool] = lambda: False,
    monotonic_ns: Callable[[], int] = time.monotonic_ns,
    now_ns: Callable[[], int] = time.time_ns,
) -> Shipped:
    """Ship one adopted directory to its end and mark it finished; else let go of it."""
    delivery = Delivery(adopted, sender_of(adopted), random=random)
    passage = _Passage(delivery, channel, is_stopped, is_polite, monotonic_ns, now_ns)
    ended = ""
    try:
        for _ in range(STREAMS_MAX):
            ended = passage.run()
            if delivery.is_drained or not passage.was_refused or is_stopped():
                break
        is_finished = delivery.is_drained
        if is_finished:
            adopted.finish()
    finally:
        adopted.release()
    return Shipped(
        adopted.path,
        f"{adopted.identity.service}@{adopted.identity.host}",
        passage.records,
        adopted.interrupted_calls,
        adopted.torn_bytes,
        is_finished,
        "" if is_finished else ended or delivery.fault,
        is_daemon_away=not is_finished and not passage.was_refused,
    )


class _Passage:
    """One directory's way over a channel: a stream, or several where batches are refused."""

    def __init__(
        self,
        delivery: Delivery,
        channel: Channel,
        is_stopped: Callable[[], bool],
        is_polite: bool,
        monotonic_ns: Callable[[], int],
        now_ns: Callable[[], int],
    ) -> None:
        self._delivery, self._channel, self._is_stopped = delivery, channel, is_stopped
        self._monotonic_ns, self._now_ns = monotonic_ns, now_ns
        self._is_polite = is_polite
        self._inbox: Inbox = SimpleQueue()
        self.records = 0
        self.was_refused = False

    def run(self) -> str:
        """One stream; returns why it ended before all was shipped, or nothing."""
        delivery = self._delivery
        self.was_refused = False
        stream = self._channel.ship(self._inbox)
        stream.send(delivery.begin())
        ended = ""
        while not ended and not delivery.is_drained and not self._is_stopped():
            ended = self._hear(stream)
            self._say(stream)
        if delivery.is_drained:
            self._say(stream)  # what it counted beside records
            stream.send(delivery.goodbye())
            stream.finish()
            self._await_end(stream)
            return ""
        stream.cancel()
        delivery.end()
        return ended or "stopped"

    def _say(self, stream: ShipStream) -> None:
        while not self._is_stopped():
            start = self._monotonic_ns()
            request = self._delivery.next_request(start, self._now_ns())
            if request is None:
                return
            stream.send(request)
            if self._is_polite:
                time.sleep(POLITE_RATIO * (self._monotonic_ns() - start) / 1e9)

    def _hear(self, stream: ShipStream) -> str:
        """Take what comes next; returns why the stream ended, once it has."""
        delivery = self._delivery
        wait_s = min(1.0, max(0.01, delivery.wait_ns(self._monotonic_ns()) / 1e9))
        try:
            heard = self._inbox.get(timeout=wait_s)
        except Empty:
            if delivery.is_given_up(self._monotonic_ns()):
                return "no answer"
            return ""
        if not isinstance(heard, Heard) or heard.stream is not stream:
            return ""
        if not isinstance(heard.response, ShipResponse):
            return heard.ended
        watermark, was_welcome = delivery.watermark, delivery.is_welcome
        delivery.receive(heard.response, self._monotonic_ns())
        if was_welcome:
            self.records += delivery.watermark - watermark
        self.was_refused |= heard.response.HasField("batch_refused")
        return ""

    def _await_end(self, stream: ShipStream) -> None:
        """Wait a moment for the daemon to have read the goodbye."""
        deadline = self._monotonic_ns() + int(GOODBYE_S_MAX * 1e9)
        while (left := deadline - self._monotonic_ns()) > 0:
            try:
                heard = self._inbox.get(timeout=left / 1e9)
            except Empty:
                return
            if isinstance(heard, Heard) and heard.stream is stream and heard.response is None:
                return
