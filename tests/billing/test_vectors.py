"""The worked examples of an agency's month, computed by the rules and compared to the cent."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from meterd.billing.charges import charges, overage_tokens, project_amounts, total_of
from meterd.billing.invoice import CreditLeft, LateUsage, charged_before_tax, draw_up
from meterd.billing.period import period_of
from meterd.billing.statement import Conversion, LineKind, ProjectUsage, Statement
from meterd.billing.wording import money_text, prose_money, tokens_exact_text, tokens_text
from meterd.config.agency import Credit, Overage, OverageRounding, Plan, PlanType, Tax
from meterd.money import round_line

NOVEMBER = period_of(datetime(2025, 11, 15, tzinfo=UTC), ZoneInfo("UTC"))
OCTOBER = period_of(datetime(2025, 10, 15, tzinfo=UTC), ZoneInfo("UTC"))


def statement(tokens: int = 0, cost: str = "0", **more: object) -> Statement:
    return Statement("a", NOVEMBER, tokens=tokens, cost=Decimal(cost), **more)  # type: ignore[arg-type]  # a test's shorthand


def cost_plus(markup: str = "0.30", **more: object) -> Plan:
    return Plan("managed", PlanType.COST_PLUS, markup=Decimal(markup), **more)  # type: ignore[arg-type]  # a test's shorthand


def retainer(name: str, fee: str, included: int, **more: object) -> Plan:
    return Plan(
        name,
        PlanType.RETAINER,
        fee=Decimal(fee),
        included_tokens=included,
        overage_per_million=Decimal(60),
        **more,  # type: ignore[arg-type]  # a test's shorthand
    )


STARTER = retainer("starter", "500", 2_000_000)
GROWTH = retainer("growth", "1200", 5_000_000)
PRO = retainer("pro", "2500", 12_000_000)


@pytest.mark.parametrize(
    ("cost", "markup", "total"),
    [
        ("8.47", "2.54", "11.01"),
        ("5.23", "1.57", "6.80"),
        ("31.42", "9.43", "40.85"),
        ("127.43", "38.23", "165.66"),
        ("25.31", "7.59", "32.90"),
        ("31.416", "9.43", "40.85"),
    ],
)
def test_cost_plus_comes_out_as_the_agency_writes_it(cost: str, markup: str, total: str) -> None:
    """Markup is taken on the printed usage line: of the exact 31.416 it would be 9.42."""
    lines = charges(statement(1, cost), cost_plus(), "USD")

    assert [line.kind for line in lines] == [LineKind.USAGE, LineKind.MARKUP]
    assert (lines[1].amount, total_of(lines)) == (Decimal(markup), Decimal(total))
    assert lines[1].description == "Agency Markup (30%)"


@pytest.mark.parametrize(
    ("markup", "amount"),
    [("0.20", "6.28"), ("0.25", "7.86"), ("0.30", "9.43"), ("0.35", "11.00"), ("0.40", "12.57"),
     ("0.50", "15.71")],
)  # fmt: skip
def test_each_service_level_rounds_half_up(markup: str, amount: str) -> None:
    """The presets of an agency, on the same bill."""
    lines = charges(statement(12_700_000, "31.42"), cost_plus(markup), "USD")

    assert lines[1].amount == Decimal(amount)


def test_a_tie_rounds_away_from_zero_and_its_credit_mirrors_it() -> None:
    """Only ties tell the modes apart; a credit of an invoice has to sum to zero with it."""
    half = Decimal("8.45") * Decimal("0.5")

    assert round_line(half, "USD") == Decimal("4.23")
    assert round_line(-half, "USD") == Decimal("-4.23")
    assert round_line(half, "USD", "half_even") == Decimal("4.22")


@pytest.mark.parametrize(
    ("tokens", "plan", "over", "exact", "started"),
    [
        (2_000_000, STARTER, 0, "500.00", "500.00"),
        (2_000_001, STARTER, 1, "500.00", "560.00"),
        (2_008_333, STARTER, 8_333, "500.50", "560.00"),
        (3_000_000, STARTER, 1_000_000, "560.00", "560.00"),
        (12_300_000, STARTER, 10_300_000, "1118.00", "1160.00"),
        (12_300_000, GROWTH, 7_300_000, "1638.00", "1680.00"),
        (12_300_000, PRO, 300_000, "2518.00", "2560.00"),
    ],
)
def test_overage_is_pro_rata_or_by_started_million(
    tokens: int, plan: Plan, over: int, exact: str, started: str
) -> None:
    """The sentence "$60 per additional 1M" in both readings; a line of nothing is no line."""
    by_block = replace(plan, overage_rounding=OverageRounding.STARTED)
    used = statement(tokens)

    assert overage_tokens(used, plan) == over
    assert total_of(charges(used, plan, "USD")) == Decimal(exact)
    assert total_of(charges(used, by_block, "USD")) == Decimal(started)
    assert all(line.amount for line in charges(used, plan, "USD"))


def test_a_contract_may_override_what_the_plan_includes() -> None:
    """The letter sells Growth with 15M where the table has 5M."""
    growth_15 = retainer("growth", "1200", 15_000_000)

    assert total_of(charges(statement(12_300_000), growth_15, "USD")) == Decimal(1200)


def test_overage_can_be_written_off() -> None:
    """That client pays $500 for 12.3M tokens."""
    plan = retainer("starter", "500", 2_000_000, overage=Overage.NONE)

    assert total_of(charges(statement(12_300_000), plan, "USD")) == Decimal(500)


def test_projects_share_the_usage_line_and_never_exceed_it() -> None:
    """Three projects of 1.005 rounded alone would give 3.03."""
    thirds = tuple(ProjectUsage(name, 1, 1, Decimal("1.005")) for name in "abc")
    used = statement(3, "3.015", projects=thirds)

    parts = project_amounts(used, Decimal("3.02"), "USD")

    assert [part.amount for part in parts] == [Decimal("1.01"), Decimal("1.01"), Decimal("1.00")]


def test_the_three_projects_of_the_example_have_one_markup_line() -> None:
    """12.34 + 8.76 + 4.21 = 25.31, 30 % = 7.59, total 32.90."""
    projects = (
        ProjectUsage("support-chatbot", 1, 1, Decimal("12.336")),
        ProjectUsage("content-generator", 1, 1, Decimal("8.764")),
        ProjectUsage("lead-qualification", 1, 1, Decimal("4.214")),
    )
    invoice = draw_up(statement(3, "25.314", projects=projects), cost_plus(), "USD")

    assert [project.amount for project in invoice.projects] == [
        Decimal("12.34"), Decimal("8.76"), Decimal("4.21"),
    ]  # fmt: skip
    assert [line.amount for line in invoice.lines] == [Decimal("25.31"), Decimal("7.59")]
    assert invoice.total == Decimal("32.90")


@pytest.mark.parametrize(
    ("currency", "rate", "usage", "markup"),
    [("JPY", "155.32", "19792", "5938"), ("KWD", "0.3071", "39.134", "11.740"),
     ("EUR", "0.9215", "117.43", "35.23")],
)  # fmt: skip
def test_an_exchange_rate_is_applied_once_to_the_exact_cost(
    currency: str, rate: str, usage: str, markup: str
) -> None:
    """And the minor unit is the currency's own."""
    conversion = Conversion(Decimal(rate), date(2025, 11, 30), "central bank")

    invoice = draw_up(statement(1, "127.43"), cost_plus(), currency, conversion=conversion)

    assert [line.amount for line in invoice.lines] == [Decimal(usage), Decimal(markup)]


