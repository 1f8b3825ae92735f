"""Every invoice computed by another route: SQL over ledger rows, whole numbers only.

    seed ─▶ an agency ─▶ months of records, closed one by one, some late ─▶ what was billed
                                  └─▶ ledger rows ─ this file ─▶ what should have been

The agency has clients on all sorts of plans, models, brackets, tools, late records. Nothing of
the rollups, of `billing/` or of `Decimal` is used on this side; ledger rows and the rates that
they were frozen with are all it reads.
"""

from __future__ import annotations

import json
import random
import sqlite3
from bisect import bisect_right
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo

from meterd.store.ledger_row import unpack
from tests.support.builders import usage
from tests.support.office import open_office

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from meterd_proto.v1.usage_pb2 import UsageRecord
    from tests.support.office import Office

ZONE = ZoneInfo("America/New_York")
YEAR = 2025
MILLION = 1_000_000
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
    is_started: bool = False
    markup: int = 0
    minimum: int = 0
    discount: int = 0


@dataclass
class Outcome:
    """Cents by client, by either route, and what `verify` found."""

    billed: dict[str, int]
    expected: dict[str, int]
    differences: list[str]
    rows: int = 0
    invoices: int = 0
    by_kind: dict[str, int] = field(default_factory=dict)


async def year_of(
    seed: int,
    *,
    clients: int,
    months: int,
    records: int,
    told: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Close `months` months of an agency made from a seed, `records` a month, and compute both.

    Records of the month before arrive after its closing, for a quarter of the clients.
    """
    random_ = random.Random(seed)
    names = [f"client-{number}" for number in range(clients)]
    terms = {name: made_terms(random_) for name in names}
    found = Outcome(dict.fromkeys(names, 0), {}, [])
    first = 12 - months + 1
    async with open_office(toml_of(terms), _start(first)) as office:
        for month in range(first, 13):
            await record_month(office, month, random_, names, records)
            if month > first:
                await _record_late(office, month, names[: clients // 4])
            office.clock.step(_start(month + 1) + timedelta(days=3))
            await _close(office, month, found)
            told(f"2025-{month:02d} closed: {found.invoices:,} invoices so far")
        found.differences = [
            text async for step in office.billing._proving.steps(None) for text in step.differences
        ]
        end_row = (await office.store.books.basis()).end_row
        starts = [_start(month) for month in range(first, 14)]
        sums, found.rows = ledger_sums(office.directory / "data" / "ledger.db", starts, end_row)
    found.expected = {
        name: sum(cents_of(terms[name], *sums[name, at]) for at in range(months)) for name in names
    }
    return found


async def _close(office: Office, month: int, found: Outcome) -> None:
    closed = await office.meterctl("close", f"{YEAR}-{month:02d}", "--format", "json")
    assert closed.code == 0, closed.err
    for invoice in json.loads(closed.out)["invoices"]:
        found.invoices += 1
        found.billed[invoice["client"]] += _cents(invoice["total"])
        for line in invoice["lines"]:
            kind = line["kind"]
            found.by_kind[kind] = found.by_kind.get(kind, 0) + 1


def _cents(amount: str) -> int:
    whole, _, part = amount.partition(".")
    assert len(part) == 2
    return int(whole + part)


# ── an agency from a seed ──


def made_terms(random_: random.Random) -> Terms:
    """Cost-plus or retainer; some with a minimum, a discount, started millions."""
    minimum = random_.choice([0, 0, 0, 2_500])
    discount = random_.choice([0, 0, 0, 333, 1_000])
    if random_.random() < 0.5:
        markup = random_.choice([2_000, 3_000, 3_333, 12_500])
        return Terms("cost_plus", markup=markup, minimum=minimum, discount=discount)
    return Terms(
        "retainer",
        fee=random_.choice([50_000, 120_000]),
        included=random_.choice([100_000, MILLION, 2 * MILLION]),
        per_million=random_.choice([6_000, 5_999]),
        is_started=random_.random() < 0.3,
        discount=discount,
    )


def toml_of(terms: Mapping[str, Terms]) -> str:
    """The agency's meterd.toml."""
    lines = [
        '[agency]\nname = "Seeded"\ntimezone = "America/New_York"\n'
        '[[prices]]\nmodel = "our-own"\ninput = "0.333333"\noutput = "1.000001"\n'
        'per_request = "0.0001"\n'
    ]
    for client, one in terms.items():
        plan = f'[plans.{client}]\ntype = "{one.kind}"\n'
        if one.kind == "cost_plus":
            plan += f'markup = "{_percent(one.markup)}"\n'
        else:
            plan += (
                f'fee = "{one.fee // 100}"\nincluded_tokens = {one.included}\n'
                f'overage_per_million = "{one.per_million // 100}.{one.per_million % 100:02d}"\n'
                f'overage_rounding = "{"started" if one.is_started else "exact"}"\n'
            )
        if one.minimum:
            plan += f'minimum = "{one.minimum // 100}"\n'
        if one.discount:
            plan += f'discount = "{_percent(one.discount)}"\n'
        lines.append(f'{plan}[clients.{client}]\nplan = "{client}"\n')
    return "".join(lines)


def _percent(basis_points: int) -> str:
    return f"{basis_points // 100}.{basis_points % 100:02d}%"


async def record_month(
    office: Office, month: int, random_: random.Random, names: list[str], records: int
) -> None:
    """Have a month's records shipped at its end."""
    start = _start(month)
    office.clock.step(start + timedelta(days=29, hours=12))
    await office.record(*(_made(start, random_, names) for _ in range(records)))


def _made(start: datetime, random_: random.Random, names: list[str]) -> UsageRecord:
    provider, model = random_.choice(MODELS)
    took = random_.choice([random_.randrange(9_000), random_.randrange(300_000)])
    read = random_.randrange(took + 1) if random_.random() < 0.3 else 0
    is_searching = provider == "anthropic" and random_.random() < 0.1
    at = start + timedelta(seconds=random_.randrange(29 * 86_400))
    return usage(
        random_.choice(names), random_.choice(["", "a", "b", "c"]), provider=provider,
        model=model, input_tokens=took, output_tokens=random_.randrange(4_000),
        cache_read_tokens=read, tool_calls={"web_search_requests": 2} if is_searching else {},
        occurred_at_ms=int(at.timestamp()) * 1_000,
    )  # fmt: skip


async def _record_late(office: Office, month: int, names: list[str]) -> None:
    """An hour before the month began in New York: of the closed one."""
    late = _start(month) - timedelta(hours=1)
    at_ms = int(late.timestamp()) * 1_000
    await office.record(*(usage(name, occurred_at_ms=at_ms) for name in names))


def _start(month: int) -> datetime:
    year, at = divmod(YEAR * 12 + month - 1, 12)
    return datetime(year, at + 1, 1, tzinfo=ZONE).astimezone(UTC)


# ── the other route ──


def ledger_sums(
    database: Path, starts: list[datetime], end_row: int
) -> tuple[dict[tuple[str, int], tuple[int, int]], int]:
    """By client and month: tokens, and cost in units of 10⁻¹⁸ dollars; and how many rows."""
    bounds = [int(start.timestamp()) * 1_000 for start in starts]
    sums: dict[tuple[str, int], tuple[int, int]] = defaultdict(lambda: (0, 0))
    rows = 0
    with closing(sqlite3.connect(database)) as connection:
        rates = {
            number: (10 ** (18 - scale), json.loads(prices))
            for number, scale, prices in connection.execute("SELECT id, scale, prices FROM rates")
        }
        for client, rate, took, read, gave, rest, at_ms in connection.execute(
            "SELECT c.name, l.rate, l.input_tokens, l.cache_read_tokens, l.output_tokens, l.rest, "
            "l.billed_at_ms FROM ledger l JOIN tags t ON t.id = l.tag "
            "JOIN clients c ON c.id = t.client WHERE l.id < ?",
            (end_row,),
        ):
            rows += 1
            unit, prices = rates[rate]
            tools = dict(unpack(rest, at_ms).tool_calls)
            cost = (took - read) * prices["input"]
            cost += read * prices.get("cache_read", prices["input"])
            cost += gave * prices["output"] + prices.get("request", 0)
            cost += tools.get("web_search_requests", 0) * prices.get("tool:web_searches", 0)
            key = (client, bisect_right(bounds, at_ms) - 1)
            tokens, before = sums[key]
            sums[key] = (tokens + took + gave, before + cost * unit)
    return sums, rows


def cents_of(terms: Terms, tokens: int, cost: int) -> int:
    """What a month is charged, in cents."""
    if terms.kind == "cost_plus":
        printed = half_up(cost, 10**16)
        charged = printed + half_up(printed * terms.markup, 10_000)
    else:
        over = max(0, tokens - terms.included)
        if terms.is_started:
            over = -(-over // MILLION) * MILLION
        charged = terms.fee + half_up(over * terms.per_million, MILLION)
    charged = max(charged, terms.minimum)
    return charged - half_up(charged * terms.discount, 10_000)


def half_up(number: int, by: int) -> int:
    """A quotient of numbers that aren't negative, rounded half up."""
    return (2 * number + by) // (2 * by)
