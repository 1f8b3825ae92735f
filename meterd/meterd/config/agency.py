"""What `meterd.toml` says, as frozen values; made by `toml.py`, read by every rule.

    Agency ─┬─ plans ── Plan                  terms under a name
            ├─ clients ── Client ── contracts    a plan from a day on, with overrides
            ├─ quotas ── QuotaRule            a net over everything
            ├─ prices ── PriceOverride        own prices, effective-dated
            └─ thresholds, on_threshold, access_keys

An `Agency()` without arguments is the configuration of a daemon that was given none: it
meters everybody, limits nobody, and bills in US dollars and UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from datetime import date
from decimal import Decimal
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Literal
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meterd.money import Rounding

BEGINNING = date.min
"""The start of what has none: in force for whatever was, or will be found, recorded."""

DEFAULT_THRESHOLDS = (Decimal("0.8"), Decimal(1))
UNLISTED_IDS_MAX = 1_000


class PlanType(StrEnum):
    """How a client pays."""

    RETAINER = "retainer"
    COST_PLUS = "cost_plus"
    FREE = "free"
    INTERNAL = "internal"


class LimitMode(StrEnum):
    """What happens at the end of a quota: nothing at all, overage, or no further call."""

    NONE = "none"
    SOFT = "soft"
    HARD = "hard"


class ReserveMode(StrEnum):
    """What a call holds of its lease: its usual reply, or the largest it may have."""

    USUAL = "usual"
    CEILING = "ceiling"


class OnUnreachable(StrEnum):
    """What a call may do that can't be decided because the daemon is away."""

    ALLOW = "allow"
    REJECT = "reject"


class Overage(StrEnum):
    """What becomes of tokens beyond those included: billed by the million, by cost, or not."""

    BILL = "bill"
    COST_PLUS = "cost_plus"
    NONE = "none"


class OverageRounding(StrEnum):
    """Overage pro rata by token, or per started block."""

    EXACT = "exact"
    STARTED = "started"


class UnknownClients(StrEnum):
    """What ids that the configuration doesn't list may use: all, or nothing."""

    METER = "meter"
    REJECT = "reject"


class ServiceLevel(StrEnum):
    """A preset of markup; alone it means the lower bound of its band."""

    PASS_THROUGH = "pass_through"
    BASIC = "basic"
    FULL = "full"


MARKUP_BANDS: Mapping[ServiceLevel, tuple[Decimal, Decimal]] = {
    ServiceLevel.PASS_THROUGH: (Decimal("0.20"), Decimal("0.25")),
    ServiceLevel.BASIC: (Decimal("0.30"), Decimal("0.35")),
    ServiceLevel.FULL: (Decimal("0.40"), Decimal("0.50")),
}


@dataclass(frozen=True, slots=True)
class QuotaRule:
    """Tokens that whatever matches may use in a period. A call must fit all rules it matches.

    Empty `client`, `project` or `model` match any; `model` is a pattern, as `gpt-5*`, held
    against the model asked for.
    """

    tokens: int
    mode: LimitMode = LimitMode.SOFT
    cap: int | None = None
    client: str = ""
    project: str = ""
    model: str = ""

    @property
    def scope(self) -> str:
        """The level it stands on: agency, client, project or model."""
        if self.model:
            return "model"
        if self.project:
            return "project"
        return "client" if self.client else "agency"

    @property
    def ceiling(self) -> int | None:
        """Where calls are refused: the quota if hard, the cap if there is one, else nowhere."""
        return self.tokens if self.mode is LimitMode.HARD else self.cap

    def matches(self, client: str, project: str, model: str) -> bool:
        """Whether a call of this client, project and model counts against the rule."""
        return (
            self.client in ("", client)
            and self.project in ("", project)
            and (not self.model or fnmatchcase(model, self.model))
        )


@dataclass(frozen=True, slots=True)
class Tax:
    """One tax rate, by the name it has on an invoice; on the total unless `per_line`."""

    name: str
    rate: Decimal
    per_line: bool = False


@dataclass(frozen=True, slots=True)
class ServiceCost:
    """What serving a client costs a month beside tokens: fixed, hours, a share of revenue."""

    fixed: Decimal = Decimal(0)
    hours: Decimal = Decimal(0)
    hourly: Decimal = Decimal(0)
    revenue_share: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Credit:
    """An amount taken off a client's invoices from a day on, until it is used up."""

    amount: Decimal
    from_day: date = BEGINNING
    description: str = "Credit"


@dataclass(frozen=True, slots=True)
class Plan:
    """Terms under a name. Which fields count depends on `type`; the rest keep their default.

    Percentages are fractions: a markup of 30 % is `Decimal("0.30")`.
    """

    name: str
    type: PlanType
    label: str = ""
    fee: Decimal = Decimal(0)
    included_tokens: int | None = None
    overage: Overage = Overage.BILL
    overage_per_million: Decimal = Decimal(0)
    overage_rounding: OverageRounding = OverageRounding.EXACT
    overage_block: int = 1_000_000
    limit: LimitMode = LimitMode.SOFT
    cap: int | None = None
    markup: Decimal = Decimal(0)
    service_level: ServiceLevel | None = None
    markup_label: str = ""
    minimum: Decimal = Decimal(0)
    discount: Decimal = Decimal(0)
    proration: Literal["none", "calendar_days"] = "none"
    rollover_tokens_max: int = 0
    rollover_periods: int = 0
    reserve: ReserveMode = ReserveMode.USUAL
    on_unreachable: OnUnreachable = OnUnreachable.ALLOW
    thresholds: tuple[Decimal, ...] | None = None
    extras: str = ""
    quotas: tuple[QuotaRule, ...] = ()

    @property
    def title(self) -> str:
        """As people read it: the label, else the key made readable."""
        return self.label or self.name.replace("_", " ").replace("-", " ").title()


