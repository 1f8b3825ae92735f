"""A `meterd.toml` as DESIGN.md writes it, and what its words come to."""

from __future__ import annotations

import tomllib
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterd.config import toml
from meterd.config.agency import (
    Agency,
    Contract,
    Credit,
    LimitMode,
    Overage,
    Plan,
    PlanType,
    QuotaRule,
    ServiceCost,
    ServiceLevel,
    Tax,
    UnknownClients,
)
from meterd.config.lines import lines_of

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "meterd.toml"

FULL = b"""\
[agency]
name = "Northwind Studio"
currency = "USD"
timezone = "America/New_York"
unknown_clients = "reject"
thresholds = ["100%", "80%", "50%"]
tax = { name = "VAT", rate = "19%" }

[plans.starter]
type = "retainer"
fee = "500"
included_tokens = "2M"
overage_per_million = "60"
overage_rounding = "exact"  # or "started"; overage = "none" writes it off
limit = "soft"              # or "hard"; cap = "3M"
cap = 3_000_000

[[plans.starter.quotas]]
model = "gpt-5-pro*"
tokens = "200k"
limit = "hard"

[plans.managed]
type = "cost_plus"
markup = "30%"
markup_label = "AI Infrastructure Management Fee"

[plans.full]
type = "cost_plus"
service_level = "full"

[plans.ours]
type = "internal"

[clients.acme-corp]
name = "Acme Corporation"
service_cost = "200"
anchor = 15
projects = ["support-chatbot", "content-generator"]

[[clients.acme-corp.contracts]]
plan = "managed"
from = 2026-11-01
markup = "25%"

[[clients.acme-corp.contracts]]
plan = "starter"
from = 2026-01-01

[[clients.acme-corp.quotas]]
project = "support-chatbot"
tokens = "1M"

[[clients.acme-corp.credits]]
amount = "50"
from = 2026-11-01
description = "Launch week"

[clients."big co"]
plan = "ours"
service_cost = { fixed = "10", hours = "2.5", hourly = "60", revenue_share = "3%" }
projects = { site = "Web site" }

[clients.unattributed]

[[quotas]]
tokens = "100M"

[[prices]]
model = "my-tuned-*"
same_as = "openai/gpt-4o"
multiplier = "1.5"

[[prices]]
model = "llama-3.3-70b"
provider = "vllm"
from = 2026-02-01
input = "0.20"
output = 0
tools = { web_search = "10" }

[on_threshold]
command = ["/usr/local/bin/tell", "owner"]

[access_keys.web-1]
scope = "ship"
hash = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
"""


def test_the_file_of_the_examples_is_accepted() -> None:
    """What the README tells everybody to copy."""
    assert not toml.read(EXAMPLE.read_bytes()).warnings


def test_an_empty_file_is_a_daemon_that_limits_nobody() -> None:
    """`meterd` runs with no configuration at all; an empty one is the same."""
    assert toml.read(b"").agency == Agency()


def test_every_setting_becomes_a_value() -> None:
    """Percentages as fractions, tokens as numbers, contracts in order of their days."""
    agency = toml.read(FULL).agency
    acme = agency.clients["acme-corp"]

    assert agency.unknown_clients is UnknownClients.REJECT
    assert agency.thresholds == (Decimal("0.5"), Decimal("0.8"), Decimal(1))
    assert agency.tax == Tax("VAT", Decimal("0.19"))
    assert agency.plans["starter"] == Plan(
        name="starter",
        type=PlanType.RETAINER,
        fee=Decimal(500),
        included_tokens=2_000_000,
        overage=Overage.BILL,
        overage_per_million=Decimal(60),
        limit=LimitMode.SOFT,
        cap=3_000_000,
        quotas=(QuotaRule(200_000, LimitMode.HARD, model="gpt-5-pro*"),),
    )
    assert acme.contracts == (
        Contract("starter", date(2026, 1, 1)),
        Contract("managed", date(2026, 11, 1), {"markup": Decimal("0.25")}),
    )
    assert acme.anchor == 15
    assert list(acme.projects) == ["support-chatbot", "content-generator"]
    assert acme.quotas == (
        QuotaRule(1_000_000, LimitMode.SOFT, client="acme-corp", project="support-chatbot"),
    )
    assert acme.credits == (Credit(Decimal(50), date(2026, 11, 1), "Launch week"),)
    assert acme.service_cost == ServiceCost(fixed=Decimal(200))
    assert agency.clients["big co"].service_cost == ServiceCost(
        Decimal(10), Decimal("2.5"), Decimal(60), Decimal("0.03")
    )
    assert agency.clients["big co"].projects == {"site": "Web site"}
    assert agency.clients["unattributed"].contracts == ()
    assert agency.quotas == (QuotaRule(100_000_000),)
    assert agency.prices[1].rates == {"input": Decimal("0.20"), "output": Decimal(0)}
    assert agency.prices[1].tool_rates == {"web_search": Decimal(10)}
    assert agency.on_threshold is not None
    assert agency.on_threshold.command == ("/usr/local/bin/tell", "owner")
    assert agency.access_keys[0].scope == "ship"


