"""What holds for a client at a moment: its contract's plan, with the contract's own numbers.

A contract runs from its local day to the next contract's. Two questions are asked of them:
`terms_at` for money, the contract of the moment; `quota_terms_at` for tokens, where a larger
contract acts from its date and a smaller one waits for the next period.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from meterd.billing.period import Period, day_of, period_at, period_named, period_of
from meterd.config.agency import LimitMode, OnUnreachable, QuotaRule, ReserveMode, UnknownClients

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date, datetime
    from decimal import Decimal

    from meterd.config.agency import Agency, Contract, Plan


@dataclass(frozen=True, slots=True)
class Terms:
    """What a client may use and how it pays, at one moment."""

    client: str
    is_listed: bool
    contract: Contract | None
    plan: Plan | None
    """The contract's plan with its overrides in place; None: no plan holds now."""
    own_rule: QuotaRule | None
    """The client's own quota, over all its calls; None: nothing limits or warns it."""
    rules: tuple[QuotaRule, ...]
    """Every quota that a call of this client may match: `own_rule` first, then those of its
    plan, the client, its projects and models, then the agency's."""
    thresholds: tuple[Decimal, ...]
    reserve: ReserveMode
    on_unreachable: OnUnreachable

    @property
    def plan_name(self) -> str:
        """The plan's key; empty without a plan."""
        return self.plan.name if self.plan else ""

    @property
    def included_tokens(self) -> int | None:
        """Tokens that the plan includes; None: it counts none."""
        return self.plan.included_tokens if self.plan else None

    @property
    def mode(self) -> LimitMode:
        """How the client's own quota ends; NONE where nothing limits it."""
        return self.own_rule.mode if self.own_rule else LimitMode.NONE


def terms_at(agency: Agency, client: str, moment: datetime) -> Terms:
    """The terms in force for a client at a moment, for money.

    Clients that the configuration doesn't list have no plan; with `unknown_clients =
    "reject"` their one rule is a hard quota of nothing. `unattributed` is such a client
    too, unless it is listed.
    """
    return _terms(agency, client, contract_at(agency, client, day_of(moment, agency.zone)))


def quota_terms_at(agency: Agency, client: str, moment: datetime) -> Terms:
    """The terms in force for a client at a moment, for its quota.

    Of the contracts in force since the period began the latest holds, unless it lets the
    client use less than an earlier one did: a smaller contract waits for the next period.
    """
    period = period_for(agency, client, moment)
    held: Terms | None = None
    for contract in _contracts_between(agency, client, period, moment):
        terms = _terms(agency, client, contract)
        if held is None or _room(terms) >= _room(held):
            held = terms
    return held or terms_at(agency, client, moment)


def contract_at(agency: Agency, client: str, day: date) -> Contract | None:
    """The contract that a client has on a local day, if any."""
    listed = agency.clients.get(client)
    if listed is None:
        return None
    in_force = [contract for contract in listed.contracts if contract.from_day <= day]
    return in_force[-1] if in_force else None


def period_for(agency: Agency, client: str, moment: datetime) -> Period:
    """The period of a client that a moment lies in."""
    return period_of(moment, agency.zone, agency.anchor_of(client))


def period_for_month(agency: Agency, client: str, name: str) -> Period:
    """The period of a client that begins in the month `name`, as `2026-11`."""
    return period_named(name, agency.zone, agency.anchor_of(client))


def period_for_index(agency: Agency, client: str, index: int) -> Period:
    """The period of a client with this index."""
    return period_at(index, agency.zone, agency.anchor_of(client))


def _terms(agency: Agency, client: str, contract: Contract | None) -> Terms:
    plan = contract.terms(agency.plans[contract.plan]) if contract else None
    own_rule = _own_rule(agency, client, plan)
    return Terms(
        client=client,
        is_listed=client in agency.clients,
        contract=contract,
        plan=plan,
        own_rule=own_rule,
        rules=tuple(_rules(agency, client, plan, own_rule)),
        thresholds=(plan.thresholds if plan else None) or agency.thresholds,
        reserve=plan.reserve if plan else ReserveMode.USUAL,
        on_unreachable=plan.on_unreachable if plan else OnUnreachable.ALLOW,
    )


def _own_rule(agency: Agency, client: str, plan: Plan | None) -> QuotaRule | None:
    """The quota over all of a client's calls: what its plan includes, or else the cap."""
    if plan is None:
        is_stranger = client not in agency.clients
        if is_stranger and agency.unknown_clients is UnknownClients.REJECT:
            return QuotaRule(tokens=0, mode=LimitMode.HARD, client=client)
        return None
    if plan.limit is LimitMode.NONE:
        return None
    if plan.included_tokens is not None:
        return QuotaRule(plan.included_tokens, plan.limit, plan.cap, client)
    return QuotaRule(plan.cap, LimitMode.HARD, None, client) if plan.cap is not None else None


def _rules(
    agency: Agency, client: str, plan: Plan | None, own_rule: QuotaRule | None
) -> Iterator[QuotaRule]:
    if own_rule is not None:
        yield own_rule
    for rule in plan.quotas if plan else ():
        yield replace(rule, client=client)
    listed = agency.clients.get(client)
    yield from listed.quotas if listed else ()
    yield from agency.quotas


def _contracts_between(
    agency: Agency, client: str, period: Period, moment: datetime
) -> Iterator[Contract]:
    """The contracts in force at some time from the period's start to the moment, in order."""
    first, last = day_of(period.start, agency.zone), day_of(moment, agency.zone)
    at_start = contract_at(agency, client, first)
    if at_start is not None:
        yield at_start
    listed = agency.clients.get(client)
    for contract in listed.contracts if listed else ():
        if first < contract.from_day <= last:
            yield contract


def _room(terms: Terms) -> tuple[int, int]:
    """How much terms let a client use: unlimited above every ceiling; then what is included."""
    rule = terms.own_rule
    ceiling = rule.ceiling if rule else None
    included = rule.tokens if rule else 0
    return (1 << 62 if ceiling is None else ceiling, included)
