"""Closing: all or none, named obstacles, repeatable, and never changed afterwards."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing as closing_of
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from meterd.errors import Unavailable
from meterd.store.closing import BooksMoved
from meterd.store.values import PeriodIndex
from meterd_proto.v1 import billing_pb2
from tests.billing.test_month_end import AGENCY, MANAGED, TIERS, clients
from tests.support.builders import usage
from tests.support.office import open_office

if TYPE_CHECKING:
    from meterd.store.book_values import Basis
    from tests.support.office import Office

IN_OCTOBER = datetime(2025, 10, 20, 12, tzinfo=UTC)
IN_NOVEMBER = datetime(2025, 11, 5, 12, tzinfo=UTC)
IN_DECEMBER = datetime(2025, 12, 5, 12, tzinfo=UTC)
OCTOBER = PeriodIndex(2025 * 12 + 9)
TOML = AGENCY + MANAGED + TIERS + clients("managed", "acme-corp") + clients("starter", "bigco-inc")


async def use(
    office: Office, client: str, tokens: int, at: datetime, producer: str = "web-1@a"
) -> None:
    await office.use(
        client, requests=2, input_tokens=tokens, output_tokens=0, at=at, producer=producer
    )


async def october(office: Office) -> None:
    """Both clients' October, and the clock in November."""
    office.clock.step(IN_OCTOBER)
    await use(office, "acme-corp", 4_235_000, IN_OCTOBER)
    await use(office, "bigco-inc", 2_500_000, IN_OCTOBER)
    office.clock.step(IN_NOVEMBER)


async def totals(office: Office, month: str) -> dict[str, str]:
    shown = await office.meterctl("invoice", "--all", month, "--format", "json")
    return {one["client"]: one["total"] for one in json.loads(shown.out)["invoices"]}


async def differences(office: Office) -> list[str]:
    return [text async for step in office.billing._proving.steps(None) for text in step.differences]


async def test_a_month_that_is_closed_twice_has_the_same_invoices() -> None:
    """A second `close` shows the first's, number for number and byte for byte."""
    async with open_office(TOML, IN_OCTOBER) as office:
        await october(office)

        first = await office.meterctl("close", "2025-10", "--format", "json")
        second = await office.meterctl("close", "2025-10", "--format", "json")

    assert first.code == second.code == 0
    assert first.out == second.out
    numbers = [one["number"] for one in json.loads(first.out)["invoices"]]
    assert numbers == ["NW-000001", "NW-000002"]


async def test_a_month_that_is_not_over_is_refused() -> None:
    """Nor one that has only just ended: late records need their time."""
    async with open_office(TOML, IN_OCTOBER) as office:
        await use(office, "acme-corp", 1_000, IN_OCTOBER)
        running = await office.meterctl("close", "2025-10")
        office.clock.step(datetime(2025, 11, 2, 23, 59, tzinfo=UTC))
        just_over = await office.meterctl("close", "2025-10")
        office.clock.step(datetime(2025, 11, 3, 0, 0, tzinfo=UTC))
        two_days = await office.meterctl("close", "2025-10")

    assert running.code == just_over.code == 1
    assert "ends on 2025-11-01 00:00 and can be closed from 2025-11-03 00:00 on" in running.err
    assert "ended on 2025-11-01 00:00" in just_over.err
    assert two_days.code == 0


async def test_months_are_closed_in_order() -> None:
    """What one carries or leaves unused is the next one's."""
    async with open_office(TOML, IN_OCTOBER) as office:
        await october(office)
        await use(office, "acme-corp", 1_000, IN_NOVEMBER)
        office.clock.step(IN_DECEMBER)

        refused = await office.meterctl("close", "2025-11")

    assert "2025-10 has to be closed first: `meterctl close 2025-10`" in refused.err


async def test_a_month_without_usage_between_two_is_not_forgotten() -> None:
    """A retainer is owed for it."""
    async with open_office(TOML, IN_OCTOBER) as office:
        await october(office)
        await office.meterctl("close", "2025-10")
        office.clock.step(datetime(2026, 1, 5, tzinfo=UTC))

        refused = await office.meterctl("close", "2025-12")
        november = await office.meterctl("close", "2025-11")
        december = await office.meterctl("close", "2025-12")

        assert "2025-11 has to be closed first" in refused.err
        assert november.code == december.code == 0
        assert await totals(office, "2025-12") == {"bigco-inc": "500.00"}


