"""A `meterd.toml` with mistakes: every one at once, with its line and field, one clear clause."""

from __future__ import annotations

import pytest

from meterd.config import toml
from meterd.errors import ConfigurationRefused, Mistake

PLANS = """\
[plans.starter]
type = "retainer"
fee = "500"
included_tokens = "2M"
overage_per_million = "60"
[plans.managed]
type = "cost_plus"
markup = "30%"
"""


def mistakes(text: str) -> tuple[Mistake, ...]:
    """What is wrong with a file; none if it is accepted."""
    try:
        toml.read(text.encode())
    except ConfigurationRefused as refused:
        return refused.mistakes
    return ()


def only(text: str) -> str:
    """The one mistake of a file, as people read it."""
    found = mistakes(text)
    assert len(found) == 1, [str(one) for one in found]
    return str(found[0])


def test_every_mistake_is_named_at_once_with_line_and_field() -> None:
    """One at a time would cost the agency an evening."""
    found = mistakes(
        """\
# ours
[agency]
currency = "usd"
timezone = "America/New_Yrk"
unknown_client = "meter"

[plans.starter]
type = "retainer"
fee = "500.12345"
included_tokens = "2m"
overage_per_million = 60.5

[plans.managed]
type = "cost_plus"
markup = "-5%"

[clients.acme-corp]
name = '''Acme
Corp'''
[[clients.acme-corp.contracts]]
plan = "starter"
from = 2026-01-01
[[clients.acme-corp.contracts]]
plan = "mangaed"
from = 2026-01-01
"""
    )

    assert [str(one) for one in found] == [
        "line 3: agency.currency: 'usd' is no currency of ISO 4217; write USD",
        "line 4: agency.timezone: 'America/New_Yrk' is no time zone, as \"America/New_York\"; "
        "did you mean 'America/New_York'?",
        "line 5: agency.unknown_client: there is no such setting; did you mean 'unknown_clients'?",
        "line 9: plans.starter.fee: 500.12345 has 5 decimals, USD has 2",
        "line 10: plans.starter.included_tokens: '2m' is no number of tokens; write \"2M\" for "
        'two million, "500k" for half a million',
        "line 11: plans.starter.overage_per_million: 60.5 is no amount; write it in quotes, as "
        '"500" or "499.50"',
        "line 15: plans.managed.markup: -5% is out of range; it lies between 0% and 500%",
        "line 24: clients.acme-corp.contracts[2].plan: there is no plan 'mangaed'; did you mean "
        "'managed'?",
        "line 25: clients.acme-corp.contracts[2].from: two contracts begin on 2026-01-01: "
        "'starter' and 'mangaed'; give each a day of its own",
    ]


@pytest.mark.parametrize(
    ("field", "clause"),
    [
        ('currency = "XXX"', "no currency of ISO 4217"),
        ("currency = 5", "is no text; write it in quotes"),
        ('timezone = ""', "is no time zone"),
        ('timezone = "../../etc/passwd"', "is no time zone"),
        ('timezone = "localtime"', "is no time zone"),
        ('timezone = "america/new_york"', "did you mean 'America/New_York'?"),
        ('unknown_clients = "refuse"', 'none of "meter", "reject"'),
        ("unlisted_ids_max = 0", "0 is out of range; it lies between 1 and 1000000"),
        ("unlisted_ids_max = true", "is no whole number"),
        ("anchor = 32", "32 is out of range; it lies between 1 and 31"),
        ('thresholds = ["0%"]', "0% is out of range"),
        ('thresholds = "80%"', 'is no list of strings; write it as ["one", "two"]'),
        ('thresholds = ["80"]', "'80' is no percentage; write it as \"30%\""),
        ('name = "a\\u0000b"', "has control characters"),
        ('name = "abc\\u202Egro.live"', "has control characters"),
        ('rounding = "up"', 'none of "half_up", "half_even"'),
        ('tax = { rate = "19%" }', "needs a name and a rate"),
        ('tax = "19%"', "is no table; write it as [agency.tax]"),
    ],
)
def test_a_wrong_value_of_the_agency_gets_one_clause(field: str, clause: str) -> None:
    """Each on line 2, where it stands."""
    said = only(f"[agency]\n{field}\n")

    assert clause in said
    assert said.startswith("line 2: agency.")


