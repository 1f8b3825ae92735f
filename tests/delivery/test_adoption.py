"""What a dead process left is counted once, by whoever finds it, and by two as by one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from random import Random
from typing import TYPE_CHECKING

import pytest

from meterd_middleware import directory
from meterd_middleware.adoption import Adopted, adopt, adoptable, sweep
from meterd_middleware.delivery import Delivery, Sender
from meterd_middleware.disk import OsDisk
from meterd_middleware.payload import OpenCall
from meterd_middleware.shipping import sender_of
from meterd_proto.v1 import usage_pb2
from tests.delivery.conftest import usage
from tests.support.disk import MemoryDisk
from tests.support.network import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meterd_middleware.disk import Disk
    from meterd_middleware.spool import Spool

    MakeSpool = Callable[..., Spool]

DISK = OsDisk()


def _ship(adopted: Adopted, ledger: Ledger) -> None:
    delivery = Delivery(adopted, sender_of(adopted), random=Random(1))
    for answer in ledger.receive(adopted.producer, delivery.begin()):
        delivery.receive(answer, 0)
    while (request := delivery.next_request(0, 1)) is not None:
        for answer in ledger.receive(adopted.producer, request):
            delivery.receive(answer, 0)
    assert delivery.is_drained
    ledger.receive(adopted.producer, delivery.goodbye())


def _adopt_all(root: Path, ledger: Ledger, *, again: bool = False, disk: Disk = DISK) -> int:
    count = 0
    for adopted in adoptable(disk, str(root), again=again):
        _ship(adopted, ledger)
        adopted.finish()
        count += 1
    return count


def test_a_living_process_s_directory_is_nobody_else_s(make_spool: MakeSpool, root: Path) -> None:
    """Its lock says so, for as long as it lives."""
    spool = make_spool()
    spool.append(usage())

    assert _adopt_all(root, Ledger()) == 0
    spool.release()
    assert _adopt_all(root, Ledger()) == 1


def test_records_of_the_dead_are_shipped_under_their_own_name(
    make_spool: MakeSpool, root: Path
) -> None:
    """The ledger sees the producer that wrote them, told as adopted, and its goodbye."""
    spool, ledger = make_spool(segment_bytes_max=400), Ledger()
    for number in range(1, 21):
        spool.append(usage(input_tokens=number))
    spool.release()

    _adopt_all(root, ledger)

    assert [record.input_tokens for record in ledger.records] == list(range(1, 21))
    hello = ledger.producers[spool.producer].hello
    assert (hello.service, hello.host, hello.pid, hello.is_adopted) == ("app", "host-1", 4711, True)
    assert ledger.only.goodbye == 20
    assert _adopt_all(root, ledger) == 0


def test_a_call_that_was_sent_becomes_one_interrupted_record(
    make_spool: MakeSpool, root: Path
) -> None:
    """It cost money. What closed properly doesn't."""
    spool, ledger = make_spool(), Ledger()
    opened = OpenCall(
        client="acme-corp", project="bot", provider="openai", request_model="gpt-4o",
        occurred_at_unix_ns=1_764_000_000_000_000_000, input_tokens=321, lease_id=9,
        is_stream=True, account="key-1",
    )  # fmt: skip
    first, second = spool.next_call(), spool.next_call()
    spool.open_call(opened, first)
    spool.open_call(opened, second)
    spool.append(usage(input_tokens=5), closes=second)
    spool.release()

    _adopt_all(root, ledger)

    whole, interrupted = ledger.records
    assert whole.input_tokens == 5
    assert interrupted == usage_pb2.UsageRecord(
        client="acme-corp", project="bot", provider="openai", operation="chat",
        request_model="gpt-4o",
        status=usage_pb2.STATUS_INTERRUPTED, occurred_at_unix_ns=1_764_000_000_000_000_000,
        input_tokens=321, lease_id=9, is_stream=True, account="key-1", estimated=3,
    )  # fmt: skip


def test_two_adopters_make_the_same_interrupted_records(make_spool: MakeSpool, root: Path) -> None:
    """The first dies before it could say that it was done; or a ledger wants it all again."""
    spool, ledger = make_spool(), Ledger()
    for number in range(3):
        spool.open_call(OpenCall(client="a", input_tokens=10 + number), spool.next_call())
    spool.append(usage())
    spool.release()

    first = next(adoptable(DISK, str(root)))
    _ship(first, ledger)
    first.release()
    counted = list(ledger.records)
    _adopt_all(root, ledger)
    fresh = Ledger(id=ledger.id)
    _adopt_all(root, fresh, again=True)

    assert ledger.records == counted
    assert fresh.records == counted
    assert len(counted) == 4
    assert not fresh.losses


