"""Interning: names to numbers, looked up once per distinct name and batch, never per record.

    clients ◀─ tags        whom a record is billed to: (client, project)
    models  ◀─ kinds       what calls of one sort have in common
    rates                  frozen prices, by their content

Writer's thread only, inside its transaction. What a rolled back transaction has learned is
forgotten whole, and so is everything once it is too much to keep.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from meterd.ids import OTHER
from meterd.pricing.price import FACTORS, factors_of
from meterd.pricing.price_list import Call
from meterd.pricing.rate_card import NOTHING_COUNTED, Rate
from meterd.store.batch import Kind

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

FACTOR_SCALE = 12
"""Decimals of a factor in `rate_factors`: 0.000001 dollars per 1,000,000 tokens."""

NAMES_MAX = 60_000
"""Tags and kinds kept in memory; a stranger's million ids don't stay."""

REQUEST, REFUSED, CONTINUATION, BY_TOKENS = range(4)
"""How a record of a kind counts: as a request, as refused by us, as neither, or as a request
if it carried tokens and else as failed."""

_REFUSED_STATUS = 6  # meterd.v1.STATUS_REFUSED


@dataclass(frozen=True, slots=True)
class Tag:
    """A client's project, with both numbers."""

    id: int
    client: int
    client_name: str
    project: str


@dataclass(frozen=True, slots=True)
class KindRow:
    """A kind as the ledger knows it, and what follows from it for every record."""

    id: int
    model: int
    kind: Kind
    counts_as: int
    call: Call


class Names:
    """Numbers back to names, for those who ask after a commit. Only ever grows; replaced whole."""

    def __init__(self) -> None:
        self.tags: dict[int, Tag] = {}
        self.clients: dict[int, str] = {}
        self.models: dict[int, str] = {}