async def test_a_producer_that_may_have_usage_of_the_month_is_waited_for_by_name() -> None:
    """Behind, or with calls open since before its end; one that has gone on holds nothing up."""
    async with open_office(TOML, IN_OCTOBER) as office:
        await use(office, "acme-corp", 1_000, IN_OCTOBER, "web@busy")
        await use(office, "acme-corp", 1_000, IN_OCTOBER, "job@gone")
        await use(office, "acme-corp", 1_000, IN_OCTOBER, "chat@stuck")
        office.clock.step(IN_NOVEMBER)
        await use(office, "acme-corp", 1_000, IN_NOVEMBER, "web@busy")
        await office.heartbeat("web@busy", behind=3)
        await office.heartbeat("job@gone", behind=7)
        since = int((IN_OCTOBER + timedelta(hours=1)).timestamp()) * 1_000
        await office.heartbeat("chat@stuck", open_calls=1, open_since=since)

        refused = await office.meterctl("close", "2025-10")
        unknown = await office.meterctl("close", "2025-10", "--without", "nobody@nowhere")
        closed = await office.meterctl(
            "close", "2025-10", "--without", "job@gone", "--without", "chat@stuck"
        )

    assert "job@gone is 7 records behind and is silent" in refused.err
    assert "chat@stuck has a call of 2025-10 still open" in refused.err
    assert "web@busy" not in refused.err
    assert "no producer is called nobody@nowhere" in unknown.err
    assert closed.code == 0


async def test_usage_without_a_price_is_refused_and_said_where_it_is_allowed() -> None:
    """Never zero in silence."""
    async with open_office(TOML, IN_OCTOBER) as office:
        at_ms = int(IN_OCTOBER.timestamp()) * 1_000
        await office.record(
            usage("acme-corp", model="gpt-99-unheard-of", occurred_at_ms=at_ms - 1_000),
            usage("acme-corp", input_tokens=5_000_000, occurred_at_ms=at_ms - 1_000),
        )
        office.clock.step(IN_NOVEMBER)

        refused = await office.meterctl("close", "2025-10")
        closed = await office.meterctl("close", "2025-10", "--allow-unpriced")
        shown = await office.meterctl("invoice", "acme-corp", "2025-10")

    assert "requests without a price: gpt-99-unheard-of of openai (1)" in refused.err
    assert closed.code == 0
    assert "1 request has no price yet and is not in the usage line." in shown.out


async def test_a_dry_run_closes_nothing() -> None:
    """It shows what would be, and what is in the way."""
    async with open_office(TOML, IN_OCTOBER) as office:
        await october(office)

        shown = await office.meterctl("close", "2025-10", "--dry-run")
        listed = await office.meterctl("invoice", "--all", "2025-10")

    assert "2 invoices, $541.01 in all would be final" in shown.out
    assert shown.code == 0
    assert listed.code == 1


async def test_a_foreign_currency_without_a_rate_is_refused() -> None:
    """Dollars taken for euros would be a bill nobody notices."""
    toml = TOML.replace("[agency]", '[agency]\ncurrency = "EUR"')
    async with open_office(toml, IN_OCTOBER) as office:
        await october(office)

        refused = await office.meterctl("close", "2025-10")

    assert "nothing says what a US dollar is in EUR" in refused.err


async def test_a_client_that_comes_later_is_closed_by_closing_again() -> None:
    """Its number follows; the others' invoices stay."""
    async with open_office(TOML, IN_OCTOBER) as office:
        await october(office)
        before = await office.meterctl("close", "2025-10", "--format", "json")
        await office.apply(TOML + clients("managed", "late-inc"))
        await use(office, "late-inc", 5_000_000, IN_OCTOBER)

        after = await office.meterctl("close", "2025-10", "--format", "json")

        first, second = (json.loads(run.out)["invoices"] for run in (before, after))
        assert second[:2] == first
        assert [(one["number"], one["total"]) for one in second[2:]] == [("NW-000003", "13.00")]
        assert await differences(office) == []


