"""Millions of records into a ledger: ready batches over the daemon's own Ship stream.

What a producer sends, without its spool: the daemon's side of the path is whole (gRPC, parse,
prices, rollups, a durable commit), and the other core isn't busy with making records.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import grpc

from benchmarks.workload import batches
from meterd_proto.v1 import usage_pb2
from meterd_proto.v1.usage_pb2_grpc import UsageServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BATCH_RECORDS = 4_096
WINDOW_BATCHES = 48
"""As many batches may be unacknowledged as those of a producer."""


def send(
    target: str,
    count: int,
    seed: int,
    told: Callable[[int], object] = lambda acknowledged: None,
) -> None:
    """Send `count` records as one producer; returns when the last is acknowledged.

    Args:
        told: called with how many are durable, at each acknowledgment.
    """
    window = threading.Semaphore(WINDOW_BATCHES)
    all_in = threading.Event()

    def requests() -> Iterator[usage_pb2.ShipRequest]:
        hello = usage_pb2.Hello(
            producer=os.urandom(16), service="bench", host="bench", schema=1,
            oldest_sequence=1, next_sequence=count + 1,
        )  # fmt: skip
        yield usage_pb2.ShipRequest(hello=hello)
        for batch in batches(count, BATCH_RECORDS, seed):
            window.acquire()
            yield usage_pb2.ShipRequest(batch=batch)
        all_in.wait()

    free = 0
    with grpc.insecure_channel(target) as channel:
        for response in UsageServiceStub(channel).Ship(requests()):
            if response.HasField("acknowledgment"):
                watermark = response.acknowledgment.watermark
                told(watermark)
                durable = -(-watermark // BATCH_RECORDS)
                window.release(durable - free) if durable > free else None
                free = durable
                if watermark >= count:
                    all_in.set()
            elif not response.HasField("welcome"):
                all_in.set()
                raise RuntimeError(f"meterd does not take the records: {response}")
