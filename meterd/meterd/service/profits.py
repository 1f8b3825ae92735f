"""Profit: who makes and who loses money, and for each loser the three ways out.

rollups ─▶ statements ─▶ outcomes ─▶ rows, flags
                           └ losers: ledger rows ─▶ sizes of requests ─▶ remedies, letters
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from meterd.billing.contract import period_for_index
from meterd.billing.conversion import conversion_of
from meterd.billing.plan_of_period import plan_of_period
from meterd.billing.profit import Outcome, flags_of, outcome_of, service_cost_of
from meterd.config.agency import ServiceCost
from meterd.money import allot, exact, minor_unit
from meterd.service.months import month_asked
from meterd.service.remedies import Patient, change_of, percent_of, remedies_of
from meterd.store.values import Grouping, PeriodIndex, RollupQuery, Sums
from meterd_proto.v1 import billing_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping
    from pathlib import Path

    from meterd.billing.statement import Statement
    from meterd.clock import Clock
    from meterd.config.agency import Agency, Plan
    from meterd.config.in_force import InForce
    from meterd.service.drafting import Drafting
    from meterd.store.input_sizes import InputSizes
    from meterd.store.store import Store

TREND_PERIODS = 3
"""Periods before the one asked for."""
FOR_EVER = PeriodIndex(1 << 40)


@dataclass(slots=True)
class _Month:
    """What is known of all clients in one period."""

    period: PeriodIndex
    statements: Mapping[str, Statement]
    sums: Mapping[tuple[str, str], Sums]
    """By client and project; the empty project is the whole client."""
    costs: Mapping[tuple[str, str], Decimal]
    sizes: dict[tuple[str, str], InputSizes] = field(default_factory=dict)


class Profits:
    """Computes profit rows. Belongs to the event loop."""

    def __init__(
        self, store: Store, in_force: InForce, clock: Clock, drafting: Drafting, letters: Path
    ) -> None:
        self._store = store
        self._books = store.books
        self._in_force = in_force
        self._clock = clock
        self._drafting = drafting
        self._letters = letters

    async def rows(
        self, request: billing_pb2.ProfitRequest
    ) -> AsyncIterator[billing_pb2.ProfitRow]:
        """A row a client, greatest loss first; its projects below it; the total at the end."""
        agency, client = self._in_force.agency, request.client or None
        change = change_of(request.what_if_input)
        index = month_asked(agency, request.period, self._clock.now(), request.client)
        month = await self._month(agency, index, client)
        closed_under = await self._drafting.closed_under(client)
        taken_back = await self._taken_back(index, agency)
        found = []
        for name, statement in month.statements.items():
            terms = closed_under.get((name, index), agency)
            plan = plan_of_period(terms, name, statement.period)
            outcome = _outcome(agency, terms, statement, plan, taken_back.get(name, Decimal(0)))
            found.append((name, plan, outcome))
        found.sort(key=lambda one: (one[2].profit, one[0]))
        losers = {
            name for name, _, outcome in found if client or _is_sick(agency, month, name, outcome)
        }
        before = await self._before(agency, index, losers, client)
        await self._measure(agency, month, losers, client)
        input_costs = await self._books.input_costs(index) if losers else {}
        for name, plan, outcome in found:
            row = self._row(agency, month, name, plan, outcome)
            if name in losers:
                row.trend.extend(_trend(agency, [*before, month], name))
            if outcome.profit < 0 or (client and request.what_if_input):
                patient = Patient(
                    statement=month.statements[name],
                    earlier=tuple(
                        one.statements[name] for one in before[::-1] if name in one.statements
                    ),
                    plan=plan,
                    outcome=outcome,
                    sums=month.sums[name, ""] if (name, "") in month.sums else Sums(),
                    sizes=month.sizes.get((name, "")),
                    input_cost=input_costs.get(name, Decimal(0)),
                )
                row.remedies.extend(
                    remedies_of(patient, agency, change, self._clock.now(), self._letters)
                )
            yield row
            if request.by == "project":
                for part in _project_rows(agency, month, name, outcome):
                    yield part
        yield _total(agency, month, [outcome for _, _, outcome in found])

    async def _month(self, agency: Agency, index: PeriodIndex, client: str | None) -> _Month:
        statements = await self._books.statements(agency, index, FOR_EVER, client)
        listed = [client] if client else list(agency.clients)
        missing = [name for name in listed if name not in statements and name in agency.clients]
        statements |= await self._books.empty_statements(agency, index, missing)
        sums: dict[tuple[str, str], Sums] = {}
        costs: dict[tuple[str, str], Decimal] = {}
        for by in ((Grouping.CLIENT,), (Grouping.CLIENT, Grouping.PROJECT)):
            query = RollupQuery(period=index, by=by, client=client)
            for row in await self._store.rollup(query):
                if len(by) == 1 or row.project:
                    sums[row.client, row.project] = row.sums
                    costs[row.client, row.project] = row.cost
        return _Month(index, statements, sums, costs)

    async def _taken_back(self, index: PeriodIndex, agency: Agency) -> dict[str, Decimal]:
        """By client: what credit notes took back of the period, without tax; all of a void one."""
        found: dict[str, Decimal] = {}
        unit = minor_unit(agency.currency)
        billed = await self._books.documents(index)
        with exact():
            for one in billed:
                if one.kind == "invoice":
                    back = (one.credited - one.credited_tax) * unit
                    if one.is_void:
                        back = Decimal("Infinity")
                    found[one.client] = found.get(one.client, Decimal(0)) + back
        return found

    async def _before(
        self, agency: Agency, index: PeriodIndex, losers: set[str], client: str | None
    ) -> list[_Month]:
        if not losers:
            return []
        months = []
        for at in range(index - TREND_PERIODS, index):
            month = await self._month(agency, PeriodIndex(at), client)
            await self._measure(agency, month, losers, client)
            months.append(month)
        return months

    async def _measure(
        self, agency: Agency, month: _Month, losers: set[str], client: str | None
    ) -> None:
        """Sizes of requests, from the ledger; per set of clients whose periods are the same."""
        by_bounds: dict[tuple[int, int], list[str]] = {}
        for name in losers:
            if (name, "") in month.sums:
                period = month.statements[name].period
                key = (period.start_unix_ns, period.end_unix_ns)
                by_bounds.setdefault(key, []).append(name)
        for names in by_bounds.values():
            period = month.statements[names[0]].period
            month.sizes |= await self._books.input_sizes(names, period)

    def _row(
        self, agency: Agency, month: _Month, name: str, plan: Plan | None, outcome: Outcome
    ) -> billing_pb2.ProfitRow:
        statement = month.statements[name]
        row = _figures(agency, outcome, month.sums.get((name, ""), Sums()))
        row.client = name
        row.period = statement.period.name
        row.plan = plan.name if plan else ""
        row.flags.extend(flags_of(outcome, statement.unpriced_requests, agency.target_margin))
        _fill_sizes(row, month.sizes.get((name, "")))
        return row


def _is_sick(agency: Agency, month: _Month, name: str, outcome: Outcome) -> bool:
    flags = flags_of(outcome, month.statements[name].unpriced_requests, agency.target_margin)
    return "loss" in flags or "margin" in flags


def _outcome(
    agency: Agency, terms: Agency, statement: Statement, plan: Plan | None, back: Decimal
) -> Outcome:
    """What a client's period brings and costs, less what was taken back of its invoice."""
    conversion = conversion_of(terms, statement.period)
    listed = agency.clients.get(statement.client)
    service = listed.service_cost if listed else ServiceCost()
    outcome = outcome_of(
        statement,
        plan,
        service,
        agency.currency,
        conversion=conversion.rate if conversion else Decimal(1),
        rounding=agency.rounding,
    )
    if not back:
        return outcome
    revenue = Decimal(0)
    if back.is_finite():
        with exact():
            revenue = outcome.revenue - back
    cost = service_cost_of(service, revenue, agency.currency, agency.rounding)
    return Outcome(revenue, outcome.ai_cost, cost)