@pytest.mark.parametrize(
    ("fields", "clause"),
    [
        ('type = "retained"', 'none of "retainer", "cost_plus", "free", "internal"'),
        ('fee = "1"', "has no type"),
        ('type = "retainer"\nincluded_tokens = "2M"\nlimit = "hard"', "a retainer needs fee"),
        ('type = "retainer"\nfee = "1"\noverage = "none"', "a retainer needs included_tokens"),
        ('type = "retainer"\nfee = "1"\nincluded_tokens = "2M"', "needs overage_per_million"),
        ('type = "cost_plus"', "needs markup"),
        ('type = "cost_plus"\nmarkup = "4000%"', "4000% is out of range"),
        ('type = "cost_plus"\nmarkup = "30"', "is no percentage"),
        ('type = "cost_plus"\nmarkup = 0.3', "0.3 is no percentage"),
        ('type = "cost_plus"\nmarkup = "30%"\noverage_per_million = "60"', "there is no overage"),
        ('type = "cost_plus"\nmarkup = "30%"\nlimit = "hard"', "where does it end?"),
        ('type = "free"\nfee = "10"', "a plan of type free bills nothing"),
        ('type = "internal"\nservice_level = "basic"', "a plan of type internal bills nothing"),
        ('type = "free"\nfrom = 2026-01-01', "the contract that names it has one"),
        ('type = "free"\nincluded_tokens = -5', "-5 tokens are less than none"),
        ('type = "free"\nincluded_tokens = 0', "0 tokens would let nobody make a call"),
        ('type = "free"\nincluded_tokens = "9999999B"', "more than 1000000000000000"),
        ('type = "free"\nincluded_tokens = "1.5"', "no whole number of tokens"),
        ('type = "free"\nincluded_tokens = 1.5', "is no number of tokens"),
        ('type = "free"\nincluded_tokens = "2M"\ncap = "1M"', "lies below included_tokens"),
        ('type = "free"\nincluded_tokens = "2M"\nlimit = "hard"\ncap = "3M"', "a cap goes with"),
        ('type = "free"\nlimit = "none"\ncap = "3M"', "a cap does nothing"),
        ('type = "free"\nminimun = "3"', "did you mean 'minimum'?"),
        ('type = "cost_plus"\nmarkup = "30%"\ndiscount = "101%"', "101% is out of range"),
        ('type = "cost_plus"\nmarkup = "30%"\nminimum = "-1"', "-1 is less than nothing"),
        ('type = "cost_plus"\nmarkup = "30%"\nminimum = "1,200"', "is no amount"),
        ('type = "cost_plus"\nmarkup = "30%"\nminimum = true', "is no amount"),
        ('type = "cost_plus"\nmarkup = "30%"\nminimum = "1e3"', "is no amount"),
    ],
)
def test_a_plan_that_makes_no_sense_gets_one_clause(fields: str, clause: str) -> None:
    """One mistake, not one and what follows from it."""
    assert clause in only(f"[plans.p]\n{fields}\n")


@pytest.mark.parametrize(
    ("client", "clause"),
    [
        ('[clients.a]\nname = "A"', "has no plan"),
        ('[clients.a]\nfrom = 2026-01-01\nname = "A"', "has no plan"),
        ('[clients.a]\nplan = "startr"', "did you mean 'starter'?"),
        ('[clients.a]\nplan = "starter"\nfrom = "next month"', "is no day"),
        ('[clients.a]\nplan = "starter"\nfrom = 2026-01-01T00:00:00Z', "without a time"),
        ('[clients.a]\nplan = "starter"\nfrom = 1026-01-01', "lies outside of 2000 to 2199"),
        ('[clients.a]\nplan = "starter"\nuntil = 2026-01-01', "on the day the next one begins"),
        ('[clients.a]\nplan = "starter"\nmarkup = "25%"', 'only with overage = "cost_plus"'),
        ('[clients.a]\nplan = "starter"\ncap = "1M"', "lies below included_tokens of 2000000"),
        ('[clients.a]\nplan = "starter"\ntype = "free"', "the plan says it"),
        ('[clients.a]\nplan = "starter"\nfee = "1.001"', "has 3 decimals, USD has 2"),
        ('[clients."Ünal"]\nplan = "starter"', "characters other than printable ASCII"),
        ('[clients." a"]\nplan = "starter"', "begins or ends with a blank"),
        ('[clients.""]\nplan = "starter"', "is empty"),
        ('[clients."(other)"]\nplan = "starter"', "is reserved"),
        (f'[clients.{"a" * 129}]\nplan = "starter"', "has 129 characters, at most 128"),
        ('[clients.a]\nplan = "starter"\nprojects = ["\\u00fc"]', "the id 'ü' of a project"),
        ('[clients.a]\nplan = "starter"\nservice_cost = { hours = "3" }', "go together"),
        ('[clients.a]\nplan = "starter"\n[[clients.a.quotas]]\nmodel = "o"', "says no tokens"),
        ('[clients.a]\nplan = "starter"\n[[clients.a.credits]]', "a credit needs an amount"),
        ('[clients.a]\nplan = "starter"\ntax = { name = "VAT", rate = "-1%" }', "out of range"),
        ("[clients]\na = 5", "is no table; write it as [clients.a]"),
    ],
)
def test_a_client_that_makes_no_sense_gets_one_clause(client: str, clause: str) -> None:
    """Ids are as HTTP headers can carry them; contracts as the calendar has days."""
    first, *more = (str(one) for one in mistakes(PLANS + client))

    assert clause in first
    assert not more or "has no plan" in clause


