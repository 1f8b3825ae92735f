"""Which terms hold when: contracts by their day, and what a period that is closed forbids."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from meterd.billing.contract import (
    contract_at,
    period_for,
    period_for_month,
    quota_terms_at,
    terms_at,
)
from meterd.billing.frozen import forbidden_changes, open_from
from meterd.billing.period import index_of
from meterd.config import toml
from meterd.config.agency import Agency, LimitMode, OnUnreachable, QuotaRule, ReserveMode

FILE = """\
[agency]
timezone = "America/New_York"
unknown_clients = "{unknown}"
[plans.starter]
type = "retainer"
fee = "500"
included_tokens = "2M"
overage_per_million = "60"
[[plans.starter.quotas]]
model = "gpt-5-pro*"
tokens = "200k"
limit = "hard"
[plans.growth]
type = "retainer"
fee = "1200"
included_tokens = "5M"
limit = "hard"
reserve = "ceiling"
on_unreachable = "reject"
thresholds = ["50%"]
[plans.managed]
type = "cost_plus"
markup = "30%"
[plans.capped]
type = "cost_plus"
markup = "30%"
cap = "3M"
[[quotas]]
tokens = "100M"
[clients.acme-corp]
anchor = 15
[[clients.acme-corp.quotas]]
project = "support-chatbot"
tokens = "1M"
{contracts}
"""


def agency(*contracts: tuple[str, str], unknown: str = "meter", more: str = "") -> Agency:
    """An agency whose one client has these (plan, from)."""
    written = "".join(
        f'[[clients.acme-corp.contracts]]\nplan = "{plan}"\nfrom = {day}\n'
        for plan, day in contracts
    )
    return toml.read((FILE.format(contracts=written, unknown=unknown) + more).encode()).agency


def at(text: str) -> datetime:
    """A moment in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


CHANGING = agency(("starter", "2026-01-01"), ("growth", "2026-11-01"))


@pytest.mark.parametrize(
    ("moment", "plan"),
    [
        ("2025-12-31T12:00", ""),
        ("2026-01-01T04:59", ""),
        ("2026-01-01T05:00", "starter"),
        ("2026-11-01T03:59", "starter"),
        ("2026-11-01T04:00", "growth"),
        ("2030-01-01T00:00", "growth"),
    ],
)
def test_a_contract_holds_from_its_local_midnight_until_the_next(moment: str, plan: str) -> None:
    """New York's midnight, not UTC's."""
    assert terms_at(CHANGING, "acme-corp", at(moment)).plan_name == plan


def test_a_contracts_own_numbers_are_in_place_of_the_plans() -> None:
    """Everything else is the plan's."""
    own = agency(("managed", '2026-01-01\nmarkup = "25%"'))

    plan = terms_at(own, "acme-corp", at("2026-06-01T00:00")).plan

    assert plan is not None
    assert (plan.name, plan.markup) == ("managed", Decimal("0.25"))


def test_the_terms_say_how_calls_are_decided() -> None:
    """Reserve, unreachable and thresholds are the plan's; else the agency's."""
    growth = terms_at(CHANGING, "acme-corp", at("2026-12-01T00:00"))
    starter = terms_at(CHANGING, "acme-corp", at("2026-06-01T00:00"))

    assert (growth.reserve, growth.on_unreachable) == (ReserveMode.CEILING, OnUnreachable.REJECT)
    assert growth.thresholds == (Decimal("0.5"),)
    assert (starter.reserve, starter.on_unreachable) == (ReserveMode.USUAL, OnUnreachable.ALLOW)
    assert starter.thresholds == (Decimal("0.8"), Decimal(1))


def test_every_quota_that_a_call_may_meet_is_in_one_list() -> None:
    """The client's own first, then its plan's, its projects', the agency's."""
    terms = terms_at(CHANGING, "acme-corp", at("2026-06-01T00:00"))

    assert terms.rules == (
        QuotaRule(2_000_000, LimitMode.SOFT, client="acme-corp"),
        QuotaRule(200_000, LimitMode.HARD, client="acme-corp", model="gpt-5-pro*"),
        QuotaRule(1_000_000, LimitMode.SOFT, client="acme-corp", project="support-chatbot"),
        QuotaRule(100_000_000),
    )
    assert terms.own_rule == terms.rules[0]
    assert [rule.scope for rule in terms.rules] == ["client", "model", "project", "agency"]
    assert terms.rules[1].matches("acme-corp", "any", "gpt-5-pro-2026")
    assert not terms.rules[1].matches("acme-corp", "any", "gpt-5")
    assert not terms.rules[2].matches("acme-corp", "", "gpt-5")


def test_what_includes_nothing_is_limited_by_its_cap_alone() -> None:
    """Cost-plus: no quota, or a hard one where somebody set a cap."""
    free = terms_at(agency(("managed", "2026-01-01")), "acme-corp", at("2026-06-01T00:00"))
    capped = terms_at(agency(("capped", "2026-01-01")), "acme-corp", at("2026-06-01T00:00"))

    assert free.own_rule is None
    assert free.mode is LimitMode.NONE
    assert capped.own_rule == QuotaRule(3_000_000, LimitMode.HARD, client="acme-corp")


