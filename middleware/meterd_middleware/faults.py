"""Faults of the middleware: kept from the app, counted, logged once per kind.

Only where and of which class a fault was is told, never an exception's text: that may quote
a prompt. A finaliser may not log, since logging takes locks: what it meets waits in a deque
for the next ordinary call.

What a signal handler of the app's raises is no fault, wherever it strikes: a time limit (Celery's
soft one, `signal.alarm`) is meant to end the task, so it goes on to the app.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meterd_middleware.ports import Sink

logger = logging.getLogger("meterd")

LATE_MAX = 1024


class Faults:
    """One Meter's faults."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._kinds: set[str] = set()
        self._late: deque[tuple[str, str]] = deque(maxlen=LATE_MAX)

    def note(self, kind: str, error: BaseException, *, late: bool = False) -> None:
        """Count a fault. `late`: perhaps from a finaliser, so it is only put aside.

        Raises:
            Exception: `error` itself, where a signal handler of the app's raised it.
        """
        if late:
            self._late.append((kind, where(error)))
        elif is_from_signal(error):
            raise error
        else:
            self._note(kind, where(error))

    @property
    def has_late(self) -> bool:
        """Whether finalisers met any that have not been reported."""
        return bool(self._late)

    def catch_up(self) -> None:
        """Report what finalisers met."""
        while self._late:
            try:
                kind, message = self._late.popleft()
            except IndexError:  # another thread took the last one
                break
            self._note(kind, message)

    def _note(self, kind: str, message: str) -> None:
        try:
            self._sink.note_fault(kind, message)
            if kind not in self._kinds:
                self._kinds.add(kind)
                logger.warning("meterd: a fault in %s was kept from the app: %s", kind, message)
        except Exception:  # logging itself is broken: the app's call still goes on
            pass


def is_from_signal(error: BaseException) -> bool:
    """Whether a signal handler in Python raised it: its frame is in the traceback then."""
    if threading.current_thread() is not threading.main_thread():
        return False
    handlers = {
        getattr(getattr(handler, "__func__", handler), "__code__", None)
        for handler in map(signal.getsignal, signal.valid_signals())
        if callable(handler)
    }
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code in handlers:
            return True
        traceback = traceback.tb_next
    return False


def where(error: BaseException) -> str:
    """The class of an exception and where it was raised, as "KeyError at exchange.py:41"."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return type(error).__name__
    name = traceback.tb_frame.f_code.co_filename.rpartition("/")[2]
    return f"{type(error).__name__} at {name}:{traceback.tb_lineno}"
