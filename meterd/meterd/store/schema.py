"""The database file: its settings, and its schema, migrated forward at start.

    migrations/0001_….sql ─▶ 0002_….sql ─▶ …    each in one transaction with its version

A database of a newer meterd is refused, in one sentence: its tables may mean other things.
"""

from __future__ import annotations

import secrets
import sqlite3
from importlib import resources
from typing import TYPE_CHECKING

from meterd.errors import CannotStart

if TYPE_CHECKING:
    from pathlib import Path

CACHE_KIB = 16_384
"""What the writer keeps of the database in memory: the rollups of a busy day fit."""
READER_CACHE_KIB = 2_048
CHECKPOINT_PAGES = 8_000
"""32 MiB of WAL between checkpoints: each copies every page written since, once."""
WAL_KEPT_BYTES = 64 << 20
BUSY_TIMEOUT_MS = 5_000


def connect_writer(
    path: Path, factory: type[sqlite3.Connection] = sqlite3.Connection
) -> sqlite3.Connection:
    """The one connection that writes. Transactions are begun and ended by hand.

    synchronous=FULL: a commit is on the disk before it is acknowledged. In WAL mode that is
    one fsync a transaction.

    Args:
        factory: a disk that fails to order is a connection of another class.
    """
    connection = sqlite3.connect(
        path,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
        factory=factory,
    )
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES}")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    connection.execute("PRAGMA temp_store = MEMORY")
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that can only read; in WAL mode it neither waits for the writer nor holds it."""
    # mode=rw: a database that isn't there is not made by looking.
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None,
        check_same_thread=False,
    )  # fmt: skip
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA query_only = ON")
    connection.execute(f"PRAGMA cache_size = -{READER_CACHE_KIB}")
    return connection


def migrate(connection: sqlite3.Connection, now_ms: int) -> None:
    """Bring the schema up to this version, one transaction a step.

    Raises:
        CannotStart: the database was written by a newer meterd.
    """
    steps = migrations()
    version = schema_version(connection)
    if version > len(steps):
        raise CannotStart(
            f"the database has schema {version}, this meterd knows up to {len(steps)}: "
            "start the version of meterd that wrote it, or a newer one"
        )
    for number, sql in enumerate(steps[version:], start=version + 1):
        _apply(connection, number, sql, now_ms)


def migrations() -> list[str]:
    """The SQL of each migration, in order; number n brings the schema from n − 1 to n."""
    folder = resources.files("meterd.store") / "migrations"
    files = sorted(
        (file for file in folder.iterdir() if file.name.endswith(".sql")),
        key=lambda file: file.name,
    )
    return [file.read_text(encoding="utf-8") for file in files]


def schema_version(connection: sqlite3.Connection) -> int:
    """How many migrations the database has had; 0: it is new."""
    is_there = connection.execute(
        "SELECT 1 FROM sqlite_schema WHERE name = 'schema_version'"
    ).fetchone()
    if is_there is None:
        return 0
    row = connection.execute("SELECT max(version) FROM schema_version").fetchone()
    return int(row[0] or 0)


def ledger_id(connection: sqlite3.Connection) -> bytes:
    """The 16 random bytes that name this ledger and its backups."""
    (identity,) = connection.execute("SELECT ledger_id FROM ledger_identity").fetchone()
    return bytes(identity)


def _apply(connection: sqlite3.Connection, number: int, sql: str, now_ms: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in _statements(sql):
            connection.execute(statement)
        if number == 1:
            connection.execute(
                "CREATE TABLE schema_version (version INTEGER PRIMARY KEY, at_ms INTEGER) STRICT"
            )
            connection.execute(
                "INSERT INTO ledger_identity VALUES (1, ?, ?)", (secrets.token_bytes(16), now_ms)
            )
        connection.execute("INSERT INTO schema_version VALUES (?, ?)", (number, now_ms))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _statements(sql: str) -> list[str]:
    """The single statements of a script: `executescript` would commit on its own."""
    statements: list[str] = []
    pending = ""
    for line in sql.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            statements.append(pending)
            pending = ""
    return [statement for statement in statements if statement.strip()]
