"""The crew: workers that are started, killed and replaced, seen from the storm's process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.quota.storm.worker import Orders

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

__all__ = ["Crew", "Orders", "crew"]

STARTED_WITHIN_S = 120.0
ROOT = Path(__file__).resolve().parents[3]


class Crew:
    """The workers of one round after another."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log
        self._changed = threading.Condition()
        self._alive: dict[int, int] = {}
        self._orders: dict[int, Orders] = {}
        self._seen: list[dict[str, Any]] = []
        self._failed = False
        self._numbers = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def start(self, orders: Orders) -> None:
        """Start one more worker and wait until it lives."""
        self._numbers += 1
        orders = replace(orders, number=self._numbers, seed=orders.seed + self._numbers)
        self._orders[orders.number] = orders
        assert self._process.stdin is not None
        self._process.stdin.write(orders.to_line() + "\n")
        self._process.stdin.flush()
        with self._changed:
            is_here = self._changed.wait_for(
                lambda: orders.number not in self._orders or orders.number in self._alive,
                STARTED_WITHIN_S,
            )
        assert is_here, self.said

    def kill_one(self, random: Random) -> bool:
        """SIGKILL to one of them and start another in its place; False: all are done."""
        with self._changed:
            if not self._alive:
                return False
            number = random.choice(sorted(self._alive))
            os.kill(self._alive.pop(number), signal.SIGKILL)
            orders = self._orders.pop(number)
        self.start(orders)
        return True

    def wait_until_done(self, timeout_s: float) -> bool:
        """Whether all are done within so long."""
        with self._changed:
            done = self._changed.wait_for(lambda: not self._alive or self._failed, timeout_s)
            assert not self._failed, self.said
            return done

    def take_seen(self) -> list[dict[str, Any]]:
        """What the workers of this round have seen, the killed ones' apart."""
        with self._changed:
            seen, self._seen = self._seen, []
            return seen

    @property
    def said(self) -> str:
        """What the workers complained of."""
        return self._log.read_text(errors="replace")[-6_000:]

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            with self._changed:
                number = said["number"]
                if said["event"] == "started":
                    if number in self._orders:
                        self._alive[number] = said["pid"]
                elif self._orders.pop(number, None) is not None:
                    self._alive.pop(number, None)
                    self._seen.append(said["seen"])
                    self._failed = self._failed or said["event"] == "failed"
                self._changed.notify_all()


@contextmanager
def crew(directory: Path) -> Iterator[Crew]:
    """Workers that end with the block, whatever happens in it."""
    log = directory / "workers.log"
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }
    with log.open("wb") as complaints:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.quota.storm.worker"],
            cwd=ROOT,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
        )
    made = Crew(process, log)
    try:
        yield made
    finally:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        process.wait(30)
        made._reader.join(30)
        process.stdout.close()
