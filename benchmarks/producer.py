"""A process that fills a spool and ships it when told to, as an app would.

    fill ─▶ records appended; the daemon's socket isn't there yet
    ship ─▶ it is: connect, send, until the last acknowledgment is in

Speaks JSON lines: `python -m benchmarks.producer`. `CLOCK_MONOTONIC` is one for all processes
of a host, so the times of several can be compared.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any, cast

from benchmarks.workload import records
from meterd_middleware.settings import Settings
from meterd_middleware.shipper import Shipper

SHIP_S_MAX = 300


class Producer:
    """The process, as the benchmark holds it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.producer"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    def begin(self, what: str, **how: Any) -> None:
        """Tell it to do something; `end` waits for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"what": what, **how}) + "\n")
        self._process.stdin.flush()

    def end(self) -> dict[str, float]:
        """What came of it."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a producer died")
        return cast("dict[str, float]", json.loads(line))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def _fill(told: dict[str, Any]) -> Shipper:
    settings = Settings.load(target=told["target"], spool=told["spool"], service="bench")
    shipper = Shipper(settings)
    for record in records(
        told["count"], told["first_ns"], told["span_ns"], told["seed"], told["shape"]
    ):
        if not shipper.append(record):
            raise RuntimeError("the spool refused a record")
    return shipper


def _ship(shipper: Shipper) -> dict[str, float]:
    start, cpu = time.monotonic(), time.process_time()
    if not shipper.flush(SHIP_S_MAX):
        raise RuntimeError("not everything was acknowledged in time")
    done = {"start_s": start, "end_s": time.monotonic(), "cpu_s": time.process_time() - cpu}
    shipper.close(1)
    return done


def main() -> None:
    shipper: Shipper | None = None
    for line in sys.stdin:
        told = json.loads(line)
        answer: dict[str, float] = {}
        if told["what"] == "fill":
            shipper = _fill(told)
        elif shipper is not None:
            answer = _ship(shipper)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
