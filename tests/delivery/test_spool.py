"""What the spool promises the app: whole frames, bounds that hold, nothing dropped unseen."""

from __future__ import annotations

import errno
import importlib.metadata
import os
import stat
import subprocess
import sys
import threading
from random import Random
from typing import TYPE_CHECKING

import pytest

from meterd_middleware import directory
from meterd_middleware.directory import Counters
from meterd_middleware.disk import OsDisk, file_system_of
from meterd_middleware.payload import OpenCall
from meterd_middleware.segment import KIND_HEADER, KIND_OPEN, KIND_RECORD, scan
from meterd_middleware.spool import BUSY, Spool
from meterd_middleware.version import VERSION
from meterd_proto.v1 import spool_pb2, usage_pb2
from tests.delivery.conftest import IDENTITY, usage
from tests.support.disk import Faults, Interrupted, MemoryDisk, MemoryView

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    MakeSpool = Callable[..., Spool]


def _frames_in(path: str) -> list[tuple[int, int, bytes]]:
    found = []
    for name in sorted(os.listdir(path)):
        if name.endswith(".segment"):
            with open(f"{path}/{name}", "rb") as file:
                scanned = scan(file.read(), is_end=True)
            assert not scanned.skipped
            found += [
                (kind, sequence, head + rest) for kind, sequence, head, rest in scanned.frames
            ]
    return found


def _memory_spool(disk: MemoryDisk, **limits: int) -> tuple[Spool, MemoryView]:
    from meterd_middleware.spool import Limits

    view = disk.process()
    free = {"free_bytes_min": 0, **limits}
    return Spool(view, "/r", b"p" * 16, IDENTITY, Limits(**free), created_at_unix_ns=1), view


def test_a_directory_holds_what_the_documentation_says(make_spool: MakeSpool) -> None:
    """Header, open frame, the record that closes it: in this order, one frame each."""
    spool = make_spool()
    call = spool.open_call(OpenCall(client="acme-corp", input_tokens=70), spool.next_call())
    sequence = spool.append(usage(), closes=call)

    (k1, s1, p1), (k2, s2, p2), (k3, s3, p3) = _frames_in(spool.path)

    assert (call, sequence) == (1, 1)
    assert (k1, k2, k3) == (KIND_HEADER, KIND_OPEN, KIND_RECORD)
    assert (s1, s2, s3) == (0, 0, 1)
    header = spool_pb2.SegmentHeader.FromString(p1)
    assert (header.producer, header.service, header.host, header.pid) == (
        spool.producer, "app", "host-1", 4711,
    )  # fmt: skip
    assert spool_pb2.OpenCall.FromString(p2).input_tokens == 70
    assert usage_pb2.UsageRecord.FromString(p3).closes == 1
    assert os.path.getsize(f"{spool.path}/{directory.COUNTERS}") == directory.PAGE_BYTES


class _CountingDisk(OsDisk):
    """Counts the writes into segments."""

    def __init__(self) -> None:
        self.writes: list[int] = []

    def write(self, fd: int, data: bytes) -> int:  # type: ignore[override]  # static there
        self.writes.append(len(data))
        return os.write(fd, data)


def test_an_append_is_one_write(make_spool: MakeSpool) -> None:
    """So that the kernel has all of a frame or, short of a torn end, nothing."""
    disk = _CountingDisk()
    spool = make_spool(disk)
    before = len(disk.writes)

    spool.append(usage())
    spool.open_call(OpenCall(client="a"), spool.next_call())

    assert len(disk.writes) - before == 2


def test_a_segment_is_sealed_by_size_and_the_next_named_by_its_first_sequence(
    make_spool: MakeSpool,
) -> None:
    """Trimming deletes whole segments, so they must not grow without bound."""
    spool = make_spool(segment_bytes_max=600)

    for number in range(20):
        spool.append(usage(input_tokens=number))

    names = directory.segment_names(OsDisk(), spool.path)
    records = [sequence for kind, sequence, _ in _frames_in(spool.path) if kind == KIND_RECORD]
    assert len(names) > 2
    assert records == list(range(1, 21))
    for name in names:
        first = next(
            sequence
            for kind, sequence, _ in _frames_of(f"{spool.path}/{name}")
            if kind == KIND_RECORD
        )
        assert first == name.first_sequence