def test_tax_is_taken_on_the_total_unless_by_line() -> None:
    """12.34 + 8.76 + 4.21 + 7.59 = 32.90 at 19 %: 6.25 on the total."""
    used = statement(3, "25.31")
    vat = Tax("VAT", Decimal("0.19"))

    whole = draw_up(used, cost_plus(), "USD", tax=vat)
    by_line = draw_up(used, cost_plus(), "USD", tax=Tax("VAT", Decimal("0.19"), per_line=True))

    assert whole.lines[-1].amount == Decimal("6.25")
    assert whole.total == whole.subtotal + Decimal("6.25")
    assert by_line.lines[-1].amount == Decimal("4.81") + Decimal("1.44")


def test_minimum_tops_up_and_discount_comes_after_it() -> None:
    """Line order: fee, usage, markup, overage, minimum, discount."""
    plan = cost_plus(minimum=Decimal(50), discount=Decimal("0.10"))

    lines = charges(statement(1, "31.42"), plan, "USD")

    assert [line.kind for line in lines] == [
        LineKind.USAGE, LineKind.MARKUP, LineKind.MINIMUM, LineKind.DISCOUNT,
    ]  # fmt: skip
    assert [line.amount for line in lines[2:]] == [Decimal("9.15"), Decimal("-5.00")]


