"""Numbers at the end of 64 bits: sums that SQLite can't hold never stop the ledger."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from meterd.ingest.quarantine import TOKENS_MAX
from meterd.store.values import Grouping, PeriodIndex, RollupQuery
from tests.support.builders import NOW_MS, placed, producer_id, usage, wire

if TYPE_CHECKING:
    import pytest

    from meterd.store.sqlite import SqliteStore

NOVEMBER = PeriodIndex(12 * 2025 + 10)


async def requests(store: SqliteStore) -> dict[str, int]:
    """By client, as the rollups have it."""
    rows = await store.rollup(RollupQuery(period=NOVEMBER, by=(Grouping.CLIENT,)))
    return {row.client: row.sums.requests for row in rows}


async def differences(store: SqliteStore) -> tuple[str, ...]:
    (found,) = [step.differences async for step in store.verify() if step.is_done]
    return found


async def test_a_day_of_the_largest_counts_fits(store: SqliteStore) -> None:
    """A broken client that says the largest number each time: eight thousand a batch."""
    await store.commit(placed(*(usage(input_tokens=TOKENS_MAX) for _ in range(8_000))))

    assert await requests(store) == {"acme-corp": 8_000}
    assert await differences(store) == ()


async def test_what_no_sum_can_hold_is_quarantined_and_blocks_nobody(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken for a full disk it would be sent again for ever, and all others with it."""
    monkeypatch.setattr("meterd.ingest.quarantine.TOKENS_MAX", 1 << 62)
    huge = [usage(input_tokens=1 << 62) for _ in range(3)]

    answers = await asyncio.gather(
        *(
            store.commit(wire(record, producer="broken", first_sequence=at))
            for at, record in enumerate(huge, start=1)
        ),
        store.commit(wire(usage("bigco-inc"), producer="sound")),
    )

    assert answers == [1, 2, 3, 1]
    assert await requests(store) == {"acme-corp": 1, "bigco-inc": 1}
    assert (await store.status()).quarantined_records == 2
    assert await differences(store) == ()


async def test_losses_without_end_can_still_be_shown(store: SqliteStore) -> None:
    """Nobody's figures may depend on what one producer declares."""
    for name in ("one", "two", "three"):
        await store.declare_lost(producer_id(name), 1, (1 << 62) - 1, "gone", NOW_MS)

    assert (await store.uncounted()).lost_records == 3 << 62
    assert (await store.status()).lost_records == 3 << 62