def test_an_adopter_that_stops_halfway_is_followed_by_another(
    make_spool: MakeSpool, root: Path
) -> None:
    """Anywhere, the interrupted calls' part included."""
    spool, ledger = make_spool(), Ledger(batch_records_max=1)
    for number in range(3):
        spool.open_call(OpenCall(client="a", input_tokens=10 + number), spool.next_call())
        spool.append(usage(input_tokens=number))
    spool.release()

    for steps in range(8):
        adopted = next(adoptable(DISK, str(root)))
        delivery = Delivery(adopted, sender_of(adopted), random=Random(1))
        for answer in ledger.receive(adopted.producer, delivery.begin()):
            delivery.receive(answer, 0)
        for _ in range(steps % 3):
            request = delivery.next_request(0, 1)
            if request is not None:
                for answer in ledger.receive(adopted.producer, request):
                    delivery.receive(answer, 0)
        adopted.release()
    _adopt_all(root, ledger)

    assert sorted(record.input_tokens for record in ledger.records) == [0, 1, 2, 10, 11, 12]


def test_a_torn_end_is_cut_and_its_bytes_are_reported(make_spool: MakeSpool, root: Path) -> None:
    """A power cut in the middle of a write."""
    spool, ledger = make_spool(), Ledger()
    spool.append(usage(input_tokens=1))
    spool.append(usage(input_tokens=2))
    spool.release()
    path = f"{spool.path}/00000000000000000001.segment"
    os.truncate(path, os.path.getsize(path) - 5)

    _adopt_all(root, ledger)

    assert [record.input_tokens for record in ledger.records] == [1]
    assert ledger.only.report.torn_bytes > 50
    assert not ledger.losses


def test_after_a_power_cut_interrupted_calls_come_after_what_the_ledger_has(
    make_spool: MakeSpool, root: Path
) -> None:
    """Their sequences must not be ones that the ledger knows as other records."""
    spool, ledger = make_spool(), Ledger()
    spool.open_call(OpenCall(client="a", input_tokens=77), spool.next_call())
    path = f"{spool.path}/00000000000000000001.segment"
    synced = os.path.getsize(path)
    for number in range(1, 6):
        spool.append(usage(input_tokens=number))
    delivery = Delivery(spool, sender_of_living(spool), random=Random(1))
    for answer in ledger.receive(spool.producer, delivery.begin()):
        delivery.receive(answer, 0)
    while (request := delivery.next_request(0, 1)) is not None:
        for answer in ledger.receive(spool.producer, request):
            delivery.receive(answer, 0)
    spool.release()
    os.truncate(path, synced)

    _adopt_all(root, ledger)
    (root / spool.producer.hex() / directory.FINISHED).unlink()
    _adopt_all(root, ledger)

    assert [record.input_tokens for record in ledger.records] == [1, 2, 3, 4, 5, 77]


def sender_of_living(spool: Spool) -> Sender:
    who = spool.identity
    return Sender(service=who.service, host=who.host, pid=who.pid, version=who.version)


def test_what_was_refused_is_reported_by_the_adopter(make_spool: MakeSpool, root: Path) -> None:
    """The process that counted it is gone; its page isn't."""
    spool, ledger = make_spool(spool_bytes_max=1_000), Ledger()
    while spool.append(usage(input_tokens=90, output_tokens=10)):
        pass
    spool.release()

    _adopt_all(root, ledger)

    assert ledger.only.report.refused_records == 1
    assert ledger.only.report.refused_tokens == 100


def test_a_copy_of_a_directory_ships_its_records_and_invents_none(
    make_spool: MakeSpool, root: Path, tmp_path: Path
) -> None:
    """Copied while its process lived: an open call in it may have a record by now."""
    spool, ledger = make_spool(), Ledger()
    spool.append(usage(input_tokens=1))
    call = spool.open_call(OpenCall(client="a", input_tokens=50), spool.next_call())
    copied = tmp_path / "copied"
    shutil.copytree(root, copied)
    spool.append(usage(input_tokens=2), closes=call)
    spool.release()

    _adopt_all(copied, ledger)
    report = ledger.only.report
    _adopt_all(root, ledger)

    assert [record.input_tokens for record in ledger.records] == [1, 2]
    assert report.dropped_open_frames == 1