# ── closed is closed ──


async def test_late_usage_leaves_the_invoice_and_adjusts_the_next() -> None:
    """All invoices together are what one late invoice would have been."""
    async with open_office(TOML, IN_OCTOBER) as office:
        await october(office)
        await office.meterctl("close", "2025-10")
        october_before = await office.meterctl(
            "invoice", "acme-corp", "2025-10", "--format", "json"
        )
        await use(office, "acme-corp", 1_000_000, IN_OCTOBER)
        await use(office, "bigco-inc", 1_000_000, IN_OCTOBER)
        october_after = await office.meterctl("invoice", "acme-corp", "2025-10", "--format", "json")
        office.clock.step(IN_DECEMBER)
        closed = await office.meterctl("close", "2025-11")
        lines = json.loads(
            (await office.meterctl("invoice", "acme-corp", "2025-11", "--format", "json")).out
        )["lines"]
        november = await totals(office, "2025-11")
        found = await differences(office)
    async with open_office(TOML, IN_OCTOBER) as office:
        await october(office)
        await use(office, "acme-corp", 1_000_000, IN_OCTOBER)
        await use(office, "bigco-inc", 1_000_000, IN_OCTOBER)
        await office.meterctl("close", "2025-10")
        at_once = await totals(office, "2025-10")

    assert closed.code == 0
    assert october_before.out == october_after.out
    assert lines[-1]["description"] == "Usage of October 2025 that arrived late"
    assert lines[-1]["period"] == "2025-10"
    assert Decimal(november["acme-corp"]) + Decimal("11.01") == Decimal(at_once["acme-corp"])
    assert Decimal(november["bigco-inc"]) + Decimal("530.00") == Decimal(
        at_once["bigco-inc"]
    ) + Decimal(500)
    assert found == []


async def test_a_plan_that_changes_later_does_not_reach_a_closed_month() -> None:
    """An adjustment takes the terms that the month was closed under."""
    async with open_office(TOML, IN_OCTOBER) as office:
        await october(office)
        await office.meterctl("close", "2025-10")
        await office.apply(TOML.replace('fee = "500"', 'fee = "900"'))
        await use(office, "bigco-inc", 1_000_000, IN_OCTOBER)

        draft = json.loads(
            (await office.meterctl("invoice", "bigco-inc", "2025-11", "--format", "json")).out
        )
        found = await differences(office)

    assert [(line["kind"], line["amount"]) for line in draft["lines"]] == [
        ("fee", "900.00"),
        ("adjustment", "60.00"),
    ]
    assert found == []


async def test_a_correction_larger_than_the_month_is_carried() -> None:
    """No invoice asks for less than nothing; the rest waits for the next one."""
    toml = TOML + '[[clients.acme-corp.credits]]\namount = "15.00"\ndescription = "Goodwill"\n'
    months = []
    async with open_office(toml, IN_OCTOBER) as office:
        await october(office)
        await office.meterctl("close", "2025-10")
        months.append(await totals(office, "2025-10"))
        await use(office, "acme-corp", 5_000_000, IN_NOVEMBER)
        office.clock.step(IN_DECEMBER)
        await office.meterctl("close", "2025-11")
        months.append(await totals(office, "2025-11"))
        found = await differences(office)

    # 11.01 and 13.00, of which a credit of 15.00 takes 11.01, then 3.99.
    assert [month["acme-corp"] for month in months] == ["0.00", "9.01"]
    assert found == []


async def test_prices_and_contracts_of_a_closed_month_are_refused() -> None:
    """With the line of each; nothing of the file is applied."""
    async with open_office(TOML, IN_OCTOBER) as office:
        await october(office)
        await office.meterctl("close", "2025-10")

        cheaper = await office.apply(TOML + '[[prices]]\nmodel = "gpt-4o-mini"\ninput = "1"\n')
        moved = await office.apply(TOML.replace('plan = "managed"', 'plan = "starter"'))
        zone = await office.apply(TOML.replace("[agency]", '[agency]\ntimezone = "Asia/Tokyo"'))

    assert "in a period that is closed" in str(cheaper.mistakes[0])
    assert "those periods are closed" in str(moved.mistakes[0])
    assert "timezone" in str(zone.mistakes[0])


