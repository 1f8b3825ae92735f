"""Clients, as `meterd.toml` writes them: contracts, projects, quotas, cost to serve."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from meterd.config.agency import BEGINNING, Client, Contract, Credit, ServiceCost, Tax
from meterd.config.reading import text
from meterd.config.terms import done_with_contract, read_contract, read_quota, why_no_name
from meterd.ids import UNATTRIBUTED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meterd.config.agency import Plan
    from meterd.config.reading import Table

TAX_PERCENT_MAX = 100
HOURS_MAX = 1_000


def read_client(
    table: Table, client: str, plans: Mapping[str, Plan], currency: str, anchor: int
) -> Client:
    """One `[clients.ID]`."""
    if why := why_no_name(client):
        table.mistake("", f"the id of a client {why}")
    return Client(
        id=client,
        name=table.text("name"),
        projects=_projects(table),
        anchor=table.whole("anchor", anchor, 1, 31),
        quotas=tuple(read_quota(inner, client) for inner in table.tables("quotas")),
        service_cost=_service_cost(table, currency),
        credits=tuple(_credit(inner, currency) for inner in table.tables("credits")),
        tax=read_tax(table),
        address=table.text("address"),
        email=table.text("email"),
        tax_id=table.text("tax_id"),
        remote_ids=_names(table.table("remote_ids")),
        contracts=_contracts(table, client, plans, currency),
    )


def read_tax(table: Table) -> Tax | None:
    """The one tax rate of an agency or client, if it has one."""
    if not table.has("tax"):
        return None
    inner = table.table("tax")
    name = inner.text("name")
    rate = inner.percent("rate", 0, TAX_PERCENT_MAX)
    if not inner.has("name") or not inner.has("rate"):
        inner.mistake("", 'needs a name and a rate, as { name = "VAT", rate = "19%" }')
    per_line = inner.flag("per_line")
    inner.done()
    return Tax(name, rate, per_line) if rate is not None else None


def _contracts(
    table: Table, client: str, plans: Mapping[str, Plan], currency: str
) -> tuple[Contract, ...]:
    """The contracts in order of their start, from either form of writing them."""
    written = table.tables("contracts")
    contracts = []
    for inner in written:
        contracts.append((inner, read_contract(inner, plans, currency)))
        done_with_contract(inner)
    if table.has("plan"):
        short = read_contract(table, plans, currency)
        if written:
            table.mistake("plan", "stands beside contracts; write it as one of them")
        else:
            contracts.append((table, short))
    elif not written and client != UNATTRIBUTED:
        known = " or ".join(sorted(plans)[:3]) or "one of [plans]"
        table.mistake("", f"has no plan; set plan = …, as {known}")
    elif table.has("from"):
        table.mistake("from", "belongs to plan, which is not set")
    done_with_contract(table)
    return _in_order(contracts)


def _in_order(contracts: list[tuple[Table, Contract]]) -> tuple[Contract, ...]:
    """Sorted by start; two that start on one day are a mistake of the second."""
    starts: dict[object, Contract] = {}
    for table, contract in contracts:
        other = starts.setdefault(contract.from_day, contract)
        if other is not contract:
            day = "the beginning" if contract.from_day == BEGINNING else str(contract.from_day)
            table.mistake(
                "from" if table.has("from") else "",
                f"two contracts begin on {day}: {other.plan!r} and {contract.plan!r}; "
                "give each a day of its own",
            )
    return tuple(sorted(starts.values(), key=lambda contract: contract.from_day))


def _projects(table: Table) -> dict[str, str]:
    """Listed projects: a list of ids, or a table of ids and names."""
    if not table.has("projects"):
        return {}
    if table.is_list("projects"):
        projects = dict.fromkeys(table.texts("projects"), "")
    else:
        projects = _names(table.table("projects"))
    for project in projects:
        if why := why_no_name(project):
            table.mistake("projects", f"the id {project!r} of a project {why}")
    return projects


def _service_cost(table: Table, currency: str) -> ServiceCost:
    """What serving the client costs a month: an amount, or a table of its parts."""
    if not table.is_table("service_cost"):
        return ServiceCost(fixed=table.amount("service_cost", currency))
    inner = table.table("service_cost")
    cost = ServiceCost(
        fixed=inner.amount("fixed", currency),
        hours=inner.rate("hours") or Decimal(0),
        hourly=inner.amount("hourly", currency),
        revenue_share=inner.percent("revenue_share", 0, 100) or Decimal(0),
    )
    if cost.hours > HOURS_MAX:
        inner.mistake("hours", f"{cost.hours} hours a month are more than {HOURS_MAX}")
    if bool(cost.hours) != bool(cost.hourly):
        inner.mistake("", "hours and hourly go together")
    inner.done()
    return cost


def _credit(table: Table, currency: str) -> Credit:
    if not table.has("amount"):
        table.mistake("", "a credit needs an amount")
    credit = Credit(
        amount=table.amount("amount", currency),
        from_day=table.day("from"),
        description=table.text("description") or "Credit",
    )
    table.done()
    return credit


def _names(table: Table) -> dict[str, str]:
    """A table whose keys the agency gives and whose values are text."""
    return {key: table.read(key, text) or "" for key in table.names()}
