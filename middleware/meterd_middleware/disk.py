"""What the spool asks of the operating system, in one place, so that tests can take it away.

    spool, backlog, adoption ──▶ Disk ──▶ OsDisk: the real one
                                     └──▶ tests/support/disk.py: full, torn, failing, powerless

Every method is one system call or nearly so, raises `OSError` as `os` does, and takes paths
as strings. Linux and macOS.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import NamedTuple, Protocol


class FileStatus(NamedTuple):
    """What is known of a file without opening it."""

    inode: int
    bytes: int
    modified_unix_ns: int
    mode: int


class Disk(Protocol):
    """A file system, as the spool uses it."""

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        """A descriptor, not inherited by executed programs; `mode` holds whatever the umask."""
        ...

    def close(self, fd: int) -> None: ...
    def write(self, fd: int, data: bytes) -> int:
        """How many bytes were written: fewer than asked for where the disk is nearly full."""
        ...

    def read_at(self, fd: int, size: int, offset: int) -> bytes: ...
    def write_at(self, fd: int, data: bytes, offset: int) -> int: ...
    def truncate(self, fd: int, size: int) -> None: ...
    def sync(self, fd: int) -> None: ...
    def sync_directory(self, path: str) -> None: ...
    def try_lock(self, fd: int) -> bool:
        """Take the file's lock, until its last descriptor is closed; False: another has it."""
        ...

    def size(self, fd: int) -> int: ...
    def inode(self, fd: int) -> int: ...
    def status(self, path: str) -> FileStatus: ...
    def names(self, path: str) -> list[str]: ...
    def make_directory(self, path: str, mode: int) -> None:
        """With its parents; existing is no error. `mode` is for the last one alone."""
        ...

    def rename(self, source: str, target: str) -> None: ...
    def link(self, source: str, target: str) -> None: ...
    def remove(self, path: str) -> None: ...
    def remove_directory(self, path: str) -> None: ...
    def free_bytes(self, path: str) -> int:
        """What an ordinary user can still write there."""
        ...

    def file_system(self, path: str) -> str:
        """Its type, as "ext4" or "overlay"; empty where the system doesn't say."""
        ...


class OsDisk:
    """The operating system's own."""

    close = staticmethod(os.close)
    write = staticmethod(os.write)
    read_at = staticmethod(os.pread)
    write_at = staticmethod(os.pwrite)
    truncate = staticmethod(os.ftruncate)
    sync = staticmethod(os.fsync)
    names = staticmethod(os.listdir)
    rename = staticmethod(os.rename)
    link = staticmethod(os.link)
    remove = staticmethod(os.unlink)
    remove_directory = staticmethod(os.rmdir)

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        fd = os.open(path, flags, mode)
        if flags & os.O_CREAT and mode & 0o077:
            try:
                os.fchmod(fd, mode)  # the umask would take the group's bits away
            except OSError:
                pass  # another user's file: its maker has set the bits
        return fd

    def sync_directory(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def try_lock(self, fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            raise
        return True

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def inode(self, fd: int) -> int:
        return os.fstat(fd).st_ino

    def status(self, path: str) -> FileStatus:
        found = Path(path).stat()
        return FileStatus(found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode)

    def make_directory(self, path: str, mode: int) -> None:
        try:
            Path(path).mkdir(0o700, parents=True)
        except FileExistsError:
            return
        if mode != 0o700:
            # The set-group-id bit comes from the parent, and chmod would take it away.
            Path(path).chmod(mode | (Path(path).stat().st_mode & 0o2000))

    def free_bytes(self, path: str) -> int:
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def file_system(self, path: str) -> str:
        try:
            mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return file_system_of(str(Path(path).absolute()), mounts)


def file_system_of(path: str, mounts: str) -> str:
    """The type of the mount that holds a path: the one with the longest mount point; the
    last of equals, which hides those before it. Format: proc(5), mountinfo."""
    kind, longest = "", -1
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) < 5 or not right:
            continue
        point = fields[4].replace("\\040", " ")
        holds = point == "/" or path == point or path.startswith(point + "/")
        if holds and len(point) >= longest:
            kind, longest = right.split(" ")[0], len(point)
    return kind
