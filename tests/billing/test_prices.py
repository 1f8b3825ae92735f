"""Prices that change: the book in force, repricing, adjustments of closed months."""

from __future__ import annotations

import json
import zlib
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from meterd.pricing.book import PriceBook, installed_version
from meterd.pricing.edition import Edition, packed, unpacked
from meterd.pricing.rate_card import FOREVER_MS
from tests.billing.test_closing import IN_DECEMBER, IN_NOVEMBER, IN_OCTOBER, differences
from tests.billing.test_month_end import MANAGED, clients
from tests.support.builders import usage
from tests.support.office import open_office

if TYPE_CHECKING:
    from meterd_proto.v1.usage_pb2 import UsageRecord
    from tests.support.office import Office

TOML = '[agency]\nname = "N"\n' + MANAGED + clients("managed", "acme-corp")
NOVEMBER_MS = int(datetime(2025, 11, 1, tzinfo=UTC).timestamp()) * 1_000


def a_book_without(model: str, *, and_prices: Decimal | None = None) -> bytes:
    """The installed book before it learned of a model, or with another price for it."""
    raw = json.loads(zlib.decompress(PriceBook().installed().data))
    for provider in raw:
        if provider["id"] != "openai":
            continue
        if and_prices is None:
            provider["models"] = [one for one in provider["models"] if one["id"] != model]
        for one in provider["models"]:
            if one["id"] == model:
                one["prices"] = {"input_mtok": str(and_prices), "output_mtok": str(and_prices)}
    return zlib.compress(json.dumps(raw).encode())


async def use_book(office: Office, data: bytes) -> None:
    """As if the ledger had been begun with an older genai-prices."""
    with office.store._writer._engine.connection as connection:  # type: ignore[union-attr]  # it is open
        connection.execute("DELETE FROM price_books")
        connection.execute(
            "INSERT INTO price_books (version, from_ms, data) VALUES ('genai-prices 0.0.1', ?, ?)",
            (-FOREVER_MS, data),
        )
    await office.restart()


def an_october_call(model: str = "gpt-4o-mini") -> UsageRecord:
    at_ms = int(IN_OCTOBER.timestamp()) * 1_000 - 1_000
    return usage("acme-corp", model=model, input_tokens=10_000_000, output_tokens=0,
                 occurred_at_ms=at_ms)  # fmt: skip


def test_a_packed_book_is_the_book() -> None:
    """To every model, date and bracket; and packed again it is the same bytes."""
    from genai_prices.data import providers

    again = unpacked(packed(providers))

    assert packed(again) == packed(providers)
    assert [model.prices for one in again for model in one.models] == [
        model.prices for one in providers for model in one.models
    ]


def test_each_edition_holds_from_its_moment() -> None:
    """A record takes the price in force at its time, whenever it arrives."""
    older = Edition("genai-prices 0.0.1", -FOREVER_MS, a_book_without("gpt-4o-mini"))
    dearer = a_book_without("gpt-4o-mini", and_prices=Decimal(7))
    newer = Edition("genai-prices 0.0.2", NOVEMBER_MS, dearer)
    book = PriceBook([older, newer])

    before = book.segment("openai", "gpt-4o-mini", "", {}, NOVEMBER_MS - 1)
    after = book.segment("openai", "gpt-4o-mini", "", {}, NOVEMBER_MS)

    assert before.rates == (None,)
    assert (before.to_ms, after.from_ms) == (NOVEMBER_MS, NOVEMBER_MS)
    (rate,) = after.rates
    assert rate is not None
    assert Decimal(rate.prices["input"] or 0).scaleb(6 - rate.scale) == 7
    assert rate.book == "genai-prices 0.0.2"


async def test_an_upgrade_of_the_package_moves_no_price() -> None:
    """Until somebody says so; then from that moment on."""
    async with open_office(TOML, IN_OCTOBER) as office:
        await office.record(an_october_call())
        await use_book(office, a_book_without("gpt-4o-mini", and_prices=Decimal(7)))
        await office.record(an_october_call())
        listed = await office.meterctl("prices", "--month", "2025-10")
        looked = await office.meterctl("prices", "update", "--dry-run")
        updated = await office.meterctl("prices", "update")
        again = await office.meterctl("prices", "update")
        await office.record(an_october_call())
        shown = json.loads(
            (await office.meterctl("invoice", "acme-corp", "2025-10", "--format", "json")).out
        )

    assert "genai-prices 0.0.1 is in force" in listed.out
    assert any(
        line.split()[1:5] == ["gpt-4o-mini", "input", "$7", "$0.15"] for line in looked.lines
    )
    assert f"{installed_version()} is in force from now on." in updated.out
    assert f"{installed_version()} is in force already." in again.out
    # 1.50 by the installed book, then twice 70.00 by the one in force in October.
    assert shown["lines"][0]["amount"] == "141.50"


async def test_what_the_book_learns_of_later_is_priced_by_a_reprice() -> None:
    """Dry first, then recorded; the ledger's row is untouched, and a second run finds nothing."""
    async with open_office(TOML, IN_OCTOBER) as office:
        await use_book(office, a_book_without("gpt-4o-mini"))
        await office.record(an_october_call(), an_october_call())
        before = await office.meterctl("reprice", "--dry-run")
        await office.meterctl("prices", "update")
        dry = await office.meterctl("reprice", "--dry-run")
        still = await office.meterctl("rollup", "2025-10", "--format", "json")
        without_reason = await office.meterctl("reprice")
        done = await office.meterctl("reprice", "--why", "the book has it now", "--who", "ann")
        again = await office.meterctl("reprice", "--dry-run")
        rolled = await office.meterctl("rollup", "2025-10", "--format", "json")
        proved = [text async for step in office.store.verify() for text in step.differences]

    assert "Nothing to price" in before.out
    assert [line.split() for line in dry.lines[1:2]] == [
        ["acme-corp", "2025-10", "gpt-4o-mini", "2", "$0.00", "$3.00", "$3.00"]
    ]
    assert json.loads(still.out)["total"]["unpriced_requests"] == 2
    assert without_reason.code == 2
    assert "2 records took the prices in force" in done.out
    assert "Nothing to price" in again.out
    assert json.loads(rolled.out)["total"]["cost"] == "3"
    assert json.loads(rolled.out)["total"]["unpriced_requests"] == 0
    assert proved == []


