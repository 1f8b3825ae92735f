"""A file system in memory that can be taken away: full, short, failing, killed, without power.

    disk = MemoryDisk(random)
    disk.faults = Faults(short_write=0.1, no_space=0.05)    chances, drawn from `random`
    view = disk.process()      one process's descriptors and locks; view.die() frees them
    disk.cut_power()           what was not synced may be gone, from its end on

Implements `meterd_middleware.disk.Disk`. Used where a real file system can't be made to fail
to order, and where thousands of schedules have to run in a second.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meterd_middleware.disk import FileStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random


@dataclass
class Faults:
    """The chance of each fault, from 0 to 1. What a real system may do, no more."""

    no_space: float = 0.0
    """A write, or the making of a file, fails as a whole."""
    short_write: float = 0.0
    """A write stops in the middle."""
    truncate: float = 0.0
    sync: float = 0.0
    open: float = 0.0
    interrupt: float = 0.0
    """An exception of a signal handler strikes after the write was done."""


class Interrupted(BaseException):
    """What a signal handler raises in the middle of anything, as KeyboardInterrupt."""


@dataclass
class _Node:
    """A file: its bytes, and how many of them would survive a power cut."""

    inode: int
    data: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    modified_unix_ns: int = 0
    mode: int = 0o600
    locked_by: object = None


@dataclass
class _Open:
    node: _Node
    flags: int
    process: MemoryView


class MemoryDisk:
    """The files of one host."""

    def __init__(self, random: Random, now_ns: Callable[[], int] = lambda: 0) -> None:
        self.random, self.now_ns = random, now_ns
        self.faults = Faults()
        self.free = 2**40
        self.kind = "ext4"
        self.files: dict[str, _Node] = {}
        self.directories: dict[str, int] = {"": 1, "/": 1}
        self.modes: dict[str, int] = {}
        self.log: list[tuple[str, str]] = []
        self._inodes = 10
        self._fds = 100

    def process(self) -> MemoryView:
        """A process on this host."""
        return MemoryView(self)

    def cut_power(self) -> None:
        """Forget what was not synced: of each file a random part of its unsynced end."""
        for node in self.files.values():
            synced = len(node.synced)
            if len(node.data) > synced:
                kept = self.random.randint(synced, len(node.data))
                del node.data[kept:]
            node.locked_by = None

    def new_inode(self) -> int:
        self._inodes += 1
        return self._inodes

    def new_fd(self) -> int:
        self._fds += 1
        return self._fds

    def strikes(self, chance: float) -> bool:
        """Whether a fault of this chance happens now."""
        return chance > 0 and self.random.random() < chance

    def flip_bit(self, path: str, at: int) -> None:
        """Corrupt a byte of a file."""
        self.files[path].data[at] ^= 1 << self.random.randrange(8)


class MemoryView:
    """A process's view of the disk: its descriptors, closed all at once when it dies."""

    def __init__(self, disk: MemoryDisk) -> None:
        self.disk = disk
        self._open: dict[int, _Open] = {}
        self._is_dead = False

    def die(self) -> None:
        """As kill -9 does: every descriptor is closed, every lock is free."""
        for fd in list(self._open):
            self.close(fd)
        self._is_dead = True

    @property
    def open_files(self) -> int:
        """How many descriptors are open."""
        return len(self._open)

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        disk = self.disk
        node = disk.files.get(path)
        if disk.strikes(disk.faults.open):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if node is None:
            if not flags & os.O_CREAT or _parent(path) not in disk.directories:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            if disk.strikes(disk.faults.no_space):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            node = disk.files[path] = _Node(disk.new_inode(), mode=mode)
            node.modified_unix_ns = disk.now_ns()
        elif flags & os.O_CREAT and flags & os.O_EXCL:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        fd = disk.new_fd()
        self._open[fd] = _Open(node, flags, self)
        return fd

    def close(self, fd: int) -> None:
        if self._is_dead:
            return  # a finaliser of the test's; the process has none any more
        opened = self._at(fd)
        del self._open[fd]
        if opened.node.locked_by == (self, fd):
            opened.node.locked_by = None

    def write(self, fd: int, data: bytes) -> int:
        disk, node = self.disk, self._at(fd).node
        if disk.strikes(disk.faults.no_space) or disk.free <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        size = min(len(data), disk.free)
        if disk.strikes(disk.faults.short_write):
            size = disk.random.randrange(size)
        node.data += data[:size]
        node.modified_unix_ns = disk.now_ns()
        disk.free -= size
        disk.log.append(("write", str(size)))
        if disk.strikes(disk.faults.interrupt):
            raise Interrupted
        return size

    def read_at(self, fd: int, size: int, offset: int) -> bytes:
        return bytes(self._at(fd).node.data[offset : offset + size])

    def write_at(self, fd: int, data: bytes, offset: int) -> int:
        node = self._at(fd).node
        if offset + len(data) > len(node.data) and self.disk.free <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        node.data.extend(bytes(max(0, offset + len(data) - len(node.data))))
        node.data[offset : offset + len(data)] = data
        node.modified_unix_ns = self.disk.now_ns()
        return len(data)

    def truncate(self, fd: int, size: int) -> None:
        node = self._at(fd).node
        if self.disk.strikes(self.disk.faults.truncate):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.disk.free += max(0, len(node.data) - size)
        del node.data[size:]

    def sync(self, fd: int) -> None:
        node = self._at(fd).node
        if self.disk.strikes(self.disk.faults.sync):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        node.synced = bytes(node.data)
        self.disk.log.append(("sync", str(node.inode)))

    def sync_directory(self, path: str) -> None:
        self.disk.log.append(("sync_directory", path))

    def try_lock(self, fd: int) -> bool:
        node = self._at(fd).node
        if node.locked_by not in (None, (self, fd)):
            return False
        node.locked_by = (self, fd)
        return True

    def size(self, fd: int) -> int:
        return len(self._at(fd).node.data)

    def inode(self, fd: int) -> int:
        return self._at(fd).node.inode

    def status(self, path: str) -> FileStatus:
        disk = self.disk
        if path in disk.directories:
            mode = disk.modes.get(path, 0o700)
            return FileStatus(disk.directories[path], 0, 0, mode)
        node = disk.files.get(path)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return FileStatus(node.inode, len(node.data), node.modified_unix_ns, node.mode)

    def names(self, path: str) -> list[str]:
        if path not in self.disk.directories:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        prefix = f"{path}/"
        there = [*self.disk.files, *self.disk.directories]
        return [
            rest
            for one in there
            if one.startswith(prefix) and "/" not in (rest := one.removeprefix(prefix))
        ]

    def make_directory(self, path: str, mode: int) -> None:
        disk = self.disk
        if disk.strikes(disk.faults.open):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        while path not in disk.directories:
            disk.directories[path] = disk.new_inode()
            disk.modes[path] = mode
            path = _parent(path)

    def rename(self, source: str, target: str) -> None:
        disk = self.disk
        if source not in disk.directories:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), source)
        disk.directories[target] = disk.directories.pop(source)
        for path in list(disk.files):
            if path.startswith(f"{source}/"):
                disk.files[target + path.removeprefix(source)] = disk.files.pop(path)

    def link(self, source: str, target: str) -> None:
        if target in self.disk.files:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        self.disk.files[target] = self.disk.files[source]

    def remove(self, path: str) -> None:
        node = self.disk.files.pop(path, None)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self.disk.free += len(node.data)
        self.disk.log.append(("remove", path))

    def remove_directory(self, path: str) -> None:
        if self.names(path):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        del self.disk.directories[path]

    def free_bytes(self, path: str) -> int:
        return self.disk.free

    def file_system(self, path: str) -> str:
        return self.disk.kind

    def _at(self, fd: int) -> _Open:
        try:
            return self._open[fd]
        except KeyError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None


def _parent(path: str) -> str:
    return path.rpartition("/")[0]
