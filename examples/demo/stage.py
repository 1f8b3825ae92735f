"""The demo's processes in one temporary directory: started, killed, and cleaned up whatever comes.

Nothing outside the directory is read or written, every port is a free one, and no setting of
the user's own meterd is taken over: two demos at a time, or one beside a real meterd, don't
meet.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "examples" / "meterd.toml"
READY_WITHIN_S = 45.0
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
END_WITHIN_S = 10.0

_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "PYTHONPATH", "VIRTUAL_ENV", "COLUMNS")


class DidNotStart(Exception):
    """A process of the demo did not come up; says which, and its last words."""


class Process:
    """One process: its announcement awaited, its last lines kept for the case that it fails."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        self.name = name
        self.last_lines: deque[str] = deque(maxlen=20)
        self._announced = threading.Condition()
        self._lines: list[str] = []
        # A session of its own, so that Ctrl-C reaches the demo alone, which then ends them all.
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def wait_for_line(self, text: str) -> str:
        """The first line of its output that contains `text`.

        Raises:
            DidNotStart: it ended, or took too long.
        """
        with self._announced:
            self._announced.wait_for(
                lambda: self._process.poll() is not None or self._found(text) is not None,
                READY_WITHIN_S,
            )
            found = self._found(text)
        if found is None:
            words = "\n".join(self.last_lines) or "(it said nothing)"
            raise DidNotStart(f"{self.name} did not start:\n{words}")
        return found

    def _found(self, text: str) -> str | None:
        return next((line for line in self._lines if text in line), None)

    def kill(self) -> None:
        """SIGKILL: no last word, no cleanup."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """SIGTERM, then SIGKILL for one that won't."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(END_WITHIN_S)
            except subprocess.TimeoutExpired:
                self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                with self._announced:
                    self._lines.append(line.rstrip("\n"))
                    self.last_lines.append(line.rstrip("\n"))
                    self._announced.notify_all()
        except ValueError:
            return  # closed while we read: the demo is over
        self._process.wait()
        with self._announced:
            self._announced.notify_all()


class Stage:
    """A temporary directory and the processes in it; a context manager."""

    def __init__(self) -> None:
        # /tmp and not TMPDIR: the path of a unix socket may have about a hundred bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="meterd-demo-", dir="/tmp"))
        self.target = f"unix:{self.directory}/meterd.sock"
        self.provider_url = ""
        self.app_url = ""
        self._processes: list[Process] = []
        self._meterd: Process | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A second Ctrl-C, typed while the first is being obeyed, must leave nothing behind.
        for number in INTERRUPTS:
            signal.signal(number, signal.SIG_IGN)
        for process in reversed(self._processes):
            process.end()
        shutil.rmtree(self.directory, ignore_errors=True)

    def environment(self) -> dict[str, str]:
        """What every process gets: the demo's own addresses, nothing of the user's."""
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        return {
            **kept,
            "METERD_TARGET": self.target,
            "METERD_SPOOL": str(self.directory / "spool"),
            # The loopback provider stands for hosts that accept stream_options.include_usage.
            "METERD_INCLUDE_USAGE_HOSTS": "127.0.0.1",
            "OPENAI_API_KEY": "demo",
            "OPENAI_BASE_URL": f"{self.provider_url}/v1",
            "ANTHROPIC_API_KEY": "demo",
            "ANTHROPIC_BASE_URL": self.provider_url,
            "GEMINI_API_KEY": "demo",
            "GOOGLE_GEMINI_BASE_URL": self.provider_url,
            "PYTHONUNBUFFERED": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def start_provider(self) -> None:
        """A provider that takes a moment for each answer and each chunk, as real ones do."""
        provider = self._start(
            "the loopback provider",
            ["-m", "tests.support.provider", "--while-stdin-open", "--do", "wait_ms=8,delay_ms=1"],
        )
        self.provider_url = provider.wait_for_line("http://")

    def start_app(self) -> None:
        """The example app under uvicorn; its SDKs take seconds to import."""
        self.app_url = self._start("the app", ["-m", "examples.demo.app"]).wait_for_line("http://")

    def start_meterd(self) -> Process:
        """The daemon, by its own command; returns once it serves."""
        program = Path(sys.executable).with_name("meterd")
        options = ["--config", str(CONFIG), "--data", str(self.directory / "data")]
        options += ["--listen", self.target, "--spool-root", str(self.directory / "spool")]
        self._meterd = self._start("meterd", options, program)
        self._meterd.wait_for_line(str(self.directory / "meterd.sock"))
        return self._meterd

    def kill_meterd(self) -> int:
        """`kill -9`; returns the pid that was."""
        assert self._meterd is not None
        self._meterd.kill()
        return self._meterd.pid

    def meterctl(self, *arguments: str) -> str:
        """What a `meterctl` command prints.

        Raises:
            RuntimeError: it failed; with what it said.
        """
        command = [str(Path(sys.executable).with_name("meterctl")), *arguments]
        done = subprocess.run(
            command, env=self.environment(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"meterctl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def last_words(self) -> str:
        """What the processes said last, for whoever has to find out what went wrong."""
        return "\n".join(
            f"{process.name}: {line}" for process in self._processes for line in process.last_lines
        )

    def _start(self, name: str, arguments: list[str], program: Path | None = None) -> Process:
        command = [str(program or sys.executable), *arguments]
        process = Process(name, command, self.environment())
        self._processes.append(process)
        return process


def wait_until(is_true: object, within_s: float) -> bool:
    """Ask a callable every 0.1 s until it answers true; False if it never did."""
    assert callable(is_true)
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if is_true():
            return True
        time.sleep(0.1)
    return False
