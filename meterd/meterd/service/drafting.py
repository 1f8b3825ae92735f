"""Drafting: what the books know of clients, gathered into accounts, made into invoices.

    rollups, billed lines, grants ─▶ Account ─ billing.account ─▶ Invoice ─ sheet ─▶ JSON

A draft and a closing are the same computation: a closing only keeps what came out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING

from meterd.billing.account import Account, Billed, LatePeriod, invoice_of
from meterd.billing.period import period_at
from meterd.billing.plan_of_period import plan_of_period
from meterd.billing.rollover import Month, rolled_over
from meterd.billing.sheet import Particulars, sheet
from meterd.clock import unix_ns_of
from meterd.config import toml as config_toml
from meterd.money import exact, minor_unit
from meterd.store.values import PeriodIndex

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meterd.billing.sheet import Json
    from meterd.billing.statement import Invoice, Statement
    from meterd.config.agency import Agency, Plan
    from meterd.config.in_force import InForce
    from meterd.store.book_values import Basis, BilledLine
    from meterd.store.store import Store

_OWN_KINDS = frozenset(("fee", "usage", "markup", "overage", "minimum", "discount", "adjustment"))
"""What charges a period: the rest of a bill is credits, what was carried, and tax."""


@dataclass(frozen=True, slots=True)
class Drafts:
    """Accounts of a period, and what their sheets have to say beside amounts."""

    agency: Agency
    period: PeriodIndex
    basis: Basis
    config_version: int
    first_row: int
    accounts: Mapping[str, Account]
    rates: Mapping[str, tuple[int, ...]]
    books: Mapping[int, str]

    def particulars(self, client: str) -> Particulars:
        """Of a client's draft."""
        rates = self.rates.get(client, ())
        return Particulars(
            config_version=self.config_version,
            price_book=_price_book(rates, self.books),
            ledger_rows=(self.first_row, max(self.first_row, self.basis.end_row - 1)),
            rates=rates,
            last_reprice=self.basis.last_reprice,
        )

    def invoice(self, client: str) -> Invoice:
        """What the client would be billed."""
        return invoice_of(self.accounts[client])

    def sheet(self, client: str, invoice: Invoice, **final: object) -> dict[str, Json]:
        """An invoice's sheet; `final` has what a draft lacks: number and time of issue."""
        particulars = replace(self.particulars(client), **final)  # type: ignore[arg-type]  # fields of Particulars
        return sheet(invoice, particulars, self.agency)


