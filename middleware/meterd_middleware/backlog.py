"""The backlog: a producer's records read from its segments in order, from any sequence on.

    segments ──1/4 MiB at a time──▶ scan ──▶ runs of consecutive records ──▶ Delivery
                                               and what is missing between them, with why

One reader a directory, used by one thread. It reads files and not memory, so that an hour
without meterd costs the app disk alone. A block that the disk can't read any more counts as
corrupt: the records around it are found again.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple

from meterd_middleware.segment import KIND_RECORD, Frame, scan

if TYPE_CHECKING:
    from collections.abc import Callable

    from meterd_middleware.directory import SegmentName
    from meterd_middleware.disk import Disk

PIECE_BYTES = 256 * 1024
BLOCK_BYTES = 4_096


class ReadableSegment(NamedTuple):
    """A segment and how many of its bytes may be read: the newest is still written."""

    name: SegmentName
    readable_bytes: int


class Contents(NamedTuple):
    """What a directory holds at a moment: its segments, oldest first."""

    segments: tuple[ReadableSegment, ...]
    last_sequence: int
    """Of the newest record, whether it can be read or not."""


class Run(NamedTuple):
    """Consecutive records. Between what was asked for and `first` the sequences are missing."""

    first_sequence: int
    frames: list[Frame]
    """Empty: nothing readable comes any more, and `first_sequence` is one beyond the newest."""
    why_missing: str = ""


class Backlog:
    """Reads a directory's records in order; remembers where it is, so that going on is cheap."""

    def __init__(self, disk: Disk, path: str, contents: Callable[[], Contents]) -> None:
        self._disk, self._path, self._contents = disk, path, contents
        self._segment: SegmentName | None = None
        self._fd = -1
        self._offset = 0
        self._pending: list[Frame] = []
        self._pending_bytes = 0
        self._returned = 0
        self._why_missing = ""
        self.skipped_bytes = 0

    def read(self, after: int, records_max: int, bytes_max: int) -> Run:
        """The next records beyond `after`; at most so many, but at least one if there is one."""
        contents = self._contents()
        if after != self._returned or self._segment is None:
            self._seek(after, contents)
        if after < contents.last_sequence:
            while len(self._pending) < records_max and self._pending_bytes < bytes_max:
                if not self._read_piece(contents, after):
                    break
        if not self._pending:
            self._returned = after
            return Run(contents.last_sequence + 1, [], self._take_why())
        count = _run_length(self._pending, records_max, bytes_max)
        taken, self._pending = self._pending[:count], self._pending[count:]
        self._pending_bytes -= _bytes_of(taken)
        self._returned = taken[-1][1]
        first = taken[0][1]
        return Run(first, taken, self._take_why() if first != after + 1 else "")

    def close(self) -> None:
        """Let go of the file that is open. Reading on opens it anew."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._disk.close(fd)
        self._segment = None

    def forget_descriptor(self) -> int:
        """After a fork: the descriptor that the child has to close."""
        fd, self._fd = self._fd, -1
        self._segment = None
        return fd

    def _take_why(self) -> str:
        why, self._why_missing = self._why_missing, ""
        return why or "not in the spool"

    def _seek(self, after: int, contents: Contents) -> None:
        self.close()
        self._pending, self._pending_bytes = [], 0
        self._returned, self._why_missing = after, ""
        at = 0
        for index, segment in enumerate(contents.segments):
            if segment.name.first_sequence <= after + 1:
                at = index
        if contents.segments:
            self._enter(contents.segments[at].name)

    def _enter(self, name: SegmentName) -> None:
        self.close()
        self._segment, self._offset = name, 0

    def _read_piece(self, contents: Contents, after: int) -> bool:
        """Take in the next piece; False when all that may be read has been."""
        for segment in contents.segments:
            if self._segment is None or segment.name < self._segment:
                continue
            if segment.name > self._segment:
                self._enter(segment.name)
            if self._offset < segment.readable_bytes:
                is_newest = segment is contents.segments[-1]
                self._take_in(segment, after, is_newest=is_newest)
                return True
        return False

    def _take_in(self, segment: ReadableSegment, after: int, *, is_newest: bool) -> None:
        size = min(PIECE_BYTES, segment.readable_bytes - self._offset)
        data = self._bytes_at(segment.name, size)
        is_end = self._offset + len(data) >= segment.readable_bytes or not data
        found = scan(data, is_end=is_end)
        if not found.used and not is_end:  # one frame larger than a piece
            size = segment.readable_bytes - self._offset
            data = self._bytes_at(segment.name, size)
            found = scan(data, is_end=True)
        self._offset = segment.readable_bytes if not data else self._offset + found.used
        if found.skipped:
            self.skipped_bytes += found.skipped
            self._why_missing = f"{found.skipped} corrupt bytes in {segment.name}"
        last = self._pending[-1][1] if self._pending else max(after, self._returned)
        records = [one for one in found.frames if one[0] == KIND_RECORD]
        if records and (records[0][1] <= last or not _is_run(records)):
            records = _ascending(records, last)
        self._pending += records
        self._pending_bytes += _bytes_of(records)

    def _bytes_at(self, name: SegmentName, size: int) -> bytes:
        try:
            if self._fd < 0:
                self._fd = self._disk.open(f"{self._path}/{name}", os.O_RDONLY)
        except FileNotFoundError:
            self._why_missing = f"{name} is gone"
            return b""
        return read_blocks(self._disk, self._fd, size, self._offset)


def read_blocks(disk: Disk, fd: int, size: int, offset: int) -> bytes:
    """What can be read of a piece of a file; zeros for the blocks that a failing disk lost.

    Raises:
        OSError: for anything but an unreadable block.
    """
    try:
        return disk.read_at(fd, size, offset)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
    blocks: list[bytes] = []
    for at in range(offset, offset + size, BLOCK_BYTES):
        wanted = min(BLOCK_BYTES, offset + size - at)
        try:
            blocks.append(disk.read_at(fd, wanted, at))
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            blocks.append(bytes(wanted))
    return b"".join(blocks)


def _bytes_of(frames: list[Frame]) -> int:
    return sum([len(head) + len(rest) for _, _, head, rest in frames])


def _is_run(frames: list[Frame]) -> bool:
    first, count = frames[0][1], len(frames)
    return [sequence for _, sequence, _, _ in frames] == list(range(first, first + count))


def _ascending(frames: list[Frame], last: int) -> list[Frame]:
    """Those beyond `last`, each beyond the one before it: a repeated sequence counts once."""
    kept: list[Frame] = []
    for one in frames:
        if one[1] > last:
            kept.append(one)
            last = one[1]
    return kept


def _run_length(frames: list[Frame], records_max: int, bytes_max: int) -> int:
    """How many of the first frames are consecutive and within the limits; at least one."""
    size, expected = 0, frames[0][1]
    for count, (_, sequence, head, rest) in enumerate(frames[:records_max]):
        size += len(head) + len(rest)
        if sequence != expected or (size > bytes_max and count):
            return count
        expected += 1
    return min(len(frames), records_max)
