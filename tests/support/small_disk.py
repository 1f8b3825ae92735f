"""A small real file system that a test can fill: a tmpfs, where this user may mount one."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class SmallDisk:
    """A mounted file system of some MiB."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self, left_bytes: int = 0) -> None:
        """Leave so much room and no more."""
        with self._filler.open("ab") as filler:
            while (free := self._free()) > left_bytes:
                filler.write(bytes(min(free - left_bytes, 1 << 16)))
                filler.flush()

    def make_room(self) -> None:
        """Take the filler away."""
        self._filler.unlink()

    def _free(self) -> int:
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize


@contextmanager
def small_disk(path: Path, *, mebibytes: int = 8) -> Iterator[SmallDisk]:
    """Mount one at a path; skips the test, with a word, where that isn't allowed."""
    path.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(path)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        # Lazily: a process that a failed test left may still have a file open.
        subprocess.run(["umount", "-l", str(path)], check=True)
