"""Which plan bills a period: the contract at its start, or, by the day, all of its contracts.

A change inside a period waits for the next one, unless the plan that begins says
`proration = "calendar_days"`: then each retainer's fee and included tokens count for its days
over all days of the period, never over the days that are left of it. A client's first
contract holds for the whole of the period in which it begins, or by the day likewise.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from meterd.billing.period import day_of
from meterd.billing.wording import prose_money
from meterd.config.agency import PlanType
from meterd.money import exact, round_share

if TYPE_CHECKING:
    from datetime import date

    from meterd.billing.period import Period
    from meterd.config.agency import Agency, Plan


class _Part(NamedTuple):
    """A plan and the days of the period that it holds for."""

    plan: Plan
    days: int


def plan_of_period(agency: Agency, client: str, period: Period) -> Plan | None:
    """The plan that bills a client's period, contracts' own numbers in place; None: none does."""
    parts = _parts(agency, client, period)
    if not parts:
        return None
    if _is_by_the_day(parts):
        return _by_the_day(agency, parts, _days(agency, period))
    return parts[0].plan


def _parts(agency: Agency, client: str, period: Period) -> list[_Part]:
    """The contracts that hold on some day of the period, in order, with their days."""
    listed = agency.clients.get(client)
    first, end = day_of(period.start, agency.zone), day_of(period.end, agency.zone)
    contracts = [one for one in (listed.contracts if listed else ()) if one.from_day < end]
    starts: list[date] = [max(one.from_day, first) for one in contracts]
    ends = [*starts[1:], end][: len(starts)]
    return [
        _Part(contract.terms(agency.plans[contract.plan]), (until - start).days)
        for contract, start, until in zip(contracts, starts, ends, strict=True)
        if until > start
    ]


def _days(agency: Agency, period: Period) -> int:
    return (day_of(period.end, agency.zone) - day_of(period.start, agency.zone)).days


def _is_by_the_day(parts: list[_Part]) -> bool:
    """Only retainers are split: what a day's usage costs under each plan is not one line."""
    return all(part.plan.type is PlanType.RETAINER for part in parts) and (
        parts[-1].plan.proration == "calendar_days"
    )


def _by_the_day(agency: Agency, parts: list[_Part], days: int) -> Plan:
    """One retainer out of several: fees rounded each, included tokens rounded up together."""
    last = parts[-1].plan
    if parts[0].days == days:
        return last
    fees = [
        round_share(part.plan.fee, part.days, days, agency.currency, agency.rounding)
        for part in parts
    ]
    included = [part.plan.included_tokens for part in parts]
    whole = sum((tokens or 0) * part.days for tokens, part in zip(included, parts, strict=True))
    label = " and ".join(
        f"{part.plan.title} ({part.days} of {days} days, {prose_money(fee, agency.currency)})"
        for part, fee in zip(parts, fees, strict=True)
    )
    with exact():
        fee = sum(fees[1:], fees[0])
    return replace(
        last,
        label=label,
        fee=fee,
        included_tokens=None if None in included else -(-whole // days),
    )
