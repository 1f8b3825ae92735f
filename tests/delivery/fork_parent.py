"""A parent that streams and forks: run by test_fork.py in a process of its own.

    python -m tests.delivery.fork_parent ROOT TARGET CHILDREN

Each child appends one record named after its number and waits until it is in the ledger, or
until its shipper has left it to an adopter. Prints how many children failed.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from pathlib import Path

from meterd_middleware.settings import Settings
from meterd_middleware.shipper import Shipper
from meterd_middleware.usage import UsageRecord

CHILD_S_MAX = 15.0


def main(root: str, target: str, children: int) -> int:
    warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads: that is the point
    shipper = Shipper(
        Settings(
            spool_root=Path(root),
            target=target,
            service="parent",
            host="h",
            free_bytes_min=0,
            connect_timeout_ms=500,
        )
    )
    stop = threading.Event()
    streamer = threading.Thread(target=_stream, args=(shipper, stop))
    shipper.append(UsageRecord(client="parent", input_tokens=1))
    assert shipper.flush(CHILD_S_MAX)
    streamer.start()
    failed = 0
    for batch in range(0, children, 8):
        pids = [_fork(shipper, number) for number in range(batch, min(batch + 8, children))]
        failed += sum(os.waitpid(pid, 0)[1] != 0 for pid in pids)
    stop.set()
    streamer.join()
    shipper.close(CHILD_S_MAX)
    print(failed)
    return 0


def _stream(shipper: Shipper, stop: threading.Event) -> None:
    while not stop.wait(0.0005):
        shipper.append(UsageRecord(client="parent", input_tokens=1))


def _fork(shipper: Shipper, number: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        shipper.append(UsageRecord(client="child", input_tokens=number))
        shipper.flush(CHILD_S_MAX)
        status = 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
