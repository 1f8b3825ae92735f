"""Backup: a consistent copy of a live database, in one statement.

`VACUUM INTO` reads one snapshot and never waits for the writer. SQLite's stepwise backup
begins anew whenever somebody writes, so beside a busy writer it never ends.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from meterd.errors import InvalidRequest

if TYPE_CHECKING:
    from pathlib import Path


def write(database: Path, target: Path) -> None:
    """Copy the database to a new file, complete and on the disk when this returns.

    Raises:
        InvalidRequest: the target exists already.
    """
    if target.exists():
        raise InvalidRequest(f"{target} exists already: a backup overwrites nothing")
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            connection.execute("VACUUM INTO ?", (str(part),))
        _sync(part)
        part.rename(target)
        _sync(target.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
