"""What every engine of the store promises; a new one is done when these pass.

Each test says what must hold of the ledger, and breaks if the line that guards it does.
"""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meterd.billing.period import day_of, period_of
from meterd.clock import moment_of
from meterd.config.agency import Agency, Client, PriceOverride, QuotaRule
from meterd.errors import BatchBroken, NotFound, SequenceGap
from meterd.ids import LeaseId, ProducerId
from meterd.ingest.reading import WireBatch
from meterd.store.ledger import Ledger
from meterd.store.sqlite import open_store
from meterd.store.values import (
    Grant,
    Grouping,
    Heartbeat,
    Lease,
    PeriodIndex,
    Producer,
    RecordsQuery,
    RollupQuery,
    Sums,
)
from meterd_proto.v1 import usage_pb2
from tests.store.conftest import HandClock
from tests.support.builders import DAY_MS, NOW_MS, batch_of, placed, producer_id, usage, wire

if TYPE_CHECKING:
    from pathlib import Path

    from meterd.ids import Sequence
    from meterd.store.batch import PlacedBatch
    from meterd.store.sqlite import SqliteStore
    from meterd.store.values import Committed, LedgerRecord, RollupRow

NOVEMBER = PeriodIndex(2025 * 12 + 10)
DECEMBER = PeriodIndex(2025 * 12 + 11)


async def total(store: SqliteStore, period: PeriodIndex | None = NOVEMBER) -> Sums:
    rows = await store.rollup(RollupQuery(period=period, by=()))
    return rows[0].sums if rows else Sums()


async def by(store: SqliteStore, *groupings: Grouping) -> dict[str, RollupRow]:
    rows = await store.rollup(RollupQuery(period=NOVEMBER, by=groupings))
    return {
        "/".join(filter(None, (row.client, row.project, row.model, row.day))): row for row in rows
    }


async def ledger(store: SqliteStore) -> list[LedgerRecord]:
    return [record async for page in store.records(RecordsQuery()) for record in page]


async def differences(store: SqliteStore) -> tuple[str, ...]:
    last = None
    async for step in store.verify():
        last = step
    assert last is not None
    assert last.is_done
    return last.differences


# ── counted once ──


async def test_what_is_committed_stands_in_ledger_and_rollups(store: SqliteStore) -> None:
    watermark = await store.commit(placed(usage("acme-corp", "bot"), usage("bigco-inc")))

    assert watermark == 2
    assert (await total(store)).tokens == 2_200
    rows = await by(store, Grouping.CLIENT, Grouping.PROJECT)
    assert set(rows) == {"acme-corp/bot", "bigco-inc"}
    assert [record.client for record in await ledger(store)] == ["acme-corp", "bigco-inc"]
    assert await differences(store) == ()


async def test_a_batch_sent_twice_is_counted_once(store: SqliteStore) -> None:
    """A lost acknowledgment makes the producer resend; totals must not move."""
    batch = placed(usage(), usage())

    first = await store.commit(batch)
    second = await store.commit(batch)

    assert first == second == 2
    assert (await total(store)).requests == 2


async def test_a_batch_that_overlaps_adds_only_what_is_new(store: SqliteStore) -> None:
    await store.commit(placed(usage(input_tokens=1), usage(input_tokens=2)))

    watermark = await store.commit(
        placed(usage(input_tokens=2), usage(input_tokens=4), first_sequence=2)
    )

    assert watermark == 3
    assert (await total(store)).input_tokens == 7


async def test_a_gap_is_refused_and_writes_nothing(store: SqliteStore) -> None:
    with pytest.raises(SequenceGap, match="begins at sequence 3, the ledger has 0"):
        await store.commit(placed(usage(), first_sequence=3))

    assert (await total(store)).requests == 0
    assert await store.commit(placed(usage())) == 1


async def test_a_declared_loss_is_stepped_over_and_shown(store: SqliteStore) -> None:
    producer = producer_id()
    await store.hello(Producer(id=producer, service="web", host="box"), NOW_MS)
    await store.commit(placed(usage()))

    watermark = await store.declare_lost(producer, 1, 4, "segment corrupt", NOW_MS)
    await store.commit(placed(usage(), first_sequence=5))

    status = await store.status()
    assert watermark == 4
    assert (status.lost_records, status.records) == (3, 2)
    (loss,) = status.losses
    assert (loss.first_sequence, loss.last_sequence) == (2, 4)
    assert (loss.producer_name, loss.reason) == ("web@box", "segment corrupt")
    assert await differences(store) == ()


