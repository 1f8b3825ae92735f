"""The shipper against a real gRPC server: it comes, goes, falls silent, and nothing is lost."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import pytest

from meterd_middleware import courier
from meterd_middleware import shipper as shipper_module
from meterd_middleware.directory import FINISHED
from meterd_middleware.leases import Leases
from meterd_middleware.payload import OpenCall
from meterd_middleware.shipper import DEFERRED, Shipper
from meterd_proto.v1 import usage_pb2
from tests.delivery.conftest import usage
from tests.support.disk import MemoryDisk
from tests.support.network import Ledger, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from meterd_middleware.settings import Settings
    from tests.support.network import Producer, Server

    MakeShipper = Callable[..., Shipper]

WAIT_S = 20.0


@pytest.fixture
def make_shipper(settings: Settings) -> Iterator[MakeShipper]:
    """Makes shippers; closes what a test leaves."""
    made: list[Shipper] = []

    def make(target: str = "", **changes: object) -> Shipper:
        chosen = replace(settings, **({"target": target} if target else {}), **changes)  # type: ignore[arg-type]  # the test's own
        shipper = Shipper(chosen, random=Random(1))
        made.append(shipper)
        return shipper

    yield make
    for shipper in made:
        shipper.close(0.1)


def _tokens(ledger: Ledger) -> list[int]:
    return [record.input_tokens for record in ledger.records]


def test_nothing_exists_before_the_first_record(root: Path, make_shipper: MakeShipper) -> None:
    """No directory, no thread: importing us costs an app nothing."""
    threads = threading.active_count()

    shipper = make_shipper()
    shipper.note_untagged("app/jobs.py:41")

    assert not root.exists()
    assert threading.active_count() == threads
    assert shipper.flush(0)


def test_a_record_is_durable_in_the_ledger_when_flush_says_so(make_shipper: MakeShipper) -> None:
    """From append over gRPC to the acknowledgment."""
    with serving() as server:
        shipper = make_shipper(server.target)
        call = shipper.open_call(OpenCall(client="acme-corp"))
        assert shipper.append(usage(input_tokens=1), call) == 1
        assert shipper.append(usage(input_tokens=2)) == 2

        assert shipper.flush(WAIT_S)

        assert _tokens(server.ledger) == [1, 2]
        shipper.close(WAIT_S)
        assert server.ledger.wait(lambda: server.ledger.only.goodbye == 2)


def test_records_wait_for_a_daemon_that_comes_later(make_shipper: MakeShipper) -> None:
    """App and daemon start in any order."""
    with serving(is_up=False) as server:
        shipper = make_shipper(server.target)
        for number in range(1, 6):
            shipper.append(usage(input_tokens=number))
        assert not shipper.flush(0.05)

        server.start()

        assert shipper.flush(WAIT_S)
        assert _tokens(server.ledger) == [1, 2, 3, 4, 5]


def test_a_restart_of_the_daemon_in_mid_stream_counts_everything_once(
    make_shipper: MakeShipper,
) -> None:
    """Its answers get lost with its connections, again and again."""
    with serving(Ledger(batch_records_max=7)) as server:
        shipper = make_shipper(server.target)
        for turn in range(4):
            for number in range(100):
                shipper.append(usage(input_tokens=turn * 100 + number))
            server.usage.drops_answers = turn
            server.stop()
            server.start()

        assert shipper.flush(WAIT_S)

        assert _tokens(server.ledger) == list(range(400))


def test_targets_are_tried_in_order_at_every_attempt(
    settings: Settings, make_shipper: MakeShipper, tmp_path: Path
) -> None:
    """The user's daemon before the system's, whichever runs."""
    with serving() as server:
        stale = tmp_path / "meterd.sock"
        stale.touch()
        (tmp_path / ".local/state/meterd").mkdir(parents=True)
        (tmp_path / ".local/state/meterd/meterd.sock").symlink_to(
            server.target.removeprefix("unix:")
        )
        shipper = make_shipper(home=tmp_path, runtime_directory=str(tmp_path))
        shipper._settings = replace(shipper._settings, target=None)

        shipper.append(usage())

        assert shipper._settings.targets()[0] == f"unix:{stale}"
        assert shipper.flush(WAIT_S)


def test_an_access_key_is_shown_as_a_bearer(make_shipper: MakeShipper) -> None:
    """Over TCP the daemon asks for it."""
    with serving() as server:
        shipper = make_shipper(server.target, access_key="k-123")
        shipper.append(usage())

        assert shipper.flush(WAIT_S)

        assert server.usage.metadata[0]["authorization"] == "Bearer k-123"


def test_a_channel_that_never_answers_leaves_its_records_to_an_adopter(
    root: Path, make_shipper: MakeShipper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one forked child of 300 grpc is stuck for ever; meanwhile calls come and go."""
    monkeypatch.setattr(courier, "ADOPT_AFTER_NS", 0)
    with serving() as server:
        server.usage.is_mute = True
        shipper = make_shipper(server.target, connect_timeout_ms=50)
        call = shipper.open_call(OpenCall(client="acme-corp"))
        shipper.append(usage(input_tokens=1))
        (first,) = os.listdir(root)
        rotated = _wait(lambda: len(os.listdir(root)) > 1)

        shipper.append(usage(input_tokens=2))
        shipper.append(usage(input_tokens=3), call)
        server.usage.is_mute = False

        assert rotated
        assert shipper.flush(WAIT_S)
        assert server.ledger.wait(lambda: sorted(_tokens(server.ledger)) == [1, 2, 3])
        assert _wait(lambda: (root / first / FINISHED).exists())


