"""Adoption: what a dead process left in its directory is shipped to the end under its id.

    SPOOL_ROOT ─▶ whose lock is free? ─▶ survey: torn tail, open calls ─▶ Adopted ─▶ Delivery
                                              later removed ◀─ finished ◀─────┘

The one way in for all three adopters: the next process on the host, `meterctl ship`, and
meterd. An open call that nothing closed becomes an `interrupted` record. Its sequence and
bytes follow from the files alone, and nothing is written into them, so two adopters, one
after the other or each with a copy, say the same, and the ledger counts it once.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from google.protobuf.message import DecodeError

from meterd_middleware import directory
from meterd_middleware.backlog import (
    PIECE_BYTES,
    Backlog,
    Contents,
    ReadableSegment,
    Run,
    read_blocks,
)
from meterd_middleware.directory import Acknowledged, Counters, Interrupted
from meterd_middleware.payload import interrupted_payload
from meterd_middleware.segment import (
    FRAME_BYTES_MAX,
    KIND_HEADER,
    KIND_OPEN,
    KIND_RECORD,
    Frame,
    scan,
)
from meterd_middleware.spool import Identity
from meterd_proto.v1 import spool_pb2, usage_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meterd_middleware.disk import Disk

NEW_DIRECTORY_S_MAX = 60
"""A `.new-` directory older than this, with a free lock, belongs to nobody any more."""


def adoptable(
    disk: Disk,
    root: str,
    *,
    again: bool | Callable[[bytes, Acknowledged], bool] = False,
    tell: Callable[[str, OSError], object] = lambda path, error: None,
) -> Iterator[Adopted]:
    """The directories whose process is dead, one after the other, each locked while in hand.

    The caller ships what it gets and then calls `finish` or `release`; a directory that is
    neither is released when the next one is asked for.

    Args:
        disk: usually `OsDisk()`.
        root: the spool root; one that isn't there has nothing to adopt.
        again: finished ones too: a ledger restored from a backup may want them again. Asked
            with a producer and what was acknowledged of it, it decides without the directory
            being read.
        tell: called with a directory that can't be read, which stands in no other's way.
    """
    for name in _names(disk, root):
        if directory.producer_of(name) is None:
            continue
        path = f"{root}/{name}"
        if _is_done_with(disk, path, again):
            continue
        try:
            adopted = adopt(disk, path)
        except OSError as error:
            tell(path, error)
            continue
        if adopted is not None:
            try:
                yield adopted
            finally:
                adopted.release()


def _is_done_with(
    disk: Disk, path: str, again: bool | Callable[[bytes, Acknowledged], bool]
) -> bool:
    """Whether a directory is finished and not wanted again."""
    if again is True or not _exists(disk, f"{path}/{directory.FINISHED}"):
        return False
    if again is False:
        return True
    try:
        data = directory.read_small(disk, f"{path}/{directory.FINISHED}")
    except OSError:
        return True
    return not again(
        directory.producer_of(path.rpartition("/")[2]) or b"", Acknowledged.unpack(data)
    )


def adopt(disk: Disk, path: str) -> Adopted | None:
    """Take one directory; None where its process lives, another adopter has it, or it is gone.

    Raises:
        OSError: it can't be read.
    """
    try:
        lock_fd = disk.open(f"{path}/{directory.LOCK}", os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        if disk.try_lock(lock_fd) and _is_same(disk, path, lock_fd):
            adopted = Adopted(disk, path, lock_fd)
            lock_fd = -1
            return adopted
        return None
    finally:
        if lock_fd >= 0:
            disk.close(lock_fd)


class Adopted:
    """A dead producer's directory, locked: an Outbox for Delivery. One thread's."""

    def __init__(self, disk: Disk, path: str, lock_fd: int) -> None:
        """Read the directory once through: what there is, and what was left open.

        Raises:
            OSError: it can't be read.
        """
        self._disk, self.path, self._lock_fd = disk, path, lock_fd
        self.producer = directory.producer_of(path.rpartition("/")[2]) or b""
        self.file_mode = directory.modes(disk, path)[1]
        self.counters = Counters.unpack(directory.read_small(disk, self._file(directory.COUNTERS)))
        self.acknowledged = Acknowledged.unpack(
            directory.read_small(disk, self._file(directory.ACKNOWLEDGED))
        )
        self._segments = tuple(self._readable_segments())
        self._survey = _survey(disk, path, self._segments)
        self.identity = self._survey.identity
        self.torn_bytes = self._survey.torn_bytes
        self._last_written = self._survey.last_sequence
        settled = Interrupted.unpack(directory.read_small(disk, self._file(directory.ADOPTED)))
        self._is_settled = settled is not None
        if settled is None:  # else the watermark may count the interrupted calls
            self._last_written = max(self._last_written, self.acknowledged.watermark)
            settled = Interrupted(self._last_written, tuple(sorted(self._survey.opened)))
            if settled.calls and self._is_copy():
                # Whoever has the original may have their records, or goes on writing them.
                self.counters.dropped_open_frames += len(settled.calls)
                settled = Interrupted(self._last_written, ())
        self._interrupted = settled
        self._backlog = Backlog(disk, path, lambda: Contents(self._segments, self._last_written))

    @property
    def interrupted_calls(self) -> int:
        """How many calls were sent and never settled."""
        return len(self._interrupted.calls)

    @property
    def oldest_sequence(self) -> int:
        """The oldest record's that is still there; 0: none."""
        if self._segments and self._segments[0].name.first_sequence <= self._last_written:
            return self._segments[0].name.first_sequence
        return self._interrupted.base + 1 if self._interrupted.calls else 0

    @property
    def next_sequence(self) -> int:
        """One beyond the last there will ever be: the interrupted calls come at the end."""
        calls = len(self._interrupted.calls)
        return max(self._last_written, self._interrupted.base + calls) + 1

    @property
    def open_calls(self) -> int:
        """None: each has become a record."""
        return 0

    @property
    def oldest_open_at_unix_ns(self) -> int:
        """None is open."""
        return 0

    def meet(self, watermark: int) -> None:
        """Settle, once and for all adopters, after which sequence the interrupted calls come.

        After the newest record. A watermark beyond it means either that an adopter was here
        before, and these calls are counted, or that a power cut took records which the ledger
        has: then they come after those, lest the ledger take them for what it has already.

        Raises:
            OSError: after a power cut, where it can't be written down.
        """
        if self._is_settled or not self._interrupted.calls:
            return
        calls = self._interrupted.calls
        has_lost_power = (
            self._survey.last_sequence < self.acknowledged.watermark
            or watermark > self._last_written + len(calls)
        )
        base = max(self._last_written, watermark) if has_lost_power else self._last_written
        settled = Interrupted(base, calls)
        try:
            # To the disk itself, before any of them is counted: forgotten in a power cut, it
            # would have the next adopter count them again.
            self._write(directory.ADOPTED, settled.pack(), is_synced=True)
        except OSError:
            if has_lost_power:
                raise
            return  # every other adopter finds the same
        self._interrupted, self._is_settled = settled, True

    def read(self, after: int, records_max: int, bytes_max: int) -> Run:
        """The next records beyond a sequence, in order; the interrupted calls' at the end."""
        if after < self._last_written:
            run = self._backlog.read(after, records_max, bytes_max)
            if run.frames or not self._interrupted.calls:
                return run
        frames = self._interrupted_frames(after, records_max)
        why = "lost in a power cut, or with the segment it stood in"
        return Run(frames[0][1] if frames else self.next_sequence, frames, why)

    def acknowledge(self, ledger_id: bytes, watermark: int) -> None:
        """Remember up to where a ledger has the records, for the next adopter.

        Never beyond the newest record while `adopted` couldn't be written: that would look
        like a power cut.
        """
        if not self._is_settled:
            watermark = min(watermark, self._last_written)
        self.acknowledged = Acknowledged(ledger_id, watermark)
        try:
            self._write(directory.ACKNOWLEDGED, self.acknowledged.pack())
        except OSError:
            pass  # a disk that can't be written: the next adopter asks the ledger again

    def set_aside(self, first: int, last: int) -> None:
        """Keep the segments of a refused range for somebody to look at."""
        ends = [segment.name.first_sequence for segment in self._segments[1:]]
        for segment, end in zip(self._segments, [*ends, self._last_written + 1], strict=True):
            if segment.name.first_sequence <= last and end > first:
                directory.link_aside(self._disk, self._file(str(segment.name)))

    def report(self) -> usage_pb2.Report:
        """What the process counted, and what was torn when it died."""
        return usage_pb2.Report(
            refused_records=self.counters.refused_records,
            refused_tokens=self.counters.refused_tokens,
            dropped_open_frames=self.counters.dropped_open_frames,
            torn_bytes=self.counters.torn_bytes + self.torn_bytes,
            spool_bytes=sum(segment.readable_bytes for segment in self._segments),
            spool_directory=self.path,
        )

    def finish(self) -> bool:
        """All of it is in the ledger: keep it for a restored backup, and let go.

        Returns:
            False where that couldn't be written down: it will be found again, and the ledger
            will know all of it.
        """
        try:
            if self._lock_fd >= 0:
                self._write(directory.FINISHED, self.acknowledged.pack())
            return True
        except OSError:
            return False
        finally:
            self.release()

    def release(self) -> None:
        """Let go; what isn't finished is anybody's to adopt."""
        self._backlog.close()
        if self._lock_fd >= 0:
            fd, self._lock_fd = self._lock_fd, -1
            self._disk.close(fd)

    # ── inside ──

    def _interrupted_frames(self, after: int, count: int) -> list[Frame]:
        """The next consecutive ones beyond a sequence; one whose open frame is gone is a gap."""
        frames: list[Frame] = []
        for sequence, call in enumerate(self._interrupted.calls, start=self._interrupted.base + 1):
            opened = self._survey.opened.get(call)
            if sequence > after and opened is not None and len(frames) < count:
                frames.append((KIND_RECORD, sequence, b"", interrupted_payload(opened)))
            elif frames:
                break
        return frames

    def _file(self, name: str) -> str:
        return f"{self.path}/{name}"

    def _write(self, name: str, data: bytes, *, is_synced: bool = False) -> None:
        path = self._file(name)
        directory.write_small(self._disk, path, data, self.file_mode, is_synced=is_synced)

    def _readable_segments(self) -> Iterator[ReadableSegment]:
        for name in directory.segment_names(self._disk, self.path):
            yield ReadableSegment(name, self._disk.status(self._file(str(name))).bytes)

    def _is_copy(self) -> bool:
        note = directory.read_small(self._disk, self._file(directory.LOCK))
        return directory.is_copy(note, self._disk.status(self.path).inode)