def _frames_of(path: str) -> list[tuple[int, int, bytes]]:
    with open(path, "rb") as file:
        frames = scan(file.read(), is_end=True).frames
    return [(kind, sequence, rest) for kind, sequence, _, rest in frames]


def test_acknowledged_segments_stay_for_their_time_and_then_go(make_spool: MakeSpool) -> None:
    """A ledger restored from a backup is filled again from them."""
    spool = make_spool(segment_bytes_max=600, keep_ns=100)
    for number in range(20):
        spool.append(usage(input_tokens=number))
    before = len(directory.segment_names(OsDisk(), spool.path))

    spool.acknowledge(b"L" * 16, 20)
    spool.trim(1_000, keep_bytes=10**9)
    spool.trim(1_099, keep_bytes=10**9)
    during = len(directory.segment_names(OsDisk(), spool.path))
    spool.trim(1_100, keep_bytes=10**9)

    assert during == before
    assert len(directory.segment_names(OsDisk(), spool.path)) == 1


def test_what_is_not_acknowledged_is_never_deleted(make_spool: MakeSpool) -> None:
    """Neither by age nor by size."""
    spool = make_spool(segment_bytes_max=300, keep_ns=0)
    for number in range(10):
        spool.append(usage(input_tokens=number))

    spool.acknowledge(b"L" * 16, 5)
    spool.trim(10**18, keep_bytes=0)

    left = [sequence for kind, sequence, _ in _frames_in(spool.path) if kind == KIND_RECORD]
    assert left[-5:] == [6, 7, 8, 9, 10]
    assert spool.read(5, 100, 10**6).first_sequence == 6


def test_the_frame_of_an_open_call_outlives_its_segment(make_spool: MakeSpool) -> None:
    """A stream may run for hours; if its process dies then, it still was sent once."""
    spool = make_spool(segment_bytes_max=300, keep_ns=0)
    call = spool.open_call(OpenCall(client="long", input_tokens=42), spool.next_call())
    for number in range(10):
        spool.append(usage(input_tokens=number))

    spool.acknowledge(b"L" * 16, 10)
    spool.trim(10**18, keep_bytes=0)

    opened = [payload for kind, _, payload in _frames_in(spool.path) if kind == KIND_OPEN]
    assert [spool_pb2.OpenCall.FromString(one).call for one in opened] == [call]


def test_a_full_spool_refuses_and_counts(make_spool: MakeSpool) -> None:
    """Refused is said with how much, in a page that a full disk has room for."""
    spool = make_spool(spool_bytes_max=2_000)
    kept = 0
    while spool.append(usage()):
        kept += 1

    spool.append(usage(input_tokens=7, output_tokens=3))

    page = Counters.unpack(directory.read_small(OsDisk(), f"{spool.path}/{directory.COUNTERS}"))
    assert kept > 5
    assert page.refused_records == spool.report().refused_records == 2
    assert page.refused_tokens == 1_100 + 10
    assert "2000 bytes" in spool.refusal
    assert os.path.getsize(f"{spool.path}/{directory.segment_names(OsDisk(), spool.path)[0]}") <= (
        2_000
    )


def test_the_last_part_of_a_spool_takes_records_alone(make_spool: MakeSpool) -> None:
    """A call that got its open frame in gets its record in too."""
    spool = make_spool(spool_bytes_max=4_000)
    calls = []
    while call := spool.open_call(OpenCall(client="acme-corp"), spool.next_call()):
        calls.append(call)

    assert spool.append(usage(), closes=calls[0]) == 1
    assert spool.report().dropped_open_frames == 1


def test_what_others_hold_in_the_root_counts(make_spool: MakeSpool) -> None:
    """The limit is for the disk, whoever fills it."""
    spool = make_spool(spool_bytes_max=5_000)
    spool.append(usage())

    spool.make_room(5_000)

    assert spool.append(usage()) == 0


def test_a_disk_that_runs_low_is_left_alone(make_spool: MakeSpool) -> None:
    """The app needs the last bytes more than we do."""
    disk = MemoryDisk(Random(1))
    spool, _ = _memory_spool(disk, free_bytes_min=1_000)
    assert spool.append(usage()) == 1

    disk.free = 900
    spool.make_room(0)

    assert spool.append(usage()) == 0
    assert "free" in spool.refusal
    disk.free = 10**9
    assert spool.append(usage()) == 2


