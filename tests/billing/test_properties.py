"""What holds of all invoices: sums, order, union, splitting; nothing with a float in it."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterd.billing.account import Account, Billed, LatePeriod, invoice_of
from meterd.billing.charges import charges, total_of
from meterd.billing.invoice import charged_before_tax
from meterd.billing.period import period_at
from meterd.billing.plan_of_period import plan_of_period
from meterd.billing.rollover import Lot, Month, lots_after, rolled_over
from meterd.billing.statement import LineKind, ProjectUsage, Statement
from meterd.config.agency import (
    Agency,
    Client,
    Contract,
    Credit,
    Overage,
    OverageRounding,
    Plan,
    PlanType,
    Tax,
)
from meterd.money import CURRENCIES, round_line, round_share

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

NOVEMBER = period_at(2025 * 12 + 10, ZoneInfo("UTC"))
OCTOBER = period_at(2025 * 12 + 9, ZoneInfo("UTC"))

costs = st.decimals(0, 10_000, places=9, allow_nan=False)
tokens = st.integers(0, 40_000_000)
rates = st.decimals(0, 2, places=4, allow_nan=False)


def plans() -> SearchStrategy[Plan]:
    cost_plus = st.builds(
        lambda markup, minimum, discount, fee: Plan(
            "managed", PlanType.COST_PLUS, markup=markup, minimum=minimum, discount=discount,
            fee=fee,
        ),
        rates, st.sampled_from([Decimal(0), Decimal("49.99")]),
        st.sampled_from([Decimal(0), Decimal("0.125")]),
        st.sampled_from([Decimal(0), Decimal("9.95")]),
    )  # fmt: skip
    retainer = st.builds(
        lambda included, overage, rounding, markup: Plan(
            "starter", PlanType.RETAINER, fee=Decimal(500), included_tokens=included,
            overage=overage, overage_per_million=Decimal("59.99"), overage_rounding=rounding,
            markup=markup,
        ),
        tokens, st.sampled_from(Overage), st.sampled_from(OverageRounding), rates,
    )  # fmt: skip
    return st.one_of(cost_plus, retainer)


@st.composite
def statements(draw: st.DrawFn) -> Statement:
    projects = tuple(
        ProjectUsage(f"p{at}", draw(st.integers(0, 99)), draw(tokens), draw(costs))
        for at in range(draw(st.integers(0, 6)))
    )
    if not projects:
        return Statement("a", NOVEMBER, 5, draw(tokens), cost=draw(costs))
    return Statement(
        "a",
        NOVEMBER,
        sum(one.requests for one in projects),
        sum(one.tokens for one in projects),
        cost=sum((one.cost for one in projects), Decimal(0)),
        projects=projects,
    )


def agency_of(plan: Plan, **more: object) -> Agency:
    client = Client("a", contracts=(Contract(plan.name),), **more)  # type: ignore[arg-type]  # fields of Client
    return Agency(plans={plan.name: plan}, clients={"a": client})


TAXES = [None, Tax("VAT", Decimal("0.19")), Tax("VAT", Decimal("0.077"), per_line=True)]


@given(statements(), plans(), st.sampled_from(["USD", "JPY", "KWD"]), rates, st.sampled_from(TAXES))
def test_an_invoice_is_the_sum_of_its_lines_in_whole_minor_units(
    statement: Statement, plan: Plan, currency: str, credit: Decimal, tax: Tax | None
) -> None:
    """And its projects' amounts are the rounded cost, whatever the plan."""
    agency = agency_of(plan, credits=(Credit(credit * 100),), tax=tax)
    agency = replace(agency, currency=currency)

    invoice = invoice_of(Account(agency, statement))

    assert invoice.total == sum((line.amount for line in invoice.lines), Decimal(0)) >= 0
    rounded = [line for line in invoice.lines if line.kind is not LineKind.CREDIT]
    assert all(round_line(line.amount, currency) == line.amount for line in rounded)
    if invoice.projects:
        shares = sum((one.amount for one in invoice.projects), Decimal(0))
        assert shares == round_line(statement.cost, currency)


@given(statements(), plans())
def test_an_invoice_does_not_depend_on_the_order_of_projects(
    statement: Statement, plan: Plan
) -> None:
    """Reordered records are the same bill."""
    turned = replace(statement, projects=statement.projects[::-1])

    one, other = (charges(each, plan, "USD") for each in (statement, turned))

    assert [line.amount for line in one] == [line.amount for line in other]


