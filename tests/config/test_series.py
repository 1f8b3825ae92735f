"""`invoice_series`: what the numbers of invoices begin with."""

from __future__ import annotations

import pytest

from meterd.config.toml import read
from meterd.errors import ConfigurationRefused


def test_a_series_leaves_room_for_its_digits() -> None:
    """21 characters are what the narrowest accounting program takes."""
    found = read(b'[agency]\ninvoice_series = "NW-2026-"\n', "meterd.toml").agency

    assert found.invoice_series == "NW-2026-"
    for wrong in ("NORTHWIND-2026-", "Ä-"):
        with pytest.raises(ConfigurationRefused, match="no beginning of a number"):
            read(f'[agency]\ninvoice_series = "{wrong}"\n'.encode(), "meterd.toml")