class Interning:
    """The numbers of one database's names."""

    def __init__(self, connection: sqlite3.Connection, now_ms: int) -> None:
        self._connection = connection
        self.now_ms = now_ms
        self.names = Names()
        self._tags: dict[tuple[str, str], Tag] = {}
        self._clients: dict[str, int] = {}
        self._kinds: dict[Kind, KindRow] = {}
        self._models: dict[tuple[str, str], int] = {}
        self._rates: dict[tuple[str, str, str, bytes], int] = {}
        self.kinds_max = 0
        self.rates_max = 0
        """The greatest numbers given out here so far."""

    def forget(self) -> None:
        """Drop what is in memory: a transaction was rolled back, or it grew too much."""
        self.names = Names()
        for known in (self._tags, self._clients, self._kinds, self._models, self._rates):
            known.clear()

    @property
    def is_large(self) -> bool:
        """Whether too many names are held: between transactions all can be let go of."""
        return len(self._tags) + len(self._kinds) > NAMES_MAX

    def tag(self, client: str, project: str) -> Tag:
        """The tag of a client's project; made if it is new."""
        tag = self._tags.get((client, project))
        if tag is None:
            number = self.client(client)
            tag_id = self._id_of(
                "SELECT id FROM tags WHERE client = ? AND project = ?",
                "INSERT INTO tags (client, project) VALUES (?, ?)",
                (number, project),
            )
            tag = Tag(tag_id, number, client, project)
            self._tags[client, project] = self.names.tags[tag_id] = tag
        return tag

    def tags(self, names: Iterable[tuple[str, str]]) -> list[Tag]:
        """The tags of these (client, project), made where they are new."""
        known = self._tags
        return [known.get(pair) or self.tag(*pair) for pair in names]

    def client(self, name: str) -> int:
        """A client's number; made if it is new."""
        number = self._clients.get(name)
        if number is None:
            number = self._id_of(
                "SELECT id FROM clients WHERE name = ?",
                "INSERT INTO clients (name) VALUES (?)",
                (name,),
            )
            self._clients[name] = number
            self.names.clients[number] = name
        return number

    def other_project(self, client: str) -> Tag:
        """Where a client's projects go that are too many to name."""
        return self.tag(client, OTHER)

    def other_client(self) -> Tag:
        """Where clients go that are too many to name."""
        return self.tag(OTHER, "")

    def kind(self, kind: Kind) -> KindRow:
        """A kind's row; made if it is new."""
        row = self._kinds.get(kind)
        if row is None:
            model = self.model(kind.provider, kind.model)
            fields = json.dumps(list(kind), separators=(",", ":"))
            how = counts_as(kind)
            found = self._connection.execute(
                "SELECT id FROM kinds WHERE fields = ?", (fields,)
            ).fetchone()
            kind_id = int(found[0]) if found else self._new_kind(model, how, kind, fields)
            self.kinds_max = max(self.kinds_max, kind_id)
            row = self._kinds[kind] = KindRow(kind_id, model, kind, how, call_of(kind))
        return row

    def _new_kind(self, model: int, how: int, kind: Kind, fields: str) -> int:
        return _new_id(
            self._connection.execute(
                "INSERT INTO kinds (model, counts_as, estimated, fields) VALUES (?, ?, ?, ?)",
                (model, how, kind.estimated, fields),
            )
        )

    def model(self, provider: str, name: str) -> int:
        """A model's number; made if it is new."""
        number = self._models.get((provider, name))
        if number is None:
            number = self._id_of(
                "SELECT id FROM models WHERE provider = ? AND name = ?",
                "INSERT INTO models (provider, name) VALUES (?, ?)",
                (provider, name),
            )
            self._models[provider, name] = number
            self.names.models[number] = name
        return number

    def rate(self, rate: Rate) -> int:
        """A rate's number; a row is appended if these prices on this basis are new."""
        key = (rate.provider, rate.model, rate.basis, rate.entry_hash)
        number = self._rates.get(key)
        if number is None:
            number = self._rates[key] = self._rate_id(rate, key)
            self.rates_max = max(self.rates_max, number)
        return number

    def nothing_counted(self) -> int:
        """The rate of records that used nothing."""
        return self.rate(NOTHING_COUNTED)

    def _rate_id(self, rate: Rate, key: tuple[str, str, str, bytes]) -> int:
        found = self._connection.execute(
            "SELECT id FROM rates WHERE provider = ? AND model = ? AND basis = ? "
            "AND entry_hash = ?",
            key,
        ).fetchone()
        if found is not None:
            return int(found[0])
        prices = json.dumps(dict(rate.prices), sort_keys=True, separators=(",", ":"))
        cursor = self._connection.execute(
            "INSERT INTO rates (provider, model, basis, entry_hash, scale, prices, book, "
            "made_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*key, rate.scale, prices, rate.book, self.now_ms),
        )
        number = _new_id(cursor)
        factors = factors_of(rate, FACTOR_SCALE) or (None,) * len(FACTORS)
        places = ", ".join("?" for _ in FACTORS)
        self._connection.execute(
            f"INSERT INTO rate_factors VALUES (?, {places})", (number, *factors)
        )
        return number

    def _id_of(self, select: str, insert: str, values: tuple[object, ...]) -> int:
        found = self._connection.execute(select, values).fetchone()
        if found is not None:
            return int(found[0])
        return _new_id(self._connection.execute(insert, values))


def counts_as(kind: Kind) -> int:
    """How records of a kind count among requests."""
    if kind.status == _REFUSED_STATUS:
        return REFUSED
    if kind.is_continuation:
        return CONTINUATION
    return REQUEST if 200 <= kind.http_status < 300 else BY_TOKENS


def call_of(kind: Kind) -> Call:
    """What of a kind decides its price."""
    return Call(
        kind.provider,
        kind.request_model,
        kind.response_model,
        kind.service_tier,
        kind.speed,
        kind.processing,
        kind.inference_geo,
    )


def kind_from(fields: str) -> Kind:
    """The kind that a row of `kinds` holds."""
    return Kind(*json.loads(fields))


def rate_from_row(
    provider: str, model: str, basis: str, scale: int, prices: str, book: str
) -> Rate:
    """The rate that a row of `rates` holds."""
    return Rate(provider, model, basis, scale, MappingProxyType(json.loads(prices)), book)


def _new_id(cursor: sqlite3.Cursor) -> int:
    assert cursor.lastrowid is not None
    return cursor.lastrowid
