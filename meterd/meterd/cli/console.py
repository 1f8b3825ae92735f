"""What a command may touch of the process it runs in: streams, environment, time.

A command gets a `Console` and writes to nothing else, so that tests run it in memory.
Figures go to `out`; whatever isn't one (errors, progress, remarks) goes to `err`, so that
a pipe carries figures alone.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from meterd.errors import InvalidSetting, Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DONE = 0
FAILED = 1
WRONG_USAGE = 2
UNAVAILABLE = 3
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
PIPE_CLOSED = 141  # 128 + SIGPIPE

FORMATS = ("table", "csv", "json")


class WrongUsage(Refused):
    """The command line can't be meant like this; exit code 2."""


class WrongValue(InvalidSetting, WrongUsage):
    """A value on the command line or in the environment: its name, itself, what was expected."""


class CommandRefused(Refused):
    """The daemon, or the machine, refused what was asked; exit code 1."""


class DaemonUnavailable(Unavailable):
    """No daemon answers; exit code 3."""


@dataclass(slots=True)
class Console:
    """The streams, environment and clock of one run of a command."""

    out: TextIO
    err: TextIO
    environ: Mapping[str, str]
    now_unix_ns: Callable[[], int] = time.time_ns
    wait: Callable[[float], None] = time.sleep

    @classmethod
    def of_this_process(cls) -> Console:
        """The console of the process, its streams made unable to fail on a character.

        A stream that the parent has closed is None in Python; it becomes the null device.
        """
        for stream in (sys.stdout, sys.stderr):
            reconfigure = getattr(stream, "reconfigure", None)
            if reconfigure is not None:
                reconfigure(encoding="utf-8", errors="backslashreplace")
        out: TextIO | None = sys.stdout
        err: TextIO | None = sys.stderr
        return cls(out or _null(), err or _null(), os.environ)

    @property
    def width(self) -> int | None:
        """Columns of the terminal that shows the output; None where nothing limits a line."""
        return shutil.get_terminal_size().columns if self.is_terminal else None

    @property
    def is_terminal(self) -> bool:
        """Whether somebody watches the output, rather than a file or a pipe taking it."""
        return self.out.isatty()

    def print(self, text: str = "") -> None:
        """Write one line of the answer."""
        self.out.write(text + "\n")

    def remark(self, text: str) -> None:
        """Write one line beside the answer, after what was answered so far."""
        self.out.flush()
        self.err.write(text + "\n")
        self.err.flush()


def _null() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - lives as long as we
