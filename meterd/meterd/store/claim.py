"""The claim on a data directory: one daemon's at a time, by a lock that ends with its process.

DATA/lock     flocked by the daemon that uses the directory

The lock belongs to the file, not to its name. Where somebody has deleted the directory under
a running daemon, its lock guards nothing any more, and is taken anew before it goes on.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from meterd.errors import CannotStart, StorageFault

if TYPE_CHECKING:
    from pathlib import Path


class Claim:
    """A data directory held for this process."""

    def __init__(self, data: Path) -> None:
        """Take it.

        Raises:
            CannotStart: it can't be written, or another daemon has it.
        """
        self._data = data
        try:
            self._lock = _locked(data)
        except BlockingIOError as fault:
            raise CannotStart(f"another meterd already uses the data directory {data}") from fault
        except OSError as fault:
            raise CannotStart(
                f"the data directory {data} can't be written: {fault.strerror}"
            ) from fault

    def renew(self) -> None:
        """Make sure that the lock is the one that another daemon would find.

        Raises:
            StorageFault: it isn't, and can't be taken: another daemon has the directory now.
        """
        if self._is_standing():
            return
        try:
            lock = _locked(self._data)
        except BlockingIOError as fault:
            raise StorageFault(
                f"another meterd has taken the data directory {self._data}"
            ) from fault
        except OSError as fault:
            raise StorageFault(
                f"the data directory {self._data} can't be written: {fault.strerror}"
            ) from fault
        os.close(self._lock)
        self._lock = lock

    def release(self) -> None:
        """Let go of it."""
        os.close(self._lock)

    def _is_standing(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._lock), (self._data / "lock").stat())
        except OSError:
            return False


def _locked(data: Path) -> int:
    """The lock's descriptor.

    Raises:
        BlockingIOError: somebody else has it.
        OSError: it can't be made.
    """
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(lock)
        raise
    return lock
