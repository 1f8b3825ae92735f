"""A directory whose path is short enough for sockets, and commands run in it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty directory with a short path; pytest's own would be too long for a socket."""
    made = Path(tempfile.mkdtemp(prefix="m", dir="/tmp"))
    yield made
    shutil.rmtree(made, ignore_errors=True)