# ── void, credit ──


async def test_a_void_invoice_keeps_its_number_and_is_not_billed_again() -> None:
    """Its late usage is; its credits are free again."""
    toml = TOML + '[[clients.acme-corp.credits]]\namount = "5.00"\ndescription = "Goodwill"\n'
    async with open_office(toml, IN_OCTOBER) as office:
        await october(office)
        await office.meterctl("close", "2025-10")
        voided = await office.meterctl("void", "NW-000001", "--why", "wrong address")
        again = await office.meterctl("void", "NW-000001", "--why", "wrong address")
        unknown = await office.meterctl("void", "NW-000009", "--why", "x")
        closed = await office.meterctl("close", "2025-10", "--format", "json")
        await use(office, "acme-corp", 5_000_000, IN_NOVEMBER)
        draft = json.loads(
            (await office.meterctl("invoice", "acme-corp", "2025-11", "--format", "json")).out
        )
        found = await differences(office)

    assert (voided.code, again.code, unknown.code) == (0, 1, 1)
    assert [one["status"] for one in json.loads(closed.out)["invoices"]] == ["void", "final"]
    assert [(line["kind"], line["amount"]) for line in draft["lines"]] == [
        ("usage", "10.00"), ("markup", "3.00"), ("credit", "-5.00"),
    ]  # fmt: skip
    assert found == []


async def test_parts_of_a_credit_sum_to_the_invoice_and_never_beyond() -> None:
    """The last takes the rest, tax included."""
    toml = TOML.replace(
        'name = "Northwind Studio"', 'name = "N"\ntax = { name = "VAT", rate = "19%" }'
    )
    async with open_office(toml, IN_OCTOBER) as office:
        await october(office)
        await office.meterctl("close", "2025-10")
        invoice = json.loads(
            (await office.meterctl("invoice", "--number", "NW-000001", "--format", "json")).out
        )
        parts = [
            await office.meterctl("credit", "NW-000001", "--amount", amount, "--why", "x")
            for amount in ("3.33", "3.33", "99.00")
        ]
        rest = await office.meterctl("credit", "NW-000001", "--why", "all of it")
        nothing = await office.meterctl("credit", "NW-000001", "--why", "more")
        notes = [
            json.loads(
                (
                    await office.meterctl(
                        "invoice", "--number", f"NW-CN-{n:06d}", "--format", "json"
                    )
                ).out
            )
            for n in (1, 2, 3)
        ]
        shown = await office.meterctl("invoice", "--number", "NW-000001")
        found = await differences(office)

    assert [run.code for run in (*parts, rest, nothing)] == [0, 0, 1, 0, 1]
    assert "more than the 6.44 that is left" in parts[2].err
    assert sum(Decimal(note["total"]) for note in notes) == -Decimal(invoice["total"])
    taxes = [Decimal(line["amount"]) for line in invoice["lines"] if line["kind"] == "tax"]
    noted = [Decimal(line["amount"]) for note in notes for line in note["lines"]
             if line["kind"] == "tax"]  # fmt: skip
    assert sum(noted) == -sum(taxes)
    assert "Invoice NW-000001, credited" in shown.out
    assert found == []


# ── proof ──


async def test_a_changed_invoice_and_a_changed_ledger_are_found() -> None:
    """By the hash, and by making each invoice again."""
    async with open_office(TOML, IN_OCTOBER) as office:
        await october(office)
        await office.meterctl("close", "2025-10")
        database = office.directory / "data" / "ledger.db"
        await office.close()
        with closing_of(sqlite3.connect(database)) as connection, connection:
            connection.execute(
                "UPDATE documents SET canonical = replace(canonical, '11.01', '99.01') "
                "WHERE number = 'NW-000001'"
            )
            connection.execute(
                "UPDATE ledger SET input_tokens = input_tokens + 1000000 WHERE tag = 2"
            )
        await office.open()

        found = await differences(office)

    assert "NW-000001 was changed after it was closed" in found
    assert any(text.startswith("NW-000002 of bigco-inc, 2025-10: lines is") for text in found)


