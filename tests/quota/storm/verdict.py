"""The verdict: what the provider served, what meterd counted, the quota, and the mode's bound."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc

from meterd_proto.v1 import admin_pb2, admin_pb2_grpc, quota_pb2, quota_pb2_grpc, usage_pb2

if TYPE_CHECKING:
    from tests.support.daemon import Daemon

SETTLED_WITHIN_S = 90.0
PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of round."""

    name: str
    reserve: str
    left: int
    """Tokens the client has when the round begins."""
    max_tokens: int
    replies_max: int
    with_kills: bool = True


@dataclass(slots=True)
class Round:
    """What came out of one round; `wrong` is empty where all is as promised."""

    client: str
    scenario: Scenario
    worker_kills: int
    daemon_kills: int
    calls: int
    """That the provider served, struck ones too."""
    served: int
    """Tokens, as the provider bills them."""
    counted: int
    """Tokens in meterd's ledger, beyond what had been used before."""
    interrupted: int
    """Calls whose process was killed before their answer was settled: counted by estimate."""
    bound: int
    """By how much the mode may exceed what was left."""
    refused_away: int
    """Refusals since meterd was away; each was tried again."""
    seconds: float = 0.0
    refusal: str = ""
    wrong: list[str] = field(default_factory=list)

    @property
    def over(self) -> int:
        """By how much the provider served more than was left."""
        return max(0, self.served - self.scenario.left)


def settled_quota(daemon: Daemon, client: str) -> quota_pb2.QuotaStatus:
    """The client's quota once nothing is lent any more: the dead workers' spools are adopted."""
    deadline, pause = time.monotonic() + SETTLED_WITHIN_S, threading.Event()
    with _channel(daemon) as channel:
        stub = quota_pb2_grpc.QuotaServiceStub(channel)
        while True:
            (quota,) = stub.Status(quota_pb2.QuotaStatusRequest(client=client)).quotas
            if not quota.leased or time.monotonic() > deadline:
                return quota
            pause.wait(PAUSE_S)


def served_rows(provider_url: str, client: str) -> list[dict[str, Any]]:
    """The provider's rows for a client, which are then forgotten there."""
    with urllib.request.urlopen(f"{provider_url}/ledger", timeout=60) as answer:
        rows = [row for row in json.load(answer)["served"] if row["request_id"] == client]
    request = urllib.request.Request(f"{provider_url}/ledger", method="DELETE")
    with urllib.request.urlopen(request, timeout=60):
        return rows


def interrupted_records(daemon: Daemon, client: str) -> int:
    """How many calls of a client ended with their process."""
    request = admin_pb2.RecordsRequest(client=client, from_day="2020-01-01", to_day="2099-12-31")
    with _channel(daemon) as channel:
        rows = admin_pb2_grpc.AdminServiceStub(channel).Records(request)
        return sum(row.record.status == usage_pb2.STATUS_INTERRUPTED for row in rows)


def bound_of(scenario: Scenario, calls_in_flight: int, struck: int, shortest_reply: int) -> int:
    """DESIGN 8: `ceiling` is never over; `usual` by calls in flight × (ceiling − usual).

    And a call whose process was killed has its input counted alone, since nobody knows what
    was replied: up to its ceiling the provider may bill more.

    Args:
        calls_in_flight: at once, in all workers.
        struck: calls whose process was killed.
        shortest_reply: below this the usual reply of no process can lie.
    """
    unknown = struck * scenario.max_tokens
    if scenario.reserve == "ceiling":
        return unknown
    return unknown + calls_in_flight * max(0, scenario.max_tokens - shortest_reply)


def judge(found: Round, quota: quota_pb2.QuotaStatus, need_max: int) -> Round:
    """Hold the figures against what is promised.

    Args:
        need_max: the most that one call of this scenario reserves.
    """
    wrong = found.wrong
    if found.over > found.bound:
        wrong.append(f"{found.over:,} tokens over, the bound is {found.bound:,}")
    if quota.leased:
        wrong.append(f"{quota.leased:,} tokens are still lent, though nobody calls any more")
    if max(0, quota.limit - quota.used) != quota.remaining + quota.leased:
        wrong.append(f"used {quota.used:,} and remaining {quota.remaining:,} of {quota.limit:,}")
    if quota.remaining > need_max:
        wrong.append(
            f"{quota.remaining:,} tokens are left, enough for one more call of {need_max:,}"
        )
    if found.served > found.counted and not found.interrupted:
        wrong.append(f"{found.served:,} tokens served, {found.counted:,} counted")
    return found


def _channel(daemon: Daemon) -> grpc.Channel:
    return grpc.insecure_channel(daemon.target, (("grpc.use_local_subchannel_pool", 1),))
