"""Every way in which an app may end: nothing is lost, and nothing is waited for beyond a bound.

Beside a daemon that answers, one that isn't there, and one that accepts and says nothing.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.deploy.asking import rollup, until
from tests.support.daemon import Daemon, start_daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORDS = 50
BOUND_S = 10.0
"""`close` alone, asked for two seconds, takes more than a quarter of one; what each may take is
in docs/reliability.md, and the rest is for a busy machine."""

SCRIPT = """\
import os, signal, sys, threading
from meterd_middleware import Meter
ending = sys.argv[2]
if ending == "sigterm, handled":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
meter = Meter(service=sys.argv[1])
for number in range(50):
    meter.record(client=sys.argv[1], provider="openai", request_model="gpt-4o",
                 input_tokens=900, output_tokens=100)
print("recorded", flush=True)
if ending.startswith("sig"):
    threading.Event().wait(30)
elif ending == "close":
    meter.close(timeout=2)
    os._exit(0)
elif ending == "exception":
    raise SystemExit(3)
elif ending == "at once":
    os._exit(0)
"""
ENDINGS = {
    "sigterm": -signal.SIGTERM,
    "sigterm, handled": 0,
    "sigint": -signal.SIGINT,
    "sigkill": -signal.SIGKILL,
    "close": 0,
    "exit": 0,
    "exception": 3,
    "at once": 0,
}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """One for all of it; it sweeps what nobody else brings."""
    with start_daemon() as daemon:
        yield daemon


@pytest.fixture(params=["answers", "isn't there", "says nothing"])
def target(request: pytest.FixtureRequest, daemon: Daemon) -> Iterator[str]:
    """Where the app's daemon is, or isn't."""
    if request.param == "answers":
        yield daemon.target
        return
    path = daemon.directory / f"{len(os.listdir(daemon.directory))}.sock"
    if request.param == "isn't there":
        yield f"unix:{path}"
        return
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield f"unix:{path}"


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_app_may_end_as_it_likes(daemon: Daemon, target: str, ending: str) -> None:
    """Its records are in the ledger seconds later, once each; it has waited for nobody."""
    name = f"{ending}-{os.urandom(4).hex()}".replace(" ", "")
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, name, ending],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(daemon.directory),
            "METERD_TARGET": target,
            "METERD_SPOOL": str(daemon.spool_root),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "recorded\n"
    if ending.startswith("sig"):
        process.send_signal(getattr(signal, ending.split(",")[0].upper()))
    process.communicate(timeout=BOUND_S)

    # Python forgets that Ctrl-C ended it where another thread imports just then; ours may be
    # at grpc, a moment after the first record.
    assert process.returncode in (ENDINGS[ending], 1 if ending == "sigint" else ENDINGS[ending])
    assert until(lambda: name in rollup(daemon))
    assert until(lambda: rollup(daemon)[name].requests == RECORDS)