class Swept(NamedTuple):
    """What a spool root holds beside one's own directory."""

    directories: int
    """That are not finished: of living processes, or waiting to be adopted."""
    held_bytes: int
    """Of all their files and those of finished ones."""


def sweep(
    disk: Disk, root: str, *, own: str, now_unix_ns: int, keep_ns: int, keep_bytes: int
) -> Swept:
    """Remove finished directories that were kept long enough, oldest first; say what is left."""
    finished: list[tuple[int, int, str]] = []
    directories = held = 0
    for name in _names(disk, root):
        path = f"{root}/{name}"
        try:
            if name.startswith(directory.NEW_PREFIX):
                _remove_stale(disk, path, now_unix_ns)
            elif directory.producer_of(name) is not None and path != own:
                size = _held_bytes(disk, path)
                held += size
                since = _finished_since(disk, path)
                directories += since is None
                if since is not None:
                    finished.append((since, size, path))
        except OSError:
            continue  # removed by somebody else while we looked
    kept = sum(size for _, size, _ in finished)
    for since, size, path in sorted(finished):
        if kept <= keep_bytes and now_unix_ns - since < keep_ns:
            break
        if _remove_dead(disk, path):
            kept -= size
            held -= size
    return Swept(directories, held)


class _Surveyed(NamedTuple):
    """What one reading of a dead directory found."""

    identity: Identity
    opened: dict[int, spool_pb2.OpenCall]
    last_sequence: int
    torn_bytes: int


