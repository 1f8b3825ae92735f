"""An app that leaves a stream and ends: run by test_exact.py in a process of its own.

    python -m tests.app.exact_app ENDING BASE_URL SPOOL

ENDING is `exit`: the process ends at once; `killed`: it dies before the count; `fork`: so does
its child, with a stream of its own, while the parent's waits to be counted.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings

import httpx

from meterd_middleware import Meter, exact, instrument

CHAT = {
    "model": "gpt-4o",
    "stream": True,
    "messages": [{"role": "user", "content": "hello there"}],
    "provider_do": "hold=4,output=60,reasoning=0",
}


def main(ending: str, url: str, spool: str) -> None:
    exact.EXIT_TIMEOUT_S = 50.0  # on a busy machine a second may not be enough for the first
    meter = Meter(spool=spool, target="unix:/nonexistent/meterd.sock", client="parent")
    if ending == "exit":
        leave_a_stream(meter, url)
        return
    is_let_go = threading.Event()
    exact.COUNTING.later(lambda: is_let_go.wait(30))  # what waits behind it isn't counted
    leave_a_stream(meter, url)
    if ending == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads: that is the point
    child = os.fork()
    if not child:
        leave_a_stream(Meter(spool=spool, target="unix:/nonexistent/meterd.sock"), url)
        sys.exit()
    os.waitpid(child, 0)
    is_let_go.set()


def leave_a_stream(meter: Meter, url: str) -> None:
    with (
        instrument(httpx.Client(), meter=meter) as client,
        client.stream("POST", f"{url}/chat/completions", json=CHAT) as answer,
    ):
        next(answer.iter_bytes())


if __name__ == "__main__":
    main(*sys.argv[1:])