def test_a_directory_that_cannot_be_read_stands_in_no_other_s_way(
    make_spool: MakeSpool, root: Path
) -> None:
    """Of another user, or on a bad sector."""
    spool = make_spool()
    spool.append(usage())
    spool.release()
    broken = root / ("0" * 32)
    broken.mkdir()
    (broken / "lock").mkdir()
    told: list[str] = []

    found = [one.path for one in adoptable(DISK, str(root), tell=lambda path, _: told.append(path))]

    assert found == [spool.path]
    assert told == [str(broken)]


def test_a_root_that_is_not_there_has_nothing_to_adopt(tmp_path: Path) -> None:
    """meterd may start before the first app."""
    assert list(adoptable(DISK, str(tmp_path / "nothing"))) == []


def test_finished_directories_stay_for_their_time_and_then_go(
    make_spool: MakeSpool, root: Path
) -> None:
    """As acknowledged segments do: by age, and by what they hold together."""
    for _ in range(3):
        spool = make_spool()
        spool.append(usage())
        spool.release()
    living = make_spool()
    _adopt_all(root, Ledger())
    now = os.stat(root).st_mtime_ns

    def swept(keep_ns: int, keep_bytes: int) -> int:
        sweep(
            DISK, str(root), own=living.path, now_unix_ns=now + 10**12, keep_ns=keep_ns,
            keep_bytes=keep_bytes,
        )  # fmt: skip
        return len(os.listdir(root))

    assert swept(10**15, 10**9) == 4
    assert swept(10**15, 10_000) == 3
    assert swept(1, 10**9) == 1
    assert os.listdir(root) == [living.producer.hex()]


def test_what_a_process_left_that_died_while_it_began_is_swept_away(root: Path) -> None:
    """Nothing of it was ever promised to anybody."""
    stale = root / f"{directory.NEW_PREFIX}{'a' * 32}"
    stale.mkdir(parents=True)
    (stale / "lock").touch()

    sweep(
        DISK, str(root), own="", now_unix_ns=stale.stat().st_mtime_ns, keep_ns=1, keep_bytes=1
    )  # fmt: skip
    assert stale.exists()
    later = stale.stat().st_mtime_ns + 61 * 10**9
    sweep(DISK, str(root), own="", now_unix_ns=later, keep_ns=1, keep_bytes=1)

    assert not stale.exists()


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_loses_nothing_that_append_returned_for(
    root: Path, signal_number: int
) -> None:
    """The real thing: records in the kernel's hands, a call under way, no goodbye."""
    script = """
import os, sys
from meterd_middleware.disk import OsDisk
from meterd_middleware.payload import OpenCall
from meterd_middleware.spool import Identity, Limits, Spool
from meterd_middleware.usage import UsageRecord
spool = Spool(OsDisk(), sys.argv[1], os.urandom(16), Identity('app', 'h', os.getpid(), '0'),
              Limits(free_bytes_min=0), created_at_unix_ns=1)
number = 0
while True:
    number += 1
    call = spool.open_call(OpenCall(client='acme', input_tokens=number), spool.next_call())
    print(f'open {number}', flush=True)
    if number % 5:
        spool.append(UsageRecord(client='acme', input_tokens=number), closes=call)
        print(f'done {number}', flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(root)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(400)]
    process.send_signal(signal_number)
    rest, _ = process.communicate()
    lines += rest.splitlines()
    done = {int(line.split()[1]) for line in lines if line.startswith("done") and line.split()[1:]}

    ledger = Ledger()
    _adopt_all(root, ledger)

    counted = [record.input_tokens for record in ledger.records]
    assert len(counted) == len(set(counted))
    complete = {
        record.input_tokens
        for record in ledger.records
        if record.status == usage_pb2.STATUS_COMPLETE
    }
    assert done <= complete
    assert set(range(1, max(done) + 1)) <= set(counted)
    assert not ledger.losses


def test_the_lock_is_free_the_moment_the_process_is_gone() -> None:
    """And an adopter that dies lets go likewise."""
    from meterd_middleware.spool import Identity, Limits, Spool

    disk = MemoryDisk(Random(1))
    process = disk.process()
    spool = Spool(process, "/r", b"p" * 16, Identity(), Limits(), created_at_unix_ns=1)
    first, second = disk.process(), disk.process()

    assert adopt(first, spool.path) is None
    process.die()
    assert adopt(first, spool.path) is not None
    assert adopt(second, spool.path) is None
    first.die()
    assert adopt(second, spool.path) is not None
