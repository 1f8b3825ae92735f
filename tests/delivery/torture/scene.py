"""The scene: provider, meterd and the app's processes, which are killed and come back."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from tests.delivery.torture.load import Load
    from tests.support.daemon import Daemon

VICTIMS = ("app", "worker", "meterd", "all")
WORKERS = 2
UP_WITHIN_S = 90.0
PAUSE_S = 0.02
ROOT = Path(__file__).resolve().parents[3]


@dataclass(slots=True)
class Kill:
    """One kill -9: of whom, and which calls it can have struck."""

    turn: int
    victim: str
    is_in_mid_call: bool
    in_flight: frozenset[str]
    """Requests that were under way when it struck; none where meterd alone was killed, since
    no call ends with it."""


class App:
    """uvicorn with its workers, in a process group of its own."""

    def __init__(self, daemon: Daemon, provider_url: str, random: Random) -> None:
        self._port = _free_port(random)
        self.url = f"http://127.0.0.1:{self._port}"
        self._directory = daemon.directory
        self._environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(daemon.directory),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
            "METERD_TARGET": daemon.target,
            "METERD_SPOOL": str(daemon.spool_root),
            "OPENAI_BASE_URL": f"{provider_url}/v1",
            "OPENAI_API_KEY": "k",
            "ANTHROPIC_BASE_URL": provider_url,
            "ANTHROPIC_API_KEY": "k",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._spawn()
        self.wait_until_up()

    def _spawn(self) -> None:
        command = [sys.executable, "-m", "uvicorn", "tests.delivery.torture.app:app"]
        command += ["--workers", str(WORKERS), "--port", str(self._port)]
        command += ["--log-level", "error", "--timeout-worker-healthcheck", "60"]
        with (self._directory / "app.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=self._environ,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_up(self) -> None:
        """Wait until somebody answers; a killed one's worker may hold the port a moment longer."""

        def is_up() -> bool:
            if self._process is not None and self._process.poll() is not None:
                self._spawn()
            return self._is_up()

        assert _until(is_up), (self._directory / "app.log").read_text()

    def kill(self) -> None:
        """SIGKILL to all of it at once."""
        process, self._process = self._process, None
        if process is not None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def kill_worker(self, random: Random) -> None:
        """SIGKILL to one worker, which uvicorn replaces."""
        workers = self._workers()
        if workers:
            random.choice(workers).kill()

    def wait_for_workers(self) -> None:
        """Wait until uvicorn has all its workers again."""
        assert _until(lambda: len(self._workers()) >= WORKERS), "uvicorn starts no new worker"

    def _workers(self) -> list[psutil.Process]:
        assert self._process is not None
        found = []
        for child in psutil.Process(self._process.pid).children():
            try:
                if child.status() != psutil.STATUS_ZOMBIE and any(
                    "spawn_main" in word for word in child.cmdline()
                ):
                    found.append(child)
            except psutil.NoSuchProcess:
                continue
        return found

    def _is_up(self) -> bool:
        try:
            with urllib.request.urlopen(self.url, timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False


class Scene:
    """All of it, for as many kills as one likes."""

    def __init__(self, daemon: Daemon, app: App, load: Load, random: Random) -> None:
        self._daemon, self._app, self._load, self._random = daemon, app, load, random
        self.kills: list[Kill] = []

    def turn(self) -> Kill:
        """Let it work for a while, kill somebody, and bring them back."""
        turn, random = len(self.kills), self._random
        victim, is_in_mid_call = VICTIMS[turn % 4], turn // 4 % 2 == 0
        self._load.resume()
        assert self._load.wait_for_answers(random.randrange(1, 40)), "nothing is answered"
        if is_in_mid_call:
            _rest(random.random() * 0.2)
            self._load.wait(lambda: self._load.under_way > 0)
        else:
            self._load.pause()
            _rest(random.random() * 0.1)
        in_flight = self._strike(victim)
        kill = Kill(turn, victim, is_in_mid_call, in_flight)
        self.kills.append(kill)
        self._bring_back(victim)
        return kill

    def _strike(self, victim: str) -> frozenset[str]:
        """Kill; returns the requests that were under way at that moment."""
        before_ns = time.monotonic_ns()
        if victim == "worker":
            self._app.kill_worker(self._random)
        if victim in ("meterd", "all"):
            self._daemon.kill()
        if victim in ("app", "all"):
            self._app.kill()
        after_ns = time.monotonic_ns()
        if victim == "meterd":
            return frozenset()
        return frozenset(
            one.uid
            for one in list(self._load.asked)
            if one.began_ns <= after_ns and not 0 < one.ended_ns < before_ns
        )

    def _bring_back(self, victim: str) -> None:
        if victim in ("meterd", "all"):
            if self._random.random() < 0.5:
                _rest(self._random.random())  # the app goes on without it for a moment
            self._daemon.start()
        if victim in ("app", "all"):
            self._app.start()
        elif victim == "worker":
            self._app.wait_for_workers()


def _rest(seconds: float) -> None:
    threading.Event().wait(seconds)


def _until(is_true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + UP_WITHIN_S
    while time.monotonic() < deadline:
        if is_true():
            return True
        _rest(PAUSE_S)
    return False


def _free_port(random: Random) -> int:
    """A port that no outgoing connection is given while the app is down."""
    while True:
        port = random.randrange(15_000, 30_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
