"""The segment that is being written, and those that were: one write a frame, whole or undone.

    Spool ─put─▶ room? ─▶ one write ─▶ short? cut back, or go on in a new segment
                                   └─▶ long enough? seal: the next frame begins a new segment

Nothing here takes a lock: Spool holds its own around every call.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from meterd_middleware.backlog import Contents, ReadableSegment
from meterd_middleware.directory import SegmentName
from meterd_middleware.segment import FRAME_BYTES_MAX, KIND_HEADER, KIND_RECORD, frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from meterd_middleware.disk import Disk
    from meterd_middleware.payload import Payload

RESERVE_BYTES_MAX = 2**20
"""No caller of `put` asks for more to stay free."""

LOOK_BYTES = 128 * 1024
"""How much is written before limits and free space are looked at again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a spool may hold."""

    segment_bytes_max: int = 4 * 2**20
    spool_bytes_max: int = 2**30
    free_bytes_min: int = 256 * 2**20
    keep_ns: int = 24 * 3600 * 10**9
    keep_bytes: int = 64 * 2**20


@dataclass(slots=True)
class Sealed:
    """A segment that nothing is appended to any more."""

    name: SegmentName
    last_sequence: int
    held_bytes: int
    acknowledged_at_ns: int | None = None
    """On the monotonic clock; None: not yet."""


_Pending: TypeAlias = tuple[int, int, int]
"""A write whose effect is not noted yet, since an exception of a signal handler may come first:
where it starts, where it ends, and the sequence of the record it holds (0: no record)."""


class SegmentWriter:
    """Writes frames into segments; knows what each holds and what they hold together."""

    def __init__(
        self,
        disk: Disk,
        path: str,
        limits: Limits,
        header: Callable[[int], bytes],
        file_mode: int = 0o600,
    ) -> None:
        """Begin the first segment. `header` makes a segment's first payload.

        Raises:
            OSError: it can't be made.
        """
        self._disk, self.path, self._limits = disk, path, limits
        self._write_at_end = disk.write
        self._header, self._file_mode = header, file_mode
        self.sealed: list[Sealed] = []
        self.unsynced: list[int] = []
        self.next_sequence = 1
        self.other_bytes = 0
        """What the rest of the spool root holds: the limit is for all of it."""
        self.refusal = ""
        self.fd = -1
        self.name = SegmentName(0)
        self.offset = 0
        self._sealed_bytes = 0
        self._seal_at = limits.segment_bytes_max
        self._is_broken = False
        self._pending: _Pending | None = None
        self._look_at = 0
        """The offset beyond which something is to be decided before the next frame."""
        self._begin(SegmentName(1))

    @property
    def held_bytes(self) -> int:
        """What all segments hold."""
        return self._sealed_bytes + self.offset

    def put(
        self, kind: int, payload: Payload, reserve: int = 0, *, is_limited: bool = True
    ) -> bool:
        """Write one frame, whole or not at all; False: refused, and `refusal` says why.

        A record takes the next sequence. `reserve` is how much has to stay free beyond it.
        """
        if self._pending is not None:
            self._resolve()
        head, data = payload
        size = len(data)
        if self.offset + size > self._look_at and not self._is_ready(
            size, reserve, is_limited=is_limited
        ):
            return False
        sequence = self.next_sequence
        is_record = kind == KIND_RECORD
        framed = frame(kind, sequence if is_record else sequence - 1, data, head)
        start = self.offset
        end = start + len(framed)
        self._pending = (start, end, sequence if is_record else 0)
        try:
            written = self._write_at_end(self.fd, framed)
        except OSError as error:
            self.refusal = _reason(error)
            self._pending = None
            return False
        if start + written != end:
            self.refusal = "the disk is full: a short write"
            self._cut_back(start)
            self._pending = None
            return False
        self.offset = end
        if is_record:
            self.next_sequence = sequence + 1
        self._pending = None
        return True

    def has_room(self, size: int) -> bool:
        """Whether the limits, and the disk, allow that much more."""
        limit = self._limits.spool_bytes_max
        if self._sealed_bytes + self.offset + self.other_bytes + size > limit:
            self.refusal = f"the spool holds its {limit} bytes"
            return False
        least = self._limits.free_bytes_min
        try:
            if self._disk.free_bytes(self.path) < least:
                self.refusal = f"fewer than {least} bytes are free on the disk"
                return False
        except OSError:
            pass  # the write itself will say
        return True

    def _is_ready(self, size: int, reserve: int, *, is_limited: bool) -> bool:
        """The look that is due now and then: seal? room? Sets when the next one is."""
        self._look_at = 0
        if self.fd < 0:
            self.refusal = "the spool is closed"
            return False
        if size > FRAME_BYTES_MAX:
            self.refusal = f"a record of {size} bytes is too large"
            return False
        if self.offset >= self._seal_at or self._is_broken:
            self.seal()
            if self._is_broken:
                return False
        if is_limited and not self.has_room(size + reserve):
            return False
        room = self._limits.spool_bytes_max - self._sealed_bytes - self.other_bytes
        self._look_at = min(self._seal_at, room - RESERVE_BYTES_MAX, self.offset + LOOK_BYTES)
        return True

    def set_others(self, other_bytes: int) -> None:
        """Say what the rest of the spool root holds."""
        self.other_bytes, self._look_at = other_bytes, 0

    def seal(self) -> None:
        """Begin a new segment. Where none can be made, the old one goes on if it can be trusted."""
        if self._pending is not None:
            self._resolve()  # what it wrote takes its sequence before the next segment is named
        part = self.name.part + 1 if self.name.first_sequence == self.next_sequence else 0
        before, fd, size = self.name, self.fd, self.offset
        try:
            self._begin(SegmentName(self.next_sequence, part))
        except OSError as error:
            self._seal_at = self.offset + self._limits.segment_bytes_max // 4
            self.refusal = _reason(error)
            return
        self.sealed.append(Sealed(before, self.next_sequence - 1, size))
        self._sealed_bytes += size
        self.unsynced.append(fd)

    def distrust(self) -> None:
        """Write nothing more into the current segment: the disk failed to keep it."""
        self._is_broken, self._look_at = True, 0
        self.seal()

    def delete_oldest(self) -> None:
        """Delete the oldest sealed segment; one that somebody deleted before is as good."""
        oldest = self.sealed[0]
        try:
            self._disk.remove(f"{self.path}/{oldest.name}")
        except FileNotFoundError:
            pass
        self.sealed.pop(0)
        self._sealed_bytes -= oldest.held_bytes

    def contents(self) -> Contents:
        """What may be read: of the open segment what was written whole."""
        segments = [ReadableSegment(one.name, one.held_bytes) for one in self.sealed]
        segments.append(ReadableSegment(self.name, self.offset))
        return Contents(tuple(segments), self.next_sequence - 1)

    def take_descriptors(self) -> list[int]:
        """Everything open here, to be closed by the caller; nothing is written after it."""
        taken, self.unsynced = self.unsynced, []
        fd, self.fd = self.fd, -1
        self._look_at = 0
        return [*taken, fd] if fd >= 0 else taken

    def _begin(self, name: SegmentName) -> None:
        path = f"{self.path}/{name}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND
        fd = self._disk.open(path, flags, self._file_mode)
        try:
            first = frame(KIND_HEADER, self.next_sequence - 1, self._header(self.next_sequence))
            if self._disk.write(fd, first) != len(first):
                raise OSError(errno.ENOSPC, "a short write")
        except BaseException:  # a signal handler's too: else its name would stand in the way
            self._disk.close(fd)
            self._disk.remove(path)
            raise
        self.name, self.fd, self.offset = name, fd, len(first)
        self._seal_at, self._is_broken, self._look_at = self._limits.segment_bytes_max, False, 0

    def _cut_back(self, start: int) -> None:
        """Take a short write back; where that fails, nothing may follow it in this segment."""
        try:
            self._disk.truncate(self.fd, start)
        except OSError:
            self.distrust()

    def _resolve(self) -> None:
        """Find out what the write did that an exception kept us from noting."""
        assert self._pending is not None
        start, end, sequence = self._pending
        try:
            size = self._disk.size(self.fd)
        except OSError:
            size = 0
        self._pending = None
        if size >= end:
            self.offset = end
            if sequence:
                self.next_sequence = sequence + 1
        elif size != start:
            self._cut_back(start)


def _reason(error: OSError) -> str:
    name = errno.errorcode.get(error.errno or 0, "")
    return f"{name}: {error.strerror}" if name else str(error)