class Drafting:
    """Gathers accounts. Belongs to the event loop."""

    def __init__(self, store: Store, in_force: InForce) -> None:
        self._store = store
        self._books = store.books
        self._in_force = in_force
        self._agencies: dict[int, Agency] = {}

    async def drafts(self, period: PeriodIndex, client: str | None = None) -> Drafts:
        """The accounts of a period that isn't closed: of one client, or of all there are."""
        agency, books = self._in_force.agency, self._books
        basis = await books.basis()
        posted = await books.posted(period)
        own = await books.statements(agency, period, period, client)
        names = [client] if client else sorted({*agency.clients, *posted.get(period, ()), *own})
        missing = [name for name in names if name not in own]
        own |= await books.empty_statements(agency, period, missing)
        gathered = Gathered(
            agency=agency,
            period=period,
            own={name: own[name] for name in names},
            posted={p: c for p, c in posted.items() if p < period},
            billed=billed_by_client(await books.billed(client), agency.currency),
            tokens=await books.tokens_by_period(period, client),
            closed_under=await self.closed_under(client),
        )
        accounts = await self._accounts(gathered, client)
        start = min((own[name].period.start for name in names), default=None)
        return Drafts(
            agency,
            period,
            basis,
            self._in_force.version,
            await books.first_row(unix_ns_of(start) // 1_000_000) if start else 0,
            accounts,
            await books.rates_used(period, period),
            await books.books_of_rates(),
        )

    async def closed_under(self, client: str | None) -> dict[tuple[str, PeriodIndex], Agency]:
        """(client, period) → the configuration that it was closed under."""
        versions = {one.id: one.config_version for one in await self._books.closings()}
        closed = await self._books.closed_by(client)
        await self._load({versions[closing] for closing in closed.values()})
        return {key: self._agencies[versions[closing]] for key, closing in closed.items()}

    async def agency_of(self, version: int) -> Agency:
        """A stored configuration; the one in force for version 0."""
        await self._load({version})
        return self._agencies[version]

    async def rolled_over(self, client: str, period: PeriodIndex) -> int:
        """Tokens that a client's period may use of earlier ones, as far as is known now."""
        agency = self._in_force.agency
        bounds = period_at(period, agency.zone, agency.anchor_of(client))
        plan = plan_of_period(agency, client, bounds)
        if not _rolls_over(plan):
            return 0
        tokens = await self._books.tokens_by_period(period, client)
        closed_under = await self.closed_under(client)
        return Gathered(agency, period, {}, {}, {}, tokens, closed_under).rolled_over(
            client, period, plan
        )

    async def _load(self, versions: set[int]) -> None:
        missing = versions - self._agencies.keys()
        if not missing:
            return
        for stored in await self._store.config_versions():
            if stored.version in missing:
                self._agencies[stored.version] = config_toml.read(stored.toml, stored.source).agency
        if 0 in missing:
            self._agencies[0] = type(self._in_force.agency)()

    async def _accounts(self, gathered: Gathered, client: str | None) -> dict[str, Account]:
        late_of = gathered.late_periods()
        late: dict[PeriodIndex, dict[str, Statement]] = {}
        for index in sorted({period for periods in late_of.values() for period in periods}):
            late[index] = await self._books.statements(
                gathered.agency, index, gathered.period, client
            )
        return {
            name: gathered.account(
                name, [late[index][name] for index in late_of.get(name, ()) if name in late[index]]
            )
            for name in gathered.own
        }


@dataclass(frozen=True, slots=True)
class Gathered:
    """What was read for a period's accounts; from here on nothing is read any more."""

    agency: Agency
    period: PeriodIndex
    own: Mapping[str, Statement]
    posted: Mapping[PeriodIndex, frozenset[str]]
    """By closed period: the clients whose usage of it this one bills."""
    billed: Mapping[str, Billed]
    tokens: Mapping[str, Mapping[PeriodIndex, int]]
    closed_under: Mapping[tuple[str, PeriodIndex], Agency]

    def late_periods(self) -> dict[str, tuple[PeriodIndex, ...]]:
        """By client: the closed periods that grew; with rollover also those that follow them."""
        grew: dict[str, set[PeriodIndex]] = {}
        for index, clients in self.posted.items():
            for name in clients & self.own.keys():
                grew.setdefault(name, set()).add(index)
        for name, periods in grew.items():
            if any(_rolls_over(self._plan(name, index)) for index in periods):
                closed = {index for owner, index in self.closed_under if owner == name}
                periods |= {i for i in closed if min(periods) < i < self.period}
        return {name: tuple(sorted(periods)) for name, periods in grew.items()}

    def account(self, client: str, late: Sequence[Statement]) -> Account:
        """A client's account."""
        return Account(
            self.agency,
            self._complete(self.own[client], self.agency),
            tuple(
                LatePeriod(self._complete(one, agency), agency)
                for one in late
                for agency in [self._agency(client, PeriodIndex(one.period.index))]
            ),
            self.billed.get(client, Billed()),
        )

    def _complete(self, statement: Statement, agency: Agency) -> Statement:
        """With the names of projects, and what rolls over into it."""
        listed = agency.clients.get(statement.client)
        names = listed.projects if listed else {}
        projects = tuple(
            replace(one, project=names.get(one.project) or one.project)
            for one in statement.projects
        )
        plan = plan_of_period(agency, statement.client, statement.period)
        until = PeriodIndex(statement.period.index)
        more = self.rolled_over(statement.client, until, plan) if _rolls_over(plan) else 0
        return replace(statement, projects=projects, rolled_over_tokens=more)

    def rolled_over(self, client: str, until: PeriodIndex, plan: Plan | None) -> int:
        """Tokens that a period may use of earlier ones."""
        tokens = self.tokens.get(client, {})
        first = min((index for index in tokens if index < until), default=until)
        months = (
            Month(index, tokens.get(PeriodIndex(index), 0), self._plan(client, PeriodIndex(index)))
            for index in range(first, until)
        )
        return rolled_over(months, until, plan)

    def _plan(self, client: str, index: PeriodIndex) -> Plan | None:
        agency = self._agency(client, index)
        period = period_at(index, agency.zone, agency.anchor_of(client))
        return plan_of_period(agency, client, period)

    def _agency(self, client: str, index: PeriodIndex) -> Agency:
        return self.closed_under.get((client, index), self.agency)


def billed_by_client(lines: Sequence[BilledLine], currency: str) -> dict[str, Billed]:
    """What invoices say, as accounts take it."""
    with exact():
        return _added_up(lines, minor_unit(currency))


def _added_up(lines: Sequence[BilledLine], unit: Decimal) -> dict[str, Billed]:
    charged: dict[str, dict[int, Decimal]] = {}
    credits: dict[str, dict[str, Decimal]] = {}
    carried: dict[str, Decimal] = {}
    for line in lines:
        amount = line.amount * unit
        if line.kind in _OWN_KINDS:
            mine = charged.setdefault(line.client, {})
            mine[line.period] = mine.get(line.period, Decimal(0)) + amount
        elif line.kind == "credit":
            taken = credits.setdefault(line.client, {})
            taken[line.description] = taken.get(line.description, Decimal(0)) - amount
        elif line.kind == "carried":
            # What was carried on stands as a positive line, what was taken over as a negative.
            carried[line.client] = carried.get(line.client, Decimal(0)) - amount
    return {
        client: Billed(
            charged.get(client, {}), credits.get(client, {}), carried.get(client, Decimal(0))
        )
        for client in {*charged, *credits, *carried}
    }


def _rolls_over(plan: Plan | None) -> bool:
    return plan is not None and bool(plan.rollover_tokens_max)


def _price_book(rates: Sequence[int], books: Mapping[int, str]) -> str:
    """The versions of the book that prices were read from, and that some are the agency's own."""
    used = {books.get(rate, "") for rate in rates}
    named = sorted(used - {""})
    return ", ".join([*named, "meterd.toml"] if "" in used else named)
