"""The price book: `genai-prices`, read once per model, context and span of time.

    (provider, model, context) ─▶ Entry ── at a moment ─▶ Segment of rates

Its `calc_price` takes 70–83 µs a record, so unit prices are taken out once and multiplied by
us; a property test holds the two equal. Its own updating, which polls a site hourly and swaps
a global, is never started: a version of the book is put in force by hand, from a moment on, and
kept with the ledger, so that an upgrade of the package moves no price by itself. Start dates
compare the UTC date, times of day are UTC.

Importing it takes half a second with a cold disk, so that is done on the writer's thread,
after the daemon serves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from importlib.metadata import version as package_version
from typing import TYPE_CHECKING

from meterd.money import exact
from meterd.pricing import rate_card
from meterd.pricing.edition import Edition, packed, unpacked
from meterd.pricing.naming import REGIONAL, book_provider
from meterd.pricing.rate_card import FOREVER_MS, UNPRICED, Rate, Segment, rate_from_decimals

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from genai_prices import types
    from genai_prices.data_snapshot import DataSnapshot

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = timedelta(days=1)

_KINDS = {
    "input_mtok": rate_card.INPUT,
    "cache_read_mtok": rate_card.CACHE_READ,
    "cache_write_mtok": rate_card.CACHE_WRITE,
    "cache_write_1h_mtok": rate_card.CACHE_WRITE_LONG,
    "input_audio_mtok": rate_card.AUDIO_INPUT,
    "output_mtok": rate_card.OUTPUT,
    "output_reasoning_mtok": rate_card.REASONING,
    "output_audio_mtok": rate_card.AUDIO_OUTPUT,
}
_TOOLS = {
    "web_searches_kcount": "web_searches",
    "storage_searches_kcount": "storage_searches",
    "code_executions_kcount": "code_executions",
    "social_searches_kcount": "social_searches",
}
_APART = {
    rate_card.INPUT: ("input_image_mtok", "input_video_mtok"),
    rate_card.OUTPUT: ("output_image_mtok", "output_video_mtok", "output_citation_mtok"),
}
"""Parts of a kind with prices of their own that no record counts: images in a reply cost up
to twelve times of its text, so at the text's price they would be billed far too low."""
_AUDIO_HOURS = ("audio_hours", "input_audio_hours")
_STANDARD = {
    "service_tier": frozenset({"default", "standard", "auto", "on_demand", "standard_only"}),
    "speed": frozenset({"standard", "default"}),
    "processing": frozenset({"standard", "sync", "interactive"}),
    "inference_geo": frozenset({"global", "not_available"}),
}
"""What a response says where the standard price holds."""


@dataclass(frozen=True)
class Entry:
    """One model of the book, as one response's context prices it."""

    provider: str
    model: types.ModelInfo
    context: Mapping[str, str]
    is_free: bool
    version: str = ""
    """Of the edition that it stands in."""

    @property
    def name(self) -> str:
        """The book's id of the model."""
        return str(self.model.id)


