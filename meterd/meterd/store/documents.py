"""Reading the books: documents in the order of their chain, and what their lines add up to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.errors import NotPossibleNow
from meterd.store import closing as closings
from meterd.store.book_values import (
    Basis,
    BilledLine,
    Closing,
    LastSeen,
    OutboxEntry,
    StoredDocument,
)
from meterd.store.closing import BooksMoved
from meterd.store.values import PeriodIndex

if TYPE_CHECKING:
    import sqlite3

    from meterd.store.book_values import NewDocument, Series
    from meterd.store.engine import Engine

_COMMITTED = (
    "(d.closing IS NULL OR d.closing IN "
    "(SELECT id FROM closings WHERE committed_at_ms IS NOT NULL))"
)
_CREDITED = (
    "(SELECT coalesce(-sum(n.total), 0) FROM documents n WHERE n.client = d.client "
    "AND n.period = d.period AND n.kind = 'credit_note' "
    "AND n.canonical ->> 'credits' = d.number AND d.kind = 'invoice')"
)
_CREDITED_TAX = (
    "(SELECT coalesce(-sum(l.amount), 0) FROM documents n JOIN document_lines l "
    "ON l.client = n.client AND l.document = n.id AND l.kind = 'tax' WHERE n.client = d.client "
    "AND n.period = d.period AND n.kind = 'credit_note' "
    "AND n.canonical ->> 'credits' = d.number AND d.kind = 'invoice')"
)
_SELECT = (
    "SELECT d.id, c.name, d.period, d.kind, d.number, d.canonical, d.previous_hash, d.hash, "
    "d.issued_at_ms, d.closing, EXISTS (SELECT 1 FROM documents v WHERE v.number = d.number "
    f"AND v.kind = 'void') AND d.kind <> 'void', {_CREDITED}, {_CREDITED_TAX} "
    f"FROM documents d JOIN clients c ON c.id = d.client WHERE {_COMMITTED}"
)
CHAIN_PAGE = 200
"""Documents read in one go."""


def basis(connection: sqlite3.Connection) -> Basis:
    """Where ledger and books stand."""
    (end_row,) = connection.execute("SELECT coalesce(max(end_row), 1) FROM runs").fetchone()
    changes, last_reprice, last_accepted = connection.execute(
        "SELECT changes, (SELECT coalesce(max(id), 0) FROM reprices), "
        "(SELECT coalesce(max(id), 0) FROM accepted) FROM books"
    ).fetchone()
    last = connection.execute(
        f"SELECT d.id, d.hash FROM documents d WHERE {_COMMITTED} ORDER BY d.id DESC LIMIT 1"
    ).fetchone()
    return Basis(
        end_row=end_row,
        changes=changes,
        last_reprice=last_reprice,
        last_accepted=last_accepted,
        last_document=last[0] if last else 0,
        last_hash=last[1] if last else "",
    )


def series(connection: sqlite3.Connection, name: str) -> int:
    """The last number given out in a series; 0: none was."""
    found = connection.execute(
        "SELECT last FROM document_series WHERE series = ?", (name,)
    ).fetchone()
    return int(found[0]) if found else 0


def of_period(
    connection: sqlite3.Connection, period: PeriodIndex | None, client: str | None
) -> list[StoredDocument]:
    """Documents of a period and client, in the order of the chain; a None asks for all."""
    return _documents(
        connection,
        f"{_SELECT} AND (?1 IS NULL OR d.period = ?1) AND (?2 IS NULL OR c.name = ?2) "
        "ORDER BY d.id",
        (period, client),
    )


def numbered(connection: sqlite3.Connection, number: str) -> StoredDocument | None:
    """The document with a number."""
    found = _documents(connection, f"{_SELECT} AND d.number = ? AND d.kind <> 'void'", (number,))
    return found[0] if found else None


def chain(connection: sqlite3.Connection, after: int) -> list[StoredDocument]:
    """The next documents of the chain after an id."""
    return _documents(
        connection, f"{_SELECT} AND d.id > ? ORDER BY d.id LIMIT {CHAIN_PAGE}", (after,)
    )


def count(connection: sqlite3.Connection) -> int:
    """How many documents the chain has."""
    (found,) = connection.execute(f"SELECT count(*) FROM documents d WHERE {_COMMITTED}").fetchone()
    return int(found)


def _documents(
    connection: sqlite3.Connection, sql: str, values: tuple[object, ...]
) -> list[StoredDocument]:
    return [
        StoredDocument(
            id=number,
            client=client,
            period=PeriodIndex(period),
            kind=kind,
            number=name,
            canonical=canonical,
            previous_hash=previous,
            hash=own,
            issued_at_ms=issued,
            closing=closing or 0,
            is_void=bool(is_void),
            credited=credited,
            credited_tax=credited_tax,
        )
        for (
            number, client, period, kind, name, canonical, previous, own, issued, closing, is_void,
            credited, credited_tax,
        ) in connection.execute(sql, values)
    ]  # fmt: skip


def billed(
    connection: sqlite3.Connection, client: str | None, before_document: int
) -> list[BilledLine]:
    """What invoices before a document say, by client, period and kind.

    A void invoice has charged its period all the same: what was called off is not billed
    again. Credits that it used up, and what it carried, are as if it had not been.
    """
    rows = connection.execute(
        "SELECT c.name, l.period, l.kind, iif(l.kind = 'credit', l.description, ''), "
        "sum(l.amount) FROM document_lines l JOIN documents d ON d.id = l.document "
        "JOIN clients c ON c.id = l.client "
        f"WHERE d.kind = 'invoice' AND d.id < ?1 AND {_COMMITTED} "
        "AND (?2 IS NULL OR l.client = (SELECT id FROM clients WHERE name = ?2)) "
        "AND NOT (l.kind IN ('credit', 'carried') AND d.number IN "
        "(SELECT number FROM documents WHERE kind = 'void' AND id < ?1)) "
        "GROUP BY l.client, 2, 3, 4",
        (before_document, client),
    )
    return [
        BilledLine(name, PeriodIndex(period), kind, description, amount)
        for name, period, kind, description, amount in rows
    ]


def closings_made(connection: sqlite3.Connection) -> list[Closing]:
    """Every committed closing, in order."""
    return [
        Closing(
            id=number,
            period=PeriodIndex(period),
            config_version=version,
            end_row=end_row,
            last_reprice=reprice,
            last_accepted=accepted,
            last_document=document,
        )
        for number, period, version, end_row, reprice, accepted, document in connection.execute(
            "SELECT id, period, config_version, end_row, last_reprice, last_accepted, "
            "last_document FROM closings WHERE committed_at_ms IS NOT NULL ORDER BY id"
        )
    ]


def closed_by(
    connection: sqlite3.Connection, client: str | None
) -> dict[tuple[str, PeriodIndex], int]:
    """(client, period) → the closing that closed it."""
    return {
        (name, PeriodIndex(period)): number
        for name, period, number in connection.execute(
            "SELECT n.name, x.period, x.closing FROM closed_clients x "
            "JOIN closings c ON c.id = x.closing JOIN clients n ON n.id = x.client "
            "WHERE c.committed_at_ms IS NOT NULL AND (?1 IS NULL OR n.name = ?1)",
            (client,),
        )
    }


def append(engine: Engine, document: NewDocument, after: int, moved: Series | None) -> None:
    """Put one document at the end of the chain.

    Raises:
        BooksMoved: the chain has grown meanwhile.
        NotPossibleNow: it voids what is void already.
    """
    if basis(engine.connection).last_document != after:
        raise BooksMoved("the books changed meanwhile")
    while closings.discard_staged(engine):
        pass
    taken = engine.connection.execute(
        "SELECT 1 FROM documents WHERE number = ? AND (kind = 'void') = ?",
        (document.number, document.kind == "void"),
    ).fetchone()
    if taken is not None:
        raise NotPossibleNow(f"{document.number} is void already")
    if moved is not None:
        closings.move_series(engine, moved)
    closings.insert(engine, after + 1, document, None)


def file(connection: sqlite3.Connection, document: int, form: str) -> bytes | None:
    """A document as it was drawn before, or None."""
    found = connection.execute(
        "SELECT content FROM document_files WHERE document = ? AND format = ?", (document, form)
    ).fetchone()
    return bytes(found[0]) if found else None


def keep_file(engine: Engine, document: int, form: str, content: bytes) -> None:
    """Keep a document as it was drawn; the first stays."""
    engine.connection.execute(
        "INSERT INTO document_files VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (document, form, content, engine.now_ms),
    )


def outbox(connection: sqlite3.Connection, target: str | None, state: str) -> list[OutboxEntry]:
    """What accounting programs have to be told, in the order of the chain."""
    return [
        OutboxEntry(
            number=number,
            client=client,
            target=target_name,
            step=step,
            key=key,
            canonical=canonical,
            request_hash=request_hash,
            state=state_now,
            remote_id=remote_id,
            note=note,
        )
        for (
            number, client, target_name, step, key, canonical, request_hash, state_now,
            remote_id, note,
        ) in connection.execute(
            "SELECT d.number, c.name, o.target, o.step, o.key, d.canonical, o.request_hash, "
            "o.state, o.remote_id, o.note FROM outbox o JOIN documents d ON d.id = o.document "
            f"JOIN clients c ON c.id = d.client WHERE {_COMMITTED} AND o.state = ?1 "
            "AND (?2 IS NULL OR o.target = ?2) ORDER BY d.id, o.target, o.step",
            (state, target),
        )
    ]  # fmt: skip


def answered(engine: Engine, key: str, state: str, remote_id: str, note: str) -> None:
    """Keep what an accounting program said; a step that is done stays done."""
    engine.connection.execute(
        "UPDATE outbox SET state = ?, remote_id = ?, note = ?, at_ms = ? "
        "WHERE key = ? AND state <> 'done'",
        (state, remote_id, note, engine.now_ms, key),
    )


def last_seen(connection: sqlite3.Connection) -> dict[bytes, LastSeen]:
    """How far each producer's records reach, by its id."""
    return {
        producer: LastSeen(name=name, newest_ms=newest or 0)
        for producer, name, newest in connection.execute(
            "SELECT p.producer, p.service || '@' || p.host, max(r.greatest_ms) FROM producers p "
            "LEFT JOIN runs r ON r.producer = p.number GROUP BY p.producer"
        )
    }
