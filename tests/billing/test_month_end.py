"""An agency's month, from records to text: the export, the invoices, the letters."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from meterd.service.rulings import Rulings
from tests.support.builders import usage
from tests.support.office import open_office

if TYPE_CHECKING:
    from tests.support.office import Office

IN_NOVEMBER = datetime(2025, 11, 20, 12, tzinfo=UTC)
IN_DECEMBER = datetime(2025, 12, 4, 9, tzinfo=UTC)

AGENCY = """
[agency]
name = "Northwind Studio"
invoice_series = "NW-"

[[prices]]
model = "gpt-4o"
input = "2"
output = "7"
"""
MANAGED = """
[plans.managed]
type = "cost_plus"
service_level = "basic"
"""
TIERS = """
[plans.starter]
type = "retainer"
fee = "500"
included_tokens = "2M"
overage_per_million = "60"
[plans.growth]
type = "retainer"
fee = "1200"
included_tokens = "5M"
overage_per_million = "60"
[plans.pro]
type = "retainer"
fee = "2500"
included_tokens = "12M"
overage_per_million = "60"
"""
EXPORT = {
    # client: requests, input and output tokens: at $2 and $7 a million they cost what they cost
    "acme-corp": (12_430, 2_786_000, 414_000),
    "techstartup": (8_120, 1_614_000, 286_000),
    "bigco-inc": (45_890, 11_496_000, 1_204_000),
}


def clients(plan: str, *names: str) -> str:
    return "".join(f'[clients.{name}]\nplan = "{plan}"\n' for name in names)


async def used(office: Office, client: str, requests: int, took: int, gave: int) -> None:
    await office.use(
        client, requests=requests, input_tokens=took, output_tokens=gave, at=IN_NOVEMBER
    )


async def test_the_month_end_export_comes_out_digit_for_digit() -> None:
    """What agencies know from their providers' dashboards, from 66,440 records."""
    toml = AGENCY + MANAGED + clients("managed", *EXPORT)
    async with open_office(toml, IN_NOVEMBER) as office:
        for client, figures in EXPORT.items():
            await used(office, client, *figures)

        table = await office.meterctl("rollup", "2025-11")
        rows = list(
            csv.DictReader(
                io.StringIO((await office.meterctl("rollup", "2025-11", "--format", "csv")).out)
            )
        )
        bill = await office.meterctl("rollup", "2025-11", "--bill", "847.00")
        office.clock.step(IN_DECEMBER)
        closed = await office.meterctl("close", "2025-11")
        verified = [step async for step in office.billing._proving.steps(None)]

    assert table.lines == [
        "CLIENT        REQUESTS   TOKENS     COST",
        "bigco-inc       45,890    12.7M   $31.42",
        "acme-corp       12,430     3.2M    $8.47",
        "techstartup      8,120     1.9M    $5.23",
        "TOTAL           66,440    17.8M   $45.12",
    ]
    assert {row["client"]: (row["requests"], row["tokens"], row["cost"]) for row in rows} == {
        "acme-corp": ("12430", "3200000", "8.47"),
        "techstartup": ("8120", "1900000", "5.23"),
        "bigco-inc": ("45890", "12700000", "31.42"),
    }
    assert bill.lines[-2:] == [
        "not seen by meterd                       $801.88",
        "BILL                                     $847.00",
    ]
    assert closed.lines == [
        "NUMBER      CLIENT        PERIOD    STATUS   TOKENS    TOTAL",
        "NW-000001   acme-corp     2025-11   final      3.2M   $11.01",
        "NW-000002   bigco-inc     2025-11   final     12.7M   $40.85",
        "NW-000003   techstartup   2025-11   final      1.9M    $6.80",
        "",
        "2025-11 is closed: 3 invoices, $58.66 in all.",
    ]
    assert [text for step in verified for text in step.differences] == []


@pytest.mark.parametrize(
    ("client", "took", "gave", "lines"),
    [
        ("bigco-inc", 11_496_000, 1_204_000, ("31.42", "9.43", "40.85")),
        ("client-xyz", 0, 0, ("127.43", "38.23", "165.66")),
    ],
)
async def test_cost_plus_invoices_come_out_as_the_agency_writes_them(
    client: str, took: int, gave: int, lines: tuple[str, str, str]
) -> None:
    """31.42 + 9.43 = 40.85 and 127.43 + 38.23 = 165.66, from records to text."""
    toml = AGENCY + MANAGED + clients("managed", client)
    if client == "client-xyz":  # 8.2M tokens for $127.43: 2 × 0 + 7 × 8.2 isn't it
        took, gave = 8_200_000 - 1_000_000, 1_000_000
        toml = toml.replace('input = "2"', 'input = "15"').replace(
            'output = "7"', 'output = "19.43"'
        )
    async with open_office(toml, IN_NOVEMBER) as office:
        await used(office, client, 10, took, gave)

        draft = await office.meterctl("invoice", client, "2025-11")
        document = json.loads(
            (await office.meterctl("invoice", client, "2025-11", "--format", "json")).out
        )

    assert draft.lines[0] == "Draft invoice, not yet final"
    assert [line.split()[-1] for line in draft.lines[4:7]] == [f"${amount}" for amount in lines]
    assert "Agency Markup (30%)" in draft.out
    assert [line["amount"] for line in document["lines"]] == list(lines[:2])
    assert document["total"] == lines[2]