def test_a_short_write_is_taken_back(make_spool: MakeSpool) -> None:
    """The sequence goes to the write that succeeds, and no half frame stays before it."""
    disk = MemoryDisk(Random(1))
    spool, _ = _memory_spool(disk)
    spool.append(usage(input_tokens=1))
    disk.faults = Faults(short_write=1)

    refused = spool.append(usage(input_tokens=2))
    disk.faults = Faults()
    taken = spool.append(usage(input_tokens=3))

    assert (refused, taken) == (0, 2)
    (segment,) = [node for path, node in disk.files.items() if path.endswith(".segment")]
    assert not scan(bytes(segment.data), is_end=True).skipped


def test_where_a_short_write_cannot_be_taken_back_a_new_segment_begins() -> None:
    """Nothing may follow half a frame."""
    disk = MemoryDisk(Random(1))
    spool, _ = _memory_spool(disk)
    spool.append(usage(input_tokens=1))
    disk.faults = Faults(short_write=1, truncate=1)
    assert spool.append(usage(input_tokens=2)) == 0

    disk.faults = Faults()
    assert spool.append(usage(input_tokens=3)) == 2

    run = spool.read(0, 10, 10**6)
    assert [sequence for _, sequence, _, _ in run.frames] == [1, 2]


def test_a_signal_handler_that_raises_in_the_middle_loses_and_doubles_nothing() -> None:
    """KeyboardInterrupt may strike after the write and before anything is noted of it."""
    disk = MemoryDisk(Random(1))
    spool, _ = _memory_spool(disk)
    disk.faults = Faults(interrupt=1)
    with pytest.raises(Interrupted):
        spool.append(usage(input_tokens=1))

    disk.faults = Faults()
    assert spool.append(usage(input_tokens=2)) == 2

    run = spool.read(0, 10, 10**6)
    assert [sequence for _, sequence, _, _ in run.frames] == [1, 2]


def test_a_failed_fsync_is_never_trusted_again() -> None:
    """A second fsync would succeed without having written what the first one lost."""
    disk = MemoryDisk(Random(1))
    spool, _ = _memory_spool(disk)
    spool.append(usage())
    disk.faults = Faults(sync=1)
    with pytest.raises(OSError, match="Input/output"):
        spool.sync()

    disk.faults = Faults()
    spool.append(usage())

    assert len([path for path in disk.files if path.endswith(".segment")]) == 2
    assert len(spool.read(0, 10, 10**6).frames) == 2


def test_what_a_ledger_has_needs_no_fsync() -> None:
    """With meterd up and quick, the disk is never waited for."""
    disk = MemoryDisk(Random(1))
    spool, _ = _memory_spool(disk)
    spool.append(usage())
    assert spool.is_unsynced

    spool.acknowledge(b"L" * 16, 1)

    assert not spool.is_unsynced
    spool.sync()
    assert not [entry for entry in disk.log if entry[0] == "sync"]


def test_an_append_inside_an_append_is_left_for_later(make_spool: MakeSpool) -> None:
    """A finaliser or handler may run inside one, on the same thread: a lock would hang it."""
    results: list[int] = []

    class Reentrant(OsDisk):
        def write(self, fd: int, data: bytes) -> int:  # type: ignore[override]  # static there
            if not results and b"outer" in data:
                results.append(spool.append(usage("inner")))
                results.append(spool.open_call(OpenCall(client="inner"), 9))
            return os.write(fd, data)

    spool = make_spool(Reentrant())

    assert spool.append(usage("outer")) == 1
    assert results == [BUSY, BUSY]


def test_threads_share_a_spool_without_a_gap(make_spool: MakeSpool) -> None:
    """Sequences are taken in the order of the writes, whoever appends."""
    spool = make_spool(segment_bytes_max=5_000)
    taken: list[int] = []

    def work() -> None:
        for _ in range(200):
            call = spool.open_call(OpenCall(client="a"), spool.next_call())
            taken.append(spool.append(usage(), closes=call))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(taken) == list(range(1, 1_601))
    records = [sequence for kind, sequence, _ in _frames_in(spool.path) if kind == KIND_RECORD]
    assert records == list(range(1, 1_601))
    assert spool.open_calls == 0


