"""A server that answers as a test says, and `meterctl` run against it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.answering import Answers, serve
from tests.cli.running import Meterctl

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def home() -> Iterator[Path]:
    """A home directory whose path is short enough for a unix socket's."""
    directory = Path(tempfile.mkdtemp(prefix="m", dir="/tmp"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def answers(home: Path) -> Iterator[Answers]:
    """What the daemon at the user's default socket answers; the test fills it in."""
    given = Answers()
    socket = home / ".local/state/meterd/meterd.sock"
    socket.parent.mkdir(parents=True)
    server = serve(given, f"unix:{socket}")
    yield given
    server.stop(None).wait()


@pytest.fixture
def meterctl(home: Path) -> Meterctl:
    """`meterctl` as the user whose home this is."""
    return Meterctl({"HOME": str(home)})
