"""What resolving a price costs at ingest: the same batches with prices, and with the look left out.

    batches of 4,096 records ─▶ store.commit ─▶ ledger, rollups, watermark
         with: each record takes the rate of its call, its moment, its bracket
         without: the column of rates is one number for all

In one process and without a network, so that nothing hides the difference: over gRPC it is a
smaller part of the whole. `plain` has eight models with one price each; in `brackets` half of the
records are of a model with a context-size bracket, and one in ten has cache writes or a hosted
tool, each of which needs a look of its own.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

from benchmarks.harness import ROUNDS_MIN, Pair, Report, Series, arguments
from meterd.clock import SystemClock
from meterd.ingest.reading import WireBatch
from meterd.store.sqlite import open_store
from meterd.store.values import Producer
from meterd_proto.v1 import usage_pb2
from tests.support.builders import batch_of, producer_id, usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meterd.store.batch import PlacedBatch
    from meterd.store.sqlite import SqliteStore

BATCH_RECORDS = 4_096
BATCHES, BATCHES_QUICK = 24, 6
CLIENTS, PROJECTS = 400, 3
MODELS = (
    ("openai", "gpt-4o"), ("openai", "gpt-4o-mini"), ("openai", "gpt-4.1"),
    ("openai", "gpt-4.1-mini"), ("openai", "o3"), ("openai", "o4-mini"),
    ("anthropic", "claude-3-5-haiku-latest"), ("openai", "gpt-4.1-nano"),
)  # fmt: skip
BRACKETED = ("gcp.gemini", "gemini-2.5-pro")


def made(shape: str, seed: int) -> usage_pb2.Batch:
    """A batch of a shape."""
    random_ = random.Random(seed)
    now_ms = time.time_ns() // 1_000_000
    return batch_of([_record(shape, random_, now_ms) for _ in range(BATCH_RECORDS)],
                    sent_at_ms=now_ms)  # fmt: skip


def _record(shape: str, random_: random.Random, now_ms: int) -> usage_pb2.UsageRecord:
    is_bracketed = shape == "brackets" and random_.random() < 0.5
    provider, model = BRACKETED if is_bracketed else random_.choice(MODELS)
    took = random_.randrange(300_000 if is_bracketed else 8_000)
    is_rare = shape == "brackets" and random_.random() < 0.1
    return usage(
        f"client-{random_.randrange(CLIENTS)}", f"project-{random_.randrange(PROJECTS)}",
        provider=provider, model=model, input_tokens=took, output_tokens=random_.randrange(2_000),
        cache_write_tokens=took // 4 if is_rare else 0,
        occurred_at_ms=now_ms - random_.randrange(3_600_000),
    )  # fmt: skip


class Ledger:
    """A ledger of its own that takes the batches round after round."""

    def __init__(self, store: SqliteStore, name: str, batches: Sequence[usage_pb2.Batch]) -> None:
        self._store, self._producer, self._batches = store, producer_id(name), batches
        self._next = 1

    async def take(self) -> tuple[float, float]:
        """All batches once; seconds of wall time and of CPU."""
        requests = []
        now_ms = time.time_ns() // 1_000_000
        for batch in self._batches:
            batch.first_sequence, batch.highest_appended_sequence = self._next, self._next
            self._next += BATCH_RECORDS
            request = usage_pb2.ShipRequest(batch=batch).SerializeToString()
            requests.append(WireBatch(self._producer, now_ms, request=request))
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*map(self._store.commit, requests))
        return time.perf_counter() - began, time.process_time() - cpu


def _one_for_all(batch: PlacedBatch, *_: object) -> list[int]:
    return [1] * len(batch.kind)


async def compared(shape: str, count: int) -> tuple[Pair, Pair]:
    """Wall time and CPU without prices and with them, in turns."""
    batches = [made(shape, seed) for seed in range(count)]
    root = Path(tempfile.mkdtemp(prefix="mb"))
    stores = [await open_store(root / name, SystemClock()) for name in ("without", "priced")]
    try:
        for store in stores:
            await store.hello(Producer(id=producer_id("web"), service="web", host="h"), 0)
        without, priced = (Ledger(store, "web", batches) for store in stores)
        await priced.take(), await without.take()
        taken: dict[str, list[tuple[float, float]]] = {"without": [], "priced": []}
        for at in range(2 * ROUNDS_MIN):
            if at % 4 in (0, 3):
                with patch("meterd.store.ledger.rate_column", _one_for_all):
                    taken["without"].append(await without.take())
            else:
                taken["priced"].append(await priced.take())
    finally:
        for store in stores:
            await store.close()
        shutil.rmtree(root, ignore_errors=True)
    wall, cpu = (
        Pair(*(Series(tuple(one[at] for one in taken[name])) for name in ("without", "priced")))
        for at in (0, 1)
    )
    return wall, cpu


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__ or "")
    report = Report("pricing")
    count = BATCHES_QUICK if options.quick else BATCHES
    for shape in ("plain", "brackets"):
        wall, cpu = asyncio.run(compared(shape, count))
        records = count * BATCH_RECORDS
        rate = Series(tuple(records / seconds for seconds in wall.ours.values))
        report.add(f"{shape}: ingest with prices", rate, "records/s")
        for name, pair in (("", wall), (", by CPU", cpu)):
            share = Series(tuple(1 / ratio for ratio in pair.ratio.values))
            report.add(f"{shape}: of that without{name}", share, "×", "≥ 0.9")
    report.print(options.json)


if __name__ == "__main__":
    main()
