"""Editions of the price book in the ledger: the first is kept once prices are known.

The installed package's book holds from the beginning, until somebody puts a newer one in
force (`meterctl prices update`): then that holds from that moment on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.pricing.book import installed_version
from meterd.pricing.edition import Edition
from meterd.pricing.rate_card import FOREVER_MS

if TYPE_CHECKING:
    import sqlite3

    from meterd.store.engine import Engine


def read(engine: Engine) -> None:
    """Go by the editions that the ledger has."""
    engine.book.use(editions(engine.connection))


def keep_first(engine: Engine) -> None:
    """Once the book was loaded, keep the edition that is in force from the beginning."""
    if engine.book.version and not engine.book.editions:
        _append(engine, engine.book.installed())


def update(engine: Engine) -> bool:
    """Put the installed package's book in force from now on; False: it is already."""
    known = engine.book.editions
    if known and known[-1].version == installed_version():
        return False
    _append(engine, engine.book.installed(engine.now_ms if known else -FOREVER_MS))
    engine.quotes.forget()
    return True


def editions(connection: sqlite3.Connection) -> list[Edition]:
    """The editions in force, oldest first."""
    return [
        Edition(version, from_ms, data)
        for version, from_ms, data in connection.execute(
            "SELECT version, from_ms, data FROM price_books ORDER BY id"
        )
    ]


def _append(engine: Engine, edition: Edition) -> None:
    engine.connection.execute(
        "INSERT INTO price_books (version, from_ms, data) VALUES (?, ?, ?)", edition
    )
    engine.book.use([*engine.book.editions, edition])
