"""Running examples as a user would: processes with an environment, and what meterd then says.

example (a process) ─▶ loopback provider (its own ledger)
    └─▶ meterd (a real one) ─▶ meterctl rollup ═ compared to the token
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.provider import Counts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.support.daemon import Daemon
    from tests.support.provider import Provider

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
WITHIN_S = 60.0

_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH")
_FIELDS = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_long_tokens",
    "output_tokens",
    "reasoning_tokens",
)


def environment(provider: Provider, daemon: Daemon, **more: str) -> dict[str, str]:
    """What an example is started with: provider and meterd of this test, nothing of the user's."""
    url = provider.url
    return {
        **{name: os.environ[name] for name in _KEPT if name in os.environ},
        "METERD_TARGET": daemon.target,
        "METERD_SPOOL": str(daemon.spool_root),
        "METERD_INCLUDE_USAGE_HOSTS": "127.0.0.1",
        "METERD_LEASE_TIMEOUT_MS": "10000",  # a busy machine is no reason to let a call through
        "OPENAI_BASE_URL": provider.base_url("openai"),
        "ANTHROPIC_BASE_URL": url,
        "GOOGLE_GEMINI_BASE_URL": url,
        "CO_API_URL": url,
        "MISTRAL_SERVER_URL": provider.base_url("mistral"),
        "GROQ_BASE_URL": provider.base_url("groq"),
        "TOGETHER_BASE_URL": provider.base_url("together"),
        "OLLAMA_HOST": url,
        "HF_BASE_URL": provider.base_url("hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **{f"{name}_API_KEY": "test" for name in ("OPENAI", "ANTHROPIC", "GEMINI", "MISTRAL")},
        **{f"{name}_API_KEY": "test" for name in ("CO", "GROQ", "TOGETHER", "OLLAMA")},
        "HF_TOKEN": "test",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LANGSMITH_TRACING": "false",
        "NO_PROXY": "127.0.0.1",
        "PYTHONUNBUFFERED": "1",
        **more,
    }


def run(command: list[str], environ: Mapping[str, str], cwd: Path = ROOT) -> str:
    """Run to the end; its output, or an assertion with all it said."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=dict(environ),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, (
        f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    )
    return done.stdout


class Running:
    """A process that serves: what it has said so far, and its end."""

    def __init__(self, command: list[str], environ: Mapping[str, str], cwd: Path = ROOT) -> None:
        self._command = command
        self._said: list[str] = []
        self._changed = threading.Condition()
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, text: str) -> str:
        """The first line with `text` in it."""

        def found() -> str | None:
            return next((line for line in self._said if text in line), None)

        with self._changed:
            self._changed.wait_for(
                lambda: found() is not None or self.process.poll() is not None, WITHIN_S
            )
            line = found()
        assert line is not None, f"{self._command} never said {text!r}:\n{self.said}"
        return line

    @property
    def said(self) -> str:
        """All of its output so far."""
        return "".join(self._said)

    def end(self) -> None:
        """SIGTERM to it and what it started, then wait; SIGKILL for one that won't."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self._said.append(line)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()


@contextmanager
def running(command: list[str], environ: Mapping[str, str], ready: str) -> Iterator[Running]:
    """A server process, from its ready line to its end."""
    process = Running(command, environ)
    try:
        process.wait_for(ready)
        yield process
    finally:
        process.end()


@contextmanager
def listening_directory() -> Iterator[Path]:
    """A directory for unix sockets, whose paths may have about a hundred bytes."""
    directory = Path(tempfile.mkdtemp(prefix="m", dir="/tmp"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def counted(daemon: Daemon) -> dict[tuple[str, str], Counts]:
    """meterd's rollup by client and project."""
    command = [str(BIN / "meterctl"), "rollup", "--by", "client,project", "--format", "json"]
    said = run(command, {**os.environ, "METERD_TARGET": daemon.target})
    return {
        (row["client"], row["project"]): Counts(*(int(row.get(field) or 0) for field in _FIELDS))
        for row in json.loads(said)["rows"]
        if row["tokens"]
    }


def assert_counted(daemon: Daemon, expected: Mapping[tuple[str, str], Counts]) -> None:
    """Wait, within bounds, until meterd has counted exactly this."""
    end = time.monotonic() + WITHIN_S
    found = counted(daemon)
    while found != expected and time.monotonic() < end:
        time.sleep(0.1)  # between two processes there is no event to wait on
        found = counted(daemon)
    assert found == expected


def assert_no_header_of_ours(provider: Provider) -> None:
    """The provider must never receive the tags."""
    for call in provider.ledger.served:
        assert not {"x-client-id", "x-project-id"} & set(call.received_headers), call.path
