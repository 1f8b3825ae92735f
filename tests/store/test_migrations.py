"""The schema: made once, moved forward in transactions, never opened by an older meterd."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from meterd.errors import CannotStart
from meterd.store import schema
from meterd.store.sqlite import DATABASE, open_store
from tests.support.builders import NOW_MS, placed, usage

if TYPE_CHECKING:
    from pathlib import Path

    from tests.store.conftest import HandClock


def test_a_new_database_gets_the_whole_schema_and_an_id(tmp_path: Path) -> None:
    connection = schema.connect_writer(tmp_path / "new.db")

    schema.migrate(connection, NOW_MS)

    assert schema.schema_version(connection) == len(schema.migrations())
    assert len(schema.ledger_id(connection)) == 16
    connection.close()


def test_migrating_twice_changes_nothing(tmp_path: Path) -> None:
    connection = schema.connect_writer(tmp_path / "new.db")
    schema.migrate(connection, NOW_MS)
    before = connection.execute("SELECT sql FROM sqlite_schema ORDER BY name").fetchall()
    identity = schema.ledger_id(connection)

    schema.migrate(connection, NOW_MS + 1)

    assert connection.execute("SELECT sql FROM sqlite_schema ORDER BY name").fetchall() == before
    assert schema.ledger_id(connection) == identity
    connection.close()


def test_a_step_that_fails_leaves_the_schema_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = schema.connect_writer(tmp_path / "new.db")
    steps = schema.migrations()
    schema.migrate(connection, NOW_MS)
    monkeypatch.setattr(
        schema, "migrations", lambda: [*steps, "CREATE TABLE half (a);\nCREATE TABLE ledger (a);\n"]
    )

    with pytest.raises(sqlite3.OperationalError, match="already exists"):
        schema.migrate(connection, NOW_MS)

    assert schema.schema_version(connection) == len(steps)
    found = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'half'").fetchone()
    assert found is None
    connection.close()


async def test_a_database_of_a_newer_meterd_is_refused(tmp_path: Path, clock: HandClock) -> None:
    store = await open_store(tmp_path, clock)
    await store.commit(placed(usage()))
    await store.close()
    connection = sqlite3.connect(tmp_path / DATABASE)
    connection.execute("INSERT INTO schema_version VALUES (99, 0)")
    connection.commit()
    connection.close()

    with pytest.raises(CannotStart, match="the database has schema 99"):
        await open_store(tmp_path, clock)


def test_commits_are_durable_before_they_are_answered(tmp_path: Path) -> None:
    """WAL with synchronous=FULL: SQLite syncs the log within COMMIT."""
    connection = schema.connect_writer(tmp_path / "new.db")

    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    connection.close()


def test_a_reader_can_write_nothing(tmp_path: Path) -> None:
    writer = schema.connect_writer(tmp_path / "new.db")
    schema.migrate(writer, NOW_MS)
    reader = schema.connect_reader(tmp_path / "new.db")

    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM ledger")

    reader.close()
    writer.close()