def _wait(is_so: Callable[[], bool]) -> bool:
    pause = threading.Event()
    for _ in range(int(WAIT_S * 100)):
        if is_so():
            return True
        pause.wait(0.01)
    return False


def test_a_removed_spool_directory_costs_no_record_that_comes_after(
    root: Path, make_shipper: MakeShipper
) -> None:
    """Somebody cleaned up /var/spool; the app notices nothing."""
    import shutil

    with serving() as server:
        shipper = make_shipper(server.target)
        shipper.append(usage(input_tokens=1))
        assert shipper.flush(WAIT_S)

        shutil.rmtree(root)
        assert _wait(lambda: root.exists())
        shipper.append(usage(input_tokens=2))

        assert shipper.flush(WAIT_S)
        assert _tokens(server.ledger).count(2) == 1


def test_a_call_under_way_when_its_directory_is_removed_is_counted(
    root: Path, make_shipper: MakeShipper
) -> None:
    """Its record goes where it will be found, and not into a file that has no name any more."""
    import shutil

    with serving() as server:
        shipper = make_shipper(server.target)
        call = shipper.open_call(OpenCall(client="acme-corp"))
        shipper.append(usage(input_tokens=1))
        assert shipper.flush(WAIT_S)

        shutil.rmtree(root)
        assert _wait(lambda: any(root.glob("*/*.segment")))
        shipper.append(usage(input_tokens=2), closes=call)
        shipper.append(usage(input_tokens=3))

        assert shipper.flush(WAIT_S)
        assert sorted(_tokens(server.ledger)) == [1, 2, 3]


