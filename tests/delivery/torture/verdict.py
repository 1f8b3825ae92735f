"""The verdict: what the provider served beside what meterd has, call by call."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import grpc

from meterd_proto.v1 import admin_pb2, admin_pb2_grpc, usage_pb2
from tests.delivery.torture.load import CLIENTS

if TYPE_CHECKING:
    from tests.delivery.torture.load import Asked
    from tests.delivery.torture.scene import Kill
    from tests.support.daemon import Daemon

SETTLED_WITHIN_S = 120.0
PAUSE_S = 0.5


class Used(NamedTuple):
    """The tokens of one call, as both sides count them."""

    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int


@dataclass(slots=True)
class Found:
    """What both sides have."""

    served: dict[str, list[Used]] = field(default_factory=lambda: defaultdict(list))
    """By uid: what the provider answered, failures too."""
    records: dict[str, list[usage_pb2.UsageRecord]] = field(
        default_factory=lambda: defaultdict(list)
    )
    status: admin_pb2.StatusResponse = field(default_factory=admin_pb2.StatusResponse)
    differences: list[str] = field(default_factory=list)


def find(daemon: Daemon, provider_url: str) -> Found:
    """Read both ledgers, once meterd has all that is going to come."""
    found = Found()
    with urllib.request.urlopen(f"{provider_url}/ledger", timeout=60) as response:
        for row in json.load(response)["served"]:
            counts = row["counts"]
            found.served[row["request_id"]].append(Used(*(counts[name] for name in Used._fields)))
    options = (("grpc.use_local_subchannel_pool", 1),)
    with grpc.insecure_channel(daemon.target, options) as channel:
        admin = admin_pb2_grpc.AdminServiceStub(channel)
        found.status = _settled(admin, sum(map(len, found.served.values())))
        for client in CLIENTS:
            request = admin_pb2.RecordsRequest(
                client=client, from_day="2020-01-01", to_day="2099-12-31"
            )
            for row in admin.Records(request):
                found.records[row.record.project].append(row.record)
        for progress in admin.Verify(admin_pb2.VerifyRequest()):
            found.differences = list(progress.differences)
    return found


def _settled(admin: admin_pb2_grpc.AdminServiceStub, served: int) -> admin_pb2.StatusResponse:
    """The status once every call has a record and nothing has come for a while."""
    deadline, last = time.monotonic() + SETTLED_WITHIN_S, -1
    pause = threading.Event()
    while True:
        status: admin_pb2.StatusResponse = admin.Status(admin_pb2.StatusRequest())
        is_still = status.records == last and all(one.is_finished for one in status.producers)
        if (status.records >= served and is_still) or time.monotonic() > deadline:
            return status
        last = status.records
        pause.wait(PAUSE_S)


@dataclass(slots=True)
class Verdict:
    """What came out, in figures; `wrong` is empty where all is as promised."""

    rounds: int
    asked: int
    served: int
    records: int
    interrupted: int
    in_flight: int
    never_sent: int
    """Interrupted calls that had not reached the provider."""
    producers: int
    wrong: list[str]


def judge(found: Found, asked: list[Asked], kills: list[Kill]) -> Verdict:
    """Hold both sides against each other."""
    wrong: list[str] = []
    for uid in sorted({*found.served, *found.records}):
        wrong += _compare(uid, found.served[uid], found.records[uid])
    interrupted = Counter(
        {uid: count for uid, of in found.records.items() if (count := _interrupted_among(of))}
    )
    in_flight = [uid for kill in kills for uid in kill.in_flight]
    if interrupted.total() > len(in_flight):
        wrong.append(f"{interrupted.total()} interrupted, {len(in_flight)} were in flight")
    for uid in interrupted.keys() - set(in_flight):
        wrong.append(f"{uid}: interrupted, though no kill struck it")
    for one in asked:
        if one.is_answered and one.uid not in found.served:
            wrong.append(f"{one.uid}: answered, and the provider never heard of it")
    served, records = found.served.values(), found.records.values()
    return Verdict(
        rounds=len(kills),
        asked=len(asked),
        served=sum(map(len, served)),
        records=sum(map(len, records)),
        interrupted=interrupted.total(),
        in_flight=len(in_flight),
        never_sent=sum(map(len, records)) - sum(map(len, served)),
        producers=len(found.status.producers),
        wrong=[*wrong, *_beside(found)],
    )


def _compare(uid: str, served: list[Used], records: list[usage_pb2.UsageRecord]) -> list[str]:
    """What is wrong with one call, which an SDK may have tried several times."""
    if len(records) < len(served):
        return [f"{uid}: the provider served {len(served)}, meterd has {len(records)}"]
    if len(records) - len(served) > _interrupted_among(records):
        return [f"{uid}: counted {len(records)} times, the provider served {len(served)}"]
    settled = Counter(_used(one) for one in records if not _is_interrupted(one))
    if unknown := settled - Counter(served):
        return [f"{uid}: meterd counts {list(unknown)}, the provider {served}"]
    return []


def _beside(found: Found) -> list[str]:
    """What has to be so beside the calls: nothing lost, refused or set aside, and the proof."""
    status, wrong = found.status, list(found.differences)
    if status.lost_records or status.quarantined_records or status.refused_segments:
        wrong.append(
            f"{status.lost_records} records lost, {status.quarantined_records} in quarantine, "
            f"{list(status.refused_segments)} set aside"
        )
    for one in status.producers:
        if one.report.refused_records or one.report.dropped_open_frames:
            wrong.append(f"{one.name}: {one.report.refused_records} records refused")
        if not one.is_finished:
            wrong.append(f"{one.producer} is not finished")
        wrong += [f"{one.producer}: fault {fault.kind}" for fault in one.report.faults]
    return wrong


def _is_interrupted(record: usage_pb2.UsageRecord) -> bool:
    """Whether its process died before the answer was settled."""
    return record.status == usage_pb2.STATUS_INTERRUPTED


def _interrupted_among(records: list[usage_pb2.UsageRecord]) -> int:
    return sum(map(_is_interrupted, records))


def _used(record: usage_pb2.UsageRecord) -> Used:
    return Used(*(getattr(record, name) for name in Used._fields))