@given(statements(), statements(), plans())
def test_late_usage_is_billed_as_if_it_had_come_in_time(
    first: Statement, more: Statement, plan: Plan
) -> None:
    """closed → late → adjustment: all invoices together are one late invoice, to the cent."""
    agency = agency_of(plan)
    closed = replace(first, period=OCTOBER)
    whole = replace(
        closed, tokens=first.tokens + more.tokens, cost=first.cost + more.cost, projects=()
    )
    october = invoice_of(Account(agency, closed))
    billed = Billed(charged={OCTOBER.index: charged_before_tax(october)})
    quiet = Statement("a", NOVEMBER)

    november = invoice_of(Account(agency, quiet, (LatePeriod(whole, agency),), billed))
    after = invoice_of(Account(agency, quiet, (), Billed(carried=-_carried(november))))

    at_once = invoice_of(Account(agency, whole))
    alone = invoice_of(Account(agency, quiet))
    assert october.total + november.total - _carried(november) == at_once.total + alone.total
    assert after.total - _carried(after) == alone.total - _carried(november)


def _carried(invoice: object) -> Decimal:
    """What an invoice left over for the next, as it would have been negative."""
    lines = invoice.lines  # type: ignore[attr-defined]  # an Invoice
    return sum(
        (line.amount for line in lines
         if line.kind is LineKind.CARRIED and line.description.startswith("Carried to")), Decimal(0)
    )  # fmt: skip


@given(st.lists(tokens, min_size=1, max_size=12), tokens, st.integers(1, 6), tokens)
def test_rollover_makes_no_token_out_of_nothing(
    used: list[int], included: int, periods: int, most: int
) -> None:
    """What rolls over was included once, is never more than the maximum, and expires."""
    plan = Plan("s", PlanType.RETAINER, included_tokens=included, rollover_tokens_max=most,
                rollover_periods=periods)  # fmt: skip
    lots: tuple[Lot, ...] = ()
    billed = 0
    for index, amount in enumerate(used):
        over = sum(lot.tokens for lot in lots if index - lot.period <= periods)
        assert over == rolled_over(
            [Month(at, tokens_of, plan) for at, tokens_of in enumerate(used[:index])], index, plan
        )
        billed += max(0, amount - included - over)
        lots = lots_after(lots, Month(index, amount, plan))
        assert sum(lot.tokens for lot in lots) <= most
        assert all(index - lot.period < periods or lot.period == index for lot in lots)
    assert sum(used) - billed <= included * len(used)


@given(st.integers(1, 30), st.integers(2, 31), st.decimals(0, 5_000, places=2, allow_nan=False))
def test_a_share_of_a_fee_is_rounded_once(days: int, whole: int, fee: Decimal) -> None:
    """Against integers of ten more digits."""
    days = min(days, whole)

    share = round_share(fee, days, whole, "USD")

    hundredths, rest = divmod(int(fee * 100) * days, whole)
    assert share == Decimal(hundredths + (2 * rest >= whole)).scaleb(-2)


@pytest.mark.parametrize(
    ("day", "fee", "included"),
    [(16, "850.00", 3_500_000), (10, "990.00", 4_100_000), (1, "1200", 5_000_000)],
)
def test_a_change_inside_a_period_counts_days_over_all_days(
    day: int, fee: str, included: int
) -> None:
    """Starter → Growth in November; on the first it is Growth alone."""
    starter = Plan("starter", PlanType.RETAINER, fee=Decimal(500), included_tokens=2_000_000)
    growth = Plan("growth", PlanType.RETAINER, fee=Decimal(1200), included_tokens=5_000_000,
                  proration="calendar_days")  # fmt: skip
    from_day = datetime(2025, 11, day, tzinfo=UTC).date()
    client = Client("a", contracts=(Contract("starter"), Contract("growth", from_day)))
    agency = Agency(plans={"starter": starter, "growth": growth}, clients={"a": client})

    plan = plan_of_period(agency, "a", NOVEMBER)

    assert plan is not None
    assert (plan.fee, plan.included_tokens) == (Decimal(fee), included)


