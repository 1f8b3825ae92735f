"""Every invoice computed by another route: SQL over ledger rows, whole numbers only.

A seed makes an agency: clients on all sorts of plans, months, models, brackets, tools, late
records. Nothing of the rollups, of `billing/` or of `Decimal` is used on this side.
"""

from __future__ import annotations

import json
import random
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.builders import usage
from tests.support.office import open_office

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.office import Office

CLIENTS = 120
MONTHS = (9, 10, 11)
RECORDS_A_MONTH = 2_500
MODELS = (
    ("openai", "gpt-4o"), ("openai", "gpt-4o-mini"), ("anthropic", "claude-sonnet-4-5"),
    ("gcp.gemini", "gemini-2.5-pro"), ("openai", "our-own"),
)  # fmt: skip


class Terms(NamedTuple):
    """A client's plan in whole numbers: cents, ten-thousandths, tokens."""

    kind: str
    fee: int = 0
    included: int = 0
    per_million: int = 0
    markup: int = 0


def made_terms(random_: random.Random) -> Terms:
    if random_.random() < 0.5:
        return Terms("cost_plus", markup=random_.choice([2_000, 3_000, 3_333, 12_500]))
    return Terms(
        "retainer",
        fee=random_.choice([50_000, 120_000]),
        included=random_.choice([100_000, 1_000_000, 2_000_000]),
        per_million=random_.choice([6_000, 5_999]),
    )


def toml_of(terms: dict[str, Terms]) -> str:
    lines = [
        '[agency]\nname = "Seeded"\ntimezone = "America/New_York"\n'
        '[[prices]]\nmodel = "our-own"\ninput = "0.333333"\noutput = "1.000001"\n'
        'per_request = "0.0001"\n'
    ]
    for client, one in terms.items():
        plan = f"[plans.{client}]\n"
        if one.kind == "cost_plus":
            plan += f'type = "cost_plus"\nmarkup = "{one.markup // 100}.{one.markup % 100:02d}%"\n'
        else:
            plan += (
                f'type = "retainer"\nfee = "{one.fee // 100}"\nincluded_tokens = {one.included}\n'
                f'overage_per_million = "{one.per_million // 100}.{one.per_million % 100:02d}"\n'
            )
        lines.append(f'{plan}[clients.{client}]\nplan = "{client}"\n')
    return "".join(lines)


async def record_month(
    office: Office, month: int, random_: random.Random, names: list[str]
) -> None:
    start = datetime(2025, month, 1, 5, tzinfo=UTC)
    office.clock.step(start + timedelta(days=29, hours=12))
    records = []
    for _ in range(RECORDS_A_MONTH):
        provider, model = random_.choice(MODELS)
        took = random_.choice([random_.randrange(9_000), random_.randrange(300_000)])
        gave = random_.randrange(4_000)
        read = random_.randrange(took + 1) if random_.random() < 0.3 else 0
        tools = (
            {"web_search_requests": 2} if provider == "anthropic" and random_.random() < 0.1 else {}
        )
        at = start + timedelta(seconds=random_.randrange(29 * 86_400))
        records.append(
            usage(
                random_.choice(names), random_.choice(["", "a", "b", "c"]), provider=provider,
                model=model, input_tokens=took, output_tokens=gave, cache_read_tokens=read,
                tool_calls=tools, occurred_at_ms=int(at.timestamp()) * 1_000,
            )
        )  # fmt: skip
    await office.record(*records)


def ledger_sums(
    database: Path, start_ms: int, end_ms: int, end_row: int
) -> dict[str, tuple[int, int]]:
    """By client: tokens, and cost in units of 10^-18 dollars; from ledger rows alone."""
    from meterd.store.ledger_row import unpack

    found: dict[str, tuple[int, int]] = {}
    with closing(sqlite3.connect(database)) as connection:
        rates = {
            number: (10 ** (18 - scale), json.loads(prices))
            for number, scale, prices in connection.execute("SELECT id, scale, prices FROM rates")
        }
        for client, rate, took, read, gave, rest, at_ms in connection.execute(
            "SELECT c.name, l.rate, l.input_tokens, l.cache_read_tokens, l.output_tokens, l.rest, "
            "l.billed_at_ms FROM ledger l JOIN tags t ON t.id = l.tag "
            "JOIN clients c ON c.id = t.client "
            "WHERE l.billed_at_ms >= ? AND l.billed_at_ms < ? AND l.id < ?",
            (start_ms, end_ms, end_row),
        ):
            unit, prices = rates[rate]
            tools = dict(unpack(rest, at_ms).tool_calls)
            cost = (took - read) * prices["input"] + read * prices.get(
                "cache_read", prices["input"]
            )
            cost += gave * prices["output"] + prices.get("request", 0)
            cost += tools.get("web_search_requests", 0) * prices.get("tool:web_searches", 0)
            tokens, before = found.get(client, (0, 0))
            found[client] = tokens + took + gave, before + cost * unit
    return found


def _month_start_ms(month: int) -> int:
    """Midnight in New York, which is four hours behind until 2 November 2025, then five."""
    start = datetime(2025, month, 1, 5 if month == 12 else 4, tzinfo=UTC)
    return int(start.timestamp()) * 1_000


def half_up(number: int, by: int) -> int:
    return (2 * number + by) // (2 * by)


def cents_of(terms: Terms, tokens: int, cost: int) -> int:
    """What a month is charged, in cents."""
    if terms.kind == "cost_plus":
        printed = half_up(cost, 10**16)
        return printed + half_up(printed * terms.markup, 10_000)
    over = max(0, tokens - terms.included)
    return terms.fee + half_up(over * terms.per_million, 1_000_000)


@pytest.mark.parametrize("seed", [7, 8])
async def test_sql_over_the_ledger_makes_the_same_cents(seed: int) -> None:
    """Closed month by month, with records of the month before arriving in between."""
    random_ = random.Random(seed)
    names = [f"client-{number}" for number in range(CLIENTS)]
    terms = {name: made_terms(random_) for name in names}
    billed: dict[str, int] = dict.fromkeys(names, 0)
    async with open_office(toml_of(terms), datetime(2025, 9, 1, 5, tzinfo=UTC)) as office:
        for month in MONTHS:
            await record_month(office, month, random_, names)
            if month > MONTHS[0]:
                late = datetime(2025, month, 1, 3, tzinfo=UTC)  # still the day before, there
                await office.record(
                    *(
                        usage(name, occurred_at_ms=int(late.timestamp()) * 1_000)
                        for name in names[:30]
                    )
                )
            office.clock.step(datetime(2025, month + 1, 4, tzinfo=UTC))
            closed = await office.meterctl("close", f"2025-{month:02d}", "--format", "json")
            assert closed.code == 0, closed.err
            for invoice in json.loads(closed.out)["invoices"]:
                billed[invoice["client"]] += int(invoice["total"].replace(".", ""))
        proved = [
            text async for step in office.billing._proving.steps(None) for text in step.differences
        ]
        database = office.directory / "data" / "ledger.db"
        end_row = (await office.store.books.basis()).end_row
        expected = dict.fromkeys(names, 0)
        for month in MONTHS:
            start_ms, end_ms = _month_start_ms(month), _month_start_ms(month + 1)
            sums = ledger_sums(database, start_ms, end_ms, end_row)
            for name in names:
                expected[name] += cents_of(terms[name], *sums.get(name, (0, 0)))

    assert billed == expected
    assert sum(billed.values()) > 100_000
    assert proved == []
