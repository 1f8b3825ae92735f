"""Plans and contracts, as `meterd.toml` writes them.

A contract takes the same numbers as a plan, so one table of readers serves both. What a type
of plan must have, and what makes no sense together, is checked on the terms that result:
a contract may spoil what its plan had right.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from meterd.config import amounts
from meterd.config.agency import (
    MARKUP_BANDS,
    Contract,
    LimitMode,
    OnUnreachable,
    Overage,
    OverageRounding,
    Plan,
    PlanType,
    QuotaRule,
    ReserveMode,
    ServiceLevel,
)
from meterd.config.reading import nearest, one_of, text, texts, whole
from meterd.ids import OTHER
from meterd.money import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from decimal import Decimal

    from meterd.config.reading import Table

MARKUP_PERCENT_MAX = 500
THRESHOLD_PERCENT_MAX = 1_000
ID_CHARACTERS_MAX = 128
ROLLOVER_PERIODS_MAX = 24

_PLAN_HINTS = {"from": "a plan has no start; the contract that names it has one"}
_CONTRACT_HINTS = dict.fromkeys(
    ("to", "until", "end", "ends", "through"), "a contract ends on the day the next one begins"
) | {"type": "the plan says it", "quotas": "they stand in a plan or directly in the client"}


class Proration(StrEnum):
    """What a change of contract inside a period does to its fee."""

    NONE = "none"
    CALENDAR_DAYS = "calendar_days"


def read_plan(table: Table, name: str, currency: str) -> Plan | None:
    """One `[plans.NAME]`; None where it isn't even known what type it has."""
    if why := why_no_name(name):
        table.mistake("", f"the name of a plan {why}")
    if not table.has("type"):
        table.mistake("", 'has no type: "retainer", "cost_plus", "free" or "internal"')
    kind = table.read("type", one_of(PlanType))
    label = table.text("label")
    quotas = tuple(read_quota(inner) for inner in table.tables("quotas"))
    numbers = read_numbers(table, currency)
    table.done(_PLAN_HINTS)
    if kind is None:
        return None
    plan = Contract(name, overrides=numbers).terms(Plan(name, kind, label, quotas=quotas))
    check_terms(table, plan, numbers)
    _check_what_is_missing(table, plan)
    return plan


def read_contract(table: Table, plans: Mapping[str, Plan], currency: str) -> Contract:
    """One contract: a plan's name, the day it begins, and numbers of its own."""
    name = table.text("plan")
    from_day = table.day("from")
    contract = Contract(name, from_day, read_numbers(table, currency))
    plan = plans.get(name)
    if not table.has("plan"):
        table.mistake("", "names no plan")
    elif plan is None:
        table.mistake("plan", f"there is no plan {name!r}{nearest(name, plans)}")
    else:
        check_terms(table, contract.terms(plan), contract.overrides)
    return contract


def done_with_contract(table: Table) -> None:
    """Note what a contract has that nobody asked for."""
    table.done(_CONTRACT_HINTS)


def read_numbers(table: Table, currency: str) -> dict[str, object]:
    """The numbers that a plan has and a contract may override; only those that are set."""
    numbers: dict[str, object] = {}
    for name, parse in _readers(currency).items():
        found = table.read(name, parse)
        if found is not None:
            numbers[name] = found
    level = numbers.get("service_level")
    if isinstance(level, ServiceLevel) and "markup" not in numbers:
        numbers["markup"] = MARKUP_BANDS[level][0]
    return numbers


def read_quota(table: Table, client: str = "") -> QuotaRule:
    """One quota: tokens, and what it holds for."""
    if not table.has("tokens"):
        table.mistake("", 'says no tokens; set tokens, as in tokens = "200k"')
    rule = QuotaRule(
        tokens=table.tokens("tokens") or 1,
        mode=table.choice("limit", LimitMode.SOFT),
        cap=table.tokens("cap"),
        client=client,
        project=table.text("project") if client else "",
        model=table.text("model"),
    )
    table.done({} if client else dict.fromkeys(("client", "project"), _ONLY_IN_CLIENT))
    _check_cap(table, rule.mode, rule.tokens, rule.cap, "tokens")
    return rule


_ONLY_IN_CLIENT = "a quota of a client or a project stands in [[clients.CLIENT.quotas]]"


def check_terms(table: Table, plan: Plan, said: Mapping[str, object]) -> None:
    """Note what makes no sense together, on the fields that were said in this table."""
    for name in sorted(said):
        if why := _why_useless(plan, name):
            table.mistake(_written_as(table, name), why)
    if said.keys() & {"limit", "cap", "included_tokens"}:
        _check_cap(table, plan.limit, plan.included_tokens, plan.cap, "included_tokens")
    if said.keys() & {"limit", "overage", "overage_per_million"}:
        _check_overage(table, plan)
    if "rollover_periods" in said and not plan.rollover_tokens_max:
        table.mistake("rollover_periods", "needs rollover_tokens_max: how many are carried over?")
    if "markup" in said:
        _check_band(table, plan)


