"""The producer's side of the stream, message by message, without a network."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from meterd_middleware.delivery import (
    ANSWER_MS_MAX,
    BACKOFF_MS_MAX,
    WINDOW_BATCHES,
    Delivery,
    Sender,
)
from meterd_proto.v1 import usage_pb2
from tests.delivery.conftest import usage
from tests.support.network import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable

    from meterd_middleware.spool import Spool

    MakeSpool = Callable[..., Spool]

SENDER = Sender(service="app", host="h", pid=1, version="0")
_MS = 1_000_000


def _delivery(spool: Spool) -> Delivery:
    return Delivery(spool, SENDER, random=Random(1), heartbeat_interval_ms=1_000)


def _appended(spool: Spool, count: int, first: int = 1) -> None:
    for number in range(first, first + count):
        spool.append(usage(input_tokens=number))


def _ship(delivery: Delivery, ledger: Ledger, spool: Spool, streams: int = 30) -> None:
    """Talk until everything is shipped; a refusal ends the stream, as gRPC would."""
    for _ in range(streams):
        answers = ledger.receive(spool.producer, delivery.begin())
        while answers:
            for answer in answers:
                delivery.receive(answer, 0)
            if any(answer.HasField("batch_refused") for answer in answers):
                break
            answers = []
            while (request := delivery.next_request(0, 1)) is not None:
                answers += ledger.receive(spool.producer, request)
        if delivery.is_drained:
            return
        delivery.end()
    raise AssertionError("not drained")


def _tokens(ledger: Ledger) -> list[int]:
    return [record.input_tokens for record in ledger.records]


def test_hello_says_where_the_producer_stands(make_spool: MakeSpool) -> None:
    """The daemon knows from it what is to come, and of whom."""
    spool = make_spool()
    _appended(spool, 3)
    spool.acknowledge(b"L" * 16, 2)

    hello = _delivery(spool).begin().hello

    assert hello == usage_pb2.Hello(
        producer=spool.producer, service="app", host="h", pid=1, version="0", schema=1,
        ledger_id=b"L" * 16, acknowledged_sequence=2, oldest_sequence=1, next_sequence=4,
    )  # fmt: skip


def test_nothing_is_said_before_the_welcome(make_spool: MakeSpool) -> None:
    """Only the daemon knows from where on it wants the records."""
    spool = make_spool()
    _appended(spool, 3)
    delivery = _delivery(spool)
    delivery.begin()

    assert delivery.next_request(10**18, 1) is None


def test_a_lost_acknowledgment_costs_a_resend_and_no_record(make_spool: MakeSpool) -> None:
    """The watermark of the next Welcome says what arrived."""
    spool, ledger = make_spool(), Ledger()
    _appended(spool, 5)
    delivery = _delivery(spool)
    for answer in ledger.receive(spool.producer, delivery.begin()):
        delivery.receive(answer, 0)
    request = delivery.next_request(0, 1)
    assert request is not None
    ledger.receive(spool.producer, request)  # and its answer never arrives
    delivery.end()

    _appended(spool, 2, first=6)
    _ship(delivery, ledger, spool)

    assert _tokens(ledger) == [1, 2, 3, 4, 5, 6, 7]
    assert spool.acknowledged.watermark == 7


def test_a_window_of_batches_is_all_that_waits_for_the_daemon(make_spool: MakeSpool) -> None:
    """Backpressure: a daemon that doesn't answer is not flooded."""
    spool, ledger = make_spool(), Ledger(batch_records_max=1)
    _appended(spool, 3 * WINDOW_BATCHES)
    delivery = _delivery(spool)
    for answer in ledger.receive(spool.producer, delivery.begin()):
        delivery.receive(answer, 0)

    sent = []
    while (request := delivery.next_request(0, 1)) is not None and request.HasField("batch"):
        sent.append(request)

    assert len(sent) == WINDOW_BATCHES
    assert not delivery.has_unsaid(0)
    acknowledged = usage_pb2.Acknowledgment(watermark=1)
    delivery.receive(usage_pb2.ShipResponse(acknowledgment=acknowledged), 0)
    assert delivery.has_unsaid(0)