async def test_pricing_a_closed_month_adjusts_the_next_invoice() -> None:
    """The closed one stays, byte for byte, and is still proved."""
    async with open_office(TOML, IN_OCTOBER) as office:
        await use_book(office, a_book_without("gpt-4o-mini"))
        await office.record(an_october_call(), an_october_call("gpt-4o"))
        office.clock.step(IN_NOVEMBER)
        await office.meterctl("close", "2025-10", "--allow-unpriced")
        before = await office.meterctl("invoice", "acme-corp", "2025-10", "--format", "json")
        await office.meterctl("prices", "update")
        priced = await office.meterctl("reprice", "--why", "the book has it now")
        after = await office.meterctl("invoice", "acme-corp", "2025-10", "--format", "json")
        office.clock.step(IN_DECEMBER)
        closed = await office.meterctl("close", "2025-11")
        lines = json.loads(
            (await office.meterctl("invoice", "acme-corp", "2025-11", "--format", "json")).out
        )["lines"]
        found = await differences(office)
        proved = [text async for step in office.store.verify() for text in step.differences]

    assert "closed: adjusts the next invoice" in priced.out
    assert before.out == after.out
    assert closed.code == 0
    # 1.50 and 30 % of it, beside what October had.
    assert [(line["kind"], line["amount"]) for line in lines] == [
        ("usage", "0.00"), ("adjustment", "1.95"),
    ]  # fmt: skip
    assert found == []
    assert proved == []


async def test_a_closed_month_is_priced_by_a_later_price_of_ones_own_and_adjusted() -> None:
    """An own price may not begin in a closed month, whether its model had one there or not; what
    had none takes the first that came after, by a reprice, and the next invoice says so."""
    own = '[[prices]]\nmodel = "our-llama"\ninput = "2"\noutput = "4"\n'
    dearer = own.replace('"2"', '"20"') + "from = 2025-12-01\n"
    async with open_office(TOML, IN_OCTOBER) as office:
        await office.record(an_october_call("our-llama"), an_october_call("gpt-4o"))
        office.clock.step(IN_NOVEMBER)
        await office.meterctl("close", "2025-10", "--allow-unpriced")
        before = await office.meterctl("invoice", "acme-corp", "2025-10", "--format", "json")
        refused = [await office.apply(TOML + own + start)
                   for start in ("", "from = 2025-10-05\n", "from = 2025-10-31\n")]  # fmt: skip
        nothing = await office.meterctl("reprice", "--dry-run")
        await office.apply(TOML + own + "from = 2025-11-01\n" + dearer)
        dry = await office.meterctl("reprice", "--dry-run")
        done = await office.meterctl("reprice", "--why", "agreed with Ann")
        again = await office.meterctl("reprice", "--dry-run")
        await office.apply(TOML + own + "from = 2025-11-01\n")
        after = await office.meterctl("invoice", "acme-corp", "2025-10", "--format", "json")
        office.clock.step(IN_DECEMBER)
        closed = await office.meterctl("close", "2025-11")
        shown = await office.meterctl("invoice", "acme-corp", "2025-11", "--format", "json")
        found = await differences(office)
        proved = [text async for step in office.store.verify() for text in step.differences]

    for one in refused:
        assert "price what had no price then by `meterctl reprice`" in str(one.mistakes[0])
    assert "Nothing to price" in nothing.out
    assert [line.split() for line in dry.lines[1:2]] == [
        ["acme-corp", "2025-10", "our-llama", "1", "$0.00", "$20.00", "$20.00",
         "closed:", "adjusts", "the", "next", "invoice"]
    ]  # fmt: skip
    assert "1 record took the prices in force" in done.out
    assert "Nothing to price" in again.out
    assert before.out == after.out
    assert closed.code == 0, closed.err
    # 20.00 and 30 % of it.
    assert [(line["kind"], line["amount"]) for line in json.loads(shown.out)["lines"]] == [
        ("usage", "0.00"), ("adjustment", "26.00"),
    ]  # fmt: skip
    assert found == proved == []


async def test_prices_say_what_they_rest_on() -> None:
    """The agency's own, the book's, and what has none."""
    toml = TOML + '[[prices]]\nmodel = "our-llama"\ninput = "1.25"\noutput = "2"\n'
    async with open_office(toml, IN_OCTOBER) as office:
        await office.record(
            an_october_call(), an_october_call("our-llama"), an_october_call("gpt-99")
        )

        table = await office.meterctl("prices", "--month", "2025-10")
        own = await office.meterctl(
            "prices", "--month", "2025-10", "--model", "our-*", "--format", "json"
        )

    assert [row["price"] for row in json.loads(own.out)["rows"]] == ["1.25", "2"]
    assert "meterd.toml" in table.out
    assert installed_version() in table.out
    assert any(line.split()[:3] == ["openai", "gpt-99", "unpriced"] for line in table.lines)