def test_a_directory_is_never_seen_unlocked(root: Path, make_spool: MakeSpool) -> None:
    """Made under another name and locked before anybody looks for it."""
    renamed: list[bool] = []

    class Watching(OsDisk):
        def rename(self, source: str, target: str) -> None:  # type: ignore[override]  # static there
            assert "/.new-" in source
            other = os.open(f"{source}/lock", os.O_RDWR)
            renamed.append(OsDisk().try_lock(other))
            os.close(other)
            os.rename(source, target)

    make_spool(Watching())

    assert renamed == [False]
    assert not [name for name in os.listdir(root) if name.startswith(".new-")]


def test_a_directory_that_cannot_be_made_leaves_nothing_behind(root: Path) -> None:
    """Neither a lock nor half a directory that somebody would adopt."""
    disk = MemoryDisk(Random(1))
    disk.faults = Faults(no_space=1)
    view = disk.process()

    from meterd_middleware.spool import Limits

    with pytest.raises(OSError, match="No space"):
        Spool(view, "/r", b"p" * 16, IDENTITY, Limits(), created_at_unix_ns=1)

    assert view.open_files == 0
    assert not disk.files


def test_a_spool_in_a_group_s_root_is_the_group_s(root: Path, make_spool: MakeSpool) -> None:
    """meterd runs as another user then, and has to adopt; the umask has no say."""
    root.mkdir()
    root.chmod(0o2770)
    before = os.umask(0o077)
    try:
        spool = make_spool()
    finally:
        os.umask(before)

    assert stat.S_IMODE(os.stat(spool.path).st_mode) & 0o777 == 0o770
    for name in os.listdir(spool.path):
        assert stat.S_IMODE(os.stat(f"{spool.path}/{name}").st_mode) == 0o660


def test_a_private_spool_is_private(make_spool: MakeSpool) -> None:
    """Client ids are in it."""
    spool = make_spool()

    assert stat.S_IMODE(os.stat(spool.path).st_mode) == 0o700
    for name in os.listdir(spool.path):
        assert stat.S_IMODE(os.stat(f"{spool.path}/{name}").st_mode) == 0o600


def test_a_removed_directory_is_noticed(make_spool: MakeSpool) -> None:
    """Somebody cleans up: what comes next has to go elsewhere."""
    spool = make_spool()
    assert spool.is_present()

    directory.remove_all(OsDisk(), spool.path)

    assert not spool.is_present()


def test_a_file_size_limit_is_a_full_disk(root: Path) -> None:
    """A real limit of the kernel's: what fits is whole, the rest refused and counted."""
    script = """
import os, resource, signal, sys
from meterd_middleware.disk import OsDisk
from meterd_middleware.spool import Identity, Limits, Spool
from meterd_middleware.usage import UsageRecord
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
spool = Spool(OsDisk(), sys.argv[1], os.urandom(16), Identity(), Limits(free_bytes_min=0),
              created_at_unix_ns=1)
taken = sum(bool(spool.append(UsageRecord(client='acme', input_tokens=1))) for _ in range(400))
print(taken, spool.counters.refused_records, spool.refusal)
print(sum(len(spool.read(after, 1, 10**6).frames) for after in range(taken)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(root)], capture_output=True, text=True, check=True
    )

    first, read = done.stdout.splitlines()
    taken, refused, *reason = first.split(" ", 2)
    assert int(taken) + int(refused) == 400
    assert int(read) == int(taken) > 50
    assert errno.errorcode[errno.EFBIG] in reason[0] or "short write" in reason[0]


def test_the_file_system_is_the_longest_mount_above_a_path() -> None:
    """A container's root is an overlay, the volume in it isn't."""
    mounts = (
        "22 1 0:20 / / rw,relatime - overlay overlay rw\n"
        "23 22 0:21 / /var/spool rw - ext4 /dev/vda rw\n"
        "24 22 0:22 / /var/spool\\040two rw - tmpfs tmpfs rw\n"
    )

    assert file_system_of("/home/app", mounts) == "overlay"
    assert file_system_of("/var/spool/meterd", mounts) == "ext4"
    assert file_system_of("/var/spoolers", mounts) == "overlay"
    assert file_system_of("/var/spool two/x", mounts) == "tmpfs"


def test_the_version_is_the_distribution_s() -> None:
    """It is written down twice, to save an import."""
    assert importlib.metadata.version("meterd-middleware") == VERSION
