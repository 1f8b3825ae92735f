"""A producer's directory: what its files are called, and the two small ones' contents.

    SPOOL_ROOT/<producer, 32 hexadecimal digits>/
        lock                           flocked by who appends, or by who adopts
        00000000000000000001.segment   named by the first sequence that may stand in it
        counters                       what was refused and torn, in a page made beforehand
        acknowledged                   the ledger that acknowledged last, and its watermark
        adopted                        the interrupted calls, and after which sequence they come
        finished                       all of it is in the ledger; kept for a restored backup
        *.refused                      segments that a daemon would not take

Format: docs/architecture.md, "Segment".
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

if TYPE_CHECKING:
    from meterd_middleware.disk import Disk

LOCK = "lock"
COUNTERS = "counters"
ACKNOWLEDGED = "acknowledged"
ADOPTED = "adopted"
FINISHED = "finished"
NEW_PREFIX = ".new-"
REFUSED_SUFFIX = ".refused"
PAGE_BYTES = 4_096

_SEGMENT_NAME = re.compile(r"(\d{20})(?:-(\d+))?\.segment")
_PRODUCER_NAME = re.compile(r"[0-9a-f]{32}")


class SegmentName(NamedTuple):
    """Sorts in the order of writing. `part` tells apart those in which no record was written."""

    first_sequence: int
    part: int = 0

    def __str__(self) -> str:
        part = f"-{self.part}" if self.part else ""
        return f"{self.first_sequence:020d}{part}.segment"


def segment_name(name: str) -> SegmentName | None:
    """What a file's name says; None where it is no segment."""
    found = _SEGMENT_NAME.fullmatch(name)
    return SegmentName(int(found[1]), int(found[2] or 0)) if found else None


def producer_of(name: str) -> bytes | None:
    """The producer whose directory this is; None where it is none's."""
    return bytes.fromhex(name) if _PRODUCER_NAME.fullmatch(name) else None


@dataclass(slots=True)
class Counters:
    """What a producer could not keep, with how much. Cumulative."""

    refused_records: int = 0
    refused_tokens: int = 0
    torn_bytes: int = 0
    dropped_open_frames: int = 0

    def pack(self) -> bytes:
        """As it stands at the beginning of its page."""
        values = (self.refused_records, self.refused_tokens, self.torn_bytes)
        packed = _COUNTERS.pack(*values, self.dropped_open_frames)
        return packed + crc32(packed).to_bytes(4, "little")

    @classmethod
    def unpack(cls, data: bytes) -> Counters:
        """From its page; zeros where the page is torn."""
        packed = _checked(data, _COUNTERS)
        return cls(*_COUNTERS.unpack(packed)) if packed else cls()


class Acknowledged(NamedTuple):
    """Up to where which ledger has a producer's records. An empty ledger: none has any."""

    ledger_id: bytes = b""
    watermark: int = 0

    def pack(self) -> bytes:
        """As its file holds it: an empty ledger has no file."""
        packed = _ACKNOWLEDGED.pack(self.ledger_id, self.watermark)
        return packed + crc32(packed).to_bytes(4, "little")

    @classmethod
    def unpack(cls, data: bytes) -> Acknowledged:
        """From its file; nothing acknowledged where it is torn: resending is safe."""
        packed = _checked(data, _ACKNOWLEDGED)
        return cls(*_ACKNOWLEDGED.unpack(packed)) if packed else cls()


class Interrupted(NamedTuple):
    """The calls that were open when their process died, as the first adopter found them.

    Written down, since what a disk loses later may make another call look open, or one of
    these not: their sequences have to stay theirs.
    """

    base: int
    """The sequence after which they come, in this order."""
    calls: tuple[int, ...]

    def pack(self) -> bytes:
        """As `adopted` holds it."""
        packed = Struct(f"<QI{len(self.calls)}Q").pack(self.base, len(self.calls), *self.calls)
        return packed + crc32(packed).to_bytes(4, "little")

    @classmethod
    def unpack(cls, data: bytes) -> Interrupted | None:
        """From `adopted`; None where there is none, or it is torn."""
        if len(data) < _INTERRUPTED.size:
            return None
        _, count = _INTERRUPTED.unpack_from(data)
        layout = Struct(f"<QI{count}Q")
        packed = _checked(data, layout)
        if not packed:
            return None
        base, _, *calls = layout.unpack(packed)
        return cls(base, tuple(calls))


_COUNTERS = Struct("<QqQQ")
_ACKNOWLEDGED = Struct("<16sQ")
_INTERRUPTED = Struct("<QI")


def _checked(data: bytes, layout: Struct) -> bytes:
    packed, checksum = data[: layout.size], data[layout.size : layout.size + 4]
    is_good = len(checksum) == 4 and int.from_bytes(checksum, "little") == crc32(packed)
    return packed if is_good else b""


def read_small(disk: Disk, path: str) -> bytes:
    """A small file's contents, a MiB at most; empty where there is none."""
    try:
        fd = disk.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return b""
    try:
        return disk.read_at(fd, 2**20, 0)
    finally:
        disk.close(fd)


def segment_names(disk: Disk, path: str) -> list[SegmentName]:
    """The directory's segments, oldest first."""
    return sorted(name for file in disk.names(path) if (name := segment_name(file)))


def lock_note(host: str, pid: int, inode: int) -> bytes:
    """What a new directory's `lock` says: who made it, and which directory it is."""
    return f"{host}\n{pid}\n{inode}\n".encode("utf-8", "replace")


def is_copy(note: bytes, inode: int) -> bool:
    """Whether a directory was copied from where its producer made it.

    A copy of a living producer's directory lacks what was appended since: its open calls may
    have records that the copy doesn't know of.
    """
    lines = note.split(b"\n")
    return len(lines) >= 3 and lines[2] != str(inode).encode()


def modes(disk: Disk, root: str) -> tuple[int, int]:
    """The modes of a directory and its files: shared with the group where the root is."""
    is_shared = disk.status(root).mode & 0o020
    return (0o770, 0o660) if is_shared else (0o700, 0o600)


def write_small(
    disk: Disk, path: str, data: bytes, file_mode: int, *, is_synced: bool = False
) -> None:
    """Write a small file in place; `is_synced`: it survives a power cut once this returns."""
    fd = disk.open(path, os.O_RDWR | os.O_CREAT, file_mode)
    try:
        disk.write_at(fd, data, 0)
        if is_synced:
            disk.sync(fd)
            disk.sync_directory(path.rpartition("/")[0])
    finally:
        disk.close(fd)


def link_aside(disk: Disk, path: str) -> None:
    """Keep a segment that a daemon refused under another name too, for somebody to look at."""
    try:
        disk.link(path, path + REFUSED_SUFFIX)
    except OSError:
        pass  # there already, or no hard links here: its range is declared lost all the same


def remove_all(disk: Disk, path: str) -> None:
    """Remove a directory with its files; the lock last, since it keeps others out."""
    names = sorted(disk.names(path), key=lambda name: name == LOCK)
    for name in names:
        try:
            disk.remove(f"{path}/{name}")
        except FileNotFoundError:
            pass
    disk.remove_directory(path)
