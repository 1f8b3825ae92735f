"""What no sound producer sends: one clear sentence for each, and all others unharmed.

Everything goes over real gRPC into a real daemon, beside an app that counts as ever.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import grpc
import pytest

from meterd.clock import unix_ns_of
from meterd.ingest.reading import BATCH_RECORDS_MAX
from meterd.store.sqlite import DATABASE
from meterd_proto.v1 import rollup_pb2, usage_pb2
from tests.cli.running import Meterctl
from tests.deploy.apps import App, run_app
from tests.deploy.asking import WITHIN_S, channel, rollup, status, until, used
from tests.support.builders import batch_of
from tests.support.daemon import Daemon, start_daemon

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

NOW = datetime.now(UTC)
NOW_MS = unix_ns_of(NOW) // 1_000_000
IDS = 20_000


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for all of it."""
    with start_daemon() as daemon:
        yield daemon


@pytest.fixture
def good(daemon: Daemon) -> Iterator[App]:
    """A sound app beside; what it records has to arrive."""
    with App(daemon, "good") as app:
        app.record(1)
        assert app.flush()
        yield app
        app.record(1)
        assert app.flush()


def hello(producer: bytes = b"", **fields: int) -> usage_pb2.ShipRequest:
    """A producer's first word."""
    return usage_pb2.ShipRequest(
        hello=usage_pb2.Hello(
            producer=producer or os.urandom(16), service="bad", host="h", pid=1, schema=1,
            next_sequence=fields.get("next_sequence", 1),
        )
    )  # fmt: skip


def batch(*records: usage_pb2.UsageRecord, first_sequence: int = 1) -> usage_pb2.ShipRequest:
    """Consecutive records."""
    made = batch_of(records, first_sequence=first_sequence, sent_at_ms=NOW_MS)
    return usage_pb2.ShipRequest(batch=made)


def ship(
    daemon: Daemon, *messages: usage_pb2.ShipRequest | bytes
) -> tuple[list[usage_pb2.ShipResponse], str]:
    """Send messages on one stream; what came back, and with which sentence it ended."""
    answers: list[usage_pb2.ShipResponse] = []
    with channel(daemon) as opened:
        call: grpc.StreamStreamMultiCallable[bytes, usage_pb2.ShipResponse] = opened.stream_stream(
            "/meterd.v1.UsageService/Ship",
            response_deserializer=usage_pb2.ShipResponse.FromString,
        )
        data = [one if isinstance(one, bytes) else one.SerializeToString() for one in messages]
        try:
            for answer in call(iter(data), timeout=WITHIN_S):
                answers.append(answer)
        except grpc.RpcError as error:
            assert isinstance(error, grpc.Call)
            return answers, f"{error.code().name}: {error.details()}"
    return answers, ""


def watermark(answers: Sequence[usage_pb2.ShipResponse]) -> int:
    """The last acknowledgment's."""
    return max((one.acknowledgment.watermark for one in answers), default=0)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (b"\xff\xff\xff\xff", ""),
        (b"\x12\x05hello", "the batch is no protobuf message"),
        (usage_pb2.ShipRequest(batch=usage_pb2.Batch()), "the batch has no records"),
    ],
)
def test_a_malformed_message_ends_its_stream_alone(
    daemon: Daemon, good: App, message: usage_pb2.ShipRequest | bytes, said: str
) -> None:
    """Bytes that are no message, no batch, no records."""
    _, ended = ship(daemon, hello(), message)

    assert ended
    assert said in ended


def test_an_oversized_batch_is_refused_with_its_size(daemon: Daemon, good: App) -> None:
    """A sound producer halves it, and every record of it is taken."""
    records = [used("oversized", NOW)] * (BATCH_RECORDS_MAX + 1)

    answers, ended = ship(daemon, hello(), batch(*records))

    refused = [one.batch_refused for one in answers if one.HasField("batch_refused")]
    assert [(one.first_sequence, one.last_sequence) for one in refused] == [
        (1, BATCH_RECORDS_MAX + 1)
    ]
    assert f"has {BATCH_RECORDS_MAX + 1} records, at most {BATCH_RECORDS_MAX}" in ended


def test_a_message_beyond_what_grpc_takes_ends_its_stream(daemon: Daemon, good: App) -> None:
    """16 MiB, so that nobody fills the daemon's memory."""
    record = used("huge", NOW)
    record.note = "x" * (17 << 20)

    _, ended = ship(daemon, hello(), batch(record))

    assert ended.startswith("RESOURCE_EXHAUSTED")


def test_a_batch_out_of_order_is_told_where_the_ledger_stands(daemon: Daemon, good: App) -> None:
    """Nothing of it is taken; the next stream begins at the watermark."""
    producer = os.urandom(16)

    _, ended = ship(
        daemon,
        hello(producer),
        batch(used("ordered", NOW), first_sequence=1),
        batch(used("ordered", NOW), first_sequence=3),
    )
    again, _ = ship(
        daemon,
        hello(producer),
        batch(used("ordered", NOW), used("ordered", NOW), first_sequence=2),
    )

    assert ended.startswith("OUT_OF_RANGE: the batch begins at sequence 3, the ledger has 1")
    assert again[0].welcome.watermark == 1
    assert watermark(again) == 3
    assert rollup(daemon)["ordered"].requests == 3


