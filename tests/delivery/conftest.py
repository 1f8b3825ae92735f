"""What the tests of delivery share: spools on a real disk, records, an identity."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from meterd_middleware.disk import OsDisk
from meterd_middleware.settings import Settings
from meterd_middleware.spool import Identity, Limits, Spool
from meterd_middleware.usage import UsageRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from meterd_middleware.disk import Disk

IDENTITY = Identity("app", "host-1", 4711, "0.1.0")


def usage(client: str = "acme-corp", input_tokens: int = 1_000, **fields: object) -> UsageRecord:
    """A record with what matters to a test."""
    values: dict[str, object] = {
        "provider": "openai",
        "request_model": "gpt-4o",
        "http_status": 200,
        "occurred_at_unix_ns": 1_764_000_000_000_000_000,
        "output_tokens": 100,
        **fields,
    }
    return UsageRecord(client=client, input_tokens=input_tokens, **values)  # type: ignore[arg-type]  # the test's own


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A spool root."""
    return tmp_path / "spool"


@pytest.fixture
def make_spool(root: Path) -> Iterator[Callable[..., Spool]]:
    """Makes spools in `root`, each a producer's; releases what a test leaves."""
    made: list[Spool] = []

    def make(disk: Disk | None = None, **limits: int) -> Spool:
        free = {"free_bytes_min": 0, **limits}
        spool = Spool(
            disk or OsDisk(),
            str(root),
            os.urandom(16),
            IDENTITY,
            Limits(**free),
            created_at_unix_ns=1,
        )
        made.append(spool)
        return spool

    yield make
    for spool in made:
        spool.close_reading()
        spool.release()


@pytest.fixture
def settings(root: Path) -> Settings:
    """Settings of a process whose meterd isn't there; tests set the target."""
    return Settings(
        spool_root=root,
        target="unix:/nonexistent/meterd.sock",
        service="app",
        host="host-1",
        free_bytes_min=0,
    )
