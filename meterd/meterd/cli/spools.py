"""What lies in a spool root: whose directories, alive or not, and what waits in them.

The format is the middleware's, so its own readers read it; they are imported here alone and
only when `doctor` or `ship` run. Nothing is changed: a lock is asked for shared, for the time
of one call, and an adopter that meets it comes by again two seconds later.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meterd.cli.console import WrongUsage
from meterd_middleware.directory import (
    ACKNOWLEDGED,
    COUNTERS,
    FINISHED,
    LOCK,
    REFUSED_SUFFIX,
    Acknowledged,
    Counters,
    SegmentName,
    producer_of,
    segment_name,
)
from meterd_middleware.disk import OsDisk
from meterd_middleware.errors import InvalidSetting
from meterd_middleware.segment import HEADER_BYTES, KIND_HEADER, scan
from meterd_middleware.settings import Settings
from meterd_proto.v1 import spool_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_TAIL_BYTES = 64 * 1024
_HEAD_BYTES = 4 * 1024
_SMALL_BYTES = 4 * 1024


@dataclass(frozen=True, slots=True)
class SpoolRoot:
    """A spool root as this user finds it."""

    path: Path
    exists: bool
    is_writable: bool
    file_system: str
    """Its type, as "ext4"; empty where the system doesn't say."""
    free_bytes: int


@dataclass(frozen=True, slots=True)
class SpoolDirectory:
    """One producer's directory."""

    path: Path
    producer: str
    """Hexadecimal."""
    name: str
    """service@host, and the process's id; empty where no segment says."""
    pid: int
    is_live: bool
    """A process holds its lock: the one that writes it, or one that ships what it left."""
    last_sequence: int
    watermark: int
    """As the shipper knew it; the ledger may be further."""
    written_unix_ns: int
    refused_files: tuple[str, ...]
    counters: Counters


@dataclass(frozen=True, slots=True)
class ClosedDirectory:
    """A directory that this user may not look into."""

    path: Path


def settings_of(environ: Mapping[str, str]) -> Settings:
    """What an app with this environment would use.

    Raises:
        WrongUsage: a variable can't be used; the app would say the same.
    """
    try:
        return Settings.load(environ=environ)
    except InvalidSetting as error:
        raise WrongUsage(str(error)) from error


def look_at_root(path: Path) -> SpoolRoot:
    """The root, or, where it isn't there yet, the nearest directory above it."""
    # os.path.exists, since Path.exists raises below a directory that is closed to us.
    existing = path
    while not os.path.exists(existing) and existing != existing.parent:  # noqa: PTH110
        existing = existing.parent
    disk = OsDisk()
    return SpoolRoot(
        path,
        exists=existing == path,
        is_writable=os.access(existing, os.W_OK | os.X_OK) and existing.is_dir(),
        file_system=disk.file_system(str(existing)),
        free_bytes=disk.free_bytes(str(existing)),
    )


def look_into_root(root: Path) -> list[SpoolDirectory | ClosedDirectory]:
    """All producers' directories in which something may wait, by name.

    Raises:
        PermissionError: the root itself is closed to this user.
    """
    try:
        names = sorted(entry.name for entry in root.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    found: list[SpoolDirectory | ClosedDirectory] = []
    for name in names:
        if producer_of(name) is None:
            continue
        try:
            directory = _look(root / name)
        except PermissionError:
            found.append(ClosedDirectory(root / name))
        except FileNotFoundError:
            pass  # Shipped and removed while we looked.
        else:
            found += [directory] if directory is not None else []
    return found


def _look(path: Path) -> SpoolDirectory | None:
    names = [entry.name for entry in path.iterdir()]
    if FINISHED in names:
        return None  # All of it is in the ledger.
    segments = sorted(found for name in names if (found := segment_name(name)))
    header = _header(path, segments)
    acknowledged = Acknowledged.unpack(_small(path / ACKNOWLEDGED))
    return SpoolDirectory(
        path,
        producer=path.name,
        name=f"{header.service}@{header.host}" if header.producer else "",
        pid=header.pid,
        is_live=_is_locked(path / LOCK),
        last_sequence=_last_sequence(path, segments),
        watermark=acknowledged.watermark,
        written_unix_ns=_written(path, segments),
        refused_files=tuple(name for name in sorted(names) if name.endswith(REFUSED_SUFFIX)),
        counters=Counters.unpack(_small(path / COUNTERS)),
    )


def _header(path: Path, segments: list[SegmentName]) -> spool_pb2.SegmentHeader:
    """What the newest segment says of its process; an empty one where none can be read."""
    header = spool_pb2.SegmentHeader()
    for segment in reversed(segments):
        with (path / str(segment)).open("rb") as file:
            frames = scan(file.read(_HEAD_BYTES), is_end=True).frames
        if frames and frames[0][0] == KIND_HEADER:
            header.ParseFromString(frames[0][2] + frames[0][3])
            break
    return header


def _last_sequence(path: Path, segments: list[SegmentName]) -> int:
    """The newest record's sequence. Each frame names it, so the end of a segment is enough."""
    for segment in reversed(segments):
        with (path / str(segment)).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            frames = scan(file.read(), is_end=True).frames
            if not frames and size > HEADER_BYTES:
                file.seek(0)
                frames = scan(file.read(), is_end=True).frames
        if frames:
            return max(frame[1] for frame in frames)
        if segment.first_sequence > 1:
            return segment.first_sequence - 1
    return 0


def _written(path: Path, segments: list[SegmentName]) -> int:
    newest = path / str(segments[-1]) if segments else path
    return newest.stat().st_mtime_ns


def _small(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_SMALL_BYTES)
    except FileNotFoundError:
        return b""


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
