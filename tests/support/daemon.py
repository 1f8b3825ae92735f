"""A real meterd in a process of its own, in a directory of its own, to be killed at will.

with start_daemon(directory, config=...) as daemon:
    daemon.target, daemon.spool_root, daemon.data      where apps and tests find it
    daemon.kill(); daemon.start()                      same data, same socket, another process
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

READY_WITHIN_S = 30.0
END_WITHIN_S = 30.0
_READY = " is ready on "
_KEPT = ("PATH", "LANG", "TMPDIR", "PYTHONPATH")


class DidNotStart(AssertionError):
    """A meterd ended, or said nothing, before it was ready; with all it said."""


class Daemon:
    """A meterd that is started, stopped and killed; its data outlives its processes."""

    def __init__(
        self,
        directory: Path,
        *,
        config: Path | str | None = None,
        listen: tuple[str, ...] = (),
        options: tuple[str, ...] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.spool_root = directory / "spool"
        self._listen = listen or (f"unix:{directory / 'm.sock'}",)
        self.target = self._listen[0]
        self._options = options
        self._config = _config_file(directory, config)
        self._environ = environ or {}
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._said: list[str] = []
        self._changed = threading.Condition()

    @property
    def pid(self) -> int:
        """The process that runs now."""
        assert self._process is not None, "this meterd does not run"
        return self._process.pid

    @property
    def stderr(self) -> str:
        """All that this process, or the last one, has said."""
        with self._changed:
            return "".join(self._said)

    def start(self) -> Daemon:
        """Start a process and wait until it is ready."""
        self.begin()
        with self._changed:
            self._changed.wait_for(lambda: self._is_ready() or self._is_over(), READY_WITHIN_S)
        if not self._is_ready():
            self.kill()
            raise DidNotStart(f"meterd did not become ready:\n{self.stderr}")
        return self

    def begin(self) -> None:
        """Start a process and do not wait."""
        assert self._process is None, "this meterd runs already"
        self._said = []
        self._process = subprocess.Popen(
            self._command(),
            env=self._environment(),
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()

    def stop(self) -> int:
        """SIGTERM, then wait for the end; returns the exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """SIGKILL; returns the exit code, -9 unless it had ended before."""
        return self._end(signal.SIGKILL)

    def wait(self) -> int:
        """Wait for the end without a signal; returns the exit code."""
        return self._end(None)

    def restart(self) -> Daemon:
        """Stop and start again on the same data."""
        self.stop()
        return self.start()

    def _end(self, number: signal.Signals | None) -> int:
        process, reader = self._process, self._reader
        if process is None or reader is None:
            return 0
        if number is not None and process.poll() is None:
            process.send_signal(number)
        try:
            code = process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"meterd did not end:\n{self.stderr}") from None
        reader.join(END_WITHIN_S)
        self._process = self._reader = None
        return code

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                with self._changed:
                    self._said.append(line)
                    self._changed.notify_all()
        process.wait()
        with self._changed:
            self._changed.notify_all()

    def _is_ready(self) -> bool:
        return any(_READY in line for line in self._said)

    def _is_over(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _command(self) -> list[str]:
        command = [sys.executable, "-m", "meterd.main", "--data", str(self.data)]
        command += ["--spool-root", str(self.spool_root)]
        for address in self._listen:
            command += ["--listen", address]
        if self._config is not None:
            command += ["--config", str(self._config)]
        return [*command, *self._options]

    def _environment(self) -> dict[str, str]:
        """Nothing of the user's: neither a home nor settings of another meterd."""
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        return {**kept, "HOME": str(self.directory), **self._environ}


@contextmanager
def start_daemon(
    directory: Path | None = None,
    config: Path | str | None = None,
    *,
    listen: tuple[str, ...] = (),
    options: tuple[str, ...] = (),
    environ: Mapping[str, str] | None = None,
) -> Iterator[Daemon]:
    """A meterd that is ready, and ended afterwards.

    Args:
        directory: where its data, spool and socket are; its path must be short, since a
            socket's is bounded. A temporary one of its own where none is given.
        config: a `meterd.toml`, or its text.
        listen: addresses, the first of which is `target`; a unix socket by default.
        options: further options of the command line.
        environ: added to a bare environment.
    """
    with _directory(directory) as place:
        daemon = Daemon(place, config=config, listen=listen, options=options, environ=environ)
        try:
            yield daemon.start()
        finally:
            daemon.stop()


@contextmanager
def _directory(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    made = Path(tempfile.mkdtemp(prefix="m", dir="/tmp"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _config_file(directory: Path, config: Path | str | None) -> Path | None:
    if not isinstance(config, str):
        return config
    path = directory / "meterd.toml"
    path.write_text(config, encoding="utf-8")
    return path
