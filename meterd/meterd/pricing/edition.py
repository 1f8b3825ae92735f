"""An edition of the price book, packed, so that an upgrade of `genai-prices` moves no price.

    providers of the installed package ─ packed ─▶ bytes in the ledger ─ unpacked ─▶ providers

The package has no writer of its own. What is written here is the form that its reader of
updates takes, which later versions have to go on reading: plain JSON, compressed. What
extracts usage from responses is left out, since nothing here uses it.
"""

from __future__ import annotations

import dataclasses
import json
import re
import zlib
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from genai_prices import types

_ALIASES = {"or_": "or", "and_": "and"}
_LEFT_OUT = frozenset({"extractors"})


class Edition(NamedTuple):
    """A version of the book and from when on it holds; packed."""

    version: str
    from_ms: int
    data: bytes


def packed(providers: Sequence[types.Provider]) -> bytes:
    """The book as bytes; the same book gives the same bytes."""
    return zlib.compress(json.dumps(_plain(list(providers)), sort_keys=True).encode(), 6)


def unpacked(data: bytes) -> list[types.Provider]:
    """The book that `packed` packed, as the installed package reads it.

    Raises:
        ValueError: the installed package reads it no more.
    """
    from genai_prices import types

    try:
        return types._providers_from_raw(json.loads(zlib.decompress(data)))  # pyright: ignore[reportPrivateUsage]  # the package's reader of updates
    except (AttributeError, TypeError, ValueError, zlib.error) as fault:
        raise ValueError(f"a stored price book can't be read: {fault}") from fault


def _plain(value: Any) -> Any:
    """A value of the book as JSON has it, without what is not set."""
    if isinstance(value, Decimal):
        return str(value)
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, date | time | datetime):
        return value.isoformat()
    if isinstance(value, re.Pattern):
        return value.pattern
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    names = (
        [field.name for field in dataclasses.fields(value)]
        if dataclasses.is_dataclass(value)
        else list(vars(value))
    )
    return {
        _ALIASES.get(name, name): _plain(getattr(value, name))
        for name in names
        if not name.startswith("_") and name not in _LEFT_OUT and getattr(value, name) is not None
    }