def test_a_replayed_stream_changes_nothing(daemon: Daemon, good: App) -> None:
    """Word for word, hours later: every answer is the same, and no total moves."""
    producer = os.urandom(16)
    words = (hello(producer), batch(*[used("replayed", NOW)] * 5))
    before, _ = ship(daemon, *words)

    after, _ = ship(daemon, *words)

    assert watermark(before) == watermark(after) == 5
    assert rollup(daemon)["replayed"].requests == 5


def test_records_of_several_versions_in_one_batch_each_get_their_due(
    daemon: Daemon, good: App
) -> None:
    """What this daemon knows is counted, what it doesn't is kept, in order, in one go."""
    newer, odd = used("mixed", NOW), used("mixed", NOW)
    newer.schema, odd.input_tokens = 9, -5
    before = status(daemon).quarantined_records

    answers, ended = ship(
        daemon, hello(), batch(used("mixed", NOW), newer, used("mixed", NOW), odd)
    )

    assert (watermark(answers), ended) == (4, "")
    assert rollup(daemon)["mixed"].requests == 2
    assert status(daemon).quarantined_records == before + 2
    reasons = {row.reason for row in status(daemon).quarantine}
    assert "schema 9 is newer than this meterd's 1" in reasons
    assert "input_tokens is negative" in reasons


def test_two_streams_of_one_producer_count_once(daemon: Daemon, good: App) -> None:
    """The newer ends the older; whatever both have sent is one record each."""
    producer = os.urandom(16)
    records = batch(*[used("twice", NOW)] * 3)
    with channel(daemon) as opened:
        call: grpc.StreamStreamMultiCallable[bytes, usage_pb2.ShipResponse] = opened.stream_stream(
            "/meterd.v1.UsageService/Ship",
            response_deserializer=usage_pb2.ShipResponse.FromString,
        )
        older = call(_open_ended([hello(producer), records]), timeout=WITHIN_S)
        while not next(older).HasField("acknowledgment"):
            pass

        newer, _ = ship(daemon, hello(producer), records)
        with pytest.raises(grpc.RpcError) as ended:
            next(older)

    assert isinstance(ended.value, grpc.Call)
    assert ended.value.details() == "a newer stream of this producer has begun"
    assert watermark(newer) == 3
    assert rollup(daemon)["twice"].requests == 3


def _open_ended(messages: Sequence[usage_pb2.ShipRequest]) -> Iterator[bytes]:
    """Messages of a stream that its producer doesn't end."""
    for message in messages:
        yield message.SerializeToString()
    threading.Event().wait(WITHIN_S / 2)


def test_a_spool_copied_elsewhere_and_started_there_counts_once(daemon: Daemon, good: App) -> None:
    """Both are shipped under one id: the ledger takes each sequence from whoever comes first."""
    with App(daemon, "copied", target=f"unix:{daemon.directory}/nobody.sock") as app:
        app.record(5)
        copy = daemon.directory / "copy"
        shutil.copytree(daemon.spool_root, copy)
        app.record(2)
    meterctl = Meterctl({"METERD_TARGET": daemon.target})

    shipped = meterctl("ship", str(copy))

    assert shipped.code == 0, shipped.err
    assert until(lambda: rollup(daemon)["copied"].requests == 7)
    assert status(daemon).lost_records == 0


def test_a_client_that_sends_ever_new_ids_grows_no_rollup(daemon: Daemon, good: App) -> None:
    """Beyond a thousand names of its own they are summed under one; the ledger keeps the real."""
    producer = os.urandom(16)
    records = []
    for number in range(IDS):
        record = used("stranger", NOW)
        record.project = f"project-{number}"
        records.append(record)
    messages = [
        batch(*records[first : first + 4_000], first_sequence=first + 1)
        for first in range(0, IDS, 4_000)
    ]

    answers, ended = ship(daemon, hello(producer), *messages)

    assert (watermark(answers), ended) == (IDS, "")
    by_project = rollup(daemon, "", rollup_pb2.DIMENSION_CLIENT, rollup_pb2.DIMENSION_PROJECT)
    own = [name for name in by_project if name.startswith("stranger/")]
    assert len(own) == 1_001
    assert by_project["stranger/(other)"].requests == IDS - 1_000


def test_none_of_it_left_a_difference(daemon: Daemon) -> None:
    """Ledger = rollups = watermarks, after all of that."""
    assert Meterctl({"METERD_TARGET": daemon.target})("verify").code == 0


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger SET input_tokens = input_tokens + 1 WHERE id = 3",
        "UPDATE rollup_month SET output_tokens = output_tokens - 7",
        "UPDATE rollup_total SET cost = cost + 1",
        "UPDATE producers SET watermark = watermark + 2",
    ],
)
def test_doctor_and_verify_find_what_somebody_changed(place: Path, statement: str) -> None:
    """One row, in the ledger, a rollup or a watermark, changed behind meterd's back."""
    with start_daemon(place) as daemon:
        run_app(daemon, "acme-corp", 5)
        assert until(lambda: rollup(daemon)[""].requests == 5)
        meterctl = Meterctl({"METERD_TARGET": daemon.target})
        assert meterctl("verify").code == 0
        daemon.stop()
        with closing(sqlite3.connect(daemon.data / DATABASE)) as database, database:
            database.execute(statement)
        daemon.start()

        verified, examined = meterctl("verify"), meterctl("doctor")

    assert verified.code == examined.code == 1
    assert verified.out
    assert "problem" in examined.out