async def test_three_projects_share_one_markup_line() -> None:
    """12.34 + 8.76 + 4.21 = 25.31, 30 % = 7.59, total 32.90."""
    toml = AGENCY + MANAGED + clients("managed", "acme-corp")
    async with open_office(toml, IN_NOVEMBER) as office:
        for project, took, gave in (
            ("support-chatbot", 6_168_000, 0),
            ("content-generator", 4_382_000, 0),
            ("lead-qualification", 2_107_000, 0),
        ):
            await office.use(
                "acme-corp", project, requests=100, input_tokens=took, output_tokens=gave,
                at=IN_NOVEMBER,
            )  # fmt: skip

        draft = await office.meterctl("invoice", "acme-corp", "2025-11")

    assert (
        draft.lines[3:]
        == [
            "LINE                            AMOUNT",
            "AI usage: 12,657,000 tokens     $25.31",
            "Agency Markup (30%)              $7.59",
            "TOTAL                           $32.90",
            "",
            "PROJECT              REQUESTS   TOKENS   AI USAGE",
            "support-chatbot           100     6.2M     $12.34",
            "content-generator         100     4.4M      $8.76",
            "lead-qualification        100     2.1M      $4.21",
        ]
        or draft.lines[3:]
    )


@pytest.mark.parametrize(
    ("tokens", "plan", "exact", "started"),
    [
        (2_000_000, "starter", "500.00", "500.00"),
        (2_000_001, "starter", "500.00", "560.00"),
        (2_008_333, "starter", "500.50", "560.00"),
        (3_000_000, "starter", "560.00", "560.00"),
        (12_300_000, "starter", "1118.00", "1160.00"),
        (12_300_000, "growth", "1638.00", "1680.00"),
        (12_300_000, "pro", "2518.00", "2560.00"),
    ],
)
async def test_overage_from_records_in_both_readings(
    tokens: int, plan: str, exact: str, started: str
) -> None:
    """$60 per additional 1M: by the token, or per started million."""
    by_block = AGENCY + TIERS.replace(
        'overage_per_million = "60"', 'overage_per_million = "60"\noverage_rounding = "started"'
    )
    totals = []
    for toml in (AGENCY + TIERS, by_block):
        async with open_office(toml + clients(plan, "northwind"), IN_NOVEMBER) as office:
            await used(office, "northwind", 3, tokens, 0)
            shown = await office.meterctl("invoice", "northwind", "2025-11", "--format", "json")
            totals.append(json.loads(shown.out)["total"])

    assert totals == [exact, started]


async def test_a_loser_gets_three_ways_out_with_letters_to_the_letter() -> None:
    """12.3M tokens, $42, $500 a month, ten hours of work: −28.4 %."""
    toml = (
        AGENCY.replace('input = "2"', 'input = "3"').replace('output = "7"', 'output = "11.5"')
        + MANAGED
        + TIERS.replace('included_tokens = "5M"', 'included_tokens = "15M"').replace(
            'fee = "1200"', 'fee = "1200"\nextras = "priority support"'
        )
        + clients("starter", "northwind")
        + 'overage = "none"\nservice_cost = { hours = "10", hourly = "60" }\n'
    )
    async with open_office(toml, IN_NOVEMBER) as office:
        # 3 × 11.7 + 11.5 × 0.6 = 42.00
        await used(office, "northwind", 4_875, 11_700_000, 600_000)
        office.clock.step(IN_DECEMBER)

        shown = await office.meterctl("profit", "2025-11")
        (row,) = json.loads((await office.meterctl("profit", "2025-11", "--format", "json")).out)[
            "rows"
        ]

    figures = {name: row[name] for name in ("revenue", "ai_cost", "service_cost", "profit")}
    assert figures == {
        "revenue": "500.00", "ai_cost": "42.00", "service_cost": "600.00", "profit": "-142.00",
    }  # fmt: skip
    assert (row["margin"], row["flags"]) == ("-28.4", ["loss"])
    assert (row["mean_input_tokens"], row["p95_input_tokens"]) == (2_400, 2_400)
    remedies = {one["kind"]: one for one in reversed(row["remedies"])}  # the cheapest of each
    assert set(remedies) == {"optimise", "raise_tier", "cost_plus"}
    assert "2,400 input tokens a request" in remedies["optimise"]["summary"]
    assert "−67% input would save $23.52 of $42" in remedies["optimise"]["summary"]
    assert remedies["raise_tier"]["letter"] == (
        "Based on November usage (12.3M tokens, $42 in costs), your current $500/month retainer "
        "is below our cost to serve. We're moving you to the Growth tier ($1,200/month) which "
        "includes 15M tokens and priority support. Effective January 1."
    )
    assert remedies["raise_tier"]["revenue"] == "1200.00"
    assert remedies["cost_plus"]["letter"] == (
        "Starting next month, we're switching your account to usage-based billing. You'll pay "
        "actual AI costs + 30% management fee. This ensures fair pricing as your usage scales."
    )
    assert remedies["cost_plus"]["revenue"] == "54.60"
    assert "loses money" in shown.out
    assert "-28.4 %" in shown.out
    assert "Effective January 1." in shown.out