def test_a_process_that_may_not_use_grpc_waits_between_its_rounds(
    make_shipper: MakeShipper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is due there for seconds: the thread would else take a whole core from the app."""
    monkeypatch.setattr(shipper_module, "_may_use_grpc", False)
    rounds: list[int] = []
    plain = courier.Courier._round

    def counted(self: courier.Courier) -> None:
        rounds.append(1)
        plain(self)

    monkeypatch.setattr(courier.Courier, "_round", counted)
    shipper = make_shipper()

    shipper.append(usage())
    threading.Event().wait(0.3)

    assert 1 <= len(rounds) < 10


def test_a_finaliser_leaves_its_record_without_a_lock(make_shipper: MakeShipper) -> None:
    """Garbage collection may run in the middle of an append, on the same thread."""
    with serving() as server:
        shipper = make_shipper(server.target)
        shipper.append(usage(input_tokens=1))

        class Abandoned:
            def __del__(self) -> None:
                shipper.append_later(usage(input_tokens=2))

        cycle = [Abandoned()]
        cycle.append(cycle)  # type: ignore[arg-type]  # a cycle, so that only the collector frees it
        del cycle
        gc.collect()

        assert shipper.flush(WAIT_S)
        assert _tokens(server.ledger) == [1, 2]


def test_a_dead_process_of_the_host_is_adopted_by_a_living_one(
    root: Path, make_shipper: MakeShipper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no daemon shares the spool root, the next process ships what was left."""
    monkeypatch.setattr(courier, "ADOPT_AFTER_NS", 0)
    _run_script(root, "shipper.append(UsageRecord(client='dead', input_tokens=5)); os._exit(9)")
    with serving() as server:
        shipper = make_shipper(server.target)
        shipper.append(usage("living", input_tokens=6))

        assert server.ledger.wait(lambda: sorted(_tokens(server.ledger)) == [5, 6])
        dead = next(p for p in server.ledger.producers.values() if p.hello.is_adopted)
        assert server.ledger.wait(lambda: dead.goodbye == 1)


def _run_script(root: Path, code: str, target: str = "unix:/nonexistent/s") -> str:
    script = f"""
import os, sys
from pathlib import Path
from meterd_middleware.payload import OpenCall
from meterd_middleware.settings import Settings
from meterd_middleware.shipper import Shipper
from meterd_middleware.usage import UsageRecord
shipper = Shipper(Settings(spool_root=Path({str(root)!r}), target={target!r}, service='script',
                           host='h', free_bytes_min=0))
{code}
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def test_a_script_that_ends_at_once_leaves_its_records_and_waits_for_nobody(root: Path) -> None:
    """An open call that never closed stays open, for the adopter."""
    out = _run_script(
        root,
        "import time; start = time.monotonic()\n"
        "shipper.append(UsageRecord(client='a', input_tokens=1))\n"
        "shipper.open_call(OpenCall(client='a', input_tokens=2))\n"
        "shipper.append_later(UsageRecord(client='a', input_tokens=3))\n"
        "shipper._at_exit(); print(time.monotonic() - start < 5)",
    )

    from tests.delivery.test_adoption import _adopt_all

    ledger = Ledger()
    assert out.split() == ["True"]
    assert _adopt_all(root, ledger) == 1
    assert _tokens(ledger) == [1, 3, 2]
    assert ledger.records[-1].status == usage_pb2.STATUS_INTERRUPTED


def test_a_shipper_that_was_closed_begins_anew(root: Path, make_shipper: MakeShipper) -> None:
    """A late callback after close still counts."""
    with serving() as server:
        shipper = make_shipper(server.target)
        shipper.append(usage(input_tokens=1))
        shipper.close(WAIT_S)

        shipper.append(usage(input_tokens=2))

        assert shipper.flush(WAIT_S)
        assert sorted(_tokens(server.ledger)) == [1, 2]
        assert len(os.listdir(root)) == 2


def test_a_call_in_flight_keeps_its_spool_over_a_close(
    root: Path, make_shipper: MakeShipper
) -> None:
    """Its record has to close it, or an adopter would make a second one."""
    with serving() as server:
        shipper = make_shipper(server.target)
        call = shipper.open_call(OpenCall(client="acme-corp", input_tokens=9))
        shipper.append(usage(input_tokens=1))
        shipper.close(WAIT_S)

        shipper.append(usage(input_tokens=2), call)
        assert shipper.flush(WAIT_S)
        shipper.close(WAIT_S)

        assert _tokens(server.ledger) == [1, 2]
        assert len(os.listdir(root)) == 1


def test_a_spool_that_cannot_be_made_is_said_and_never_raises(
    tmp_path: Path, make_shipper: MakeShipper, caplog: pytest.LogCaptureFixture
) -> None:
    """The app's call goes on; what isn't recorded is counted."""
    (tmp_path / "file").touch()
    shipper = make_shipper(spool_root=tmp_path / "file" / "spool")

    assert shipper.open_call(OpenCall(client="a")) == 0
    assert shipper.append(usage()) == 0
    assert not shipper.flush(0)
    assert caplog.text.count("no spool can be made") == 1


def _leasing(settings: Settings) -> tuple[Leases, Shipper]:
    """The two as a Meter joins them."""
    leases = Leases(
        settings,
        now_ns=time.time_ns,
        monotonic_ns=time.monotonic_ns,
        wake=lambda: shipper.wake(),
    )
    shipper = Shipper(settings, leases)
    return leases, shipper


def test_no_call_waits_for_its_quota_where_no_spool_can_be_made(
    settings: Settings, tmp_path: Path
) -> None:
    """Without a producer nobody asks for a lease: each new client's first call would wait."""
    (tmp_path / "file").touch()
    chosen = replace(settings, spool_root=tmp_path / "file" / "spool", lease_timeout_ms=60_000)
    leases, _shipper = _leasing(chosen)
    answered = threading.Event()

    def ask() -> None:
        for client in ("acme-corp", "bigco-inc"):
            leases.reserve(client, "", "gpt-4o", 100, 100)
        answered.set()

    threading.Thread(target=ask, daemon=True).start()

    assert answered.wait(WAIT_S)


def test_what_was_noted_reaches_the_daemon(make_shipper: MakeShipper) -> None:
    """Untagged places and faults, for status and doctor."""
    with serving() as server:
        shipper = make_shipper(server.target)
        shipper.note_untagged("app/jobs.py:41")
        shipper.note_untagged("app/jobs.py:41")
        shipper.note_fault("reader", "KeyError at x.py:1")
        shipper.append(usage())

        assert server.ledger.wait(
            lambda: bool(server.ledger.producers) and len(server.ledger.only.report.faults) == 1
        )
        report = server.ledger.only.report
        assert [(one.place, one.calls) for one in report.untagged] == [("app/jobs.py:41", 2)]
        assert [(one.kind, one.count) for one in report.faults] == [("reader", 1)]


def test_a_slow_disk_is_waited_for_by_the_shipper_s_thread_alone(settings: Settings) -> None:
    """After one append that took long with nothing else to do, the next ones are quick."""
    clock = [0]
    is_slow = [False]

    class Slow(MemoryDisk):
        pass

    disk = Slow(Random(1)).process()
    write = disk.write

    def slow_write(fd: int, data: bytes) -> int:
        clock[0] += 50_000_000 if is_slow[0] else 1_000
        return write(fd, data)

    disk.write = slow_write  # type: ignore[method-assign]  # the fault
    from meterd_middleware.spools import Spools

    spools = Spools(
        settings, disk, None, now_ns=lambda: 1, monotonic_ns=lambda: clock[0],
        producer_id=lambda: b"p" * 16, pid=1, wake=lambda: None, busy_ns=lambda: 0,
    )  # fmt: skip
    assert spools.append(usage()) == 1
    is_slow[0] = True

    assert spools.append(usage()) == 2
    assert spools.append(usage()) == 3
    assert spools.append(usage()) == DEFERRED
    call = spools.open_call(OpenCall(client="a"))
    spools.append(usage(), call)
    is_slow[0] = False
    spools.drain()

    assert spools.append(usage()) == 6
    spool = spools.current
    assert spool is not None
    assert spool.open_calls == 0


def test_leases_are_asked_for_and_granted_on_the_same_channel(settings: Settings) -> None:
    """The second stream of the shipper's thread."""
    with serving() as server:
        chosen = replace(settings, target=server.target, lease_timeout_ms=5_000)
        leases, shipper = _leasing(chosen)
        reservation = leases.reserve("acme-corp", "", "gpt-4o", 100, 100)
        try:
            assert getattr(reservation, "lease_id", 0) == 1
            hello = server.quota.heard[0].hello
            assert (hello.service, len(hello.producer)) == ("app", 16)
        finally:
            shipper.close(WAIT_S)


class _Restored(Ledger):
    """Takes nothing for a while, and counts how often it was asked to."""

    refusals = 0

    def _take(self, known: Producer, batch: usage_pb2.Batch) -> list[usage_pb2.ShipResponse]:
        self.refusals += self.is_full
        return super()._take(known, batch)


def test_nothing_is_lent_before_a_restored_ledger_has_its_records_again(
    settings: Settings,
) -> None:
    """What it has forgotten is used all the same: it would be lent a second time."""
    ledger = _Restored()
    with serving(ledger) as server:
        chosen = replace(settings, target=server.target, lease_timeout_ms=5_000)
        leases, shipper = _leasing(chosen)
        try:
            for _ in range(5):
                shipper.append(usage())
            leases.reserve("acme-corp", "", "gpt-4o", 100, 100)
            assert shipper.flush(WAIT_S)
            server.stop()
            ledger.only.watermark, ledger.is_full = 2, True
            server.start()

            assert ledger.wait(lambda: ledger.refusals >= 3)
            hellos_before = _hellos(server)
            ledger.is_full = False
            assert shipper.flush(WAIT_S)
            assert ledger.wait(lambda: ledger.only.watermark == 5)
            leases.reserve("acme-corp", "", "gpt-4o", 1_000_000, 100)

            assert hellos_before == 1
            assert _hellos(server) == 2
        finally:
            shipper.close(WAIT_S)


def _hellos(server: Server) -> int:
    return sum(request.HasField("hello") for request in server.quota.heard)
