"""Readers: connections that only read, on threads of their own; they never wait for the writer.

A read is one short transaction. What is long (records, verify) is cut into many, so that no
reader holds the write-ahead log back.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from meterd.errors import StorageFault
from meterd.store.schema import connect_reader

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

THREADS = 2

T = TypeVar("T")


class Readers:
    """A few connections to one database."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pool = ThreadPoolExecutor(THREADS, "meterd-reader")
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query in one read transaction.

        Raises:
            StorageFault: the database can't be read.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._read, query)

    async def close(self) -> None:
        """Finish what is being read, and close."""
        await asyncio.to_thread(self._pool.shutdown)
        for connection in self._connections:
            connection.close()

    def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        try:
            connection = self._connection()
            connection.execute("BEGIN")
            try:
                return query(connection)
            finally:
                connection.execute("ROLLBACK")
        except sqlite3.Error as fault:
            self._drop()
            raise StorageFault(f"the database can't be read: {fault}") from fault

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        inode = self._path.stat().st_ino if self._path.exists() else 0
        if connection is not None and inode != self._local.inode:
            self._drop()  # another database stands there now
            connection = None
        if connection is None:
            connection = self._local.connection = connect_reader(self._path)
            self._local.inode = inode
            self._connections.append(connection)
        return connection

    def _drop(self) -> None:
        """After a fault the next read opens the file anew."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is not None:
            self._local.connection = None
            self._connections.remove(connection)
            connection.close()