def _figures(agency: Agency, outcome: Outcome, sums: Sums) -> billing_pb2.ProfitRow:
    margin = outcome.margin
    return billing_pb2.ProfitRow(
        currency=agency.currency,
        revenue=f"{outcome.revenue:f}",
        ai_cost=f"{outcome.ai_cost:f}",
        service_cost=f"{outcome.service_cost:f}",
        profit=f"{outcome.profit:f}",
        margin="" if margin is None else f"{margin.scaleb(2):.1f}",
        ai_cost_share=percent_of(outcome.ai_cost, outcome.revenue),
        requests=sums.requests,
        tokens=sums.tokens,
        estimated_tokens=sums.estimated_tokens,
        unpriced_requests=sums.unpriced_requests,
        mean_input_tokens=_mean(sums),
        output_ratio=_ratio(sums.output_tokens, sums.input_tokens),
        cache_read_share=percent_of(sums.cache_read_tokens, sums.input_tokens),
    )


def _fill_sizes(row: billing_pb2.ProfitRow, sizes: InputSizes | None) -> None:
    if sizes is not None:
        row.p95_input_tokens = sizes.p95_input_tokens
        row.history_share = percent_of(sizes.history_bytes, sizes.sampled_bytes)


def _mean(sums: Sums) -> int:
    if not sums.requests:
        return 0
    return (2 * sums.input_tokens + sums.requests) // (2 * sums.requests)


