"""Who loses money, and the ways out: the agency's own examples and texts."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest

from meterd.billing.letters import RaiseLetter, SwitchLetter, written
from meterd.billing.period import period_of
from meterd.billing.profit import (
    flags_of,
    outcome_of,
    plans_that_pay,
    under_cost_plus,
    with_less_input,
)
from meterd.billing.statement import Statement
from meterd.config.agency import Overage, Plan, PlanType, ServiceCost
from meterd.errors import InvalidRequest

if TYPE_CHECKING:
    from pathlib import Path

NOVEMBER = period_of(datetime(2025, 11, 15, tzinfo=UTC), ZoneInfo("UTC"))
USED = Statement("acme", NOVEMBER, tokens=12_300_000, cost=Decimal(42))
STARTER = Plan(
    "starter",
    PlanType.RETAINER,
    fee=Decimal(500),
    included_tokens=2_000_000,
    overage=Overage.NONE,
)
GROWTH = Plan("growth", PlanType.RETAINER, fee=Decimal(1200), included_tokens=15_000_000)
TEN_HOURS = ServiceCost(hours=Decimal(10), hourly=Decimal(60))


def test_a_client_can_pay_for_its_tokens_and_still_lose_money() -> None:
    """On tokens alone +458.00 (91.6 %); with ten hours of work −142.00 (−28.4 %)."""
    on_tokens = outcome_of(USED, STARTER, ServiceCost(), "USD")
    in_truth = outcome_of(USED, STARTER, TEN_HOURS, "USD")

    assert (on_tokens.profit, on_tokens.margin) == (Decimal(458), Decimal("0.916"))
    assert (in_truth.profit, in_truth.margin) == (Decimal(-142), Decimal("-0.284"))
    assert flags_of(in_truth, 0, None) == ("loss",)
    assert flags_of(on_tokens, 3, Decimal("0.95")) == ("margin", "unpriced")


def test_the_plan_that_pays_is_the_cheapest_that_covers_every_month_looked_at() -> None:
    """Starter never covers it; Growth does."""
    found = plans_that_pay([USED, USED], [STARTER, GROWTH], TEN_HOURS, "USD")

    assert [proposal.plan.name for proposal in found] == ["growth"]
    assert found[0].outcome.profit == Decimal("558.00")


def test_without_revenue_there_is_no_margin() -> None:
    """Division by nothing is not a hundred percent loss."""
    assert outcome_of(USED, None, ServiceCost(), "USD").margin is None


def test_cost_plus_says_what_the_client_would_have_paid() -> None:
    """The third way out."""
    proposal = under_cost_plus(USED, Decimal("0.30"), ServiceCost(), "USD")

    assert proposal.outcome.revenue == Decimal("54.60")


def test_two_thirds_less_input_is_792_tokens_a_call() -> None:
    """3,000 calls of 2,400 tokens: 7.2M → 2,376,000."""
    used = Statement("a", NOVEMBER, tokens=7_500_000, cost=Decimal(30))

    after, saved = with_less_input(used, 7_200_000, Decimal(18), Decimal("-0.67"))

    assert after.tokens == 300_000 + 2_376_000
    assert saved == Decimal("12.06")
    assert after.cost == Decimal("17.94")


def test_the_letters_read_as_the_agency_wrote_them() -> None:
    """To the letter, once filled."""
    raised = RaiseLetter(
        month="November", tokens="12.3M", cost="$42", fee="$500", plan="Growth", new_fee="$1,200",
        included="15M", extras="priority support", date="January 1",
    )  # fmt: skip

    assert written(raised) == (
        "Based on November usage (12.3M tokens, $42 in costs), your current $500/month retainer "
        "is below our cost to serve. We're moving you to the Growth tier ($1,200/month) which "
        "includes 15M tokens and priority support. Effective January 1."
    )
    assert "actual AI costs + 30% management fee" in written(SwitchLetter(markup="30%"))


def test_an_agency_brings_its_own_letter_and_a_wrong_name_in_it_is_refused(tmp_path: Path) -> None:
    """A template is edited by people; a misspelt name must not reach a client."""
    (tmp_path / "switch.txt").write_text("From now on: cost + {markup}.")

    assert written(SwitchLetter(markup="30%"), tmp_path) == "From now on: cost + 30%."

    (tmp_path / "switch.txt").write_text("From now on: cost + {mark_up}.")
    with pytest.raises(InvalidRequest, match=r"switch.txt has \{mark_up\}, expected one of markup"):
        written(SwitchLetter(markup="30%"), tmp_path)
