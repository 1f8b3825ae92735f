"""Totals: a client's period in one row says what its rollups say, whatever has changed them."""

from __future__ import annotations

import operator
import sqlite3
from decimal import Decimal
from typing import TYPE_CHECKING, TypeAlias

import pytest

from meterd.config.agency import Agency, PriceOverride
from meterd.store.sqlite import DATABASE, open_store
from meterd.store.values import Grouping, PeriodIndex, RollupQuery
from meterd_proto.v1 import usage_pb2
from tests.support.builders import DAY_MS, NOW_MS, placed, usage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meterd.store.sqlite import SqliteStore
    from tests.store.conftest import HandClock

NOVEMBER = PeriodIndex(12 * 2025 + 10)
LATE_MS = NOW_MS - 40 * DAY_MS


Figures: TypeAlias = "dict[str, tuple[tuple[int, ...], Decimal]]"


async def totals(store: SqliteStore, period: PeriodIndex) -> Figures:
    """What the rows of the totals say, by client."""
    rows = await store.rollup(RollupQuery(period=period))
    return {row.client: (row.sums, row.cost) for row in rows}


async def parts(store: SqliteStore, period: PeriodIndex) -> Figures:
    """The same added up from the rollup by day, by another query."""
    by = (Grouping.CLIENT, Grouping.DAY)
    found: Figures = {}
    for row in await store.rollup(RollupQuery(period=period, by=by)):
        sums, cost = found.get(row.client, ((0,) * len(row.sums), Decimal(0)))
        found[row.client] = (tuple(map(operator.add, sums, row.sums)), cost + row.cost)
    return found


def all_sorts() -> Iterator[usage_pb2.UsageRecord]:
    """Records of two clients and months, with rare counts, no price, and a huge cost."""
    for client in ("acme-corp", "bigco-inc"):
        yield usage(client, "bot", cache_write_tokens=300, cache_write_long_tokens=100)
        yield usage(client, model="claude-sonnet-4-5", provider="anthropic",
                    tool_calls={"web_search_requests": 3})  # fmt: skip
        yield usage(client, model="our-llama", estimated=3)
        yield usage(
            client, http_status=500, status=usage_pb2.STATUS_FAILED, input_tokens=0, output_tokens=0
        )
        yield usage(client, occurred_at_ms=NOW_MS - 30 * DAY_MS)
        yield usage(client, occurred_at_ms=LATE_MS)
    for _ in range(20):
        yield usage("goldsmiths", model="gold", input_tokens=1 << 40)


async def test_a_total_is_the_sum_of_its_days_whatever_changes_them(store: SqliteStore) -> None:
    """Records, late ones accepted, a price that came later: each touches totals another way."""
    gold = PriceOverride(model="gold", rates={"input": Decimal(600), "output": Decimal(1)})
    await store.use_agency(Agency(prices=(gold,)))
    llama = PriceOverride(model="our-llama", rates={"input": Decimal(1), "output": Decimal(2)})

    for change in (
        store.commit(placed(*all_sorts())),
        store.accept_late("acme-corp", NOW_MS),
        store.use_agency(Agency(prices=(gold, llama))),
        store.commit(placed(*all_sorts(), producer="web-2")),
    ):
        await change
        for period in (NOVEMBER, PeriodIndex(NOVEMBER - 1)):
            assert await totals(store, period) == await parts(store, period)

    (goldsmiths,) = await store.rollup(RollupQuery(period=NOVEMBER, client="goldsmiths"))
    assert goldsmiths.cost == 40 * ((1 << 40) * Decimal("0.0006") + Decimal("0.0001"))


async def test_totals_follow_the_first_zone(store: SqliteStore) -> None:
    """The rollups are made anew, and the totals with them."""
    midnight_ms = 1_764_547_200_000  # 2025-12-01 in UTC, still November in New York
    await store.commit(placed(usage(occurred_at_ms=midnight_ms + 1), now_ms=midnight_ms + DAY_MS))
    assert not await totals(store, NOVEMBER)

    await store.use_agency(Agency(timezone="America/New_York"))

    assert await totals(store, NOVEMBER) == await parts(store, NOVEMBER)
    assert not await totals(store, PeriodIndex(NOVEMBER + 1))


async def test_a_ledger_of_the_version_before_gets_its_totals(
    tmp_path: Path, clock: HandClock
) -> None:
    gold = PriceOverride(model="gold", rates={"input": Decimal(600), "output": Decimal(1)})
    dust = PriceOverride(model="our-llama", rates={"input": Decimal("0.123456789012")})
    store = await open_store(tmp_path, clock)
    await store.use_agency(Agency(prices=(gold, dust)))
    await store.commit(placed(*all_sorts()))
    before = await totals(store, NOVEMBER)
    await store.close()
    connection = sqlite3.connect(tmp_path / DATABASE)
    connection.executescript(
        "DROP TABLE rollup_total; DROP INDEX uncounted_late; "
        "DELETE FROM schema_version WHERE version > 3;"
    )
    connection.close()

    store = await open_store(tmp_path, clock)

    assert await totals(store, NOVEMBER) == before == await parts(store, NOVEMBER)
    assert [step.differences async for step in store.verify() if step.is_done] == [()]
    await store.close()


@pytest.mark.parametrize(
    "planted",
    ["UPDATE rollup_total SET cost = cost + 1", "DELETE FROM rollup_total"],
)
async def test_a_total_that_was_changed_is_named(
    store: SqliteStore, tmp_path: Path, planted: str
) -> None:
    await store.commit(placed(usage(), usage("bigco-inc")))
    connection = sqlite3.connect(tmp_path / "data" / DATABASE)
    client = "(SELECT id FROM clients WHERE name = 'bigco-inc')"
    connection.execute(f"{planted} WHERE client = {client}")
    connection.commit()
    connection.close()

    (found,) = [step.differences async for step in store.verify() if step.is_done]

    assert found == (
        "client bigco-inc, 2025-11: the total of its period is not the sum of its rollup by month",
    )


async def test_what_no_rollup_has_is_counted_apart(store: SqliteStore) -> None:
    await store.commit(placed(usage(), usage(occurred_at_ms=LATE_MS), usage(input_tokens=-1)))
    await store.declare_lost(placed(usage()).producer, 4, 9, "segment corrupt", NOW_MS)

    assert await store.uncounted() == (1, 1, 6)
    assert (await store.status()).records == 2
