"""Apps in processes of their own, with a real Meter, that do what a test tells them."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from tests.support.daemon import Daemon

_SCRIPT = """\
import os, sys, time
from meterd_middleware import Meter
meter = Meter(service=sys.argv[1])
for line in sys.stdin:
    word, *rest = line.split()
    if word == "record":
        for number in range(int(rest[0])):
            meter.record(client=sys.argv[1], provider="openai", request_model="gpt-4o",
                         input_tokens=900, output_tokens=100)
        print("recorded", flush=True)
    elif word == "flush":
        print(meter.flush(20), flush=True)
    elif word == "close":
        meter.close(timeout=float(rest[0]))
        print("closed", flush=True)
    elif word == "quit":
        os._exit(0)
"""


class App:
    """A process that records when told to. Its client is called as its service is."""

    def __init__(self, daemon: Daemon, name: str, *, target: str = "") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, name],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(daemon.directory),
                "METERD_TARGET": target or daemon.target,
                "METERD_SPOOL": str(daemon.spool_root),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def record(self, count: int) -> None:
        """Append so many records of 1,000 tokens."""
        assert self._tell(f"record {count}") == "recorded"

    def flush(self) -> bool:
        """Whether everything is durable in meterd."""
        return self._tell("flush") == "True"

    def close(self, timeout_s: float) -> None:
        """Close its meter."""
        assert self._tell(f"close {timeout_s}") == "closed"

    def quit(self) -> None:
        """End at once, without a word."""
        assert self._process.stdin is not None
        self._process.stdin.write("quit\n")
        self._process.stdin.flush()
        self._process.wait(20)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.communicate()

    def _tell(self, line: str) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()


def run_app(daemon: Daemon, name: str, records: int) -> None:
    """An app that records and ends, and whose records only the sweep can find."""
    with App(daemon, name, target=f"unix:{daemon.directory}/nobody.sock") as app:
        app.record(records)
        app.quit()