def test_not_now_is_waited_out_and_everything_behind_it_sent_again(make_spool: MakeSpool) -> None:
    """A full disk at the daemon loses nothing and declares nothing lost."""
    spool, ledger = make_spool(), Ledger(is_full=True, batch_records_max=2)
    _appended(spool, 10)
    delivery = _delivery(spool)
    for answer in ledger.receive(spool.producer, delivery.begin()):
        delivery.receive(answer, 0)
    answers = []
    while (request := delivery.next_request(0, 1)) is not None:
        answers += ledger.receive(spool.producer, request)
    for answer in answers:
        delivery.receive(answer, 0)

    assert delivery.fault == "disk full"
    assert delivery.next_request(59 * _MS, 1) is None
    ledger.is_full = False
    while (request := delivery.next_request(61 * _MS, 1)) is not None:
        for answer in ledger.receive(spool.producer, request):
            delivery.receive(answer, 61 * _MS)

    assert _tokens(ledger) == list(range(1, 11))
    assert not ledger.losses
    assert delivery.fault == ""


def test_a_refused_batch_is_halved_until_one_record_is_to_blame(make_spool: MakeSpool) -> None:
    """That one is declared lost and set aside; all others are counted."""
    spool = make_spool()
    _appended(spool, 40)
    ledger = Ledger(refuses=lambda batch: "a bug" if 23 in batch.input_tokens else "")

    _ship(_delivery(spool), ledger, spool)

    assert _tokens(ledger) == [number for number in range(1, 41) if number != 23]
    assert ledger.losses == [(23, 23, "refused: a bug")]
    assert [name for name in _names(spool) if name.endswith(".refused")] == [
        "00000000000000000001.segment.refused"
    ]


def _names(spool: Spool) -> list[str]:
    import os

    return os.listdir(spool.path)


def test_a_batch_that_is_only_too_large_loses_nothing(make_spool: MakeSpool) -> None:
    """Halving is what it needed."""
    spool = make_spool()
    _appended(spool, 40)
    ledger = Ledger(refuses=lambda batch: "too large" if len(batch.dimension) > 3 else "")

    _ship(_delivery(spool), ledger, spool)

    assert _tokens(ledger) == list(range(1, 41))
    assert not ledger.losses


def test_a_ledger_restored_from_a_backup_is_filled_again(make_spool: MakeSpool) -> None:
    """The same ledger with a lower watermark: what is kept is sent again."""
    spool, ledger = make_spool(segment_bytes_max=400), Ledger()
    _appended(spool, 20)
    delivery = _delivery(spool)
    _ship(delivery, ledger, spool)
    known = ledger.producers[spool.producer]
    known.watermark = 6
    for sequence in range(7, 21):
        del known.records[sequence]
    delivery.end()

    _ship(delivery, ledger, spool)

    assert _tokens(ledger) == list(range(1, 21))
    assert not ledger.losses


def test_what_a_restored_ledger_wants_and_nobody_keeps_is_declared_lost(
    make_spool: MakeSpool,
) -> None:
    """With its range, never silently; and it blocks nothing behind it."""
    spool, ledger = make_spool(segment_bytes_max=400, keep_ns=0), Ledger()
    _appended(spool, 20)
    delivery = _delivery(spool)
    _ship(delivery, ledger, spool)
    spool.trim(1, keep_bytes=0)
    _appended(spool, 2, first=21)
    ledger.producers.clear()
    delivery.end()

    _ship(delivery, ledger, spool)

    ((first, last, reason),) = ledger.losses
    assert first == 1
    assert _tokens(ledger) == list(range(last + 1, 23))
    assert "no longer kept" in reason


def test_another_ledger_gets_what_none_has_acknowledged(make_spool: MakeSpool) -> None:
    """A data directory that was deleted: the rest is declared lost there, named, and passed."""
    spool, ledger = make_spool(), Ledger()
    _appended(spool, 5)
    delivery = _delivery(spool)
    _ship(delivery, ledger, spool)
    _appended(spool, 3, first=6)
    delivery.end()
    other = Ledger(id=b"M" * 16)

    _ship(delivery, other, spool)

    assert _tokens(other) == [6, 7, 8]
    ((first, last, reason),) = other.losses
    assert (first, last) == (1, 5)
    assert "another ledger" in reason
    assert spool.acknowledged == (b"M" * 16, 8)


