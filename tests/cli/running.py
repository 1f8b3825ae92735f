"""`meterctl` in the test's own process, with streams and an environment of its own."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

from meterd.cli.console import Console
from meterd.cli.main import run

NOW = 1_795_608_000_000_000_000
"""2026-11-25 12:00 UTC."""


@dataclass
class Run:
    """What one run of a command wrote, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


@dataclass
class Meterctl:
    """`meterctl` in this process, with an environment of its own."""

    environ: dict[str, str] = field(default_factory=dict)
    out_type: type[io.StringIO] = io.StringIO
    waits: int = 1_000
    """How often a command may pause before Ctrl-C is pressed."""

    def __call__(self, *arguments: str) -> Run:
        out, err = self.out_type(), io.StringIO()
        console = Console(out, err, self.environ, now_unix_ns=lambda: NOW, wait=self._wait)
        return Run(run(arguments, console), out.getvalue(), err.getvalue())

    def _wait(self, _: float) -> None:
        if not self.waits:
            raise KeyboardInterrupt
        self.waits -= 1
