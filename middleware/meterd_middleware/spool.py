"""The spool: one process's directory of records, between the app and the shipper.

    exchange ─ open_call ─▶ ┐
    exchange ─ append ────▶ ├─ open segment ──seal──▶ sealed segments ──read──▶ shipper
    shipper ─ acknowledge ▶ ┘                          deleted `acknowledged_keep` later

`append` returns when the bytes are with the operating system: the death of the process loses
nothing; a power cut loses at most the last `sync_interval_ms`. A sequence is taken by the
write that succeeds. A full spool refuses and counts; it never drops what it accepted. One
process a directory: its lock is free again when the process is gone, and who finds it so may
adopt it (adoption.py). Format: docs/architecture.md, "Segment".
"""

from __future__ import annotations

import os
import time
from itertools import count
from threading import Lock, get_ident
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from meterd_middleware import directory
from meterd_middleware.backlog import Backlog, Contents, Run
from meterd_middleware.directory import Acknowledged, Counters, SegmentName
from meterd_middleware.payload import OpenCall as OpenCall
from meterd_middleware.payload import Payload, open_payload, record_payload
from meterd_middleware.segment import KIND_OPEN, KIND_RECORD
from meterd_middleware.segment_writer import RESERVE_BYTES_MAX, SegmentWriter
from meterd_middleware.segment_writer import Limits as Limits
from meterd_middleware.usage import SCHEMA
from meterd_proto.v1 import spool_pb2, usage_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from meterd_middleware.disk import Disk
    from meterd_middleware.usage import UsageRecord

OPEN_RESERVE_BYTES = RESERVE_BYTES_MAX
"""Of `spool_bytes_max` the last MiB (or an eighth) takes records alone, no open calls, so that
a call that got its open frame in nearly always gets its record in too."""

UNSYNCED_MAX = 8
"""Sealed segments that may wait for their fsync; beyond, the oldest goes without."""

PASSES_MAX = 100
"""How often a thread lets others run before it waits for the lock itself."""

BUSY = -1
"""Instead of a sequence: this very thread is in the middle of another append."""


_yield: Callable[[], object] = getattr(os, "sched_yield", lambda: time.sleep(0))


class Identity(NamedTuple):
    """Who appends; people see `service@host`."""

    service: str = ""
    host: str = ""
    pid: int = 0
    version: str = ""


_Opened: TypeAlias = tuple[SegmentName, int, Payload]
"""A call under way: the segment in which its frame stands, since when, and the frame's payload."""


