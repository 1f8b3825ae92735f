"""What changes from one configuration to the next, as people read it.

Each configuration is laid out as facts: a field's name, the day it holds from, and its value
as `meterd.toml` would write it. Contracts and prices are told apart by their day, not by
their place in the file, so that one put in front doesn't look like a change of all.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any

from meterd.config.agency import BEGINNING, Agency, Hook
from meterd.money import plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from meterd.config.agency import Client, Contract, Plan, PriceOverride, QuotaRule

_PERCENTAGES = {"markup", "discount", "rate", "target_margin", "revenue_share", "thresholds"}
_TOKENS = {"included_tokens", "overage_block", "cap", "rollover_tokens_max", "tokens"}
_SHARES_OF_THOUSAND = ((1_000_000_000, "B"), (1_000_000, "M"), (1_000, "k"))
_OF_AGENCY = (
    *("name", "currency", "timezone", "rounding", "unknown_clients", "unlisted_ids_max"),
    *("anchor", "close_after_hours", "thresholds", "target_margin", "invoice_series"),
    *("address", "email", "tax_id", "payment_terms", "tax"),
)
_OF_CLIENT = ("service_cost", "tax", "address", "email", "tax_id")

SECRET = "(secret)"
ANOTHER_SECRET = "(another secret)"


@dataclass(frozen=True, slots=True)
class Difference:
    """One field that changes; an empty `before` was not set, an empty `after` is taken out."""

    field: str
    before: str
    after: str
    from_day: str = ""


Facts = dict[tuple[str, str], str]


def differences(before: Agency, after: Agency) -> list[Difference]:
    """What changes, in the order of the file: agency, plans, clients, the rest."""
    old, new = dict(_facts(before)), dict(_facts(after))
    found = [
        Difference(field, old.get((field, day), ""), new.get((field, day), ""), day)
        for field, day in dict.fromkeys([*new, *old])
        if old.get((field, day), "") != new.get((field, day), "")
    ]
    if _secret(before) and _secret(after) and _secret(before) != _secret(after):
        found.append(Difference("on_threshold.secret", SECRET, ANOTHER_SECRET))
    return found


def _facts(agency: Agency) -> Iterator[tuple[tuple[str, str], str]]:
    for name in _OF_AGENCY:
        yield from _fact(f"agency.{name}", name, getattr(agency, name))
    for plan in agency.plans.values():
        yield from _of_plan(plan)
    for client in agency.clients.values():
        yield from _of_client(client)
    yield from _of_quotas("quotas", agency.quotas)
    for price in agency.prices:
        yield _of_price(price)
    for exchange in agency.exchange_rates:
        source = f" ({exchange.source})" if exchange.source else ""
        yield ("exchange_rates", _day(exchange.from_day)), plain(exchange.rate) + source
    yield from _of_hook(agency.on_threshold)
    for key in agency.access_keys:
        yield (f"access_keys.{key.name}", ""), f"{key.scope}, sha256:{key.sha256[:8]}…"


def _of_plan(plan: Plan) -> Iterator[tuple[tuple[str, str], str]]:
    default = type(plan)(plan.name, plan.type)
    yield (f"plans.{plan.name}.type", ""), plan.type.value
    for item in fields(plan):
        value = getattr(plan, item.name)
        is_own = value != getattr(default, item.name) and item.name != "quotas"
        if is_own:
            yield from _fact(f"plans.{plan.name}.{item.name}", item.name, value)
    yield from _of_quotas(f"plans.{plan.name}.quotas", plan.quotas)


def _of_client(client: Client) -> Iterator[tuple[tuple[str, str], str]]:
    path = f"clients.{client.id}"
    yield (path, ""), client.title
    if client.anchor != 1:
        yield (f"{path}.anchor", ""), str(client.anchor)
    for name in _OF_CLIENT:
        yield from _fact(f"{path}.{name}", name, getattr(client, name))
    for contract in client.contracts:
        yield (f"{path}.contract", _day(contract.from_day)), _contract(contract)
    for project, title in client.projects.items():
        yield (f"{path}.projects.{project}", ""), title or project
    yield from _of_quotas(f"{path}.quotas", client.quotas)
    for credit in client.credits:
        yield (
            (f"{path}.credits.{credit.description}", _day(credit.from_day)),
            plain(credit.amount),
        )
    for target, remote in client.remote_ids.items():
        yield (f"{path}.remote_ids.{target}", ""), remote


def _contract(contract: Contract) -> str:
    own = ", ".join(f"{name} {_shown(name, value)}" for name, value in contract.overrides.items())
    return f"{contract.plan} ({own})" if own else contract.plan


def _of_quotas(path: str, quotas: tuple[QuotaRule, ...]) -> Iterator[tuple[tuple[str, str], str]]:
    for rule in quotas:
        held = [f"project {rule.project}"] if rule.project else []
        held += [f"model {rule.model}"] if rule.model else []
        cap = f", cap {_tokens(rule.cap)}" if rule.cap is not None else ""
        name = f"{path}[{', '.join(held) or 'everything'}]"
        yield (name, ""), f"{_tokens(rule.tokens)} {rule.mode.value}{cap}"


def _of_price(price: PriceOverride) -> tuple[tuple[str, str], str]:
    held = [f"{price.provider}/{price.model}" if price.provider else price.model]
    held += [f"client {price.client}"] if price.client else []
    held += [f"above {_tokens(price.above_input_tokens)}"] if price.above_input_tokens else []
    for name in ("service_tier", "speed", "processing", "inference_geo"):
        held += [f"{name} {getattr(price, name)}"] if getattr(price, name) else []
    parts = [f"{kind} {plain(rate)}" for kind, rate in price.rates.items()]
    parts += [f"as {price.same_as}"] if price.same_as else []
    parts += [f"× {plain(price.multiplier)}"] if price.multiplier != 1 else []
    parts += [f"{tool} {plain(rate)}" for tool, rate in price.tool_rates.items()]
    parts += [f"{plain(price.per_request)} a request"] if price.per_request else []
    return (f"prices[{', '.join(held)}]", _day(price.from_day)), ", ".join(parts)


def _of_hook(hook: Hook | None) -> Iterator[tuple[tuple[str, str], str]]:
    if hook is None:
        return
    yield ("on_threshold", ""), hook.url or " ".join(hook.command)
    yield ("on_threshold.timeout_ms", ""), str(hook.timeout_ms)
    if hook.secret:
        yield ("on_threshold.secret", ""), SECRET


def _secret(agency: Agency) -> str:
    return agency.on_threshold.secret if agency.on_threshold else ""


def _fact(field: str, name: str, value: object) -> Iterator[tuple[tuple[str, str], str]]:
    shown = _shown(name, value)
    if shown:
        yield (field, ""), shown


def _shown(name: str, value: Any) -> str:
    """A value as the file would write it; empty for what is not set."""
    if value is None:
        return ""
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, tuple):
        return ", ".join(_shown(name, item) for item in value)
    if isinstance(value, Decimal):
        return f"{plain(value.scaleb(2))}%" if name in _PERCENTAGES else plain(value)
    if isinstance(value, date):
        return _day(value)
    if isinstance(value, int) and name in _TOKENS:
        return _tokens(value)
    if hasattr(value, "__dataclass_fields__"):
        return _parts(value)
    return str(value)


def _parts(value: Any) -> str:
    """A small value's own fields, those that say something."""
    shown = [(item.name, getattr(value, item.name)) for item in fields(value)]
    return ", ".join(f"{name} {_shown(name, part)}" for name, part in shown if part)


def _tokens(tokens: int) -> str:
    for size, letter in _SHARES_OF_THOUSAND:
        if tokens >= size and tokens % size == 0:
            return f"{tokens // size}{letter}"
    return str(tokens)


def _day(day: date) -> str:
    return "" if day == BEGINNING else day.isoformat()


def facts_of(agency: Agency) -> Mapping[tuple[str, str], str]:
    """Every fact of a configuration: (field, day it holds from) → value as written."""
    return dict(_facts(agency))
