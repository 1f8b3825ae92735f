"""docs/schemas/invoice.json describes every sheet: draft, final, credit note, late, foreign."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it publishes no types

from tests.billing.test_closing import IN_DECEMBER, IN_NOVEMBER, IN_OCTOBER, TOML, october, use
from tests.support.office import open_office

if TYPE_CHECKING:
    from tests.support.office import Office

SCHEMA = Path("docs/schemas/invoice.json")
FULL = (
    TOML.replace("[agency]", '[agency]\ncurrency = "KWD"\naddress = "1 Main St"\nemail = "a@b.c"')
    + '[[exchange_rates]]\nrate = "0.3071"\nsource = "bank"\n'
    + '[[clients.acme-corp.credits]]\namount = "1.000"\n'
    + '[clients.acme-corp.tax]\nname = "VAT"\nrate = "19%"\n'
)


def validator() -> Any:
    schema = json.loads(SCHEMA.read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


async def documents(office: Office) -> list[dict[str, object]]:
    found = []
    for arguments in (
        ("acme-corp", "2025-11"),
        ("bigco-inc", "2025-11"),
        ("--number", "NW-000001"),
        ("--number", "NW-000002"),
        ("--number", "NW-CN-000001"),
        ("stranger-inc", "2025-11"),
    ):
        shown = await office.meterctl("invoice", *arguments, "--format", "json")
        found.append(json.loads(shown.out))
        target = office.directory / "x.json"
        await office.meterctl("invoice", *arguments, "--output", str(target))
        found.append(json.loads(target.read_text()))
    return found


async def test_every_sheet_is_as_the_schema_says() -> None:
    """Whoever reads invoices by program reads the schema."""
    async with open_office(FULL, IN_OCTOBER) as office:
        await october(office)
        await office.meterctl("close", "2025-10")
        await office.meterctl("credit", "NW-000001", "--amount", "0.500", "--why", "x")
        await use(office, "acme-corp", 1_000_000, IN_OCTOBER)
        await use(office, "stranger-inc", 1_000_000, IN_NOVEMBER)
        office.clock.step(IN_DECEMBER)
        found = await documents(office)

    checker = validator()
    assert len(found) == 12
    for document in found:
        assert [error.message for error in checker.iter_errors(document)] == []


def test_the_schema_refuses_what_it_should() -> None:
    """A number for an amount, a line that is none of ours."""
    checker = validator()

    assert list(checker.iter_errors({"schema": "meterd.invoice/1", "total": 12.5}))
