"""What is told to the outside when something happens: the log, every tail, and a hook.

    a quota crosses a threshold ─▶ prepare ─ file in the outbox ─▶ claimed in the ledger ─▶ tell
                                                └─ delivered, retried ─▶ command | webhook

Each event is told at least once, whenever the daemon dies: it is written into the outbox
first, then claimed in the ledger, and its file deleted once the hook took it (without a hook:
once it was logged). What a start finds in the outbox, and the first look at the quotas has not
told, is told again, under the same idempotency key.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from dataclasses import asdict, dataclass, fields
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol

from meterd.delivery import NotDelivered, deliver
from meterd.errors import StorageFault

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meterd.config.agency import Hook

_log = logging.getLogger("meterd")

RETRY_PAUSES_S = (1.0, 5.0, 30.0, 120.0, 600.0)
"""After each failure in turn; the last one again and again."""

DELIVERIES_MAX = 8
"""Deliveries at the same time; what waits for its next attempt isn't one of them."""

EVENTS_WAITING_MAX = 10_000
"""Beyond it events stay in the outbox, for the next start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdEvent:
    """A quota crossed one of its thresholds, for the first time in its period."""

    rule: str
    """The quota, as "client acme-corp"; with its project or model."""
    client: str
    """Empty for the agency's own."""
    period: str
    percent: str
    """Of the quota, as "80"; of the cap where `of` says so."""
    of: str
    """"quota" or "cap"."""
    used: int
    limit: int
    quota_version: int
    at_unix_ns: int
    plan: str = ""

    @property
    def key(self) -> str:
        """What a receiver tells a repeated delivery by."""
        told = (self.rule, self.period, self.quota_version, self.of, self.percent)
        return sha256(repr(told).encode()).hexdigest()[:32]

    def sentence(self) -> str:
        """As the log and `meterctl tail` say it."""
        return (
            f"{self.rule} has used {self.used:,} of the {self.limit:,} tokens of its {self.of} "
            f"in {self.period}: {self.percent}% reached"
        )

    def body(self) -> bytes:
        """As a hook gets it: JSON with sorted keys, so that one event has one text."""
        told = {"schema": "meterd.threshold/1", "id": self.key, **asdict(self)}
        return json.dumps(told, sort_keys=True).encode()


class Announcements:
    """Sentences for whoever follows `meterctl tail`; nobody listening is no loss."""

    def __init__(self) -> None:
        self._told: list[Callable[[str, str], None]] = []

    def subscribe(self, told: Callable[[str, str], None]) -> Callable[[], None]:
        """Have `told(client, sentence)` called for each from now on; returns what ends that."""
        self._told.append(told)
        return lambda: self._told.remove(told)

    def announce(self, client: str, sentence: str) -> None:
        """Tell every follower; an empty client concerns them all."""
        for told in list(self._told):
            told(client, sentence)


class Delivery(Protocol):
    """Takes an event to where a hook points."""

    async def __call__(self, hook: Hook, key: str, body: bytes) -> None:
        """Deliver once.

        Raises:
            NotDelivered: the receiver didn't take it.
        """
        ...