def test_december_has_31_days() -> None:
    """10 December: 145.16 + 851.61 = 996.77, 4,129,032.26 → 4,129,033 included."""
    starter = Plan("starter", PlanType.RETAINER, fee=Decimal(500), included_tokens=2_000_000)
    growth = Plan("growth", PlanType.RETAINER, fee=Decimal(1200), included_tokens=5_000_000,
                  proration="calendar_days")  # fmt: skip
    tenth = datetime(2025, 12, 10, tzinfo=UTC).date()
    client = Client("a", contracts=(Contract("starter"), Contract("growth", tenth)))
    agency = Agency(plans={"starter": starter, "growth": growth}, clients={"a": client})

    plan = plan_of_period(agency, "a", period_at(2025 * 12 + 11, ZoneInfo("UTC")))

    assert plan is not None
    assert (plan.fee, plan.included_tokens) == (Decimal("996.77"), 4_129_033)
    (line,) = charges(Statement("a", NOVEMBER), plan, "USD")
    assert line.description == (
        "Starter (9 of 31 days, $145.16) and Growth (22 of 31 days, $851.61) retainer, "
        "4,129,033 tokens included"
    )
    assert total_of([line]) == Decimal("996.77")


def test_a_change_waits_for_the_next_period_unless_said_otherwise() -> None:
    """The contract at the period's start bills it; a first contract bills all of its first."""
    starter = Plan("starter", PlanType.RETAINER, fee=Decimal(500))
    growth = Plan("growth", PlanType.RETAINER, fee=Decimal(1200))
    tenth = datetime(2025, 11, 10, tzinfo=UTC).date()
    plans = {"starter": starter, "growth": growth}
    changed = Client("a", contracts=(Contract("starter"), Contract("growth", tenth)))
    new = Client("b", contracts=(Contract("growth", tenth),))
    agency = Agency(plans=plans, clients={"a": changed, "b": new})

    found = [plan_of_period(agency, client, NOVEMBER) for client in ("a", "b")]
    before = plan_of_period(agency, "b", OCTOBER)

    assert found == [starter, growth]
    assert before is None


MONEY_PATH = sorted(
    {
        *Path("meterd/meterd/billing").rglob("*.py"),
        *Path("meterd/meterd/pricing").rglob("*.py"),
        *Path("meterd/meterd/config").rglob("*.py"),
        *Path("proto/meterd_client").rglob("*.py"),
        Path("meterd/meterd/money.py"),
        *(Path("meterd/meterd/service") / f"{name}.py" for name in (
            "drafting", "closing", "billing", "proving", "profits", "remedies", "repricing",
            "invoice_message", "rollup", "records", "months")),
        *(Path("meterd/meterd/store") / f"{name}.py" for name in (
            "statements", "ledger_statements", "documents", "closing", "repricing", "quotes",
            "rate_column", "sums", "refold", "input_sizes")),
        *(Path("meterd/meterd/cli") / f"{name}.py" for name in (
            "figures", "bill", "rollup", "rollup_table", "rollup_parquet", "invoice",
            "invoice_document", "profit", "close", "credit", "reprice", "prices", "records")),
    }
)  # fmt: skip


@pytest.mark.parametrize("path", MONEY_PATH, ids=str)
def test_no_float_is_in_the_money_path(path: Path) -> None:
    """Neither a literal, nor the name, nor a division of integers. Seconds to wait are no money."""
    text_of = path.read_text(encoding="utf-8")
    found = []
    for node in ast.walk(ast.parse(text_of)):
        line = getattr(node, "lineno", 0)
        if line and _NO_MONEY.search(text_of.splitlines()[line - 1]):
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, float):
            found.append(f"line {node.lineno}: {node.value}")
        elif isinstance(node, ast.Name) and node.id == "float":
            found.append(f"line {node.lineno}: float")
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            text = ast.unparse(node)
            if text not in _DIVISIONS_OF_DECIMALS_AND_PATHS:
                found.append(f"line {node.lineno}: {text}")

    assert found == []


_NO_MONEY = re.compile(r"(?i)timeout_s\b|isinstance\(amount, float\)|cutoff=")
_DIVISIONS_OF_DECIMALS_AND_PATHS = {
    "(metered - sum(shares, Decimal(0))) / unit",
    "directory / f'{invoice.number}.pdf'",
    "directory / f'{invoice.number}.html'",
    "abs(amount) / unit",
    "self.profit / self.revenue",
    "Decimal(tokens) / step",
    "directory / name",
    "files(__package__) / name",
    "_HERE / 'fonts'",
    "_HERE / 'invoice.typ'",
    "FONTS / 'coverage.txt'",
}


def test_every_currency_has_its_decimals() -> None:
    """A rate's rounding rests on it."""
    assert {CURRENCIES[name] for name in ("USD", "JPY", "KWD")} == {0, 2, 3}
