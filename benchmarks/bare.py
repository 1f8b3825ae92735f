"""The bare thing that ingest is measured against: `executemany` of ready full rows.

The ledger's own table, the daemon's own PRAGMAs and file system, 10,000 rows a transaction,
every value in memory already; no rollups, no prices, no network, no watermark.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from meterd.store.schema import connect_writer, migrate

if TYPE_CHECKING:
    from types import TracebackType

TRANSACTION_ROWS = 10_000

Row: TypeAlias = tuple[int | None, ...]

_COLUMNS = (
    "tag, kind, billed_at_ms, duration_ms, input_tokens, cache_read_tokens, output_tokens, "
    "reasoning_tokens, input_bytes, rate"
)
_INSERT = f"INSERT INTO ledger ({_COLUMNS}, rest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_INSERT_SHORT = f"INSERT INTO ledger ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


class Bare:
    """A ledger that rows are put into, and nothing else."""

    def __init__(self, count: int) -> None:
        """Make `count` rows with the values that the workload has."""
        self._root = Path(tempfile.mkdtemp(prefix="mb"))
        self._connection = connect_writer(self._root / "bare.db")
        migrate(self._connection, 0)
        self._short_rows = _rows(count)
        self._rows = [(*row, None) for row in self._short_rows]

    def __enter__(self) -> Bare:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection.close()
        shutil.rmtree(self._root, ignore_errors=True)

    def seconds(self) -> float:
        """Insert all rows once more, every column of them."""
        return self._inserted(_INSERT, self._rows)

    def seconds_short(self) -> float:
        """The same without the last column, which is NULL for plain records.

        `sqlite3` looks for an adapter of each None that it binds, which is a third of the time.
        """
        return self._inserted(_INSERT_SHORT, self._short_rows)

    def _inserted(self, insert: str, rows: list[Row]) -> float:
        connection = self._connection
        start = time.perf_counter()
        for first in range(0, len(rows), TRANSACTION_ROWS):
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(insert, rows[first : first + TRANSACTION_ROWS])
            connection.execute("COMMIT")
        return time.perf_counter() - start


def _rows(count: int) -> list[Row]:
    below = random.Random(1).randrange
    now_ms = time.time_ns() // 1_000_000
    rows: list[Row] = []
    for index in range(count):
        took = 200 + below(4_000)
        read = took // 2 if below(3) == 0 else 0
        rows.append(
            (1 + below(10_000), 1 + below(8), now_ms + index, 300 + below(3_000), took, read,
             20 + below(900), 0, took * 4, 1 + below(8))
        )  # fmt: skip
    return rows