class PriceBook:
    """Editions of the book, each from its moment on. Not shared between threads.

    Without any, the book of the installed `genai-prices` holds for all time.
    """

    def __init__(self, editions: Sequence[Edition] = ()) -> None:
        self._editions = tuple(editions)
        self._snapshots: dict[str, DataSnapshot] = {}
        self.version = ""
        """The newest edition's; empty until the book is loaded."""

    @property
    def editions(self) -> tuple[Edition, ...]:
        """The editions in force, oldest first; empty until the installed one is stored."""
        return self._editions

    def use(self, editions: Sequence[Edition]) -> None:
        """Go by these editions from now on."""
        self._editions = tuple(editions)
        if self.version:
            self.version = ""
            self.load()

    def newest(self) -> PriceBook:
        """The newest edition as if it had always held: what prices usage again."""
        book = PriceBook([one._replace(from_ms=-FOREVER_MS) for one in self._editions[-1:]])
        book._snapshots = self._snapshots
        return book

    def load(self) -> None:
        """Import the book now, so that the first record needn't wait for it."""
        if not self.version:
            self.version = self._editions[-1].version if self._editions else installed_version()
            self._snapshot(self.version)

    def installed(self, from_ms: int = -FOREVER_MS) -> Edition:
        """The installed package's book as an edition from a moment on."""
        return Edition(installed_version(), from_ms, _packed_installed())

    def _snapshot(self, version: str) -> DataSnapshot:
        """The book of a version; what the package has cached of lookups isn't shared."""
        snapshot = self._snapshots.get(version)
        if snapshot is None:
            from genai_prices.data_snapshot import DataSnapshot

            snapshot = DataSnapshot(providers=self._providers(version), from_auto_update=False)
            self._snapshots[version] = snapshot
        return snapshot

    def _providers(self, version: str) -> list[types.Provider]:
        if version == installed_version():
            from genai_prices.data import providers

            return providers
        data = next(one.data for one in self._editions if one.version == version)
        return unpacked(data)

    def _edition_at(self, at_ms: int) -> tuple[str, int, int]:
        """The version in force at a moment, and from when until when it is."""
        self.load()
        version, from_ms, to_ms = self.version, -FOREVER_MS, FOREVER_MS
        for one in reversed(self._editions):
            version = one.version
            if one.from_ms <= at_ms:
                from_ms = one.from_ms
                break
            to_ms = one.from_ms
        return version, from_ms, to_ms

    def segment(
        self,
        provider: str,
        request_model: str,
        response_model: str,
        context: Mapping[str, str],
        at_ms: int,
    ) -> Segment:
        """The rates around a moment; `UNPRICED` for what the book doesn't know.

        Args:
            provider: OpenTelemetry's name.
            context: what the response stated of `service_tier`, `speed`, `processing` and
                `inference_geo`; a value that the model's prices don't know is unpriced, since
                the book itself would silently take the standard price.
        """
        version, from_ms, to_ms = self._edition_at(at_ms)
        entry = self.find(provider, request_model, response_model, context, version)
        segment = UNPRICED if entry is None else self.segment_of(entry, at_ms)
        if from_ms <= segment.from_ms and segment.to_ms <= to_ms:
            return segment
        return replace(
            segment, from_ms=max(from_ms, segment.from_ms), to_ms=min(to_ms, segment.to_ms)
        )

    def find(
        self,
        provider: str,
        request_model: str,
        response_model: str,
        context: Mapping[str, str],
        version: str = "",
    ) -> Entry | None:
        """An edition's entry for a call, or None; of the newest one where none is named."""
        self.load()
        snapshot = self._snapshot(version or self.version)
        book_id = book_provider(provider)
        if not book_id:
            return None
        models = [response_model, request_model]
        if book_id in REGIONAL:
            models.reverse()
        for model in filter(None, models):
            try:
                found, info = snapshot.find_provider_model(model, None, book_id, None)
            except LookupError:
                continue
            is_own = any(info is own for own in found.models)
            stated = _stated(info, context, is_own=is_own)
            if stated is None:
                return None
            is_free = model.endswith(":free")
            return Entry(found.id, info, stated, is_free, version or self.version)
        return None

    def segment_of(self, entry: Entry, at_ms: int) -> Segment:
        """The rates of an entry around a moment."""
        boundaries = sorted(_boundaries(entry.model, at_ms))
        from_ms = max((b for b in boundaries if b <= at_ms), default=-FOREVER_MS)
        to_ms = min((b for b in boundaries if b > at_ms), default=FOREVER_MS)
        if not _is_known(entry, _moment(at_ms)):
            return Segment(from_ms, to_ms, (), (None,))
        price = entry.model.get_prices(_moment(at_ms), entry.context)
        items = {key: value for key, value in price.__dict__.items() if value is not None}
        starts = sorted({tier.start for value in items.values() for tier in _tiers(value)})
        rates = tuple(self._rate(entry, items, start, from_ms) for start in (None, *starts))
        return Segment(from_ms, to_ms, tuple(starts), rates)

    def _rate(
        self, entry: Entry, items: Mapping[str, object], above: int | None, from_ms: int
    ) -> Rate | None:
        prices: dict[str, Decimal | None] = {
            kind: price
            for key, value in items.items()
            for kind, price in _unit_prices(key, _in_bracket(value, above))
        }
        for kind in _mixed(items):
            prices[kind] = None
        if all(price is None for price in prices.values()):
            if not entry.is_free:
                return None  # an empty price in the book is not known, not nothing
            prices = {rate_card.INPUT: Decimal(0), rate_card.OUTPUT: Decimal(0)}
        return rate_from_decimals(
            entry.provider,
            entry.name,
            _basis(entry, above, from_ms),
            prices,
            entry.version or self.version,
        )