def test_late_usage_makes_all_invoices_sum_to_what_one_late_invoice_would_be() -> None:
    """Rounding included: an adjustment is a difference of invoices, not a price of a rest."""
    october = Statement("a", OCTOBER, tokens=10, cost=Decimal("31.416"))
    complete = Statement("a", OCTOBER, tokens=11, cost=Decimal("31.425"))
    first = draw_up(october, cost_plus(), "USD")

    late = LateUsage(complete, cost_plus(), charged_before_tax(first))
    second = draw_up(statement(5, "1.00"), cost_plus(), "USD", late=[late])

    alone = draw_up(complete, cost_plus(), "USD")
    own = draw_up(statement(5, "1.00"), cost_plus(), "USD")
    assert first.total + second.total == alone.total + own.total
    assert second.lines[-1].kind is LineKind.ADJUSTMENT
    assert second.lines[-1].period == "2025-10"
    assert "October 2025" in second.lines[-1].description


def test_a_credit_is_used_up_over_invoices_and_never_makes_one_negative() -> None:
    """What is left of it waits."""
    credit = CreditLeft(Credit(Decimal(100), description="Goodwill"), Decimal(100))

    invoice = draw_up(statement(1, "31.42"), cost_plus(), "USD", credits_left=[credit])

    assert invoice.lines[-1].amount == Decimal("-40.85")
    assert invoice.total == 0


def test_what_would_be_negative_is_carried_to_the_next_invoice() -> None:
    """A late correction can be larger than the month; no invoice asks for less than nothing."""
    smaller = LateUsage(Statement("a", OCTOBER, cost=Decimal(1)), cost_plus(), Decimal(100))

    invoice = draw_up(statement(1, "10"), cost_plus(), "USD", late=[smaller])

    assert invoice.total == 0
    assert invoice.lines[-1].kind is LineKind.CARRIED
    assert invoice.lines[-1].amount == Decimal("85.70")


def test_free_and_internal_clients_are_billed_nothing() -> None:
    """They stand in profit, not on invoices."""
    for kind in (PlanType.FREE, PlanType.INTERNAL):
        invoice = draw_up(statement(5, "3"), Plan("f", kind), "USD")

        assert (invoice.lines, invoice.is_billed) == ((), False)


def test_figures_read_as_the_agency_writes_them() -> None:
    """12.3M and 15M, $1,200 and $42.50, the dot dropped where there is nothing behind it."""
    assert [tokens_text(n) for n in (12_300_000, 15_000_000, 980, 3_249_999)] == [
        "12.3M", "15M", "980", "3.2M",
    ]  # fmt: skip
    assert tokens_exact_text(7_300_000) == "7.3M"
    assert tokens_exact_text(8_333) == "8,333"
    assert prose_money(Decimal("1200.00"), "USD") == "$1,200"
    assert prose_money(Decimal("42.50"), "USD") == "$42.50"
    assert money_text(Decimal("-9.43"), "USD") == "−$9.43"
    assert money_text(Decimal(19792), "JPY") == "¥19,792"
