"""What an owner may get wrong: refused as a whole, with every error named by line and field."""

from __future__ import annotations

from datetime import UTC, datetime

from tests.billing.test_closing import IN_NOVEMBER, IN_OCTOBER, TOML, october
from tests.support.office import open_office

BAD = """\
[agency]
name = "Northwind Studio"
currency = "USX"

[plans.low]
type = "cost_plus"
markup = "-5%"
[plans.high]
type = "cost_plus"
markup = "4000%"
[plans.starter]
type = "retainer"
fee = "500.00001"
included_tokens = "2m"
overage_per_million = "60"

[clients.one]
[[clients.one.contracts]]
plan = "low"
from = 2025-01-01
[[clients.one.contracts]]
plan = "high"
from = 2025-01-01
[clients.two]
name = "Two"
[clients.three]
plan = "lwo"

[[prices]]
model = "our-llama"
same_as = "gpt-4o"
[[prices]]
model = "our-other"
same_as = "openai/gpt-4ooo"
"""
NAMED = {
    3: "'USX' is no currency",
    7: "-5% is out of range",
    10: "4000% is out of range",
    13: "500.00001 has 5 decimals, USD has 2",
    14: "'2m' is no number of tokens; write \"2M\"",
    23: "two contracts begin on 2025-01-01",
    24: "has no plan",
    27: "there is no plan 'lwo'; did you mean 'low'?",
    31: "Several providers may have it; write provider/model",
    34: "openai/gpt-4ooo",
}


async def test_a_file_of_mistakes_is_refused_whole_with_all_of_them() -> None:
    """Also those that only the price book knows; what was in force stays."""
    async with open_office(TOML, IN_OCTOBER) as office:
        before = office.in_force.version

        applied = await office.apply(BAD)

        assert office.in_force.version == before
    assert not applied.is_applied
    found = {mistake.line: str(mistake) for mistake in applied.mistakes}
    assert found.keys() == NAMED.keys(), found
    for line, sentence in NAMED.items():
        assert sentence in found[line]


async def test_months_that_cant_be_closed_and_what_a_closed_one_refuses() -> None:
    """Not over, none, before another; closed twice it is the same; then nothing reaches it."""
    async with open_office(TOML, IN_OCTOBER) as office:
        not_over = await office.meterctl("close", "2025-10")
        await october(office)
        none = await office.meterctl("close", "2025-13")
        office.clock.step(IN_NOVEMBER)
        first = await office.meterctl("close", "2025-10", "--format", "json")
        twice = await office.meterctl("close", "2025-10", "--format", "json")
        before = await office.meterctl("invoice", "--all", "2025-10", "--format", "json")
        price = '[[prices]]\nmodel = "{}"\ninput = "1"\nfrom = 2025-10-15\n'
        refused = await office.apply(
            TOML.replace('plan = "managed"', 'plan = "starter"')
            + price.format("gpt-4o-mini")
            + price.format("never-priced")
        )
        office.clock.step(datetime(2025, 12, 4, tzinfo=UTC))
        after = await office.meterctl("invoice", "--all", "2025-10", "--format", "json")

    assert (not_over.code, none.code) == (1, 2)
    assert "ends on 2025-11-01" in not_over.err
    assert first.out == twice.out
    sentences = [str(mistake) for mistake in refused.mistakes]
    assert len([one for one in sentences if "in a period that is closed" in one]) == 2
    assert any("those periods are closed" in one for one in sentences)
    assert before.out == after.out