@cache
def installed_version() -> str:
    """The installed package and its version, as rates and invoices name it."""
    return f"genai-prices {package_version('genai-prices')}"


@cache
def _packed_installed() -> bytes:
    """The installed book, packed: a tenth of a second, once a process."""
    from genai_prices.data import providers

    return packed(providers)


def _stated(
    model: types.ModelInfo, context: Mapping[str, str], *, is_own: bool
) -> dict[str, str] | None:
    """The context as the book takes it; None where one of its values has no known price."""
    known: dict[str, str] = {}
    for key, value in context.items():
        if not value:
            continue
        is_variant = is_own and any(
            variant.when.get(key) == value for variant in model.price_variants or ()
        )
        if is_variant:
            known[key] = value
        elif value not in _STANDARD.get(key, ()):
            return None
    return known


def _is_known(entry: Entry, moment: datetime) -> bool:
    """Whether the book says at this moment what the entry's context costs.

    Before a variant's start it silently takes the standard price, which a batch or a
    priority call never had.
    """
    active = [
        variant.when
        for variant in entry.model.price_variants or ()
        if variant.constraint is None or variant.constraint.active(moment)
    ]
    return all(
        value in _STANDARD.get(key, ()) or any(when.get(key) == value for when in active)
        for key, value in entry.context.items()
    )


def _unit_prices(key: str, price: Decimal) -> Iterator[tuple[str, Decimal]]:
    """A price of the book as one of ours a unit; nothing for units that no record counts."""
    with exact():
        if key in _KINDS:
            yield _KINDS[key], price.scaleb(-6)
        elif key in _TOOLS:
            yield rate_card.TOOL + _TOOLS[key], price.scaleb(-3)
        elif key == "requests_kcount":
            yield rate_card.REQUEST, price.scaleb(-3)


def _mixed(items: Mapping[str, object]) -> Iterator[str]:
    """The kinds within which this model prices parts apart that no record tells apart."""
    for kind, keys in _APART.items():
        if any(key in items and items[key] != items.get(f"{kind}_mtok") for key in keys):
            yield kind
    if "input_audio_mtok" not in items and any(key in items for key in _AUDIO_HOURS):
        yield rate_card.AUDIO_INPUT


def _in_bracket(value: object, above: int | None) -> Decimal:
    """The price for requests of more than `above` input tokens; None: of the lowest bracket."""
    if isinstance(value, Decimal):
        return value
    price: Decimal = value.base  # type: ignore[attr-defined]  # TieredPrices
    for tier in _tiers(value):
        if above is not None and above >= tier.start:
            price = tier.price
    return price


def _tiers(value: object) -> list[types.Tier]:
    return list(getattr(value, "tiers", ()))


def _basis(entry: Entry, above: int | None, from_ms: int) -> str:
    parts = [] if from_ms == -FOREVER_MS else [f"from {_moment(from_ms):%Y-%m-%dT%H:%MZ}"]
    if above is not None:
        parts.append(f"more than {above} input tokens")
    parts += [f"{key}={value}" for key, value in sorted(entry.context.items())]
    return ", ".join(parts) or "always"


def _boundaries(model: types.ModelInfo, at_ms: int) -> Iterator[int]:
    """The moments near `at_ms` at which a price of the model begins or ends."""
    conditional = model.prices if isinstance(model.prices, list) else []
    constraints = [price.constraint for price in conditional]
    constraints += [variant.constraint for variant in model.price_variants or ()]
    midnight = _moment(at_ms).replace(hour=0, minute=0, second=0, microsecond=0)
    for constraint in constraints:
        start = getattr(constraint, "start_date", None)
        if start is not None:
            yield _ms(datetime.combine(start, time.min, tzinfo=UTC))
        for name in ("start_time", "end_time"):
            moment = getattr(constraint, name, None)
            if moment is not None:
                for day in (midnight - _DAY, midnight, midnight + _DAY):
                    yield _ms(datetime.combine(day.date(), _utc(moment)))


def _utc(moment: time) -> time:
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    return datetime.combine(_EPOCH.date(), moment).astimezone(UTC).timetz()


def _moment(at_ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=at_ms)


def _ms(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)
