"""What `meterctl apply` shows before it acts."""

from __future__ import annotations

from meterd.config import toml
from meterd.config.agency import Agency
from meterd.config.difference import Difference, differences

BEFORE = """\
[agency]
name = "Northwind"
[plans.starter]
type = "retainer"
fee = "500"
included_tokens = "2M"
overage_per_million = "60"
[plans.managed]
type = "cost_plus"
markup = "30%"
[clients.acme-corp]
plan = "starter"
from = 2026-01-01
"""


def agency(text: str) -> Agency:
    """The configuration that a text says."""
    return toml.read(text.encode()).agency


def test_the_same_file_changes_nothing() -> None:
    """Nor does one that says the same in other words."""
    again = BEFORE.replace('"2M"', "2_000_000").replace('fee = "500"', 'fee = "500.00"')

    assert differences(agency(BEFORE), agency(again)) == []


def test_a_changed_number_is_shown_as_people_write_it() -> None:
    """Tokens as 2M, percentages as 30%, amounts as they are."""
    after = agency(
        BEFORE.replace('"2M"', '"2.5M"').replace('"30%"', '"27.5%"').replace('"60"', '"55.50"')
    )

    assert differences(agency(BEFORE), after) == [
        Difference("plans.starter.included_tokens", "2M", "2500k"),
        Difference("plans.starter.overage_per_million", "60", "55.5"),
        Difference("plans.managed.markup", "30%", "27.5%"),
    ]


def test_a_new_contract_is_one_line_with_its_day() -> None:
    """The one in force before it has not changed."""
    after = agency(
        BEFORE.replace('plan = "starter"\nfrom = 2026-01-01\n', "")
        + '[[clients.acme-corp.contracts]]\nplan = "managed"\nfrom = 2026-11-01\nmarkup = "25%"\n'
        + '[[clients.acme-corp.contracts]]\nplan = "starter"\nfrom = 2026-01-01\n'
    )

    assert differences(agency(BEFORE), after) == [
        Difference("clients.acme-corp.contract", "", "managed (markup 25%)", "2026-11-01")
    ]


def test_what_is_taken_out_has_no_after() -> None:
    """An empty `after` is a removal."""
    after = agency(BEFORE.partition("[clients")[0])

    assert differences(agency(BEFORE), after) == [
        Difference("clients.acme-corp", "acme-corp", ""),
        Difference("clients.acme-corp.contract", "starter", "", "2026-01-01"),
    ]


def test_the_first_file_is_shown_against_nothing_at_all() -> None:
    """Defaults that nobody wrote are no change."""
    shown = [one.field for one in differences(Agency(), agency(BEFORE))]

    assert shown == [
        "agency.name",
        "plans.starter.type",
        "plans.starter.fee",
        "plans.starter.included_tokens",
        "plans.starter.overage_per_million",
        "plans.managed.type",
        "plans.managed.markup",
        "clients.acme-corp",
        "clients.acme-corp.contract",
    ]


def test_a_secret_changes_without_being_shown() -> None:
    """The difference is printed, and goes into shell histories and tickets."""
    hook = '[on_threshold]\nurl = "https://a.b/c"\nsecret = "{}"\n'
    before, after = agency(BEFORE + hook.format("hunter2")), agency(BEFORE + hook.format("hunter3"))

    (shown,) = differences(before, after)

    assert shown == Difference("on_threshold.secret", "(secret)", "(another secret)")


def test_quotas_prices_and_keys_are_told_apart_by_what_they_hold_for() -> None:
    """Not by their place: one put in front is one line."""
    more = """\
[[quotas]]
tokens = "100M"
[[quotas]]
model = "gpt-5*"
tokens = "1M"
limit = "hard"
[[prices]]
model = "m"
provider = "vllm"
input = "0.2"
output = "0.4"
[access_keys.web]
scope = "ship"
hash = "sha256:abcdef0100000000000000000000000000000000000000000000000000000000"
"""

    assert differences(agency(BEFORE), agency(BEFORE + more)) == [
        Difference("quotas[everything]", "", "100M soft"),
        Difference("quotas[model gpt-5*]", "", "1M hard"),
        Difference("prices[vllm/m]", "", "input 0.2, output 0.4"),
        Difference("access_keys.web", "", "ship, sha256:abcdef01…"),
    ]
