"""Asking a running daemon, as an app or an operator would: over its socket, with real stubs."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import grpc

from meterd.clock import unix_ns_of
from meterd_proto.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    rollup_pb2,
    rollup_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
)
from tests.support.builders import batch_of, usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.daemon import Daemon

WITHIN_S = 20.0
PAUSE_S = 0.05
_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)


@contextmanager
def channel(daemon: Daemon) -> Iterator[grpc.Channel]:
    """A channel of its own to the daemon's first address."""
    with grpc.insecure_channel(daemon.target, _OPTIONS) as opened:
        yield opened


def status(daemon: Daemon) -> admin_pb2.StatusResponse:
    """What `meterctl status` reads."""
    with channel(daemon) as opened:
        stub = admin_pb2_grpc.AdminServiceStub(opened)
        return stub.Status(admin_pb2.StatusRequest(), timeout=WITHIN_S)


def apply(daemon: Daemon, toml: str, *, dry_run: bool = False) -> admin_pb2.ApplyResponse:
    """What `meterctl apply` does."""
    with channel(daemon) as opened:
        stub = admin_pb2_grpc.AdminServiceStub(opened)
        request = admin_pb2.ApplyRequest(toml=toml.encode(), source="m.toml", dry_run=dry_run)
        return stub.Apply(request, timeout=WITHIN_S)


def rollup(
    daemon: Daemon, period: str = "", *by: rollup_pb2.Dimension.ValueType
) -> dict[str, rollup_pb2.Usage]:
    """A month's usage by its keys, joined by "/"; the total under ""."""
    with channel(daemon) as opened:
        stub = rollup_pb2_grpc.RollupServiceStub(opened)
        request = rollup_pb2.RollupRequest(period=period, by=by)
        found: dict[str, rollup_pb2.Usage] = {}
        for message in stub.Query(request, timeout=WITHIN_S):
            for row in message.rows.rows:
                keys = (row.client, row.project, row.model, row.day)
                found["/".join(filter(None, keys))] = row.usage
            if message.HasField("total"):
                found[""] = message.total.usage
        return found


def ship(daemon: Daemon, *records: usage_pb2.UsageRecord) -> None:
    """Hand records over as a new producer does, and wait for their acknowledgment."""
    sent_at_ms = unix_ns_of(datetime.now(UTC)) // 1_000_000
    hello = usage_pb2.Hello(
        producer=os.urandom(16), service="test", host="here", pid=1, schema=1, next_sequence=1
    )
    batch = batch_of(records, sent_at_ms=sent_at_ms)
    requests = (usage_pb2.ShipRequest(hello=hello), usage_pb2.ShipRequest(batch=batch))
    with channel(daemon) as opened:
        answers = usage_pb2_grpc.UsageServiceStub(opened).Ship(iter(requests), timeout=WITHIN_S)
        watermarks = [answer.acknowledgment.watermark for answer in answers]
    assert watermarks[-1] == len(records)


def used(client: str, at: datetime, tokens: int = 1_000) -> usage_pb2.UsageRecord:
    """A plain chat record of so many tokens."""
    at_ms = unix_ns_of(at) // 1_000_000
    return usage(client, input_tokens=tokens, output_tokens=0, occurred_at_ms=at_ms)


def until(is_true: Callable[[], bool]) -> bool:
    """Whether something in another process becomes true before long."""
    pause, tries = threading.Event(), int(WITHIN_S / PAUSE_S)
    return any(is_true() or pause.wait(PAUSE_S) for _ in range(tries))
