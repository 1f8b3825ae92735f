"""What others ask of the writer beside batches: each a function in one transaction.

Writes take the engine, and check before they write; reads take a reader's connection.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from meterd.errors import NotFound
from meterd.ids import LeaseId, ProducerId
from meterd.ids import Sequence as SequenceNumber
from meterd.store.values import ConfigVersion, Grant, Lease, PeriodIndex

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from meterd.store.engine import Engine
    from meterd.store.values import Producer


def hello(engine: Engine, producer: Producer, at_ms: int) -> SequenceNumber:
    """Know a producer; its watermark."""
    return SequenceNumber(engine.producers.hello(producer, at_ms).watermark)


def watermark(connection: sqlite3.Connection, producer: ProducerId) -> SequenceNumber:
    """Up to where the ledger has a producer's records."""
    found = connection.execute(
        "SELECT watermark FROM producers WHERE producer = ?", (producer,)
    ).fetchone()
    return SequenceNumber(found[0] if found else 0)


def lose(
    engine: Engine, producer: ProducerId, first: int, last: int, reason: str, at_ms: int
) -> SequenceNumber:
    """Step over sequences that will never come; the watermark."""
    return SequenceNumber(engine.producers.lose(producer, first, last, reason, at_ms).watermark)


def goodbye(engine: Engine, producer: ProducerId, last_sequence: int, at_ms: int) -> None:
    """A producer ends."""
    engine.producers.ends(producer, last_sequence, at_ms)


def forget(engine: Engine, client: str) -> str:
    """Replace a client's name and its projects' wherever they stand; sums stay.

    Raises:
        NotFound: the ledger knows no such client.
    """
    connection = engine.connection
    found = connection.execute("SELECT id FROM clients WHERE name = ?", (client,)).fetchone()
    if found is None:
        raise NotFound(f"the ledger knows no client {client!r}")
    replaced_by = f"forgotten-{secrets.token_hex(4)}"
    connection.execute("UPDATE clients SET name = ? WHERE id = ?", (replaced_by, found[0]))
    connection.execute(
        "UPDATE tags SET project = 'forgotten-' || id WHERE client = ? AND project <> ''",
        (found[0],),
    )
    for table in ("leases", "grants", "events"):
        connection.execute(f"UPDATE {table} SET client = ? WHERE client = ?", (replaced_by, client))
    connection.execute("UPDATE leases SET project = '' WHERE client = ?", (replaced_by,))
    engine.interning.forget()
    engine.own_names.forget()
    engine.ledger.fold.forget()
    return replaced_by


# ── configuration ──


def apply_config(engine: Engine, toml: bytes, source: str, at_ms: int) -> ConfigVersion:
    """Keep a configuration."""
    cursor = engine.connection.execute(
        "INSERT INTO config_versions (toml, source, applied_at_ms) VALUES (?, ?, ?)",
        (toml, source, at_ms),
    )
    assert cursor.lastrowid is not None
    return ConfigVersion(version=cursor.lastrowid, toml=toml, source=source, applied_at_ms=at_ms)


def config_versions(connection: sqlite3.Connection) -> list[ConfigVersion]:
    """All configurations, oldest first."""
    return [
        ConfigVersion(version=version, toml=toml, source=source, applied_at_ms=at_ms)
        for version, toml, source, at_ms in connection.execute(
            "SELECT version, toml, source, applied_at_ms FROM config_versions ORDER BY version"
        )
    ]


# ── quotas ──


def lend(engine: Engine, lease: Lease) -> None:
    """Commit a lease."""
    engine.leases.lend(lease)


def release(engine: Engine, lease: LeaseId, last_sequence: int) -> None:
    """A producer won't use a lease any more."""
    engine.leases.release(lease, last_sequence)


def end_leases(engine: Engine, leases: Sequence[LeaseId]) -> None:
    """Take back what is outstanding."""
    engine.leases.end(leases)


def outstanding_leases(connection: sqlite3.Connection) -> list[Lease]:
    """All that have not ended, oldest first."""
    return [
        Lease(
            id=LeaseId(lease),
            producer=ProducerId(producer),
            client=client,
            project=project,
            model=model,
            period=PeriodIndex(period),
            tokens=tokens,
            used_tokens=used,
            lent_at_ms=lent_at_ms,
            expires_at_ms=expires_at_ms,
            last_sequence=last_sequence,
        )
        for (
            lease, producer, client, project, model, period, tokens, used, lent_at_ms,
            expires_at_ms, last_sequence,
        ) in connection.execute(
            "SELECT id, producer, client, project, model, period, tokens, used_tokens, "
            "lent_at_ms, expires_at_ms, last_sequence FROM leases WHERE ended_at_ms IS NULL "
            "ORDER BY lent_at_ms, id"
        )
    ]  # fmt: skip


def grant(engine: Engine, grant: Grant) -> None:
    """Record tokens added by hand."""
    engine.connection.execute(
        "INSERT INTO grants SELECT ?1, ?2, coalesce(max(number), 0) + 1, ?3, ?4, ?5, ?6 "
        "FROM grants WHERE client = ?1 AND period = ?2",
        (grant.client, grant.period, grant.tokens, grant.why, grant.who, grant.at_ms),
    )


def grants(connection: sqlite3.Connection, client: str, period: PeriodIndex) -> list[Grant]:
    """What was granted to a client in a period, oldest first."""
    return [
        Grant(client=client, period=period, tokens=tokens, why=why, who=who, at_ms=at_ms)
        for tokens, why, who, at_ms in connection.execute(
            "SELECT tokens, why, who, at_ms FROM grants WHERE client = ? AND period = ? "
            "ORDER BY number",
            (client, period),
        )
    ]


def claim_event(engine: Engine, key: tuple[str, int, int, str, int]) -> bool:
    """Whether this is the first claim of an event."""
    cursor = engine.connection.execute(
        "INSERT INTO events VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", key
    )
    return bool(cursor.rowcount)


# ── closing ──


def close_period(engine: Engine, client: str, period: PeriodIndex) -> None:
    """What arrives for the period from now on is posted in the next open one."""
    number = engine.interning.client(client)
    bounds = engine.calendar.bounds(number, client, period)
    engine.connection.execute(
        "INSERT INTO periods VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET closed_at_ms = coalesce(closed_at_ms, excluded.closed_at_ms)",
        (number, *bounds, engine.now_ms),
    )
    engine.calendar.forget()
    engine.own_names.forget()
    engine.ledger.fold.forget()
