"""Forking beside grpc: how to know that a child will be able to use it.

grpc's core keeps threads and poller state that a fork copies without their threads: in a
child of a process whose core runs, one stream in about 100 hangs, and one in some hundred
ends the child with a failed assertion (grpcio 1.85, measured). A core that has shut down
before the fork begins anew in the child, 400 of 400 times. So a shipper lets go of its
channel before its process forks; where the core still runs then, because the app itself uses
grpc, the child leaves its records to adopters and never touches grpc.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

REST_S_MAX = 0.2
"""How long a fork is delayed at most; 25 ms is usual, and nothing where no channel is open."""

_NAMES = ("grpc", "event_engine", "lifeguard", "timer_manager", "default-exec", "resolver-exec")
_PAUSE_S = 0.001
_UNSEEN_S = 0.05
"""Where the system doesn't list threads, the core gets so long to shut down."""


def is_grpc_at_work() -> bool:
    """Whether threads of grpc's core run in this process; False where that can't be seen."""
    if "grpc" not in sys.modules:
        return False
    return any(name.startswith(_NAMES) for name in _thread_names())


def await_rest(deadline_s: float = REST_S_MAX) -> bool:
    """Wait until grpc's core has shut down; False: it has not, somebody else uses it."""
    if "grpc" not in sys.modules:
        return True
    if not _thread_names():
        time.sleep(_UNSEEN_S)
        return True
    end = time.monotonic() + deadline_s
    while is_grpc_at_work():
        if time.monotonic() >= end:
            return False
        time.sleep(_PAUSE_S)
    return True


def _thread_names() -> list[str]:
    """What the threads of this process are called, the system's own word; Linux alone says."""
    names = []
    try:
        for thread in Path("/proc/self/task").iterdir():
            try:
                names.append((thread / "comm").read_text().strip())
            except OSError:
                continue  # it ended meanwhile
    except OSError:
        return []
    return names