@dataclass(frozen=True, slots=True)
class Contract:
    """A client's plan from a local day on, with its own numbers; the next contract ends it."""

    plan: str
    from_day: date = BEGINNING
    overrides: Mapping[str, object] = field(default_factory=dict)
    """Fields of `Plan` by name, already of the field's type."""

    def terms(self, plan: Plan) -> Plan:
        """The plan with this contract's own numbers in place of the plan's."""
        return replace(plan, **self.overrides)  # type: ignore[arg-type]  # checked by toml.py


@dataclass(frozen=True, slots=True)
class Client:
    """Whom usage is billed to; contracts are sorted by their day."""

    id: str
    name: str = ""
    contracts: tuple[Contract, ...] = ()
    projects: Mapping[str, str] = field(default_factory=dict)
    """Listed projects, with the name each has on an invoice."""
    anchor: int = 1
    """The day of the month on which the client's periods begin, 1–31."""
    quotas: tuple[QuotaRule, ...] = ()
    service_cost: ServiceCost = ServiceCost()
    credits: tuple[Credit, ...] = ()
    tax: Tax | None = None
    address: str = ""
    email: str = ""
    tax_id: str = ""
    remote_ids: Mapping[str, str] = field(default_factory=dict)
    """The client's id in accounting software, by target."""

    @property
    def title(self) -> str:
        """As people read it: the name, else the id."""
        return self.name or self.id


@dataclass(frozen=True, slots=True)
class PriceOverride:
    """An own price, or a factor on the book's, for what matches, from a UTC day on.

    Rates are US dollars per 1,000,000 tokens, tool rates per 1,000 uses. Of several that
    match, the one with a client goes first, then the exact model, then the latest start.
    """

    model: str
    """As asked for or answered; exact, or a pattern with `*`."""
    provider: str = ""
    client: str = ""
    from_day: date = BEGINNING
    rates: Mapping[str, Decimal] = field(default_factory=dict)
    """By kind: input, cache_read, cache_write, cache_write_long, output, audio_input,
    audio_output."""
    above_input_tokens: int = 0
    """Holds for requests with more input tokens than this: one bracket for all its tokens."""
    tool_rates: Mapping[str, Decimal] = field(default_factory=dict)
    per_request: Decimal = Decimal(0)
    multiplier: Decimal = Decimal(1)
    """On the book's price; used where `rates` is empty."""
    same_as: str = ""
    """The book's model whose price this one has, as `provider/model` or `model`."""
    service_tier: str = ""
    speed: str = ""
    processing: str = ""
    inference_geo: str = ""


@dataclass(frozen=True, slots=True)
class ExchangeRate:
    """What one US dollar is in the agency's currency from a day on, and who says so."""

    rate: Decimal
    from_day: date = BEGINNING
    source: str = ""


@dataclass(frozen=True, slots=True)
class Hook:
    """What is told of a threshold: a command (JSON on its stdin), or a webhook (signed)."""

    command: tuple[str, ...] = ()
    url: str = ""
    secret: str = field(default="", repr=False)
    timeout_ms: int = 10_000


@dataclass(frozen=True, slots=True)
class AccessKey:
    """A key that a process shows over TCP: its SHA-256 alone is known here."""

    name: str
    sha256: str
    scope: Literal["ship", "read", "admin"]


@dataclass(frozen=True)
class Agency:
    """One agency's configuration, whole and checked."""

    name: str = ""
    currency: str = "USD"
    timezone: str = "UTC"
    rounding: Rounding = "half_up"
    unknown_clients: UnknownClients = UnknownClients.METER
    unlisted_ids_max: int = UNLISTED_IDS_MAX
    anchor: int = 1
    close_after_hours: int = 48
    thresholds: tuple[Decimal, ...] = DEFAULT_THRESHOLDS
    target_margin: Decimal | None = None
    invoice_series: str = ""
    address: str = ""
    email: str = ""
    tax_id: str = ""
    payment_terms: str = ""
    tax: Tax | None = None
    plans: Mapping[str, Plan] = field(default_factory=dict)
    clients: Mapping[str, Client] = field(default_factory=dict)
    quotas: tuple[QuotaRule, ...] = ()
    prices: tuple[PriceOverride, ...] = ()
    exchange_rates: tuple[ExchangeRate, ...] = ()
    on_threshold: Hook | None = None
    access_keys: tuple[AccessKey, ...] = ()

    @cached_property
    def zone(self) -> ZoneInfo:
        """The billing time zone."""
        return ZoneInfo(self.timezone)

    def anchor_of(self, client: str) -> int:
        """The day of the month on which this client's periods begin."""
        listed = self.clients.get(client)
        return listed.anchor if listed else self.anchor

    def is_listed(self, client: str, project: str = "") -> bool:
        """Whether the configuration names this client, and the project if one is given."""
        listed = self.clients.get(client)
        return listed is not None and (not project or project in listed.projects)


PLAN_FIELDS = tuple(item.name for item in fields(Plan))
