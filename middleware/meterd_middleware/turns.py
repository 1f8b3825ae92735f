"""gevent and eventlet: processes whose threads take turns on one thread of the system.

There a call of grpc's core that waits would stop the whole app, for ever. grpc knows gevent
and can be told; eventlet it doesn't know, so that a process of eventlet's leaves its records
to adopters and never touches grpc.
"""

from __future__ import annotations

import sys


def are_gevents() -> bool:
    """Whether the threads of this process are gevent's."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def are_eventlets() -> bool:
    """Whether the threads of this process are eventlet's."""
    patcher = sys.modules.get("eventlet.patcher")
    return patcher is not None and bool(patcher.is_monkey_patched("thread"))