async def test_late_records_accepted_after_a_closing_are_told_from_those_before() -> None:
    """The proof counts rows as they counted then."""
    async with open_office(TOML, datetime(2025, 12, 20, tzinfo=UTC)) as office:
        await use(office, "acme-corp", 4_235_000, IN_OCTOBER)
        await office.store.accept_late("acme-corp", 0)
        await office.meterctl("close", "2025-10")
        await use(office, "acme-corp", 1_000_000, IN_OCTOBER)
        await office.store.accept_late("acme-corp", 0)

        draft = json.loads(
            (await office.meterctl("invoice", "acme-corp", "2025-11", "--format", "json")).out
        )
        found = await differences(office)

    assert [line["kind"] for line in draft["lines"]] == ["usage", "adjustment"]
    assert found == []


# ── in between ──


async def test_usage_that_arrives_while_closing_makes_it_compute_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is committed that rests on less than the ledger has."""
    async with open_office(TOML, IN_OCTOBER) as office:
        await october(office)
        stage = office.store.books.stage
        arrived: list[int] = []

        async def stage_while_usage_arrives(*arguments: object) -> None:
            await stage(*arguments)  # type: ignore[arg-type]  # passed on as they came
            if not arrived:
                arrived.append(1)
                await use(office, "acme-corp", 1_000_000, IN_OCTOBER)

        monkeypatch.setattr(office.store.books, "stage", stage_while_usage_arrives)
        closed = await office.meterctl("close", "2025-10")
        found = await totals(office, "2025-10")
        proved = await differences(office)

    assert closed.code == 0
    assert found["acme-corp"] == "13.61"
    assert proved == []


async def test_usage_that_never_stops_arriving_is_said_and_nothing_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`Unavailable`: the same may be asked again."""
    async with open_office(TOML, IN_OCTOBER) as office:
        await october(office)

        async def moved(*_: object) -> None:
            raise BooksMoved("usage of the period arrived meanwhile")

        monkeypatch.setattr(office.store.books, "commit_closing", moved)
        closed = await office.meterctl("close", "2025-10")

        assert closed.code == 3
        assert "keeps arriving" in closed.err
        assert await office.store.books.documents() == []
        with pytest.raises(Unavailable):
            async for _ in office.billing._closing.close(
                billing_pb2.CloseRequest(period="2025-10")
            ):
                pass


