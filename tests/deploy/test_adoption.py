"""What a dead process left is counted seconds later, by the daemon that sweeps its spool root.

The apps here have a target where nobody listens: only the sweep can bring their records in.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from meterd_proto.v1 import admin_pb2, admin_pb2_grpc, usage_pb2
from tests.deploy.asking import WITHIN_S, channel, rollup, status, until
from tests.support.daemon import start_daemon

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import Daemon

SCRIPT = """\
import os, sys
from meterd_middleware import Meter
meter = Meter(service="nightly")
for number in range({records}):
    meter.record(client="acme-corp", provider="openai", request_model="gpt-4o",
                 input_tokens=900, output_tokens=100)
"""
IN_MID_CALL = """
with meter.call(client="acme-corp", provider="openai", request_model="gpt-4o", max_tokens=500):
    print("sent", flush=True)
    sys.stdin.read()
"""
EXITS = "os._exit(0)\n"


def app(daemon: Daemon, script: str) -> subprocess.Popen[str]:
    """An app whose records only the sweep can find."""
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(daemon.directory),
            "METERD_TARGET": f"unix:{daemon.directory}/nobody.sock",
            "METERD_SPOOL": str(daemon.spool_root),
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_script_that_ends_at_once_is_counted_all_the_same(place: Path) -> None:
    """It waits for nobody at its exit, and loses nothing."""
    with start_daemon(place) as daemon:
        with app(daemon, SCRIPT.format(records=5) + EXITS) as script:
            script.wait(30)

        assert until(lambda: rollup(daemon)[""].requests == 5)
        assert rollup(daemon)["acme-corp"].tokens == 5_000
        (producer,) = status(daemon).producers
        assert producer.name.startswith("nightly@")
        assert producer.is_finished


def test_a_call_whose_process_was_killed_is_one_interrupted_record(place: Path) -> None:
    """It has cost money already; twice the sweep makes one of it."""
    with start_daemon(place) as daemon:
        with app(daemon, SCRIPT.format(records=2) + IN_MID_CALL) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "sent\n"
            process.send_signal(signal.SIGKILL)

        assert until(lambda: status(daemon).records == 3)
        assert until(lambda: "died in mid-call; recorded as interrupted: 1" in daemon.stderr)
        daemon.restart()
        assert until(lambda: status(daemon).records == 3)
        assert rollup(daemon)[""].requests == 2


def test_what_waited_while_the_daemon_was_down_arrives_when_it_is_back(place: Path) -> None:
    """Nobody else of this host is left to ship it."""
    with start_daemon(place) as daemon:
        daemon.kill()
        with app(daemon, SCRIPT.format(records=7) + EXITS) as script:
            script.wait(30)
        daemon.start()

        assert until(lambda: rollup(daemon)[""].requests == 7)


def test_a_living_process_is_left_alone(place: Path) -> None:
    """Its lock is held: the sweep must not ship under its id beside it."""
    with start_daemon(place) as daemon:
        with app(daemon, SCRIPT.format(records=3) + IN_MID_CALL) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "sent\n"
            with app(daemon, SCRIPT.format(records=1) + EXITS) as script:
                script.wait(30)

            assert until(lambda: status(daemon).records == 1)
            process.kill()
        assert until(lambda: status(daemon).records == 5)


def test_a_directory_that_cannot_be_read_is_named_and_stands_in_no_others_way(
    place: Path,
) -> None:
    """Said once, not every two seconds."""
    with start_daemon(place) as daemon:
        broken = daemon.spool_root / ("0" * 32)
        broken.mkdir(parents=True, exist_ok=True)
        (broken / "lock").mkdir()
        with app(daemon, SCRIPT.format(records=1) + EXITS) as script:
            script.wait(30)

        assert until(lambda: status(daemon).records == 1)
        assert until(lambda: str(broken) in daemon.stderr)
        assert daemon.stderr.count(str(broken)) == 1


def test_a_status_says_which_segments_were_set_aside(place: Path) -> None:
    """`doctor` names them: a batch that no daemon would take is our bug."""
    with start_daemon(place) as daemon:
        producer = daemon.spool_root / ("1" * 32)
        producer.mkdir(parents=True)
        aside = producer / "00000000000000000001.segment.refused"
        aside.write_bytes(b"")

        assert list(status(daemon).refused_segments) == [str(aside)]


def test_an_interrupted_record_says_so(place: Path) -> None:
    """Status INTERRUPTED, estimated: what an operator sees in `records`."""
    with start_daemon(place) as daemon:
        with app(daemon, SCRIPT.format(records=0) + IN_MID_CALL) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "sent\n"
            process.kill()
        assert until(lambda: status(daemon).records == 1)

        with channel(daemon) as opened:
            request = admin_pb2.RecordsRequest(
                client="acme-corp", from_day="2000-01-01", to_day="2199-12-31"
            )
            stub = admin_pb2_grpc.AdminServiceStub(opened)
            (row,) = stub.Records(request, timeout=WITHIN_S)

    assert row.record.status == usage_pb2.STATUS_INTERRUPTED
    assert row.record.estimated == 3
