"""A forked child is a new producer: gunicorn's prefork, multiprocessing, os.fork by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

from meterd_middleware.disk import OsDisk
from tests.delivery.test_adoption import _adopt_all
from tests.support.network import Ledger, serving

if TYPE_CHECKING:
    from pathlib import Path

CHILDREN = int(os.environ.get("METERD_FORKS", "24"))


def test_every_child_of_a_streaming_parent_is_counted(root: Path) -> None:
    """Its record, once, under a producer of its own; and the parent's go on."""
    with serving() as server:
        done = subprocess.run(
            [sys.executable, "-m", "tests.delivery.fork_parent", str(root), server.target,
             str(CHILDREN)],
            capture_output=True, text=True, timeout=100, check=True,
        )  # fmt: skip
        _adopt_all(root, server.ledger)

        assert done.stdout.split() == ["0"], done.stderr
        assert "Traceback" not in done.stderr
        counted = Counter(
            record.input_tokens for record in server.ledger.records if record.client == "child"
        )
        assert counted == Counter(range(CHILDREN))
        assert len(server.ledger.producers) >= CHILDREN + 1
        assert not server.ledger.losses


def test_a_child_closes_what_it_inherited_and_unlocks_nothing(root: Path) -> None:
    """The parent's directory stays the parent's while it lives, whatever becomes of children."""
    script = f"""
import os, sys
from pathlib import Path
from meterd_middleware.settings import Settings
from meterd_middleware.shipper import Shipper
from meterd_middleware.usage import UsageRecord
shipper = Shipper(Settings(spool_root=Path({str(root)!r}), target='unix:/nonexistent/s',
                           service='a', host='h', free_bytes_min=0))
shipper.append(UsageRecord(client='parent', input_tokens=1))
path = shipper._spools.current.path
pid = os.fork()
if pid == 0:
    links = [os.readlink(f'/proc/self/fd/{{fd}}') for fd in os.listdir('/proc/self/fd')
             if os.path.exists(f'/proc/self/fd/{{fd}}')]
    os._exit(any(path in link for link in links))
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), path, flush=True)
sys.stdin.read()
os._exit(0)
"""
    parent = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    code, path = parent.stdout.readline().split()

    lock = os.open(f"{path}/lock", os.O_RDWR)
    is_free = OsDisk().try_lock(lock)
    os.close(lock)
    parent.communicate("")

    ledger = Ledger()
    assert code == "0"
    assert not is_free
    assert _adopt_all(root, ledger) == 1
    assert [record.client for record in ledger.records] == ["parent"]


def test_a_child_of_an_app_that_uses_grpc_itself_leaves_its_records_to_adopters(
    root: Path,
) -> None:
    """Its copy of grpc's core may end the process: it is never touched, and nothing is lost."""
    script = f"""
import os, sys, threading
from dataclasses import replace
from pathlib import Path
from meterd_middleware import courier
from meterd_middleware.adoption import adoptable
from meterd_middleware.disk import OsDisk
from meterd_middleware.settings import Settings
from meterd_middleware.shipper import Shipper
from meterd_middleware.usage import UsageRecord
from tests.support.network import serving
courier.HAND_OVER_NS = 0
root = Path({str(root)!r})
with serving() as server:
    shipper = Shipper(Settings(spool_root=root, target=server.target, service='a', host='h',
                               free_bytes_min=0))
    shipper.append(UsageRecord(client='parent'))
    assert shipper.flush(15)
    pid = os.fork()
    if pid == 0:
        shipper.append(UsageRecord(client='child'))
        pause = threading.Event()
        for _ in range(1_000):
            # The parent's is locked: what is free is the one that the child has let go of.
            if list(adoptable(OsDisk(), str(root))):
                os._exit(0)
            pause.wait(0.01)
        os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    shipper.append(UsageRecord(client='parent'))
    assert shipper.flush(15)
    shipper.close(5)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert done.stdout.split() == ["0"], done.stderr
