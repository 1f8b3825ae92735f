"""Closing a period in the books: staged in small steps, committed in one that is smaller.

    begin ─▶ stage, stage, … ─▶ commit: one row of `closings`, the bounds of the periods
                                        │
                                        └ only if nothing that it rests on has moved

A document that was staged is worth nothing until its closing is committed; what a killed
daemon left staged is thrown away by the next closing. Every step is a short transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meterd.store.book_values import Basis, ClosedClient, NewDocument, Series
    from meterd.store.engine import Engine
    from meterd.store.values import PeriodIndex

DISCARD_ROWS = 200
"""Documents thrown away in one transaction: about 5 ms."""


class BooksMoved(Refused):
    """What a closing was computed from has changed since; nothing was closed."""


def discard_staged(engine: Engine) -> bool:
    """Throw away some of what an unfinished closing left; whether there may be more."""
    execute = engine.connection.execute
    stale = "(SELECT id FROM closings WHERE committed_at_ms IS NULL)"
    documents = [
        number
        for (number,) in execute(
            f"SELECT id FROM documents WHERE closing IN {stale} LIMIT {DISCARD_ROWS}"
        )
    ]
    for number in documents:
        execute(
            "DELETE FROM document_lines WHERE document = ?1 "
            "AND client = (SELECT client FROM documents WHERE id = ?1)",
            (number,),
        )
        execute("DELETE FROM outbox WHERE document = ?", (number,))
        execute("DELETE FROM documents WHERE id = ?", (number,))
    if documents:
        return True
    execute(f"DELETE FROM closed_clients WHERE closing IN {stale}")
    execute("DELETE FROM closings WHERE committed_at_ms IS NULL")
    return False


def begin(engine: Engine, period: PeriodIndex, basis: Basis, config_version: int) -> int:
    """A closing begins; its number."""
    number = engine.connection.execute(
        "INSERT INTO closings (period, begun_at_ms, config_version, end_row, last_reprice, "
        "last_accepted, last_document) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            period,
            engine.now_ms,
            config_version,
            basis.end_row,
            basis.last_reprice,
            basis.last_accepted,
            basis.last_document,
        ),
    ).lastrowid
    assert number is not None
    return number


def stage(
    engine: Engine,
    closing: int,
    first_id: int,
    documents: Iterable[NewDocument],
    clients: Iterable[ClosedClient],
) -> None:
    """Write some of a closing's documents, the first with this id, and whom it closes."""
    for number, document in enumerate(documents, first_id):
        insert(engine, number, document, closing)
    engine.connection.executemany(
        "INSERT INTO closed_clients VALUES (?, ?, ?, ?, ?)",
        [
            (engine.interning.client(one.client), one.period, closing, one.start_ms, one.end_ms)
            for one in clients
        ],
    )


def commit(
    engine: Engine, closing: int, basis: Basis, end_ms: int, series: Iterable[Series]
) -> None:
    """Make a closing's documents worth something, and close the periods.

    Args:
        end_ms: when the last of the periods ends: a later record changes nothing.

    Raises:
        BooksMoved: something that was computed from has changed.
    """
    _check_still_stands(engine, closing, basis, end_ms)
    for one in series:
        move_series(engine, one)
    execute = engine.connection.execute
    execute("UPDATE closings SET committed_at_ms = ? WHERE id = ?", (engine.now_ms, closing))
    execute(
        "INSERT INTO periods SELECT client, period, start_ms, end_ms, ?2 FROM closed_clients "
        "WHERE closing = ?1 ON CONFLICT DO UPDATE SET "
        "closed_at_ms = coalesce(closed_at_ms, excluded.closed_at_ms)",
        (closing, engine.now_ms),
    )
    engine.calendar.forget()
    engine.own_names.forget()
    engine.ledger.fold.forget()


def insert(engine: Engine, number: int, document: NewDocument, closing: int | None) -> None:
    """Write one document, its lines, and who has to be told."""
    client = engine.interning.client(document.client)
    engine.connection.execute(
        "INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            number,
            client,
            document.period,
            document.kind,
            document.number,
            closing,
            document.canonical,
            document.previous_hash,
            document.hash,
            document.total,
            document.issued_at_ms,
        ),
    )
    engine.connection.executemany(
        "INSERT INTO document_lines VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (client, number, position, line.period, line.kind, line.description, line.amount)
            for position, line in enumerate(document.lines)
        ],
    )
    engine.connection.executemany(
        "INSERT INTO outbox VALUES (?, ?, 'create', ?, ?, 'waiting', '', '', ?)",
        [
            (number, target, f"{target}:{document.hash[:40]}", document.hash, engine.now_ms)
            for target in document.targets
        ],
    )


def move_series(engine: Engine, series: Series) -> None:
    """Count a series up by what was given out of it.

    Raises:
        BooksMoved: somebody else has given numbers out meanwhile.
    """
    engine.connection.execute(
        "INSERT INTO document_series VALUES (?, 0) ON CONFLICT DO NOTHING", (series.name,)
    )
    moved = engine.connection.execute(
        "UPDATE document_series SET last = ? WHERE series = ? AND last = ? RETURNING last",
        (series.after, series.name, series.before),
    ).fetchall()
    if not moved:
        raise BooksMoved(f"numbers of {series.name} were given out meanwhile")


def _check_still_stands(engine: Engine, closing: int, basis: Basis, end_ms: int) -> None:
    execute = engine.connection.execute
    (changes,) = execute("SELECT changes FROM books").fetchone()
    (last,) = execute(
        "SELECT coalesce(max(id), 0) FROM documents WHERE closing IS NULL OR closing <> ?",
        (closing,),
    ).fetchone()
    if changes != basis.changes or last != basis.last_document:
        raise BooksMoved("prices, grants, the configuration or the books changed meanwhile")
    # Whole runs are ruled out by their times; of the others the new rows are looked at.
    for first, end in execute(
        "SELECT max(first_row, ?1), end_row FROM runs WHERE end_row > ?1 AND least_ms < ?2",
        (basis.end_row, end_ms),
    ).fetchall():
        late = execute(
            "SELECT 1 FROM ledger WHERE id >= ? AND id < ? AND billed_at_ms < ? LIMIT 1",
            (first, end, end_ms),
        ).fetchone()
        if late is not None:
            raise BooksMoved("usage of the period arrived meanwhile")