def test_a_plan_beside_contracts_is_a_mistake() -> None:
    """The short form and the long one of the same thing."""
    text = PLANS + '[clients.a]\nplan = "starter"\n[[clients.a.contracts]]\nplan = "managed"\n'

    assert "stands beside contracts" in str(mistakes(text)[0])


def test_a_spoilt_plan_does_not_make_each_of_its_clients_a_mistake() -> None:
    """A hundred clients on one plan with one mistake: one line."""
    clients = "".join(f'[clients.c{number}]\nplan = "p"\n' for number in range(100))

    assert "needs overage_per_million" in only(
        f'[plans.p]\ntype = "retainer"\nfee = "1"\nincluded_tokens = "1M"\n{clients}'
    )


@pytest.mark.parametrize(
    ("price", "clause"),
    [
        ('input = "1"', "names no model"),
        ('model = "m"', "says no price"),
        ('model = "m"\ncache_read = "1"', "needs input or output"),
        ('model = "m"\ninput = "1"\nmultiplier = "2"', "not used where rates are given"),
        ('model = "m"\nmultiplier = "1000"', "1000 is more than 100"),
        ('model = "m"\nsame_as = "gpt-4o"', "whose 'gpt-4o'?"),
        ('model = "m"\ninput = "1"\nto = 2026-01-01', "the next one of its model begins"),
        ('model = "m"\ninput = "1"\nclient = "acne"', "there is no client 'acne'"),
        ('model = "m"\ninput = "1"\n[[prices]]\nmodel = "m"\noutput = "1"', "is the second price"),
    ],
)
def test_a_price_that_makes_no_sense_gets_one_clause(price: str, clause: str) -> None:
    """An own price decides money: nothing about it is guessed."""
    assert clause in only(f"[[prices]]\n{price}\n")


@pytest.mark.parametrize(
    ("text", "clause"),
    [
        ("[on_threshold]", "needs either a command or a url"),
        ('[on_threshold]\ncommand = ["a"]\nurl = "https://a.b"', "needs either"),
        ("[on_threshold]\ncommand = []", "names no program"),
        ('[on_threshold]\nurl = "a.b"\nsecret = "x"', "is no web address"),
        ('[on_threshold]\nurl = "https://a.b"', "needs a secret"),
        ('[access_keys.web]\nscope = "ship"', "has no hash"),
        ('[access_keys.web]\nscope = "ship"\nhash = "meterd_secret"', "is no hash"),
        ('[[quotas]]\ntokens = "1M"\nproject = "p"', "stands in [[clients.CLIENT.quotas]]"),
        ('quotas = "1M"', "begin each with [[quotas]]"),
        ('[[exchange_rates]]\nrate = "1.1"', "nothing is converted"),
        ("[plan.starter]", "did you mean 'plans'?"),
    ],
)
def test_the_rest_of_the_file_is_checked_as_well(text: str, clause: str) -> None:
    """Nothing in it is silently ignored."""
    assert clause in only(text)


def test_a_key_pasted_for_its_hash_is_not_shown() -> None:
    """A mistake is logged and stored in places that a key must not reach."""
    said = only('[access_keys.web]\nscope = "ship"\nhash = "meterd_verysecret"')

    assert "verysecret" not in said


@pytest.mark.parametrize(
    ("raw", "line", "clause"),
    [
        (b"[agency\n", 1, "is no TOML"),
        (b'[agency]\nname = "a"\nname = "b"\n', 3, "is no TOML"),
        (b"[agency]\nname = '", 2, "is no TOML"),
        (b'[agency]\nname = "\xff"\n', 2, "is not UTF-8"),
        (b"a = " + b"[" * 100_000, 0, "nested too deeply"),
    ],
)
def test_a_file_that_cannot_be_read_says_where(raw: bytes, line: int, clause: str) -> None:
    """A syntax error is the one mistake that hides the others."""
    with pytest.raises(ConfigurationRefused) as refused:
        toml.read(raw)

    (mistake,) = refused.value.mistakes
    assert clause in mistake.message
    assert mistake.line == line


def test_a_markup_outside_its_band_is_applied_and_warned_of() -> None:
    """The agency may; a slip of the finger should be seen."""
    found = toml.read(b'[plans.p]\ntype = "cost_plus"\nservice_level = "basic"\nmarkup = "60%"\n')

    assert [str(one) for one in found.warnings] == [
        "line 4: plans.p.markup: 60% lies outside of basic, 30% to 35%"
    ]
