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

NOT_WRITTEN_AHEAD = b"\x01\x01"
"""Bytes 18 and 19 of a database that keeps no write-ahead log: its file format versions."""

FORMER_SUFFIX = ".of-former"
"""Added to the name of a log that belongs to a ledger which a backup has replaced."""


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


def set_former_log_aside(database: Path) -> None:
    """Keep the log of the ledger that a restored backup replaces from being played over it.

    meterd was killed, and the copy was put in its place beside the old `-wal`: SQLite would
    take the two for one database, and spoil it. A ledger in use says in its header that it
    writes ahead; a copy made by `VACUUM INTO` doesn't, so a log beside it isn't its own.
    """
    log = database.with_name(database.name + "-wal")
    if log.exists() and _is_copy(database):
        log.replace(database.with_name(log.name + FORMER_SUFFIX))
        database.with_name(database.name + "-shm").unlink(missing_ok=True)
        _sync(database.parent)


def _is_copy(database: Path) -> bool:
    try:
        with database.open("rb") as file:
            return file.read(20)[18:] == NOT_WRITTEN_AHEAD
    except FileNotFoundError:
        return False


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
