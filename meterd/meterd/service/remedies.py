"""The three ways out for a client that loses money: less input, a higher tier, cost-plus.

Each with the figures of this very month, and a letter filled in where there is one to send.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from meterd.billing.contract import period_for, period_for_index
from meterd.billing.conversion import conversion_of
from meterd.billing.letters import RaiseLetter, SwitchLetter, written
from meterd.billing.period import day_of
from meterd.billing.profit import (
    Outcome,
    outcome_of,
    plans_that_pay,
    under_cost_plus,
    with_less_input,
)
from meterd.billing.wording import day_text, month_name, percent_text, prose_money, tokens_text
from meterd.config.agency import MARKUP_BANDS, PlanType, ServiceCost, ServiceLevel
from meterd.errors import InvalidRequest
from meterd.money import exact, round_line
from meterd_proto.v1 import billing_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from meterd.billing.profit import Proposal
    from meterd.billing.statement import Statement
    from meterd.config.agency import Agency, Plan
    from meterd.store.input_sizes import InputSizes
    from meterd.store.values import Sums

DEFAULT_CHANGE = Decimal("-0.67")
"""A prompt of 2,400 tokens cut to 800: what a summary of the history usually saves."""
PROPOSALS_MAX = 3
_CHANGE = re.compile(r"-([0-9]{1,2}(?:\.[0-9]{1,3})?)%")


@dataclass(frozen=True, slots=True)
class Patient:
    """A client whose month is looked at."""

    statement: Statement
    earlier: tuple[Statement, ...]
    """Of the periods before, newest first."""
    plan: Plan | None
    outcome: Outcome
    sums: Sums
    sizes: InputSizes | None
    input_cost: Decimal
    """US dollars, exact."""


def change_of(text: str) -> Decimal:
    """A what-if of the input, as "-67%"; the default for an empty one.

    Raises:
        InvalidRequest: it is no reduction.
    """
    if not text:
        return DEFAULT_CHANGE
    matched = _CHANGE.fullmatch(text.replace("−", "-"))
    if matched is None:
        raise InvalidRequest(f"{text!r} is no reduction of the input; write it as -67%")
    return -Decimal(matched[1]).scaleb(-2)


def percent_of(part: Decimal | int, whole: Decimal | int) -> str:
    """A share in percent, to a tenth, half up; empty where there is nothing to divide by."""
    if not whole:
        return ""
    with exact():
        tenths = int((2000 * part + whole) // (2 * whole))
    sign, tenths = ("-", -tenths) if tenths < 0 else ("", tenths)
    return f"{sign}{tenths // 10}.{tenths % 10}"


def remedies_of(
    patient: Patient, agency: Agency, change: Decimal, now: datetime, letters: Path
) -> Iterator[billing_pb2.Remedy]:
    """What can be done; nothing for who is not meant to pay."""
    plan = patient.plan
    if plan is None or plan.type not in (PlanType.RETAINER, PlanType.COST_PLUS):
        return
    if patient.sums.requests:
        yield _optimise(patient, plan, agency, change)
    if plan.type is PlanType.RETAINER:
        yield from _raise_tier(patient, plan, agency, now, letters)
        yield _cost_plus(patient, agency, letters)


def _optimise(patient: Patient, plan: Plan, agency: Agency, change: Decimal) -> billing_pb2.Remedy:
    statement, sums = patient.statement, patient.sums
    smaller, saved = with_less_input(statement, sums.input_tokens, patient.input_cost, change)
    outcome = _outcome(agency, smaller, plan)
    with exact():
        shown = round_line(saved * _rate(agency, statement), agency.currency, agency.rounding)
    summary = (
        f"{_sizes(patient)}; {percent_text(change).replace('-', '−')} input would save "
        f"{prose_money(shown, agency.currency)} of {_money(patient.outcome.ai_cost, agency)}"
    )
    return _remedy("optimise", summary, outcome)


def _sizes(patient: Patient) -> str:
    sums, sizes = patient.sums, patient.sizes
    mean = (2 * sums.input_tokens + sums.requests) // (2 * sums.requests)
    parts = [f"{mean:,} input tokens a request"]
    if sizes is not None and sizes.p95_input_tokens:
        parts.append(f"95 % of them below {sizes.p95_input_tokens + 1:,}")
    if sums.cache_read_tokens:
        parts.append(f"{percent_of(sums.cache_read_tokens, sums.input_tokens)} % from the cache")
    if sizes is not None and sizes.sampled_bytes:
        share = percent_of(sizes.history_bytes, sizes.sampled_bytes)
        parts.append(f"{share} % of it older turns of the conversation")
    return ", ".join(parts)


def _raise_tier(
    patient: Patient, plan: Plan, agency: Agency, now: datetime, letters: Path
) -> Iterator[billing_pb2.Remedy]:
    """Dearer retainers under which this month and those before it pay, cheapest first."""
    statements = (patient.statement, *patient.earlier)
    candidates = [one for one in agency.plans.values() if one.fee > plan.fee]
    found = plans_that_pay(
        statements,
        candidates,
        _service(agency, patient.statement.client),
        agency.currency,
        conversion=_rate(agency, patient.statement),
        rounding=agency.rounding,
    )
    for proposal in found[:PROPOSALS_MAX]:
        yield _raised(patient, plan, proposal, agency, now, letters)
    if not found:
        months = "this month" if len(statements) == 1 else f"the last {len(statements)} months"
        summary = f"no dearer retainer of [plans] would have paid for {months}"
        yield billing_pb2.Remedy(kind="raise_tier", summary=summary)


def _raised(
    patient: Patient, plan: Plan, proposal: Proposal, agency: Agency, now: datetime, letters: Path
) -> billing_pb2.Remedy:
    new, currency = proposal.plan, agency.currency
    client = patient.statement.client
    running = period_for(agency, client, now)
    begins = day_of(period_for_index(agency, client, running.index + 1).start, agency.zone)
    letter = RaiseLetter(
        month=month_name(day_of(patient.statement.period.start, agency.zone)),
        tokens=tokens_text(patient.statement.tokens),
        cost=prose_money(patient.outcome.ai_cost, currency),
        fee=prose_money(plan.fee, currency),
        plan=new.title,
        new_fee=prose_money(new.fee, currency),
        included=tokens_text(new.included_tokens or 0),
        extras=new.extras or "the same service as before",
        date=day_text(begins),
    )
    summary = (
        f"{new.title} at {prose_money(new.fee, currency)} would have billed "
        f"{_money(proposal.outcome.revenue, agency)} and left "
        f"{_money(proposal.outcome.profit, agency)}"
    )
    return _remedy("raise_tier", summary, proposal.outcome, written(letter, letters))


def _cost_plus(patient: Patient, agency: Agency, letters: Path) -> billing_pb2.Remedy:
    markup = _markup(agency)
    proposal = under_cost_plus(
        patient.statement,
        markup,
        _service(agency, patient.statement.client),
        agency.currency,
        conversion=_rate(agency, patient.statement),
        rounding=agency.rounding,
    )
    summary = (
        f"actual cost + {percent_text(markup)} would have billed "
        f"{_money(proposal.outcome.revenue, agency)} and left "
        f"{_money(proposal.outcome.profit, agency)}"
    )
    letter = written(SwitchLetter(percent_text(markup)), letters)
    return _remedy("cost_plus", summary, proposal.outcome, letter)


def _markup(agency: Agency) -> Decimal:
    """The agency's own cost-plus plan's, the least of them; else basic management's."""
    own = [plan.markup for plan in agency.plans.values() if plan.type is PlanType.COST_PLUS]
    return min(own) if own else MARKUP_BANDS[ServiceLevel.BASIC][0]


def _outcome(agency: Agency, statement: Statement, plan: Plan) -> Outcome:
    return outcome_of(
        statement,
        plan,
        _service(agency, statement.client),
        agency.currency,
        conversion=_rate(agency, statement),
        rounding=agency.rounding,
    )


def _service(agency: Agency, client: str) -> ServiceCost:
    listed = agency.clients.get(client)
    return listed.service_cost if listed else ServiceCost()


def _rate(agency: Agency, statement: Statement) -> Decimal:
    conversion = conversion_of(agency, statement.period)
    return conversion.rate if conversion else Decimal(1)


def _money(amount: Decimal, agency: Agency) -> str:
    return prose_money(amount, agency.currency)


def _remedy(kind: str, summary: str, outcome: Outcome, letter: str = "") -> billing_pb2.Remedy:
    return billing_pb2.Remedy(
        kind=kind,
        summary=summary,
        revenue=f"{outcome.revenue:f}",
        profit=f"{outcome.profit:f}",
        letter=letter,
    )
