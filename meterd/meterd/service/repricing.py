"""Repricing and prices: what usage is priced by, and pricing it again, recorded."""

from __future__ import annotations

from decimal import Decimal
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from meterd.billing.contract import period_for_index
from meterd.billing.conversion import BOOK_CURRENCY, conversion_of
from meterd.errors import InvalidRequest
from meterd.money import exact, plain
from meterd.pricing.book import installed_version
from meterd.pricing.rate_card import REQUEST, TOOL
from meterd.service.months import month_asked
from meterd.store.repricing import PAGE_ROWS, STEP_ROWS
from meterd_proto.v1 import billing_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from meterd.clock import Clock
    from meterd.config.agency import Agency
    from meterd.config.in_force import InForce
    from meterd.pricing.edition import Edition
    from meterd.pricing.rate_card import Rate
    from meterd.store.books import Books
from meterd.store.repricing import Change, ChangeKey, PriceDifference, Repricing, UsedRate

OWN_PRICES = "meterd.toml"


class Prices:
    """Answers about prices. Belongs to the event loop."""

    def __init__(self, books: Books, in_force: InForce, clock: Clock) -> None:
        self._books = books
        self._in_force = in_force
        self._clock = clock

    async def reprice(
        self, request: billing_pb2.RepriceRequest
    ) -> AsyncIterator[billing_pb2.RepriceRow]:
        """What the prices in force change, by client, period and model; done unless dry."""
        agency = self._in_force.agency
        looking = self._books.repricing(agency, request.client or None, request.all)
        first, end = await self._books.rows_span()
        for at in range(first, end, PAGE_ROWS):
            await self._books.look_again(looking, at)
            checked = min(at + PAGE_ROWS, end) - first
            yield billing_pb2.RepriceRow(checked=checked, total=end - first)
        for key in sorted(looking.changes):
            yield _change(agency, key, looking.changes[key])
        if not request.dry_run and looking.rows:
            await self._take(looking, request)
        yield billing_pb2.RepriceRow(
            is_done=True, records=len(looking.rows), checked=end - first, total=end - first
        )

    async def _take(self, looking: Repricing, request: billing_pb2.RepriceRequest) -> None:
        why = request.why.strip() or "priced again by the prices in force"
        number = await self._books.begin_reprice(request.who, why)
        for at in range(0, len(looking.rows), STEP_ROWS):
            await self._books.take_prices(number, looking.rows[at : at + STEP_ROWS])

    async def used(self, request: billing_pb2.PricesRequest) -> AsyncIterator[billing_pb2.PriceRow]:
        """The prices that a period's usage was priced by, a row a kind of token."""
        agency = self._in_force.agency
        index = month_asked(agency, request.period, self._clock.now())
        for one in await self._books.used_rates(index):
            if request.model and not fnmatchcase(one.model, request.model):
                continue
            if not one.number:
                yield billing_pb2.PriceRow(
                    provider=one.provider, model=one.model, kind="unpriced",
                    condition=f"{one.requests:,} requests",
                )  # fmt: skip
                continue
            for row in _rows(one, await self._books.rate(one.number)):
                yield row
        note = _editions_note(await self._books.price_editions())
        if note:
            yield billing_pb2.PriceRow(condition=note)

    async def update(self, *, is_dry_run: bool) -> AsyncIterator[billing_pb2.PriceRow]:
        """Put the installed book in force from now on; what it says otherwise, of models used."""
        now_ms = self._clock.unix_ns() // 1_000_000
        known = await self._books.price_editions()
        if known and known[-1].version == installed_version():
            yield billing_pb2.PriceRow(condition=f"{installed_version()} is in force already.")
            return
        for one in await self._books.price_differences(now_ms):
            yield _difference(one)
        if is_dry_run:
            note = f"{installed_version()} would be in force from now on. This was a dry run."
        else:
            await self._books.update_prices()
            note = f"{installed_version()} is in force from now on."
        yield billing_pb2.PriceRow(condition=note)


def check_reprice(request: billing_pb2.RepriceRequest) -> None:
    """A reprice that changes something says why.

    Raises:
        InvalidRequest: it doesn't.
    """
    if not request.dry_run and not request.why.strip():
        raise InvalidRequest('say why, as in --why "the book has the model now"; it is recorded')


def _change(agency: Agency, key: ChangeKey, change: Change) -> billing_pb2.RepriceRow:
    period = period_for_index(agency, key.client, key.period)
    conversion = conversion_of(agency, period)
    rate = conversion.rate if conversion else Decimal(1)
    with exact():
        before, after = change.before * rate, change.after * rate
        difference = after - before
    return billing_pb2.RepriceRow(
        client=key.client,
        period=period.name,
        provider=key.provider,
        model=key.model,
        records=change.records,
        requests_priced=change.newly_priced,
        before=plain(before),
        after=plain(after),
        difference=plain(difference),
        is_closed_period=key.is_closed,
        currency=agency.currency if conversion else BOOK_CURRENCY,
    )


def _editions_note(editions: Sequence[Edition]) -> str:
    """That a newer book is installed than the one in force."""
    if not editions or editions[-1].version == installed_version():
        return ""
    return (
        f"{editions[-1].version} is in force, {installed_version()} is installed: "
        "`meterctl prices update` puts it in force"
    )


def _difference(one: PriceDifference) -> billing_pb2.PriceRow:
    unit, places = _unit(one.kind)
    with exact():
        before = "" if one.before is None else plain(one.before.scaleb(places))
        after = "" if one.after is None else plain(one.after.scaleb(places))
    return billing_pb2.PriceRow(
        provider=one.provider,
        model=one.model,
        kind=one.kind.removeprefix(TOOL),
        before=before,
        price=after,
        unit=unit,
        source=installed_version(),
    )


def _unit(kind: str) -> tuple[str, int]:
    """What a price of this kind is for, and how many zeros that has."""
    if kind == REQUEST:
        return "request", 0
    return ("1,000 uses", 3) if kind.startswith(TOOL) else ("1M tokens", 6)


def _rows(used: UsedRate, rate: Rate) -> Iterator[billing_pb2.PriceRow]:
    """A rate's prices: per million tokens, per thousand uses of a tool, per request."""
    for kind, price in rate.prices.items():
        unit, places = _unit(kind)
        with exact():
            shown = "" if price is None else plain(Decimal(price).scaleb(places - rate.scale))
        yield billing_pb2.PriceRow(
            provider=used.provider,
            model=used.model,
            kind=kind.removeprefix(TOOL),
            price=shown,
            source=rate.book or OWN_PRICES,
            condition=rate.basis,
            unit=unit,
        )