async def test_a_loss_beyond_the_next_sequence_is_a_gap(store: SqliteStore) -> None:
    with pytest.raises(SequenceGap):
        await store.declare_lost(producer_id(), 5, 9, "nobody knows", NOW_MS)

    assert (await store.status()).lost_records == 0


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_order_and_repeats_give_one_total(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Producers interleave and resend as they like: each record adds its tokens once."""
    records = {
        name: data.draw(st.lists(st.integers(1, 10_000), min_size=1, max_size=12), label=name)
        for name in ("web-1", "web-2", "job")
    }
    order = data.draw(
        st.lists(st.tuples(st.sampled_from(sorted(records)), st.integers(0, 12)), max_size=20)
    )

    async def run() -> None:
        store = await open_store(tmp_path_factory.mktemp("data"), HandClock())
        at = dict.fromkeys(records, 0)
        for name, count in [*order, *((name, 12) for name in records)]:
            back = min(count // 4, at[name])
            chosen = records[name][at[name] - back : at[name] + count]
            if chosen:
                batch = placed(
                    *(usage(client=name, input_tokens=tokens) for tokens in chosen),
                    producer=name,
                    first_sequence=at[name] - back + 1,
                )
                at[name] = max(at[name], await store.commit(batch))
        rows = await by(store, Grouping.CLIENT)
        found = {name: row.sums.input_tokens for name, row in rows.items()}
        assert found == {name: sum(tokens) for name, tokens in records.items()}
        assert await differences(store) == ()
        await store.close()

    asyncio.run(run())


async def test_batches_that_wait_together_share_a_transaction(store: SqliteStore) -> None:
    told: list[Committed] = []
    store.subscribe(told.append)

    await asyncio.gather(
        *(store.commit(wire(usage(), producer=f"web-{number}")) for number in range(20))
    )

    assert sum(commit.end_row - commit.first_row for commit in told) == 20
    assert len(told) < 20


async def test_a_broken_batch_fails_alone(store: SqliteStore) -> None:
    """Those that share its transaction are committed."""
    good, bad = wire(usage(), producer="good"), batch_of([usage()])
    bad.dimension[0] = 7

    results = await asyncio.gather(
        store.commit(good),
        store.commit(WireBatch(producer_id("bad"), NOW_MS, message=bad)),
        store.commit(wire(usage(), producer="other")),
        return_exceptions=True,
    )

    assert results[0] == results[2] == 1
    assert isinstance(results[1], BatchBroken)
    assert (await total(store)).requests == 2


async def test_a_batch_that_raises_what_it_never_should_blocks_nobody(store: SqliteStore) -> None:
    """A bug of ours in one producer's batch must not stop the others, nor the daemon."""

    class Bug:
        def read(self) -> object:
            raise ZeroDivisionError("a bug")

    results = await asyncio.gather(
        store.commit(wire(usage(), producer="one")),
        store.commit(Bug()),  # type: ignore[arg-type]  # what it reads is the bug
        store.commit(wire(usage(), producer="two")),
        return_exceptions=True,
    )

    assert results[0] == results[2] == 1
    assert isinstance(results[1], BatchBroken)
    assert "ZeroDivisionError" in str(results[1])
    assert await differences(store) == ()


async def test_a_record_that_a_bug_of_ours_cant_take_is_kept_and_passed(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is well-framed, so it is never declared lost: its bytes stay, and nothing waits for it.

    A batch of several is refused, since its sender halves it until one record is to blame.
    """
    add = Ledger.add

    def raising(self: Ledger, batch: PlacedBatch) -> Sequence:
        if 666 in (batch.input_tokens or ()):
            raise ZeroDivisionError("a bug")
        return add(self, batch)

    monkeypatch.setattr(Ledger, "add", raising)
    bad = usage(input_tokens=666, note="keep me")

    with pytest.raises(BatchBroken, match="ZeroDivisionError"):
        await store.commit(wire(usage(), bad))
    assert await store.commit(wire(usage())) == 1
    assert await store.commit(wire(bad, first_sequence=2)) == 2
    assert await store.commit(wire(usage(), first_sequence=3)) == 3

    (kept,) = (await store.status()).quarantine
    assert (kept.sequence, kept.reason) == (
        2, "the ledger can't take it: ZeroDivisionError: a bug",
    )  # fmt: skip
    (payload,) = await store._readers.read(
        lambda connection: connection.execute("SELECT payload FROM quarantine").fetchone()
    )
    assert usage_pb2.UsageRecord.FromString(payload) == bad
    assert (await total(store)).requests == 2
    assert await differences(store) == ()


async def test_a_caller_who_leaves_does_not_undo_the_commit(store: SqliteStore) -> None:
    task = asyncio.create_task(store.commit(placed(usage())))
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task

    assert await store.commit(placed(usage())) == 1
    assert (await total(store)).requests == 1


async def test_a_dedupe_id_is_counted_the_first_time_alone(store: SqliteStore) -> None:
    """A background response is polled by several processes; each makes a record of it."""
    await store.commit(placed(usage(dedupe_id="resp_1"), usage(dedupe_id="resp_2")))
    await store.commit(placed(usage(dedupe_id="resp_1"), producer="other"))

    assert (await total(store)).requests == 2
    assert [record.is_duplicate for record in await ledger(store)] == [False, False, True]
    assert await differences(store) == ()


async def test_a_dedupe_id_is_forgotten_after_35_days(store: SqliteStore, clock: HandClock) -> None:
    await store.commit(placed(usage(dedupe_id="resp_1")))
    clock.at_ms += 36 * DAY_MS
    now = clock.at_ms
    await store.commit(placed(usage(occurred_at_ms=now), first_sequence=2, now_ms=now))

    await store.commit(
        placed(usage(dedupe_id="resp_1", occurred_at_ms=now), first_sequence=3, now_ms=now)
    )

    assert (await total(store, None)).requests == 3


async def test_a_late_duplicate_is_counted_once_however_late(store: SqliteStore) -> None:
    """Two processes polled it, and the spools of both were away for forty days."""
    old = NOW_MS - 40 * DAY_MS
    for name in ("one", "other"):
        await store.commit(placed(usage(dedupe_id="resp_1", occurred_at_ms=old), producer=name))

    accepted = await store.accept_late("acme-corp", NOW_MS)

    assert accepted.records == 1
    assert (await total(store, PeriodIndex(NOVEMBER - 1))).requests == 1
    assert [record.is_duplicate for record in await ledger(store)] == [False, True]
    assert await differences(store) == ()


# ── restart ──


async def test_everything_is_there_after_a_restart(tmp_path: Path, clock: HandClock) -> None:
    first = await open_store(tmp_path, clock)
    await first.commit(placed(usage(), usage()))
    identity = first.ledger_id
    await first.close()

    second = await open_store(tmp_path, clock)

    assert second.ledger_id == identity
    assert await second.hello(Producer(id=producer_id()), NOW_MS) == 2
    assert await second.commit(placed(usage(), first_sequence=3)) == 3
    assert (await total(second)).requests == 3
    assert await differences(second) == ()
    await second.close()


async def test_an_idle_producers_records_share_a_run(store: SqliteStore) -> None:
    for sequence in range(1, 6):
        await store.commit(placed(usage(input_tokens=sequence), first_sequence=sequence))

    records = await ledger(store)

    assert [record.sequence for record in records] == [1, 2, 3, 4, 5]
    assert await differences(store) == ()


# ── placed ──


async def test_a_wrong_clock_moves_the_record_and_keeps_what_it_said(store: SqliteStore) -> None:
    ahead = NOW_MS + 2 * DAY_MS

    await store.commit(placed(usage(occurred_at_ms=ahead - 1_000), sent_at_ms=ahead))

    (record,) = await ledger(store)
    assert record.billed_at_ms == NOW_MS - 1_000
    assert record.rare.occurred_at_ms == ahead - 1_000
    assert (await total(store)).requests == 1


async def test_what_is_35_days_old_waits_until_it_is_accepted(store: SqliteStore) -> None:
    old = NOW_MS - 40 * DAY_MS
    await store.commit(placed(usage(occurred_at_ms=old), usage(dedupe_id="x")))
    october = PeriodIndex(NOVEMBER - 1)
    assert (await total(store, october)).requests == 0
    (late,) = (await store.status()).late
    assert (late.client, late.records, late.tokens) == ("acme-corp", 1, 1_100)

    accepted = await store.accept_late("acme-corp", NOW_MS)

    assert (accepted.records, accepted.tokens) == (1, 1_100)
    assert (await total(store, october)).requests == 1
    assert (await store.status()).late_records == 0
    assert await store.accept_late("acme-corp", NOW_MS) == type(accepted)(0, 0)
    assert await differences(store) == ()


async def test_a_batch_over_midnight_falls_into_two_days(store: SqliteStore) -> None:
    midnight = NOW_MS - 12 * 3_600_000
    await store.commit(
        placed(
            usage(occurred_at_ms=midnight - 1),
            usage(occurred_at_ms=midnight),
            usage(occurred_at_ms=midnight - 2),
        )
    )

    rows = await by(store, Grouping.DAY)

    assert {day: row.sums.requests for day, row in rows.items()} == {
        "2025-11-24": 2,
        "2025-11-25": 1,
    }
    assert await differences(store) == ()


async def test_days_and_periods_are_those_of_the_agencys_zone(store: SqliteStore) -> None:
    agency = Agency(
        timezone="America/New_York", clients={"acme-corp": Client("acme-corp", anchor=15)}
    )
    await store.use_agency(agency)
    start = 1_763_182_800_000  # 2025-11-15 00:00 in New York

    await store.commit(placed(usage(occurred_at_ms=start - 1), usage(occurred_at_ms=start)))

    october = await store.rollup(RollupQuery(period=PeriodIndex(NOVEMBER - 1)))
    november = await store.rollup(RollupQuery(period=NOVEMBER, by=(Grouping.DAY,)))
    assert [row.sums.requests for row in october] == [1]
    assert [(row.day, row.sums.requests) for row in november] == [("2025-11-15", 1)]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_rollups_are_what_the_records_say_whatever_the_zone_and_the_days(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Added up again by another route, over days of 23, 24, 24½ and 25 hours, and anchors."""
    zone = data.draw(
        st.sampled_from(["UTC", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo"])
    )
    # Around the changes of clocks of spring and autumn 2026, received the day after.
    now_ms = data.draw(st.sampled_from([1_775_500_000_000, 1_777_100_000_000, 1_793_600_000_000]))
    clients = {
        "early": Client("early", anchor=data.draw(st.integers(1, 31))),
        "first": Client("first"),
    }
    agency = Agency(timezone=zone, clients=clients)
    back = st.integers(0, 34 * DAY_MS) | st.integers(0, 2 * DAY_MS)
    records = data.draw(
        st.lists(
            st.tuples(st.sampled_from(["early", "first", "stranger"]), back, st.integers(1, 99)),
            min_size=1,
            max_size=25,
        )
    )
    cut = data.draw(st.integers(0, len(records)))

    async def run() -> None:
        store = await open_store(tmp_path_factory.mktemp("data"), HandClock(now_ms))
        await store.use_agency(agency)
        first = 1
        for part in (records[:cut], records[cut:]):
            if part:
                batch = placed(
                    *(
                        usage(client, input_tokens=tokens, occurred_at_ms=now_ms - ago)
                        for client, ago, tokens in part
                    ),
                    first_sequence=first,
                    now_ms=now_ms,
                )
                first = await store.commit(batch) + 1
        expected: dict[tuple[str, int, str], int] = {}
        for client, ago, tokens in records:
            moment = moment_of((now_ms - ago) * 1_000_000)
            period = period_of(moment, agency.zone, agency.anchor_of(client)).index
            key = (client, period, day_of(moment, agency.zone).isoformat())
            expected[key] = expected.get(key, 0) + tokens
        found = {}
        for period in {period for _, period, _ in expected}:
            query = RollupQuery(period=PeriodIndex(period), by=(Grouping.CLIENT, Grouping.DAY))
            for row in await store.rollup(query):
                found[row.client, period, row.day] = row.sums.input_tokens
        assert found == expected
        assert await differences(store) == ()
        await store.close()

    asyncio.run(run())


# ── quarantine ──


async def test_a_record_of_a_newer_schema_is_kept_and_passed(store: SqliteStore) -> None:
    await store.commit(placed(usage(), usage(schema=9, note="from the future"), usage()))

    status = await store.status()
    (kept,) = status.quarantine
    assert (status.quarantined_records, status.records) == (1, 2)
    assert (kept.sequence, kept.schema) == (2, 9)
    assert usage_pb2.UsageRecord.FromString(kept.payload).note == "from the future"
    assert [record.sequence for record in await ledger(store)] == [1, 3]
    assert await store.hello(Producer(id=producer_id()), NOW_MS) == 3
    assert await differences(store) == ()


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (usage(input_tokens=-5), "input_tokens is negative"),
        (usage(output_tokens=1 << 60), "output_tokens is absurdly large"),
        (usage(cache_read_tokens=1_001), "cache_read_tokens exceeds input_tokens"),
        (usage(reasoning_tokens=101), "reasoning_tokens exceeds output_tokens"),
        (usage(cache_write_tokens=2_000), "cache_write_tokens exceeds input_tokens"),
        (usage(cache_write_long_tokens=1), "cache_write_long_tokens exceeds cache_write_tokens"),
        (usage(audio_output_tokens=-1), "audio_output_tokens is negative"),
        (
            usage(cache_read_tokens=600, cache_write_tokens=600),
            "cached tokens exceed input_tokens",
        ),
        (usage(client="x" * 600), "a name has more than 512 characters"),
        (usage(tool_calls={"web_search": -1}), "tool_calls has a count that can't be"),
        (usage(status=usage_pb2.STATUS_UNSPECIFIED), "status 0 is unknown"),
    ],
)
async def test_what_cant_be_believed_is_quarantined_and_blocks_nobody(
    store: SqliteStore, record: usage_pb2.UsageRecord, reason: str
) -> None:
    watermark = await store.commit(placed(usage(), record, usage()))

    status = await store.status()
    assert watermark == 3
    assert [kept.reason for kept in status.quarantine] == [reason]
    kept = usage_pb2.UsageRecord.FromString(status.quarantine[0].payload)
    assert (kept.client, kept.input_tokens) == (record.client, record.input_tokens)
    assert (await total(store)).requests == 2
    assert await differences(store) == ()


# ── what counts as what ──


async def test_requests_failures_and_refusals_are_counted_apart(store: SqliteStore) -> None:
    await store.commit(
        placed(
            usage(),
            usage(http_status=429, status=usage_pb2.STATUS_FAILED, input_tokens=0, output_tokens=0),
            usage(http_status=0, status=usage_pb2.STATUS_CUT, output_tokens=0),
            usage(http_status=0, status=usage_pb2.STATUS_REFUSED, input_tokens=0, output_tokens=0),
            usage(is_continuation=True),
            usage(input_tokens=0, output_tokens=0),
        )
    )

    sums = await total(store)

    assert (sums.requests, sums.failed_requests, sums.refused_requests) == (3, 1, 1)
    assert sums.input_tokens == 3_000
    assert sums.unpriced_requests == 0


async def test_every_kind_of_token_is_summed(store: SqliteStore) -> None:
    record = usage(
        provider="anthropic",
        model="claude-sonnet-4-5",
        input_tokens=10_000,
        cache_read_tokens=1_000,
        cache_write_tokens=2_000,
        cache_write_long_tokens=500,
        output_tokens=700,
        reasoning_tokens=300,
        estimated=2,
    )

    await store.commit(placed(record, record))

    sums = await total(store)
    assert sums.cache_read_tokens == 2_000
    assert (sums.cache_write_tokens, sums.cache_write_long_tokens) == (4_000, 1_000)
    assert (sums.output_tokens, sums.reasoning_tokens) == (1_400, 600)
    assert sums.estimated_tokens == 1_400
    assert await differences(store) == ()


# ── prices ──


async def test_a_rollup_costs_what_its_records_cost(store: SqliteStore) -> None:
    """7,000 × 3 + 1,000 × 0.30 + 1,500 × 3.75 + 500 × 6 + 700 × 15, per million."""
    await store.commit(
        placed(
            usage(
                provider="anthropic",
                model="claude-sonnet-4-5-20250929",
                input_tokens=10_000,
                cache_read_tokens=1_000,
                cache_write_tokens=2_000,
                cache_write_long_tokens=500,
                output_tokens=700,
            ),
        )
    )

    (row,) = await store.rollup(RollupQuery(period=NOVEMBER))
    (record,) = await ledger(store)

    assert row.cost == Decimal("0.040425")
    assert record.cost == row.cost
    assert record.priced_by.startswith("anthropic/claude-sonnet-4-5")


async def test_brackets_are_chosen_by_the_request_and_never_by_the_sum(store: SqliteStore) -> None:
    """3 × 100,000 is 0.375; taken as 300,000 it would be 0.75."""
    call = {"provider": "gcp.gemini", "model": "gemini-2.5-pro", "output_tokens": 0}

    await store.commit(
        placed(*(usage(input_tokens=100_000, **call) for _ in range(3)))  # type: ignore[arg-type]
    )
    await store.commit(
        placed(
            usage(input_tokens=200_000, client="edge", **call),  # type: ignore[arg-type]
            usage(input_tokens=200_001, client="cliff", **call),  # type: ignore[arg-type]
            first_sequence=4,
        )
    )

    costs = {row.client: row.cost for row in await store.rollup(RollupQuery(period=NOVEMBER))}
    assert costs == {
        "acme-corp": Decimal("0.375"),
        "edge": Decimal("0.25"),
        "cliff": Decimal("0.5000025"),
    }


@pytest.mark.parametrize(
    "record",
    [
        usage(model="a-model-of-our-own"),
        usage(provider="somewhere", model="gpt-4o"),
        usage(context={"service_tier": "Priority"}),
        usage(tool_calls={"a_tool_nobody_prices": 1}),
    ],
)
async def test_what_has_no_price_is_unpriced_and_never_free(
    store: SqliteStore, record: usage_pb2.UsageRecord
) -> None:
    await store.commit(placed(record, usage()))

    sums = await total(store)
    records = await ledger(store)
    (unpriced,) = await store.unpriced(NOVEMBER)

    assert (sums.requests, sums.unpriced_requests, sums.unpriced_tokens) == (2, 1, 1_100)
    assert [record.cost is None for record in records] == [True, False]
    assert (unpriced.requests, unpriced.tokens) == (1, 1_100)


async def test_a_failed_call_of_an_unknown_model_has_nothing_to_price(store: SqliteStore) -> None:
    await store.commit(
        placed(
            usage(
                model="a-model-of-our-own",
                status=usage_pb2.STATUS_FAILED,
                http_status=500,
                input_tokens=0,
                output_tokens=0,
            )
        )
    )

    sums = await total(store)

    assert (sums.failed_requests, sums.unpriced_requests) == (1, 0)
    assert (await ledger(store))[0].cost == 0


async def test_tool_calls_are_billed_beside_tokens(store: SqliteStore) -> None:
    """Web searches of Anthropic cost 10.00 per 1,000."""
    await store.commit(
        placed(
            usage(
                provider="anthropic",
                model="claude-sonnet-4-5",
                input_tokens=0,
                output_tokens=0,
                tool_calls={"web_search_requests": 3, "web_fetch_requests": 2},
            )
        )
    )

    (row,) = await store.rollup(RollupQuery(period=NOVEMBER))
    assert row.cost == Decimal("0.03")
    assert (await ledger(store))[0].cost == Decimal("0.03")


async def test_a_clients_own_price_holds_for_it_alone(store: SqliteStore) -> None:
    own = PriceOverride(
        model="gpt-4o", client="acme-corp", rates={"input": Decimal(1), "output": Decimal(2)}
    )
    await store.use_agency(Agency(prices=(own,)))

    await store.commit(placed(usage("acme-corp"), usage("bigco-inc")))

    costs = {row.client: row.cost for row in await store.rollup(RollupQuery(period=NOVEMBER))}
    assert costs == {"acme-corp": Decimal("0.0012"), "bigco-inc": Decimal("0.0035")}


async def test_a_price_that_comes_later_reprices_what_was_unpriced(store: SqliteStore) -> None:
    """The ledger's row stays as it is; the rollup moves, and the change is recorded."""
    await store.commit(placed(usage(model="our-llama"), usage(model="our-llama", input_tokens=7)))
    assert (await total(store)).unpriced_requests == 2

    own = PriceOverride(model="our-llama", rates={"input": Decimal(1), "output": Decimal(1)})
    await store.use_agency(Agency(prices=(own,)))

    (row,) = await store.rollup(RollupQuery(period=NOVEMBER))
    assert row.sums.unpriced_requests == 0
    assert (row.sums.requests, row.cost) == (2, Decimal("0.001207"))
    assert [record.cost for record in await ledger(store)] == [
        Decimal("0.0011"),
        Decimal("0.000107"),
    ]
    assert await differences(store) == ()


async def test_a_price_that_is_taken_back_gives_the_books_again(store: SqliteStore) -> None:
    await store.commit(placed(usage(), usage("bigco-inc")))
    own = PriceOverride(model="gpt-4o", client="acme-corp", rates={"input": Decimal(1)})
    await store.use_agency(Agency(prices=(own,)))
    (acme,) = await store.rollup(RollupQuery(period=NOVEMBER, client="acme-corp"))
    assert acme.sums.unpriced_requests == 1  # the override has no price for output

    await store.use_agency(Agency())

    costs = {row.client: row.cost for row in await store.rollup(RollupQuery(period=NOVEMBER))}
    assert costs == {"acme-corp": Decimal("0.0035"), "bigco-inc": Decimal("0.0035")}
    assert await differences(store) == ()


async def test_a_later_price_leaves_closed_periods_alone(store: SqliteStore) -> None:
    await store.commit(placed(usage(model="our-llama"), usage("bigco-inc", model="our-llama")))
    await store.close_period("acme-corp", NOVEMBER, NOW_MS)

    own = PriceOverride(model="our-llama", rates={"input": Decimal(1), "output": Decimal(1)})
    await store.use_agency(Agency(prices=(own,)))

    rows = {row.client: row for row in await store.rollup(RollupQuery(period=NOVEMBER))}
    assert rows["acme-corp"].sums.unpriced_requests == 1
    assert rows["bigco-inc"].cost == Decimal("0.0011")


async def test_a_cost_beyond_64_bits_is_still_exact(store: SqliteStore) -> None:
    """Forty trillion tokens at 600 dollars a million: SQLite's integers end before."""
    most = 1 << 40
    own = PriceOverride(model="gold", rates={"input": Decimal(600), "output": Decimal("0.1")})
    await store.use_agency(Agency(prices=(own,)))

    await store.commit(
        placed(*(usage(model="gold", input_tokens=most, output_tokens=1) for _ in range(40)))
    )

    (row,) = await store.rollup(RollupQuery(period=NOVEMBER))
    assert row.cost == 40 * (most * Decimal("0.0006") + Decimal("0.0000001"))


async def test_a_price_of_many_decimals_is_exact(store: SqliteStore) -> None:
    own = PriceOverride(
        model="dust", rates={"input": Decimal("0.123456789012"), "output": Decimal(0)}
    )
    await store.use_agency(Agency(prices=(own,)))

    await store.commit(placed(usage(model="dust", input_tokens=7), usage(input_tokens=0)))

    (row,) = await store.rollup(RollupQuery(period=NOVEMBER))
    assert row.cost == Decimal("0.000000864197523084") + Decimal("0.001")


# ── names ──


async def test_a_stranger_cant_grow_the_rollups_without_bound(store: SqliteStore) -> None:
    await store.use_agency(
        Agency(clients={"listed": Client("listed", projects={"p": "P"})}, unlisted_ids_max=3)
    )

    await store.commit(placed(*(usage(f"stranger-{number}") for number in range(10))))
    await store.commit(
        placed(*(usage("listed", f"project-{number}") for number in range(10)), first_sequence=11)
    )
    await store.commit(placed(usage("listed", "p"), usage("listed"), first_sequence=21))

    clients = await by(store, Grouping.CLIENT)
    projects = await store.rollup(
        RollupQuery(period=NOVEMBER, by=(Grouping.PROJECT,), client="listed")
    )
    assert clients["(other)"].sums.requests == 7
    assert len(clients) == 5
    counts = {row.project: row.sums.requests for row in projects}
    assert counts["(other)"] == 7
    assert counts["p"] == counts[""] == 1
    assert len({record.client for record in await ledger(store)}) == 11
    assert await differences(store) == ()


async def test_a_forgotten_client_keeps_its_sums(store: SqliteStore) -> None:
    await store.commit(placed(usage("acme-corp", "secret-launch"), usage("bigco-inc")))

    name = await store.forget("acme-corp")

    rows = await by(store, Grouping.CLIENT, Grouping.PROJECT)
    assert not any("acme" in key or "secret" in key for key in rows)
    assert (await total(store)).tokens == 2_200
    assert any(record.client == name for record in await ledger(store))
    await store.commit(placed(usage("acme-corp"), first_sequence=3))
    assert (await by(store, Grouping.CLIENT))["acme-corp"].sums.requests == 1
    with pytest.raises(NotFound):
        await store.forget("nobody")


# ── leases ──


def lease(number: int, tokens: int = 5_000, producer: str = "web-1", **fields: object) -> Lease:
    values: dict[str, object] = {
        "id": LeaseId(number),
        "producer": producer_id(producer),
        "client": "acme-corp",
        "project": "",
        "model": "",
        "period": NOVEMBER,
        "tokens": tokens,
        "lent_at_ms": NOW_MS,
        "expires_at_ms": NOW_MS + 60_000,
        **fields,
    }
    return Lease(**values)  # type: ignore[arg-type]  # fields by name


async def test_records_settle_the_lease_that_they_name(store: SqliteStore) -> None:
    told: list[Committed] = []
    store.subscribe(told.append)
    await store.lend(lease(7))
    await store.lend(lease(7))

    await store.commit(placed(usage(lease_id=7), usage(lease_id=7), usage()))

    (held,) = await store.outstanding_leases()
    assert (held.used_tokens, held.outstanding_tokens) == (2_200, 2_800)
    assert told[-1].leases == {7: 2_200}
    assert await store.used_tokens("acme-corp", NOVEMBER) == 3_300


async def test_a_released_lease_returns_once_its_last_record_is_in_the_ledger(
    store: SqliteStore,
) -> None:
    told: list[Committed] = []
    store.subscribe(told.append)
    await store.lend(lease(7))
    await store.release_lease(LeaseId(7), 2, NOW_MS)
    await store.commit(placed(usage(lease_id=7)))
    assert [held.id for held in await store.outstanding_leases()] == [7]

    await store.commit(placed(usage(lease_id=7), first_sequence=2))

    assert await store.outstanding_leases() == []
    assert told[-1].ended_leases == (7,)


async def test_a_lease_that_was_never_used_returns_with_its_release(store: SqliteStore) -> None:
    await store.lend(lease(7))

    await store.release_lease(LeaseId(7), 0, NOW_MS)

    assert await store.outstanding_leases() == []


async def test_a_producer_that_ended_returns_its_leases(store: SqliteStore) -> None:
    await store.lend(lease(7))
    await store.lend(lease(8, producer="other"))
    await store.commit(placed(usage(lease_id=7)))

    await store.goodbye(producer_id(), 1, NOW_MS)

    assert [held.id for held in await store.outstanding_leases()] == [8]


async def test_an_adopted_producer_returns_its_leases_with_its_last_record(
    store: SqliteStore,
) -> None:
    await store.lend(lease(7))
    adopted = Producer(id=producer_id(), service="web", host="h", is_adopted=True, next_sequence=3)
    await store.hello(adopted, NOW_MS)
    await store.commit(placed(usage(lease_id=7)))
    assert len(await store.outstanding_leases()) == 1

    await store.commit(placed(usage(lease_id=7), first_sequence=2))

    assert await store.outstanding_leases() == []
    (status,) = (await store.status()).producers
    assert status.is_finished


async def test_tokens_count_in_the_period_of_their_lease(store: SqliteStore) -> None:
    """Taken at 23:59:59, used after midnight: billed in December, counted in November."""
    december = 1_764_547_200_000
    await store.lend(lease(7))

    await store.commit(
        placed(usage(lease_id=7, occurred_at_ms=december + 5), now_ms=december + 1_000)
    )

    assert (await total(store, DECEMBER)).tokens == 1_100
    assert await store.used_tokens("acme-corp", NOVEMBER) == 1_100
    assert await store.used_tokens("acme-corp", DECEMBER) == 0
    assert await store.used_tokens("acme-corp", NOVEMBER, model="gpt-4o") == 1_100


async def test_leases_survive_a_restart(tmp_path: Path, clock: HandClock) -> None:
    first = await open_store(tmp_path, clock)
    await first.lend(lease(7))
    await first.commit(placed(usage(lease_id=7)))
    await first.close()

    second = await open_store(tmp_path, clock)
    await second.release_lease(LeaseId(7), 2, NOW_MS)
    await second.commit(placed(usage(lease_id=7), first_sequence=2))

    assert await second.outstanding_leases() == []
    await second.close()


async def test_an_event_is_claimed_once(store: SqliteStore) -> None:
    claims = [await store.claim_event("acme-corp", NOVEMBER, 1, "80 %", NOW_MS) for _ in range(3)]

    assert claims == [True, False, False]
    assert await store.claim_event("acme-corp", NOVEMBER, 2, "80 %", NOW_MS)


async def test_grants_are_kept_in_order(store: SqliteStore) -> None:
    grants = [
        Grant(client="acme-corp", period=NOVEMBER, tokens=n, why="w", who="ann", at_ms=NOW_MS)
        for n in (500_000, 200_000)
    ]
    for grant in grants:
        await store.grant(grant)

    assert await store.grants("acme-corp", NOVEMBER) == grants
    assert await store.grants("acme-corp", DECEMBER) == []


# ── configuration, closing, news ──


async def test_configurations_are_kept_and_the_newest_is_in_force(store: SqliteStore) -> None:
    assert await store.config_in_force() is None

    await store.apply_config(b"one", "meterd.toml", NOW_MS)
    newest = await store.apply_config(b"two", "meterd.toml", NOW_MS + 1)

    assert await store.config_in_force() == newest
    assert [version.toml for version in await store.config_versions()] == [b"one", b"two"]


async def test_the_first_zone_reaches_back_over_what_was_counted(store: SqliteStore) -> None:
    """An hour of use before the first `apply`: rollups are made anew from the ledger."""
    await store.commit(placed(usage(occurred_at_ms=NOW_MS - 60_000)))
    before = set(await by(store, Grouping.DAY))

    await store.use_agency(Agency(timezone="Pacific/Kiritimati"))
    after = set(await by(store, Grouping.DAY))

    assert before != after
    assert (await total(store)).requests == 1
    assert await differences(store) == ()


async def test_what_comes_for_a_closed_period_is_posted_in_the_next(store: SqliteStore) -> None:
    await store.commit(placed(usage()))

    await store.close_period("acme-corp", NOVEMBER, NOW_MS)
    await store.commit(placed(usage(), first_sequence=2))

    assert (await total(store)).requests == 2
    posted = await store.rollup(RollupQuery(period=None, by=(), posted_in=DECEMBER))
    assert [row.sums.requests for row in posted] == [1]
    assert await store.closed_periods() == [("acme-corp", NOVEMBER)]


async def test_a_heartbeat_is_shown_before_it_is_written(store: SqliteStore) -> None:
    await store.hello(Producer(id=producer_id(), service="web", host="box", pid=12), NOW_MS)

    store.heartbeat(
        Heartbeat(
            producer=producer_id(),
            received_at_ms=NOW_MS + 5,
            skew_ms=3,
            highest_appended=9,
            open_calls=2,
            oldest_open_at_ms=NOW_MS,
        )
    )
    store.report(producer_id(), b"report")

    (shown,) = (await store.status()).producers
    assert (shown.producer.name, shown.open_calls, shown.highest_appended) == ("web@box", 2, 9)
    assert shown.report == b"report"
    await store.commit(placed(usage()))
    (written,) = (await store.status()).producers
    assert (written.open_calls, written.report, written.watermark) == (2, b"report", 1)


async def test_subscribers_hear_tokens_by_client_project_and_model(store: SqliteStore) -> None:
    """By project and model only where a quota asks for that: elsewhere nobody needs it."""
    rule = QuotaRule(tokens=5, client="acme-corp", model="gpt-4*")
    await store.use_agency(Agency(clients={"acme-corp": Client("acme-corp", quotas=(rule,))}))
    told: list[Committed] = []
    leave = store.subscribe(told.append)
    await store.commit(placed(usage("acme-corp", "bot"), usage("bigco-inc")))
    leave()
    await store.commit(placed(usage(), first_sequence=3))

    (commit,) = told
    assert commit.client_tokens == {("acme-corp", NOVEMBER): 1_100, ("bigco-inc", NOVEMBER): 1_100}
    assert commit.usage() == {
        ("acme-corp", "bot", "gpt-4o", NOVEMBER): 1_100,
        ("bigco-inc", "", "", NOVEMBER): 1_100,
    }
    assert commit.producers == (producer_id(),)


async def test_producers_are_named_by_service_and_host(store: SqliteStore) -> None:
    await store.hello(Producer(id=ProducerId(b"x" * 16), service="job", host="a"), NOW_MS)

    (status,) = (await store.status()).producers

    assert status.producer.name == "job@a"
