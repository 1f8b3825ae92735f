"""Stores on temporary directories, with a clock that a test moves by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meterd.clock import moment_of
from meterd.store.sqlite import open_store
from tests.support.builders import NOW_MS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime
    from pathlib import Path

    from meterd.store.sqlite import SqliteStore


class HandClock:
    """Stands still until a test moves it."""

    def __init__(self, at_ms: int = NOW_MS) -> None:
        self.at_ms = at_ms

    def now(self) -> datetime:
        return moment_of(self.unix_ns())

    def unix_ns(self) -> int:
        return self.at_ms * 1_000_000

    def monotonic_ns(self) -> int:
        return self.unix_ns()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def store(tmp_path: Path, clock: HandClock) -> AsyncIterator[SqliteStore]:
    opened = await open_store(tmp_path / "data", clock)
    try:
        yield opened
    finally:
        await opened.close()
