"""docs/configuration.md names every setting, and what it shows is accepted."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from meterd.config import toml
from meterd.config.agency import Agency, Client, Plan, PriceOverride
from meterd.config.prices import CONTEXT, KINDS

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "configuration.md").read_text()

_OTHERWISE = {"id", "from_day", "rates", "tool_rates", "plans", "clients", "prices"}
"""Fields that the file writes under another name, or as tables of their own."""

PLANS = '[plans.starter]\ntype = "free"\n[plans.growth]\ntype = "free"\n'


def named() -> set[str]:
    """Every word that the page sets as code, in a line or in a block."""
    blocks = re.findall(r"```toml\n(.*?)```", DOCS, re.DOTALL)
    prose = re.sub(r"```.*?```", "", DOCS, flags=re.DOTALL)
    return set(re.findall(r"[a-z_]+", " ".join([*blocks, *re.findall(r"`([^`]+)`", prose)])))


def test_every_setting_is_named() -> None:
    """What isn't documented can't be found by who needs it."""
    settings = {
        item.name for kind in (Agency, Plan, Client, PriceOverride) for item in fields(kind)
    }
    settings |= {*KINDS, *CONTEXT, "command", "url", "secret", "timeout_ms", "scope", "per_line"}

    assert settings - named() - _OTHERWISE == set()


def test_what_the_page_shows_is_accepted() -> None:
    """Each block, together with plans for its clients, and all in one file."""
    blocks = re.findall(r"```toml\n(.*?)```", DOCS, re.DOTALL)
    clients, *rest = blocks

    assert len(blocks) == 4
    agency = toml.read((PLANS + clients + "".join(rest)).encode()).agency
    assert agency.clients["acme-corp"].contracts[0].overrides == {"included_tokens": 15_000_000}
    assert len(agency.quotas) == 1
    assert len(agency.clients["acme-corp"].quotas) == 2
