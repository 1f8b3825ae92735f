"""Own prices and exchange rates, as `meterd.toml` writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.config import amounts
from meterd.config.agency import BEGINNING, ExchangeRate, PriceOverride
from meterd.config.reading import nearest
from meterd.money import plain

if TYPE_CHECKING:
    from collections.abc import Iterable
    from decimal import Decimal

    from meterd.config.reading import Table

KINDS = (
    "input",
    "cache_read",
    "cache_write",
    "cache_write_long",
    "output",
    "audio_input",
    "audio_output",
)
"""The rates a price may name, each per 1,000,000 tokens."""

CONTEXT = ("service_tier", "speed", "processing", "inference_geo")

MULTIPLIER_MAX = 100


def read_prices(tables: Iterable[Table], clients: Iterable[str]) -> tuple[PriceOverride, ...]:
    """Every `[[prices]]`; two that match the same calls from the same day are a mistake."""
    prices: dict[object, PriceOverride] = {}
    known = list(clients)
    for table in tables:
        price = _price(table)
        if price.client and price.client not in known:
            table.mistake(
                "client", f"there is no client {price.client!r}{nearest(price.client, known)}"
            )
        if prices.setdefault(_what_it_matches(price), price) is not price:
            day = "the beginning" if price.from_day == BEGINNING else str(price.from_day)
            table.mistake("", f"is the second price of {price.model!r} from {day} on")
    return tuple(prices.values())


def read_exchange_rates(tables: Iterable[Table], currency: str) -> tuple[ExchangeRate, ...]:
    """Every `[[exchange_rates]]`, sorted by start: a US dollar in the agency's currency."""
    rates: dict[object, ExchangeRate] = {}
    for table in tables:
        rate = table.rate("rate")
        if rate is None and not table.has("rate"):
            table.mistake("", f"needs a rate: what one US dollar is in {currency}")
        elif rate is not None and not rate:
            table.mistake("rate", "is zero")
        if currency == "USD":
            table.mistake("", "the agency bills in USD, as prices are; nothing is converted")
        found = ExchangeRate(rate or amounts.NOTHING, table.day("from"), table.text("source"))
        if rates.setdefault(found.from_day, found) is not found:
            table.mistake("from", "is the second exchange rate from that day on")
        table.done()
    return tuple(sorted(rates.values(), key=lambda rate: rate.from_day))


def _price(table: Table) -> PriceOverride:
    if not table.has("model"):
        table.mistake("", "names no model")
    rates = {kind: rate for kind in KINDS if (rate := table.rate(kind)) is not None}
    price = PriceOverride(
        model=table.text("model"),
        provider=table.text("provider"),
        client=table.text("client"),
        from_day=table.day("from"),
        rates=rates,
        above_input_tokens=table.tokens("above_input_tokens") or 0,
        tool_rates=_tool_rates(table),
        per_request=table.rate("per_request") or amounts.NOTHING,
        multiplier=_multiplier(table),
        same_as=table.text("same_as"),
        **{name: table.text(name) for name in CONTEXT},
    )
    table.done({"to": "a price ends on the day the next one of its model begins"})
    _check_sense(table, price)
    return price


def _check_sense(table: Table, price: PriceOverride) -> None:
    ways = [name for name in ("multiplier", "same_as") if table.has(name)]
    if price.rates:
        ways.insert(0, "rates")
    if len(ways) > 1 and ways != ["multiplier", "same_as"]:
        table.mistake(ways[1], "is not used where rates are given; leave one of them out")
    if price.same_as and "/" not in price.same_as and not price.provider:
        table.mistake(
            "same_as",
            f"whose {price.same_as!r}? Several providers may have it; write provider/model",
        )
    if not ways and not price.tool_rates and not price.per_request:
        table.mistake("", "says no price; set input and output, a multiplier, or same_as")
    if price.rates and not {"input", "output"} & price.rates.keys():
        table.mistake("", "needs input or output; the other kinds are parts of those")


def _multiplier(table: Table) -> Decimal:
    found = table.rate("multiplier")
    if found is None:
        return amounts.ONE
    if found > MULTIPLIER_MAX:
        table.mistake("multiplier", f"{plain(found)} is more than {MULTIPLIER_MAX}")
    return found


def _tool_rates(table: Table) -> dict[str, Decimal]:
    """Hosted tools by name, in US dollars per 1,000 uses."""
    inner = table.table("tools")
    return {name: rate for name in inner.names() if (rate := inner.rate(name)) is not None}


def _what_it_matches(price: PriceOverride) -> object:
    context = tuple(getattr(price, name) for name in CONTEXT)
    return (
        price.provider,
        price.model,
        price.client,
        price.from_day,
        price.above_input_tokens,
        context,
    )