def test_a_corrupt_record_is_declared_lost_and_its_neighbours_are_not(
    make_spool: MakeSpool,
) -> None:
    """One bad sector on the app's disk."""
    spool, ledger = make_spool(), Ledger()
    _appended(spool, 9)
    path = f"{spool.path}/00000000000000000001.segment"
    with open(path, "r+b") as file:
        data = file.read()
        at = data.index(bytes([0x58, 4]))  # input_tokens = 4
        file.seek(at)
        file.write(b"\x58\x05")

    _ship(_delivery(spool), ledger, spool)

    assert _tokens(ledger) == [1, 2, 3, 5, 6, 7, 8, 9]
    ((first, last, reason),) = ledger.losses
    assert (first, last) == (4, 4)
    assert "corrupt bytes in 00000000000000000001.segment" in reason


def test_a_segment_that_somebody_deleted_is_declared_lost(make_spool: MakeSpool) -> None:
    """The end of the spool too, where nothing follows that would show the gap."""
    import os

    spool, ledger = make_spool(segment_bytes_max=400), Ledger()
    _appended(spool, 20)
    os.unlink(f"{spool.path}/00000000000000000001.segment")

    _ship(_delivery(spool), ledger, spool)

    ((first, last, reason),) = ledger.losses
    assert first == 1
    assert _tokens(ledger) == list(range(last + 1, 21))
    assert reason == "00000000000000000001.segment is gone"


def test_somebody_else_under_the_same_id_is_noticed(make_spool: MakeSpool) -> None:
    """A ledger with more than we ever appended would take our next records for known ones."""
    spool, ledger = make_spool(), Ledger()
    _appended(spool, 2)
    delivery = _delivery(spool)
    ledger.receive(spool.producer, delivery.begin())
    ledger.producers[spool.producer].watermark = 7

    for answer in ledger.receive(spool.producer, delivery.begin()):
        delivery.receive(answer, 0)

    assert delivery.is_usurped


def test_idle_producers_say_that_they_live(make_spool: MakeSpool) -> None:
    """A heartbeat an interval, with what is under way; a report where something was counted."""
    from meterd_middleware.payload import OpenCall

    spool, ledger = make_spool(), Ledger()
    _appended(spool, 1)
    delivery = _delivery(spool)
    _ship(delivery, ledger, spool)
    spool.open_call(OpenCall(client="a", occurred_at_unix_ns=77), spool.next_call())

    assert delivery.next_request(999 * _MS, 5) is None
    request = delivery.next_request(1_001 * _MS, 5)

    assert request is not None
    assert request.heartbeat == usage_pb2.Heartbeat(
        sent_at_unix_ns=5, highest_appended_sequence=1, open_calls=1, oldest_open_at_unix_ns=77
    )
    spool.counters.refused_records = 4
    request = delivery.next_request(2_002 * _MS, 5)
    assert request is not None
    assert request.report.refused_records == 4
    assert ledger.only.report.spool_directory == spool.path


def test_a_silent_daemon_is_given_up(make_spool: MakeSpool) -> None:
    """A connection may look alive for hours after its other end is gone."""
    spool, ledger = make_spool(), Ledger()
    _appended(spool, 1)
    delivery = _delivery(spool)
    for answer in ledger.receive(spool.producer, delivery.begin()):
        delivery.receive(answer, 0)
    delivery.next_request(0, 1)

    assert not delivery.is_given_up(ANSWER_MS_MAX * _MS)
    assert delivery.is_given_up((ANSWER_MS_MAX + 1) * _MS)


def test_the_wait_between_attempts_doubles_and_is_half_chance(make_spool: MakeSpool) -> None:
    """A host's producers must not all come back at the same moment."""
    spool = make_spool()
    delivery = _delivery(spool)
    waits = []
    for _ in range(12):
        delivery.begin()
        delivery.end()
        waits.append(delivery.backoff_ms())

    assert 50 <= waits[0] <= 100
    assert all(BACKOFF_MS_MAX // 2 <= wait <= BACKOFF_MS_MAX for wait in waits[-4:])
    assert len(set(waits[-4:])) > 1


@pytest.mark.parametrize("answer", ["acknowledgment", "not_now", "batch_refused"])
def test_answers_out_of_place_change_nothing(make_spool: MakeSpool, answer: str) -> None:
    """Before the Welcome, or beyond what was sent."""
    spool, ledger = make_spool(), Ledger()
    _appended(spool, 3)
    delivery = _delivery(spool)
    delivery.begin()
    early = usage_pb2.ShipResponse()
    getattr(early, answer).SetInParent()

    delivery.receive(early, 0)
    _ship(delivery, ledger, spool)

    assert _tokens(ledger) == [1, 2, 3]
    assert not ledger.losses
