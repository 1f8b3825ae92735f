"""The chain over closed invoices: each hash covers the sheet and the hash before it.

    hash = sha256(previous hash ‖ canonical JSON)       previous of the first: 64 zeros

Canonical: keys sorted, no blanks, Unicode in NFC, amounts and dates strings already. Whoever
has the sheets can recompute the chain; a changed, removed or inserted one breaks it.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from meterd.billing.sheet import Json

FIRST = "0" * 64


@dataclass(frozen=True, slots=True)
class Link:
    """One stored document of the chain."""

    number: str
    canonical: str
    previous_hash: str
    hash: str


def canonical_json(sheet: Mapping[str, Json]) -> str:
    """The one text of a sheet that is hashed and stored."""
    text = json.dumps(sheet, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return unicodedata.normalize("NFC", text)


def hash_of(previous_hash: str, canonical: str) -> str:
    """The hash that closes a document into the chain; 64 hexadecimal digits."""
    return hashlib.sha256(f"{previous_hash}{canonical}".encode()).hexdigest()


def broken_links(links: Iterable[Link]) -> Iterator[str]:
    """One sentence for each document that doesn't follow from the one before it."""
    previous = FIRST
    for link in links:
        if link.previous_hash != previous:
            yield f"{link.number} doesn't follow its predecessor: a document is missing or moved"
        elif hash_of(previous, link.canonical) != link.hash:
            yield f"{link.number} was changed after it was closed"
        previous = link.hash


def number_of(series: str, count: int) -> str:
    """The number of the `count`-th document of a series: "INV-000042". At most 21 characters.

    21 is the narrowest limit among the accounting programs invoices are pushed to
    (QuickBooks Online's DocNumber).
    """
    return f"{series}{count:06d}"
