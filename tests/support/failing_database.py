"""SQLite on a disk that fails to order: the real library and files, with errors at commits.

disk = FailingDisk(random, directory)
open_store(disk.directory, clock, factory=disk.connection)
disk.commit_fails = 0.1      an I/O error at COMMIT: before it, or when it was done already
disk.write_fails = 0.05      a full disk in the middle of a transaction
disk.is_full = True          SQLite's own: no page can be added
disk.after_kill(), disk.after_power_cut()    what another process would find
"""

from __future__ import annotations

import shutil
import sqlite3
from typing import TYPE_CHECKING, Any

from meterd.store.sqlite import DATABASE

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

PAGES_MAX = 1 << 30


class FailingDisk:
    """The directory of one ledger, and what goes wrong with it."""

    def __init__(self, random: Random, directory: Path) -> None:
        self.random = random
        self.directory = directory
        self.commit_fails = self.write_fails = 0.0
        self.is_full = False
        self._synced_bytes = 0
        self._lives = 0

    @property
    def connection(self) -> type[sqlite3.Connection]:
        """The class of a connection to it."""
        disk = self

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
                if sql == "BEGIN IMMEDIATE":
                    self._bound()
                if sql == "COMMIT":
                    return self._commit()
                return super().execute(sql, parameters)

            def executemany(self, sql: str, parameters: Any) -> sqlite3.Cursor:
                if disk.strikes(disk.write_fails):
                    raise sqlite3.OperationalError("database or disk is full")
                return super().executemany(sql, parameters)

            def _bound(self) -> None:
                pages = 1 if disk.is_full else PAGES_MAX
                super().execute(f"PRAGMA max_page_count = {pages}").fetchone()

            def _commit(self) -> sqlite3.Cursor:
                is_failing = disk.strikes(disk.commit_fails)
                if is_failing and disk.random.random() < 0.5:
                    raise sqlite3.OperationalError("disk I/O error")
                done = super().execute("COMMIT")
                if is_failing:
                    raise sqlite3.OperationalError("disk I/O error")
                disk.note_synced()
                return done

        return Connection

    def strikes(self, chance: float) -> bool:
        """Whether a fault of this chance happens now."""
        return chance > 0 and self.random.random() < chance

    def note_synced(self) -> None:
        """A commit was answered: its log is on the disk."""
        self._synced_bytes = self._log_bytes()

    def after_kill(self) -> FailingDisk:
        """The files as a kill leaves them: all that was written is there."""
        return self._left(self._log_bytes())

    def after_power_cut(self) -> FailingDisk:
        """The files as a power cut leaves them: what no commit was answered for may be torn."""
        written = self._log_bytes()
        return self._left(self.random.randint(min(self._synced_bytes, written), written))

    def _left(self, log_bytes: int) -> FailingDisk:
        self._lives += 1
        target = self.directory.with_name(f"{self.directory.name}-{self._lives}")
        target.mkdir()
        shutil.copyfile(self.directory / DATABASE, target / DATABASE)
        log = self.directory / f"{DATABASE}-wal"
        if log.exists():
            (target / log.name).write_bytes(log.read_bytes()[:log_bytes])
        left = FailingDisk(self.random, target)
        left.commit_fails, left.write_fails = self.commit_fails, self.write_fails
        left.is_full = self.is_full
        left._synced_bytes = log_bytes
        return left

    def _log_bytes(self) -> int:
        log = self.directory / f"{DATABASE}-wal"
        return log.stat().st_size if log.exists() else 0