async def test_an_agency_may_write_its_own_letters() -> None:
    """A file of the same name in the data directory goes before ours."""
    toml = AGENCY + MANAGED + TIERS + clients("starter", "northwind") + 'service_cost = "900"\n'
    async with open_office(toml, IN_NOVEMBER) as office:
        await used(office, "northwind", 3, 1_000, 0)
        letters = office.directory / "letters"
        letters.mkdir()
        (letters / "switch.txt").write_text("Dear client: cost + {markup} from now on.\n")

        shown = await office.meterctl("profit", "2025-11")

    assert "Dear client: cost + 30% from now on." in shown.out


async def test_a_month_in_yen_has_whole_amounts_and_one_rate() -> None:
    """$127.43 at 155.32 = ¥19,792, markup ¥5,938; the rate is printed."""
    toml = (
        AGENCY.replace('input = "2"', 'input = "15"').replace('output = "7"', 'output = "19.43"')
        + MANAGED
        + clients("managed", "client-xyz")
        + '[[exchange_rates]]\nrate = "155.32"\nfrom = 2025-11-01\nsource = "central bank"\n'
    ).replace("[agency]", '[agency]\ncurrency = "JPY"')
    async with open_office(toml, IN_NOVEMBER) as office:
        await used(office, "client-xyz", 10, 7_200_000, 1_000_000)
        office.clock.step(IN_DECEMBER)

        closed = await office.meterctl("close", "2025-11")
        shown = await office.meterctl("invoice", "client-xyz", "2025-11")

    assert "¥25,730" in closed.out
    assert [line.split()[-1] for line in shown.lines[4:7]] == ["¥19,792", "¥5,938", "¥25,730"]
    assert "1 USD = 155.32 JPY on 2025-11-01 (central bank)." in shown.out


async def test_a_change_by_the_day_splits_fee_and_tokens() -> None:
    """Starter → Growth on 16 November: 250.00 + 600.00 = 850.00, 3.5M included."""
    toml = (
        AGENCY
        + TIERS.replace('fee = "1200"', 'fee = "1200"\nproration = "calendar_days"')
        + (
            "[clients.northwind]\n"
            "[[clients.northwind.contracts]]\nplan = 'starter'\n"
            "[[clients.northwind.contracts]]\nplan = 'growth'\nfrom = 2025-11-16\n"
        )
    )
    async with open_office(toml, IN_NOVEMBER) as office:
        await used(office, "northwind", 3, 4_000_000, 0)

        shown = await office.meterctl("invoice", "northwind", "2025-11", "--format", "json")

    lines = [(line["amount"], line["tokens"]) for line in json.loads(shown.out)["lines"]]
    assert lines == [("850.00", 4_000_000), ("30.00", 500_000)]


async def test_unused_tokens_roll_over_oldest_first() -> None:
    """2M plan using 1.2M, 2.5M, 2.6M: overage 0, 0, 0.3M."""
    toml = (
        AGENCY
        + TIERS.replace(
            'included_tokens = "2M"',
            'included_tokens = "2M"\nrollover_tokens_max = "2M"\nrollover_periods = 1',
        )
        + clients("starter", "northwind")
    )
    overages = []
    async with open_office(toml, datetime(2025, 9, 20, tzinfo=UTC)) as office:
        for month, tokens in ((9, 1_200_000), (10, 2_500_000), (11, 2_600_000)):
            at = datetime(2025, month, 20, tzinfo=UTC)
            office.clock.step(at)
            await office.use("northwind", requests=1, input_tokens=tokens, output_tokens=0, at=at)
            office.clock.step(datetime(2025, month + 1, 4, tzinfo=UTC))
            closed = await office.meterctl("close", f"2025-{month:02d}", "--format", "json")
            (invoice,) = json.loads(closed.out)["invoices"]
            overages += [line["tokens"] for line in invoice["lines"] if line["kind"] == "overage"]
        verified = [step async for step in office.billing._proving.steps(None)]

    assert overages == [300_000]
    assert [text for step in verified for text in step.differences] == []