def _ratio(part: int, whole: int) -> str:
    """A ratio to a hundredth; empty where there is nothing to divide by."""
    if not whole:
        return ""
    hundredths = (200 * part + whole) // (2 * whole)
    return f"{hundredths // 100}.{hundredths % 100:02d}"


def _trend(agency: Agency, months: Iterable[_Month], name: str) -> Iterable[billing_pb2.TrendPoint]:
    for month in months:
        sums = month.sums.get((name, ""))
        if sums is not None:
            sizes = month.sizes.get((name, ""))
            yield billing_pb2.TrendPoint(
                period=period_for_index(agency, name, month.period).name,
                mean_input_tokens=_mean(sums),
                p95_input_tokens=sizes.p95_input_tokens if sizes else 0,
                requests=sums.requests,
            )


def _project_rows(
    agency: Agency, month: _Month, client: str, outcome: Outcome
) -> Iterable[billing_pb2.ProfitRow]:
    """The client's figures shared among its projects by cost, so that they sum to its row."""
    statement = month.statements[client]
    projects = statement.projects
    if not projects:
        return
    weights: list[Decimal | int] = [project.cost for project in projects]
    if not any(weights):
        weights = [project.tokens for project in projects]
    shares = [
        allot(amount, weights, agency.currency)
        for amount in (outcome.revenue, outcome.ai_cost, outcome.service_cost)
    ]
    for project, revenue, ai_cost, service in zip(projects, *shares, strict=True):
        key = (client, project.project)
        sums = month.sums.get(key)
        if sums is None:  # what has no project at all
            sums = Sums(requests=project.requests)
        row = _figures(agency, Outcome(revenue, ai_cost, service), sums)
        row.client, row.project = client, project.project or "no project"
        row.requests, row.tokens = project.requests, project.tokens
        row.period = statement.period.name
        _fill_sizes(row, month.sizes.get(key) if project.project else None)
        yield row


def _total(agency: Agency, month: _Month, outcomes: list[Outcome]) -> billing_pb2.ProfitRow:
    with exact():
        whole = Outcome(
            sum((one.revenue for one in outcomes), Decimal(0)),
            sum((one.ai_cost for one in outcomes), Decimal(0)),
            sum((one.service_cost for one in outcomes), Decimal(0)),
        )
    clients = [sums for (_, project), sums in month.sums.items() if not project]
    names = (
        *("requests", "input_tokens", "output_tokens", "cache_read_tokens"),
        *("unpriced_requests", "estimated_tokens"),
    )
    added = {name: sum(getattr(sums, name) for sums in clients) for name in names}
    row = _figures(agency, whole, Sums(**added))
    row.is_total = True
    row.period = period_for_index(agency, "", month.period).name
    return row