def test_a_stranger_is_metered_or_may_use_nothing() -> None:
    """`unknown_clients` decides; the listed aren't touched by it."""
    moment = at("2026-06-01T00:00")
    rejecting = agency(("starter", "2026-01-01"), unknown="reject")

    assert terms_at(CHANGING, "stranger", moment).own_rule is None
    refused = terms_at(rejecting, "stranger", moment).own_rule
    assert refused is not None
    assert (refused.tokens, refused.mode) == (0, LimitMode.HARD)
    assert terms_at(rejecting, "acme-corp", moment).own_rule is not None


def test_a_larger_contract_acts_from_its_day_a_smaller_waits_for_the_period() -> None:
    """Periods begin on the 15th here; the contracts change on the 1st."""
    up = agency(("starter", "2026-01-01"), ("growth", "2026-11-01"))
    # Hard at 5M is less room than soft without a cap: what counts is where calls are refused.
    down = agency(("growth", "2026-01-01"), ("capped", "2026-11-01"))

    assert quota_terms_at(down, "acme-corp", at("2026-10-20T12:00")).plan_name == "growth"
    assert quota_terms_at(down, "acme-corp", at("2026-11-05T12:00")).plan_name == "growth"
    assert terms_at(down, "acme-corp", at("2026-11-05T12:00")).plan_name == "capped"
    assert quota_terms_at(down, "acme-corp", at("2026-11-15T05:00")).plan_name == "capped"
    assert quota_terms_at(up, "acme-corp", at("2026-11-20T12:00")).plan_name == "growth"
    raised = agency(("growth", "2026-01-01"), ("growth", '2026-11-01\nincluded_tokens = "9M"'))
    assert quota_terms_at(raised, "acme-corp", at("2026-11-02T00:00")).included_tokens == 9_000_000


def test_a_clients_periods_follow_its_anchor_others_the_agencys() -> None:
    """acme's run from the 15th."""
    assert period_for(CHANGING, "acme-corp", at("2026-11-03T12:00")).name == "2026-10"
    assert period_for(CHANGING, "stranger", at("2026-11-03T12:00")).name == "2026-11"
    named = period_for_month(CHANGING, "acme-corp", "2026-11")
    assert named.start == at("2026-11-15T05:00")


def test_nobody_has_a_contract_before_the_first() -> None:
    """Nor does who isn't listed."""
    assert contract_at(CHANGING, "acme-corp", date(2025, 12, 31)) is None
    assert contract_at(CHANGING, "stranger", date(2026, 12, 31)) is None


class TestClosed:
    """October of acme, which runs from 15 October to 14 November, is closed."""

    OPENED = open_from(CHANGING, [("acme-corp", index_of("2026-09")), ("acme-corp", 24_321)])

    def changes(self, after: Agency) -> list[str]:
        """What is forbidden, by where it stands."""
        found = forbidden_changes(CHANGING, after, self.OPENED)
        return [".".join(map(str, path)) for path, _ in found]

    def test_what_is_still_open_begins_where_the_newest_closed_period_ends(self) -> None:
        """Whatever order they come in."""
        assert index_of("2026-10") == 24_321
        assert {"acme-corp": date(2026, 11, 15)} == self.OPENED

    def test_a_new_contract_in_an_open_period_is_free(self) -> None:
        """From the 15th on."""
        after = agency(
            ("starter", "2026-01-01"), ("growth", "2026-11-01"), ("managed", "2026-11-15")
        )

        assert self.changes(after) == []

    @pytest.mark.parametrize(
        "contracts",
        [
            (("starter", "2026-01-01"),),
            (("starter", "2026-01-01"), ("growth", "2026-11-02")),
            (("starter", "2026-01-01"), ("growth", "2026-11-01"), ("managed", "2026-11-14")),
            (("starter", "2026-01-01"), ("growth", '2026-11-01\nfee = "1"')),
        ],
    )
    def test_a_contract_that_a_closed_invoice_rests_on_stays(
        self, contracts: tuple[tuple[str, str], ...]
    ) -> None:
        """Neither taken out, moved, added nor given other numbers."""
        assert self.changes(agency(*contracts)) == ["clients.acme-corp.contracts"]

    def test_a_price_may_not_begin_in_a_closed_period(self) -> None:
        """A price override in the past of a closed period would change an invoice."""
        contracts = (("starter", "2026-01-01"), ("growth", "2026-11-01"))
        price = '[[prices]]\nmodel = "m"\ninput = "1"\nfrom = {}\n'

        before = agency(*contracts, more=price.format("2026-11-14"))
        after = agency(*contracts, more=price.format("2026-11-15"))

        assert self.changes(before) == ["prices.0"]
        assert self.changes(after) == []

    def test_time_zone_currency_and_anchor_stay(self) -> None:
        """The bounds of closed periods rest on them."""
        text = FILE.format(unknown="meter", contracts="").replace("anchor = 15", "anchor = 16")
        other = text.replace("America/New_York", "Europe/Berlin").replace(
            "[agency]", '[agency]\ncurrency = "EUR"'
        )
        contracts = (
            '[[clients.acme-corp.contracts]]\nplan = "starter"\nfrom = 2026-01-01\n'
            '[[clients.acme-corp.contracts]]\nplan = "growth"\nfrom = 2026-11-01\n'
        )

        assert self.changes(toml.read((other + contracts).encode()).agency) == [
            "agency.timezone",
            "agency.currency",
            "clients.acme-corp.anchor",
        ]

    def test_while_nothing_is_closed_everything_is_free(self) -> None:
        """The first month of an agency."""
        assert list(forbidden_changes(CHANGING, Agency(currency="EUR"), {})) == []