def why_no_name(name: str) -> str:
    """Why a key can't name a client, project or plan, one clause; empty if it can."""
    if not name:
        return "is empty"
    if len(name) > ID_CHARACTERS_MAX:
        return f"has {len(name)} characters, at most {ID_CHARACTERS_MAX} are allowed"
    if not name.isascii() or not name.isprintable():
        return "has characters other than printable ASCII, which no HTTP header can carry"
    if name != name.strip():
        return "begins or ends with a blank"
    return f"is reserved: {OTHER} gathers ids beyond `unlisted_ids_max`" if name == OTHER else ""


def thresholds(value: object) -> tuple[Decimal, ...]:
    """Percentages of a quota, in rising order."""
    found = {amounts.percent(item, 1, THRESHOLD_PERCENT_MAX) for item in texts(value)}
    return tuple(sorted(found))


def _readers(currency: str) -> dict[str, Callable[[object], object]]:
    def amount(value: object) -> Decimal:
        return amounts.amount(value, currency)

    return {
        "fee": amount,
        "included_tokens": amounts.tokens,
        "overage": one_of(Overage),
        "overage_per_million": amounts.rate,
        "overage_rounding": one_of(OverageRounding),
        "overage_block": amounts.tokens,
        "limit": one_of(LimitMode),
        "cap": amounts.tokens,
        "markup": lambda value: amounts.percent(value, 0, MARKUP_PERCENT_MAX),
        "service_level": one_of(ServiceLevel),
        "markup_label": text,
        "minimum": amount,
        "discount": lambda value: amounts.percent(value, 0, 100),
        "proration": one_of(Proration),
        "rollover_tokens_max": amounts.tokens,
        "rollover_periods": lambda value: whole(value, 1, ROLLOVER_PERIODS_MAX),
        "reserve": one_of(ReserveMode),
        "on_unreachable": one_of(OnUnreachable),
        "thresholds": thresholds,
        "extras": text,
    }


_BILLING = {"fee", "markup", "service_level", "minimum", "discount", "overage_per_million"}
_OVERAGE = {"overage", "overage_per_million", "overage_rounding", "overage_block"}


def _why_useless(plan: Plan, name: str) -> str:
    """Why a number does nothing in a plan of this type; empty if it does."""
    if plan.type in (PlanType.FREE, PlanType.INTERNAL):
        is_useless = name in _BILLING | _OVERAGE and name != "markup"
        return f"a plan of type {plan.type.value} bills nothing" if is_useless else ""
    if plan.type is PlanType.COST_PLUS and name in _OVERAGE:
        return "cost_plus bills every token already; there is no overage"
    if name == "markup" and plan.type is PlanType.RETAINER and plan.overage != Overage.COST_PLUS:
        return 'a retainer has a markup only with overage = "cost_plus"'
    return ""


def _written_as(table: Table, name: str) -> str:
    """The field that set a number: a service level alone sets the markup."""
    return "service_level" if name == "markup" and not table.has("markup") else name


def _check_what_is_missing(table: Table, plan: Plan) -> None:
    if plan.type is PlanType.RETAINER:
        for name in ("fee", "included_tokens"):
            if not table.has(name):
                table.mistake("", f"a retainer needs {name}")
        if not table.has("limit") and not table.has("overage"):
            _check_overage(table, plan)
    needs_markup = plan.type is PlanType.COST_PLUS or plan.overage is Overage.COST_PLUS
    if needs_markup and not (table.has("markup") or table.has("service_level")):
        table.mistake("", 'needs markup, as "30%", or service_level')


def _check_overage(table: Table, plan: Plan) -> None:
    is_billed = plan.type is PlanType.RETAINER and plan.overage is Overage.BILL
    if not is_billed or plan.limit is LimitMode.HARD or plan.overage_per_million:
        return
    if not table.notes.has((*table.path, "overage_per_million")):
        table.mistake(
            "overage_per_million" if table.has("overage_per_million") else "",
            "needs overage_per_million, since its limit is soft: what does a million tokens "
            'beyond those included cost? To bill nothing, write overage = "none"',
        )


def _check_cap(
    table: Table, limit: LimitMode, included: int | None, cap: int | None, name: str
) -> None:
    is_open = included is None and cap is None and not table.has(name)
    if limit is LimitMode.HARD and is_open:
        table.mistake("limit", f"a hard limit needs {name}: where does it end?")
    if cap is None:
        return
    where = "cap" if table.has("cap") else name
    if limit is LimitMode.NONE:
        table.mistake(where, 'with limit = "none" a cap does nothing')
    elif included is not None and limit is LimitMode.HARD:
        table.mistake(where, f'a cap goes with limit = "soft"; a hard one ends at {name}')
    elif included is not None and cap < included:
        table.mistake(where, f"the cap of {cap} lies below {name} of {included}")


def _check_band(table: Table, plan: Plan) -> None:
    if plan.service_level is None:
        return
    least, most = MARKUP_BANDS[plan.service_level]
    if not least <= plan.markup <= most:
        table.warning(
            "markup",
            f"{_percent(plan.markup)} lies outside of {plan.service_level.value}, "
            f"{_percent(least)} to {_percent(most)}",
        )


def _percent(fraction: Decimal) -> str:
    return f"{plain(fraction.scaleb(2))}%"
