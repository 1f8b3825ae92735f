"""Progress of what takes longer than a second: on stderr, and gone when it is over.

A terminal sees one line that is rewritten; a file gets a line now and then. A thread writes
it, since the command itself waits inside a blocking call meanwhile.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

    from meterd.cli.console import Console

SILENT_S = 1.0
_INTERVAL_TERMINAL_S = 0.25
_INTERVAL_FILE_S = 10.0
_CLEAR_LINE = "\r\x1b[K"


class Progress:
    """Tells how far a piece of work is while the block runs; silent for its first second."""

    def __init__(
        self, console: Console, what: str, is_quiet: bool = False, silent_s: float = SILENT_S
    ) -> None:
        """Name the work.

        Args:
            console: whose stderr is written to.
            what: what is being done, as "verifying".
            is_quiet: say nothing: the rows on the same terminal are progress enough.
            silent_s: how long the work may take before anything is said.
        """
        self._err, self._what, self._is_quiet = console.err, what, is_quiet
        self._silent_s = silent_s
        self._state: Callable[[], str] = str
        self._is_over = threading.Event()
        self._has_line = False
        self._thread = threading.Thread(target=self._tell, name="progress", daemon=True)

    def __enter__(self) -> Self:
        if not self._is_quiet:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._has_line:
            self._write(_CLEAR_LINE)

    def at(self, state: Callable[[], str]) -> None:
        """Say how far it is; called only when a line is written, so it may cost something."""
        self._state = state

    def _tell(self) -> None:
        is_terminal = self._err.isatty()
        wait_s = self._silent_s
        while not self._is_over.wait(wait_s):
            wait_s = _INTERVAL_TERMINAL_S if is_terminal else _INTERVAL_FILE_S
            state = self._state()
            line = f"{self._what}: {state}" if state else f"{self._what} …"
            self._write(f"{_CLEAR_LINE}{line}" if is_terminal else line + "\n")
            self._has_line = is_terminal

    def _write(self, text: str) -> None:
        try:
            self._err.write(text)
            self._err.flush()
        except (OSError, ValueError):
            self._is_over.set()  # Nobody watches any more; the work goes on.
