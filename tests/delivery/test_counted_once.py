"""The real thing: app and meterd are killed again and again, and everything counts once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from typing import TYPE_CHECKING

import grpc

from meterd_proto.v1 import admin_pb2, usage_pb2
from meterd_proto.v1.admin_pb2_grpc import AdminServiceStub
from tests.support.daemon import start_daemon

if TYPE_CHECKING:
    from tests.support.daemon import Daemon

ROUNDS = int(os.environ.get("METERD_TORTURE_ROUNDS", "6"))
CALLS_A_ROUND = 150
WAIT_S = 30.0


def _app(daemon: Daemon, first: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.delivery.torture_app", str(daemon.spool_root)]
    return subprocess.Popen(
        [*command, daemon.target, str(first)], stdout=subprocess.PIPE, text=True
    )


def _records(daemon: Daemon) -> list[usage_pb2.UsageRecord]:
    with grpc.insecure_channel(
        daemon.target, options=(("grpc.use_local_subchannel_pool", 1),)
    ) as channel:
        request = admin_pb2.RecordsRequest(
            client="acme", from_day="2020-01-01", to_day="2099-12-31"
        )
        return [row.record for row in AdminServiceStub(channel).Records(request)]


def test_whatever_is_killed_every_call_has_exactly_one_record() -> None:
    """kill -9 of app and meterd at random moments, in mid-call and between calls."""
    chance = random.Random(1)
    sent: set[int] = set()
    done: set[int] = set()
    in_flight_max = 0
    with start_daemon() as daemon:
        for turn in range(ROUNDS):
            app = _app(daemon, 1 + turn * 1_000_000)
            assert app.stdout is not None
            kill_daemon_at = chance.randrange(CALLS_A_ROUND) if turn % 2 else None
            lines: list[str] = []
            for count in range(chance.randrange(10, CALLS_A_ROUND)):
                lines.append(app.stdout.readline())
                if count == kill_daemon_at:
                    daemon.kill()
                    daemon.start()
            app.send_signal(signal.SIGKILL)
            rest, _ = app.communicate()
            # The last line may be torn: its call may or may not have been noted.
            lines += rest.splitlines(keepends=True)
            words = [line.split() for line in lines if line.endswith("\n")]
            sent |= {int(number) for word, number in words if word == "sent"}
            done |= {int(number) for word, number in words if word == "done"}
            in_flight_max += 5
        records = _settled(daemon, sent)

    counted = Counter(record.input_tokens for record in records)
    interrupted = [one for one in records if one.status == usage_pb2.STATUS_INTERRUPTED]
    assert max(counted.values()) == 1
    assert sent - counted.keys() == set()
    assert done <= {one.input_tokens for one in records if one not in interrupted}
    assert len(interrupted) <= in_flight_max
    assert len(counted.keys() - sent) <= ROUNDS  # noted, and killed before it could say so


def _settled(daemon: Daemon, sent: set[int]) -> list[usage_pb2.UsageRecord]:
    """All records, once the dead have been adopted."""
    pause = threading.Event()
    records: list[usage_pb2.UsageRecord] = []
    for _ in range(int(WAIT_S / 0.25)):
        records = _records(daemon)
        if sent <= {record.input_tokens for record in records}:
            return records
        pause.wait(0.25)
    return records