class Spool:
    """A producer's directory, open for appending. Safe for threads; not across a fork."""

    def __init__(
        self,
        disk: Disk,
        root: str,
        producer: bytes,
        identity: Identity,
        limits: Limits,
        *,
        created_at_unix_ns: int,
    ) -> None:
        """Make the directory.

        Raises:
            OSError: it can't be made; nothing is left that anybody would adopt.
        """
        self.producer, self.identity, self.root = producer, identity, root
        self.path = f"{root}/{producer.hex()}"
        self.counters, self.acknowledged = Counters(), Acknowledged()
        self._disk, self._limits = disk, limits
        self._created_at_unix_ns = created_at_unix_ns
        self._lock = Lock()
        self._owner = 0
        self.next_call: Callable[[], int] = count(1).__next__
        """A number for a call that is about to be opened: 1, 2, 3 …"""
        self._open_calls: dict[int, _Opened] = {}
        self._closed_unopened: set[int] = set()
        self._synced = (SegmentName(0), 0)
        self._has_synced_open = False
        self._is_given_up = False
        self._is_directory_synced = False
        self._reserve = min(OPEN_RESERVE_BYTES, limits.spool_bytes_max // 8)
        self._lock_fd = self._counters_fd = self._acknowledged_fd = -1
        self._make()
        self._backlog = Backlog(disk, self.path, self._contents)

    # ── appending: any thread ──

    def open_call(self, opened: OpenCall, call: int) -> int:
        """Note a call that is about to be sent; returns its number, 0 where it was refused."""
        me = get_ident()
        if self._owner == me:
            return BUSY
        payload = open_payload(call, opened)
        if self._lock.locked():
            self._let_pass()
        with self._lock:
            self._owner = me
            try:
                if call in self._closed_unopened:  # it came late, by way of the shipper's thread
                    self._closed_unopened.discard(call)
                    return call
                if not self._writer.put(KIND_OPEN, payload, self._reserve):
                    self.counters.dropped_open_frames += 1
                    self._save_counters()
                    return 0
                self._open_calls[call] = (self._writer.name, opened.occurred_at_unix_ns, payload)
                return call
            finally:
                self._owner = 0

    def append(self, record: UsageRecord, closes: int = 0) -> int:
        """Append a record; returns its sequence, 0 where it was refused and counted.

        Args:
            record: finished.
            closes: the number of the open call that it ends; 0: none.
        """
        me = get_ident()
        if self._owner == me:
            return BUSY
        payload = record_payload(record, closes)
        if self._lock.locked():
            self._let_pass()
        with self._lock:
            self._owner = me
            try:
                if self._writer.put(KIND_RECORD, payload):
                    if closes and self._open_calls.pop(closes, None) is None:
                        self._closed_unopened.add(closes)
                    return self._writer.next_sequence - 1
                if not self.is_released:  # else it goes elsewhere, or is counted there
                    self.counters.refused_records += 1
                    self.counters.refused_tokens += record.tokens
                    self._save_counters()
                return 0
            finally:
                self._owner = 0

    @property
    def refusal(self) -> str:
        """Why the newest frame was refused; empty where it was taken."""
        return self._writer.refusal

    # ── reading, acknowledging, trimming: the shipper's thread ──

    @property
    def next_sequence(self) -> int:
        """One beyond the newest record's."""
        return self._writer.next_sequence

    @property
    def oldest_sequence(self) -> int:
        """The oldest record's that is still kept; 0: none."""
        oldest = self._contents().segments[0].name.first_sequence
        return oldest if oldest < self.next_sequence else 0

    @property
    def open_calls(self) -> int:
        """How many calls are under way."""
        return len(self._open_calls)

    @property
    def oldest_open_at_unix_ns(self) -> int:
        """When the oldest call that is under way began; 0: none is."""
        with self._lock:
            return min((since for _, since, _ in self._open_calls.values()), default=0)

    @property
    def held_bytes(self) -> int:
        """What the segments hold, acknowledged ones included."""
        return self._writer.held_bytes

    def read(self, after: int, records_max: int, bytes_max: int) -> Run:
        """The next records beyond a sequence, in order."""
        return self._backlog.read(after, records_max, bytes_max)

    def report(self) -> usage_pb2.Report:
        """What was counted beside records."""
        return usage_pb2.Report(
            refused_records=self.counters.refused_records,
            refused_tokens=self.counters.refused_tokens,
            torn_bytes=self.counters.torn_bytes,
            dropped_open_frames=self.counters.dropped_open_frames,
            spool_bytes=self.held_bytes,
            spool_directory=self.path,
        )

    def meet(self, watermark: int) -> None:
        """Nothing to learn: a living producer alone says what it appended."""

    def acknowledge(self, ledger_id: bytes, watermark: int) -> None:
        """Remember up to where a ledger has the records; deleting them is `trim`'s."""
        self.acknowledged = Acknowledged(ledger_id, watermark)
        self._disk.write_at(self._acknowledged_fd, self.acknowledged.pack(), 0)

    def trim(self, monotonic_ns: int, *, keep_bytes: int) -> None:
        """Delete sealed segments that are acknowledged and were kept long enough.

        Oldest first, so that no record goes before the open frame that it closes; the frame
        of a call that is still under way is written again first.
        """
        with self._lock:
            sealed = self._writer.sealed
            kept = 0
            for segment in sealed:
                if segment.last_sequence > self.acknowledged.watermark:
                    segment.acknowledged_at_ns = None  # a restored ledger wants it again
                    continue
                if segment.acknowledged_at_ns is None:
                    segment.acknowledged_at_ns = monotonic_ns
                kept += segment.held_bytes
            while sealed and (since := sealed[0].acknowledged_at_ns) is not None:
                is_young = monotonic_ns - since < self._limits.keep_ns
                if is_young and kept <= keep_bytes and self._writer.has_room(self._reserve):
                    return
                if not self._carry_over(sealed[0].name):
                    return
                kept -= sealed[0].held_bytes
                self._writer.delete_oldest()

    def make_room(self, other_bytes: int) -> None:
        """Say what the rest of the spool root holds: the limit is for all of it."""
        self._writer.set_others(other_bytes)

    def set_aside(self, first: int, last: int) -> None:
        """Keep the segments of a refused range under another name, for somebody to look at.

        They stay where they are too, since other records stand in them.
        """
        segments = self._contents().segments
        ends = [segment.name.first_sequence for segment in segments[1:]]
        for segment, end in zip(segments, [*ends, self.next_sequence], strict=True):
            if segment.name.first_sequence <= last and end > first:
                path = f"{self.path}/{segment.name}"
                directory.link_aside(self._disk, path)

    @property
    def is_unsynced(self) -> bool:
        """Whether the disk lacks something that no ledger has, or the frame of an open call."""
        return (self._writer.name, self._writer.offset) != self._synced and self._is_sync_needed()

    def sync(self) -> None:
        """Bring to the disk itself what no ledger has yet. The shipper's thread alone.

        Raises:
            OSError: the disk failed; what comes next goes into a new segment.
        """
        with self._lock:
            waiting, self._writer.unsynced = self._writer.unsynced, []
            fd, now = self._writer.fd, (self._writer.name, self._writer.offset)
            is_needed, has_open = self._is_sync_needed(), bool(self._open_calls)
        try:
            for sealed in waiting[-UNSYNCED_MAX:] if is_needed else ():
                self._disk.sync(sealed)
            if is_needed and now != self._synced and fd >= 0:
                self._disk.sync(fd)
                self._synced, self._has_synced_open = now, has_open
            if is_needed and not self._is_directory_synced:
                self._disk.sync_directory(self.path)
                self._disk.sync_directory(self.root)
                self._is_directory_synced = True
        except OSError:
            # After a failed fsync the kernel takes the pages for clean, so that a second one
            # would succeed without having written them: go on in another file.
            with self._lock:
                self._writer.distrust()
            raise
        finally:
            for sealed in waiting:
                self._disk.close(sealed)

    def is_present(self) -> bool:
        """Whether the directory is where it was made; False: somebody removed or replaced it."""
        try:
            there = self._disk.status(f"{self.path}/{directory.LOCK}")
            return there.inode == self._disk.inode(self._lock_fd)
        except OSError:
            return False

    def give_up(self) -> None:
        """End appending to a directory that nobody will find: what comes goes elsewhere."""
        with self._lock:
            self._is_given_up = True
            self._open_calls.clear()  # their records come elsewhere too
            taken = self._writer.take_descriptors()
        for fd in taken:
            self._disk.close(fd)

    @property
    def is_released(self) -> bool:
        """Whether appending has ended."""
        return self._is_given_up or self._lock_fd < 0

    def release(self) -> None:
        """End appending and free the lock: from now on anybody may adopt the directory.

        Reading is the shipper's thread's to end (`close_reading`).
        """
        with self._lock:
            for fd in self._take_descriptors():
                self._disk.close(fd)

    def close_reading(self) -> None:
        """Let go of the segment that is being read."""
        self._backlog.close()

    def finish(self) -> None:
        """Say that a ledger has everything, so that nobody needs to adopt it; then release."""
        if not self.is_released:
            path = f"{self.path}/{directory.FINISHED}"
            directory.write_small(self._disk, path, self.acknowledged.pack(), self._file_mode)
        self.release()

    def take_inherited(self) -> list[int]:
        """After a fork, in the child: the descriptors to close. Nothing is unlocked or written.

        The lock belongs to the open file, which the parent still holds, so closing keeps it.
        """
        inherited = self._take_descriptors()
        reading = self._backlog.forget_descriptor()
        return [*inherited, reading] if reading >= 0 else inherited

    # ── inside ──

    def _make(self) -> None:
        """Under another name, locked, then renamed: nobody ever sees it unlocked or unfinished."""
        self._disk.make_directory(self.root, 0o700)
        directory_mode, file_mode = directory.modes(self._disk, self.root)
        self._file_mode = file_mode
        new = f"{self.root}/{directory.NEW_PREFIX}{self.producer.hex()}"
        self._disk.make_directory(new, directory_mode)
        flags = os.O_RDWR | os.O_CREAT
        try:
            self._lock_fd = self._disk.open(f"{new}/{directory.LOCK}", flags, file_mode)
            if not self._disk.try_lock(self._lock_fd):
                raise OSError(f"somebody else holds the new directory {new}")
            note = directory.lock_note(self.identity.host, self.identity.pid, self._inode(new))
            self._disk.write_at(self._lock_fd, note, 0)
            self._counters_fd = self._disk.open(f"{new}/{directory.COUNTERS}", flags, file_mode)
            page = self.counters.pack().ljust(directory.PAGE_BYTES, b"\0")
            if self._disk.write_at(self._counters_fd, page, 0) != len(page):
                raise OSError(f"no room for the first page of {new}")
            path = f"{new}/{directory.ACKNOWLEDGED}"
            self._acknowledged_fd = self._disk.open(path, flags, file_mode)
            self._writer = SegmentWriter(self._disk, new, self._limits, self._header, file_mode)
            self._disk.rename(new, self.path)
            self._writer.path = self.path
        except BaseException:  # a signal handler's too: nobody else removes what is locked
            self._unmake(new)
            raise

    def _unmake(self, new: str) -> None:
        for fd in self._take_descriptors():
            self._disk.close(fd)
        try:
            directory.remove_all(self._disk, new)
        except OSError:
            pass  # a `.new-` directory is nobody's; adoption sweeps it away

    def _inode(self, path: str) -> int:
        return self._disk.status(path).inode

    def _header(self, first_sequence: int) -> bytes:
        return spool_pb2.SegmentHeader(
            producer=self.producer,
            service=self.identity.service,
            host=self.identity.host,
            pid=self.identity.pid,
            version=self.identity.version,
            created_at_unix_ns=self._created_at_unix_ns,
            first_sequence=first_sequence,
            schema=SCHEMA,
        ).SerializeToString()

    def _is_sync_needed(self) -> bool:
        """What a ledger has needs no disk; but an open frame that reached it needs its end there
        too, or a power cut would make a call interrupted that has its record."""
        has_unacknowledged = self.acknowledged.watermark + 1 < self.next_sequence
        return has_unacknowledged or self._has_synced_open or bool(self._open_calls)

    def _let_pass(self) -> None:
        """Wait for whoever appends now without lying down: an append takes microseconds, and
        threads that sleep on a lock wake one another in turn from then on, at 30 µs each."""
        for _ in range(PASSES_MAX):
            _yield()
            if not self._lock.locked():
                return

    def _contents(self) -> Contents:
        with self._lock:
            return self._writer.contents()

    def _carry_over(self, segment: SegmentName) -> bool:
        """Write the open frames again that stand in a segment which is to be deleted.

        Whatever the limits say, since more is freed than taken. False: the disk had no room,
        and the segment has to stay.
        """
        for call, (stands_in, since, payload) in list(self._open_calls.items()):
            if stands_in == segment:
                if not self._writer.put(KIND_OPEN, payload, is_limited=False):
                    return False
                self._open_calls[call] = (self._writer.name, since, payload)
        return True

    def _save_counters(self) -> None:
        """Into the page made beforehand, so that a full disk has room for it."""
        try:
            self._disk.write_at(self._counters_fd, self.counters.pack(), 0)
        except OSError:
            pass  # they are still shipped from memory while the process lives

    def _take_descriptors(self) -> list[int]:
        writer = getattr(self, "_writer", None)
        taken = writer.take_descriptors() if writer is not None else []
        for name in ("_acknowledged_fd", "_counters_fd", "_lock_fd"):
            fd = getattr(self, name)
            setattr(self, name, -1)
            if fd >= 0:
                taken.append(fd)
        return taken