@pytest.mark.parametrize(
    "name", ["شرکت می\u200cخواهم", "क्\u200dष", "Family 👩\u200d👧", "א\u200f (IL)"]
)
def test_names_keep_the_invisible_letters_that_they_are_spelt_with(name: str) -> None:
    document = f'[plans.p]\ntype = "free"\n[clients.acme]\nname = "{name}"\nplan = "p"\n'

    assert toml.read(document.encode()).agency.clients["acme"].name == name


def test_a_service_level_alone_is_the_lower_bound_of_its_band() -> None:
    """Basic is the 30 % of the user's own examples."""
    plan = toml.read(FULL).agency.plans["full"]

    assert (plan.service_level, plan.markup) == (ServiceLevel.FULL, Decimal("0.40"))


def test_limit_is_soft_where_nobody_said_so() -> None:
    """Nobody is cut off by omission."""
    plan = toml.read(
        b'[plans.p]\ntype = "retainer"\nfee = "1"\nincluded_tokens = "1M"\noverage = "none"'
    ).agency.plans["p"]

    assert plan.limit is LimitMode.SOFT


def test_amounts_have_the_decimals_of_their_currency() -> None:
    """Yen have none, dinars three."""
    yen = toml.read(b'[agency]\ncurrency = "JPY"\n[plans.p]\ntype = "cost_plus"\nmarkup = "1%"\n'
                    b'minimum = "50000"')  # fmt: skip
    dinar = toml.read(b'[agency]\ncurrency = "KWD"\n[plans.p]\ntype = "cost_plus"\nmarkup = "1%"\n'
                      b'minimum = "0.125"')  # fmt: skip

    assert yen.agency.plans["p"].minimum == 50_000
    assert dinar.agency.plans["p"].minimum == Decimal("0.125")


def test_a_secret_is_not_in_what_a_log_would_show() -> None:
    """A repr ends up in places that nobody thought of."""
    agency = toml.read(b'[on_threshold]\nurl = "https://a.b/c"\nsecret = "hunter2"').agency

    assert "hunter2" not in repr(agency)


def test_lines_are_found_whatever_stands_between() -> None:
    """Strings over lines, brackets and hashes in strings, arrays, inline tables, CRLF."""
    text = (
        'a = """\n[no.table]\n\\""" # no comment\n"""\r\n'
        "b = ['#', '''\n]''', # a comment ]\n  \"x\",\n]\n"
        '[c."d.e"]  # [x]\r\n'
        'f.g = { h = "}", "i j" = [1, 2] }\n'
        "[[k]]\n[[k.l]]\nm = 1\n[[k]]\n[k.n]\no = 2026-01-01 # date\n"
    )
    tomllib.loads(text)

    lines = lines_of(text)

    assert lines["a",] == 1
    assert lines["b",] == 5
    assert lines["b", 1] == 5
    assert lines["b", 2] == 7
    assert lines["c", "d.e"] == 9
    assert lines["c", "d.e", "f", "g", "h"] == 10
    assert lines["c", "d.e", "f", "g", "i j", 1] == 10
    assert lines["k", 0] == 11
    assert lines["k", 0, "l", 0, "m"] == 13
    assert lines["k", 1, "n", "o"] == 16


a_word = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=8
)


@given(
    st.lists(
        st.tuples(
            a_word,
            st.sampled_from(["1", '"#"', "'''\n\n'''", "[1,\n 2]", "{ a = 1 }", '"""\\\n  x"""']),
        ),
        unique_by=lambda pair: pair[0],
        max_size=8,
    )
)
def test_each_key_is_found_on_the_line_it_was_written_on(pairs: list[tuple[str, str]]) -> None:
    """Any name, in quotes, before any kind of value, over however many lines."""
    text, expected = "", {}
    for name, value in pairs:
        quoted = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
        expected[name] = text.count("\n") + 1
        text += f"{quoted} = {value}\n"
    tomllib.loads(text)

    lines = lines_of(text)

    assert {name: lines[name,] for name in expected} == expected