def _survey(disk: Disk, path: str, segments: tuple[ReadableSegment, ...]) -> _Surveyed:
    identity, opened, last, torn = Identity(), dict[int, spool_pb2.OpenCall](), 0, 0
    for segment in segments:
        last = max(last, segment.name.first_sequence - 1)
        for frames, skipped in _pieces(disk, f"{path}/{segment.name}"):
            torn += skipped
            for kind, sequence, head, rest in frames:
                if sequence > last:
                    last = sequence
                if kind == KIND_RECORD:
                    if opened:  # most of the time nothing is open, and nothing to parse
                        opened.pop(_closed_by(rest), None)
                elif kind == KIND_OPEN:
                    _note_open(opened, head + rest)
                elif kind == KIND_HEADER and not identity.host:
                    identity = _identity(head + rest)
    return _Surveyed(identity, opened, last, torn)


def _pieces(disk: Disk, path: str) -> Iterator[tuple[list[Frame], int]]:
    """A segment's frames, piece by piece, with the bytes that belong to none."""
    fd = disk.open(path, os.O_RDONLY)
    try:
        size, offset, wanted = disk.size(fd), 0, PIECE_BYTES
        while offset < size:
            data = read_blocks(disk, fd, min(wanted, size - offset), offset)
            is_end = offset + len(data) >= size or not data
            found = scan(data, is_end=is_end)
            yield found.frames, found.skipped
            wanted = PIECE_BYTES if found.used else 2 * FRAME_BYTES_MAX
            offset = size if not data else offset + found.used
    finally:
        disk.close(fd)