class Hooks:
    """Thresholds on their way to the log, the tails and the hook of the configuration."""

    def __init__(
        self,
        outbox: Path,
        hook: Callable[[], Hook | None],
        announcements: Announcements,
        *,
        delivery: Delivery = deliver,
        pauses_s: tuple[float, ...] = RETRY_PAUSES_S,
    ) -> None:
        self._outbox = outbox
        self._hook = hook
        self._announcements = announcements
        self._deliver = delivery
        self._pauses_s = pauses_s
        self._room = asyncio.Semaphore(DELIVERIES_MAX)
        self._pending: set[Path] = set()
        self._told: set[str] = set()
        self._has_looked = asyncio.Event()
        self._waiting: asyncio.Queue[Path] = asyncio.Queue(EVENTS_WAITING_MAX)

    async def prepare(self, event: ThresholdEvent) -> bool:
        """Write an event where a crash can't lose it; before it is claimed in the ledger.

        Returns:
            False where that was done before: it is not to be withdrawn.

        Raises:
            StorageFault: it can't be written now; nothing was claimed, so ask again.
        """
        path = self._path(event)
        if await asyncio.to_thread(path.exists):
            return False
        try:
            await asyncio.to_thread(_write, path, event.body())
        except OSError as error:
            raise StorageFault(f"{path} can't be written: {error.strerror}") from error
        return True

    async def withdraw(self, event: ThresholdEvent) -> None:
        """Forget an event that was prepared, but had been claimed, and told, long before."""
        await asyncio.to_thread(_remove, self._path(event))

    def tell(self, event: ThresholdEvent) -> None:
        """Tell of an event that was prepared and claimed."""
        self._told.add(event.key)
        self._say(event)
        if self._hook() is not None:
            self._put(self._path(event))
        else:
            _remove(self._path(event))

    def looked(self) -> None:
        """Every quota was looked at since the start: what else lies in the outbox is told now."""
        self._has_looked.set()

    async def run(self) -> None:
        """Deliver what waits, until cancelled."""
        async with asyncio.TaskGroup() as deliveries:
            deliveries.create_task(self._tell_left_over())
            while True:
                path = await self._waiting.get()
                delivery = deliveries.create_task(self._until_delivered(path))
                delivery.add_done_callback(partial(self._done, path))

    async def _tell_left_over(self) -> None:
        """Tell what the last process had claimed and perhaps not told.

        After the first look, since that tells what was prepared and not claimed: the other way
        round such an event would be told twice.
        """
        await self._has_looked.wait()
        for path in await asyncio.to_thread(_left_over, self._outbox):
            if path.stem in self._told:
                continue
            event = await asyncio.to_thread(_read, path)
            if event is not None:
                self._say(event)
            if self._hook() is not None:
                self._put(path)
            elif event is not None:
                await asyncio.to_thread(_remove, path)

    def _say(self, event: ThresholdEvent) -> None:
        sentence = event.sentence()
        _log.warning("%s", sentence)
        self._announcements.announce(event.client, sentence)

    async def _until_delivered(self, path: Path) -> None:
        """Deliver one event; each waits on its own, so that no dead receiver holds up another."""
        failures = 0
        while True:
            hook = self._hook()
            try:
                body = await asyncio.to_thread(path.read_bytes)
            except OSError:
                return  # delivered already: it was found at start and told again
            if hook is None:
                return  # taken out of the configuration; the next start sees what to do
            try:
                async with self._room:
                    await self._deliver(hook, path.stem, body)
            except NotDelivered as error:
                pause_s = self._pauses_s[min(failures, len(self._pauses_s) - 1)]
                _log.warning("on_threshold: %s; again in %g s", error, pause_s)
                failures += 1
                await asyncio.sleep(pause_s)
            else:
                await asyncio.to_thread(_remove, path)
                return

    def _put(self, path: Path) -> None:
        if path in self._pending:
            return  # a start found in the outbox what is told just then
        try:
            self._waiting.put_nowait(path)
            self._pending.add(path)
        except asyncio.QueueFull:
            _log.error("on_threshold: %d events wait; the next start goes on", EVENTS_WAITING_MAX)

    def _done(self, path: Path, _: asyncio.Task[None]) -> None:
        self._pending.discard(path)

    def _path(self, event: ThresholdEvent) -> Path:
        return self._outbox / f"{event.key}.json"


def _write(path: Path, body: bytes) -> None:
    """Write a file whole or not at all, durable when this returns."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, body)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _remove(path: Path) -> None:
    """Take an event out of the outbox; one that stays is told again at the next start."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("%s can't be removed: %s", path, error.strerror)


def _read(path: Path) -> ThresholdEvent | None:
    """An event as it was written; None: it is gone, or a newer meterd's."""
    try:
        told = json.loads(path.read_bytes())
        return ThresholdEvent(**{field.name: told[field.name] for field in fields(ThresholdEvent)})
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _left_over(outbox: Path) -> list[Path]:
    return sorted(outbox.glob("*.json")) if outbox.is_dir() else []