async def test_what_a_killed_closing_left_is_thrown_away_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Staged documents count for nothing, whatever is asked meanwhile."""
    async with open_office(TOML, IN_OCTOBER) as office:
        await october(office)

        async def killed(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(office.store.books, "commit_closing", killed)
        with pytest.raises(KeyboardInterrupt):
            async for _ in office.billing._closing.close(
                billing_pb2.CloseRequest(period="2025-10")
            ):
                pass
        monkeypatch.undo()
        await office.restart()
        listed = await office.store.books.documents()
        draft = await office.meterctl("invoice", "acme-corp", "2025-10")
        closed = await office.meterctl("close", "2025-10", "--format", "json")
        found = await differences(office)

    assert listed == []
    assert draft.lines[0] == "Draft invoice, not yet final"
    assert [one["number"] for one in json.loads(closed.out)["invoices"]] == [
        "NW-000001", "NW-000002",
    ]  # fmt: skip
    assert found == []


async def test_a_closing_on_a_stale_basis_is_refused_by_the_writer() -> None:
    """Whatever the service believes."""
    async with open_office(TOML, IN_OCTOBER) as office:
        await october(office)
        books = office.store.books
        basis: Basis = await books.basis()
        number = await books.begin_closing(OCTOBER, basis, 1)
        end_ms = int(datetime(2025, 11, 1, tzinfo=UTC).timestamp()) * 1_000

        with pytest.raises(BooksMoved):
            await books.commit_closing(
                number, replace(basis, changes=basis.changes - 1), end_ms, ()
            )
        await use(office, "acme-corp", 1, IN_NOVEMBER)
        await books.commit_closing(number, basis, end_ms, ())  # November moves nothing
        number = await books.begin_closing(OCTOBER, await books.basis(), 1)
        stale = await books.basis()
        await use(office, "acme-corp", 1, IN_OCTOBER)
        with pytest.raises(BooksMoved):
            await books.commit_closing(number, stale, end_ms, ())


async def test_accounting_programs_are_told_once_each() -> None:
    """An outbox row for each program in which the client has an id."""
    toml = TOML + '[clients.acme-corp.remote_ids]\nstripe = "cus_123"\n'
    async with open_office(toml, IN_OCTOBER) as office:
        await october(office)
        await office.meterctl("close", "2025-10")
        (waiting,) = await office.store.books.outbox()
        await office.store.books.answered(waiting.key, "done", "in_456")

        left = await office.store.books.outbox()
        (done,) = await office.store.books.outbox(state="done")

    assert (waiting.number, waiting.target, waiting.step) == ("NW-000001", "stripe", "create")
    assert left == []
    assert done.remote_id == "in_456"


async def test_who_has_no_plan_is_named_and_billed_once_it_has_one() -> None:
    """Nobody is forgotten in silence, nor shut out: a forgotten table in meterd.toml costs a
    second `close`, and nothing of what was closed changes."""
    async with open_office(TOML, IN_OCTOBER) as office:
        await october(office)
        await use(office, "stranger-inc", 1_200_000, IN_OCTOBER)

        closed = await office.meterctl("close", "2025-10")
        again = await office.meterctl("close", "2025-10")
        shown = await office.meterctl("invoice", "stranger-inc", "2025-10")
        before = await office.meterctl("invoice", "--all", "2025-10", "--format", "json")
        office.clock.step(IN_DECEMBER)
        await office.apply(TOML + clients("managed", "stranger-inc"))
        too_early = await office.meterctl("close", "2025-11")
        third = await office.meterctl("close", "2025-10")
        after = await office.meterctl("invoice", "--all", "2025-10", "--format", "json")
        november = await office.meterctl("close", "2025-11")
        found = await differences(office)

    for run in (closed, again):
        assert "no plan for them: stranger-inc (1,200,000 tokens)" in run.out
    assert "Nothing is owed: the client has no plan" in shown.out
    assert "2025-10 has to be closed first" in too_early.err
    assert (third.code, november.code) == (0, 0)
    first, second = (json.loads(run.out)["invoices"] for run in (before, after))
    assert second[:2] == first
    assert [(one["client"], one["total"]) for one in second[2:]] == [("stranger-inc", "3.12")]
    assert found == []


async def test_without_any_client_there_is_nothing_to_close() -> None:
    """A meterd.toml that was never applied mustn't close a month of usage that nobody pays."""
    async with open_office('[agency]\nname = "N"\n', IN_OCTOBER) as office:
        await use(office, "acme-corp", 1_200_000, IN_OCTOBER)
        office.clock.step(IN_NOVEMBER)

        refused = await office.meterctl("close", "2025-10")
        await office.apply(TOML)
        closed = await office.meterctl("close", "2025-10")

    assert refused.code == 1
    assert "meterd.toml lists no client" in refused.err
    assert "acme-corp (1,200,000 tokens)" in refused.err
    assert closed.code == 0


async def test_periods_of_clients_with_an_anchor_are_closed_with_the_month_they_begin_in() -> None:
    """The 15th to the 14th, when the last of them is over."""
    toml = TOML + clients("managed", "mid-inc") + "anchor = 15\n"
    async with open_office(toml, IN_OCTOBER) as office:
        await october(office)
        await use(office, "mid-inc", 1_000_000, IN_OCTOBER)
        too_early = await office.meterctl("close", "2025-10")
        office.clock.step(datetime(2025, 11, 18, tzinfo=UTC))

        closed = await office.meterctl("close", "2025-10")
        invoice = json.loads(
            (await office.meterctl("invoice", "mid-inc", "2025-10", "--format", "json")).out
        )
        found = await differences(office)

    assert "the period of mid-inc ends on 2025-11-15 00:00" in too_early.err
    assert closed.code == 0
    assert (invoice["first_day"], invoice["last_day"], invoice["total"]) == (
        "2025-10-15", "2025-11-14", "2.60",
    )  # fmt: skip
    assert found == []