def _closed_by(rest: bytes) -> int:
    """The call that a record closes: never in its head."""
    try:
        return usage_pb2.UsageRecord.FromString(rest).closes
    except DecodeError:
        return 0


def _note_open(opened: dict[int, spool_pb2.OpenCall], payload: bytes) -> None:
    try:
        call = spool_pb2.OpenCall.FromString(payload)
    except DecodeError:
        return
    opened[call.call] = call


def _identity(payload: bytes) -> Identity:
    try:
        header = spool_pb2.SegmentHeader.FromString(payload)
    except DecodeError:
        return Identity()
    return Identity(header.service, header.host, header.pid, header.version)


def _names(disk: Disk, root: str) -> list[str]:
    try:
        return sorted(disk.names(root))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _exists(disk: Disk, path: str) -> bool:
    try:
        disk.status(path)
    except OSError:
        return False
    return True


def _is_same(disk: Disk, path: str, lock_fd: int) -> bool:
    """Whether the directory wasn't removed while we waited for its lock."""
    try:
        return disk.status(f"{path}/{directory.LOCK}").inode == disk.inode(lock_fd)
    except OSError:
        return False


def _held_bytes(disk: Disk, path: str) -> int:
    return sum(disk.status(f"{path}/{name}").bytes for name in disk.names(path))


def _finished_since(disk: Disk, path: str) -> int | None:
    try:
        return disk.status(f"{path}/{directory.FINISHED}").modified_unix_ns
    except FileNotFoundError:
        return None


def _remove_dead(disk: Disk, path: str) -> bool:
    """Remove a directory whose lock is free."""
    lock_fd = -1
    try:
        lock_fd = disk.open(f"{path}/{directory.LOCK}", os.O_RDWR)
        if not disk.try_lock(lock_fd):
            return False
        directory.remove_all(disk, path)
        return True
    except OSError:
        return False  # not ours to remove; its owner's sweep will
    finally:
        if lock_fd >= 0:
            disk.close(lock_fd)


def _remove_stale(disk: Disk, path: str, now_unix_ns: int) -> None:
    """Remove what a process left that died while it made its directory."""
    if now_unix_ns - disk.status(path).modified_unix_ns < NEW_DIRECTORY_S_MAX * 10**9:
        return
    if not _exists(disk, f"{path}/{directory.LOCK}"):
        directory.remove_all(disk, path)
    else:
        _remove_dead(disk, path)