async def test_what_rolls_over_may_be_used_under_a_hard_limit_too() -> None:
    """The invoice includes 2.8M in October, so the quota does; a plan without it doesn't."""
    rolling = TIERS.replace(
        'included_tokens = "2M"',
        'included_tokens = "2M"\nlimit = "hard"\nrollover_tokens_max = "2M"',
    )
    toml = AGENCY + rolling + clients("starter", "northwind")
    september = datetime(2025, 9, 20, tzinfo=UTC)
    async with open_office(toml, september) as office:
        await office.use(
            "northwind", requests=1, input_tokens=1_200_000, output_tokens=0, at=september
        )
        rulings = Rulings(office.store, office.in_force, office.clock)
        before = await rulings.of("northwind")
        office.clock.step(datetime(2025, 10, 5, tzinfo=UTC))
        after = await rulings.of("northwind")
        await office.apply(
            toml.replace('rollover_tokens_max = "2M"', 'rollover_tokens_max = "500k"')
        )
        changed = rulings.changed()
        less = await rulings.of("northwind")
        await office.apply(AGENCY + TIERS + clients("starter", "northwind"))
        changed += rulings.changed()
        none = await rulings.of("northwind")

    found = [ruling.quotas[0].tokens for ruling in (before, after, less, none)]
    assert found == [2_000_000, 2_800_000, 2_500_000, 2_000_000]
    assert changed == ["northwind", "northwind"]


async def test_a_granted_client_pays_no_overage_on_it() -> None:
    """Tokens given by hand are included like the plan's."""
    from meterd.store.values import Grant, PeriodIndex

    toml = AGENCY + TIERS + clients("starter", "northwind")
    async with open_office(toml, IN_NOVEMBER) as office:
        await used(office, "northwind", 1, 2_500_000, 0)
        await office.store.grant(
            Grant(client="northwind", period=PeriodIndex(2025 * 12 + 10), tokens=500_000,
                  why="launch", who="ann", at_ms=0)
        )  # fmt: skip

        shown = await office.meterctl("invoice", "northwind", "2025-11", "--format", "json")

    assert json.loads(shown.out)["total"] == "500.00"


async def test_estimated_tokens_are_said_wherever_there_is_a_total() -> None:
    """A client can see which share no provider has reported; so can the agency, everywhere."""
    toml = AGENCY + MANAGED + clients("managed", "acme-corp")
    async with open_office(toml, IN_NOVEMBER) as office:
        at_ms = int((IN_NOVEMBER - timedelta(minutes=1)).timestamp()) * 1_000
        await office.record(
            usage(input_tokens=900_000, output_tokens=0, occurred_at_ms=at_ms),
            usage(input_tokens=100_000, output_tokens=0, estimated=1, occurred_at_ms=at_ms),
        )

        shown = await office.meterctl("invoice", "acme-corp", "2025-11")
        bill = await office.meterctl("invoice", "acme-corp", "2025-11", "--format", "csv")
        sheet = await office.meterctl("invoice", "acme-corp", "2025-11", "--format", "json")
        page = office.directory / "invoice.html"
        await office.meterctl("invoice", "acme-corp", "2025-11", "--output", str(page))
        html = page.read_text()
        rollup = await office.meterctl("rollup", "2025-11")
        table = [await office.meterctl(name, "2025-11", "--format", form)
                 for name in ("rollup", "profit") for form in ("csv", "json")]  # fmt: skip
        office.clock.step(IN_DECEMBER)
        closed = await office.meterctl("close", "2025-11")

    for text in (shown.out, html):
        assert "100,000 of 1,000,000 tokens (10.0%) were estimated" in text
    assert next(csv.DictReader(io.StringIO(bill.out)))["kind"] == "usage"
    assert bill.lines[-1].endswith(",total,Total,1000000,2.60,USD,100000")
    assert json.loads(sheet.out)["estimated_tokens"] == 100_000
    assert rollup.lines[-1].split()[-1] == "100.0k"
    for run in table[::2]:
        assert next(csv.DictReader(io.StringIO(run.out)))["estimated_tokens"] == "100000"
    for run in table[1::2]:
        document = json.loads(run.out)
        rows = (*document["rows"], document["total"])
        assert {row["estimated_tokens"] for row in rows} == {100_000}
    assert "ESTIMATED" in closed.lines[0]
