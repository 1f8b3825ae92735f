"""What of a configuration may no longer change, because an invoice rests on it.

A closed period never changes, so nothing may start, end or move before the first day that
is still open: time zone and currency at all, a client's anchor, its contracts, and prices.
What changes in open periods is free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.billing.period import first_day

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import date

    from meterd.config.agency import Agency

Path = tuple[str | int, ...]


def open_from(agency: Agency, closed: Iterable[tuple[str, int]]) -> dict[str, date]:
    """The first local day still open, for each client that has a closed period.

    Args:
        closed: clients with the indexes of their closed periods.
    """
    newest: dict[str, int] = {}
    for client, index in closed:
        newest[client] = max(index, newest.get(client, index))
    return {
        client: first_day(index + 1, agency.anchor_of(client)) for client, index in newest.items()
    }


def forbidden_changes(
    before: Agency, after: Agency, opened: Mapping[str, date]
) -> Iterator[tuple[Path, str]]:
    """Each change that reaches into a closed period: where it stands, and one clause.

    Args:
        opened: by client, the first day still open; as `open_from(before, …)` gives it.
    """
    if not opened:
        return
    for name in ("timezone", "currency"):
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            yield ("agency", name), f"stays {old}: periods are closed, and their bounds rest on it"
    for client, day in opened.items():
        if before.anchor_of(client) != after.anchor_of(client):
            stays = before.anchor_of(client)
            yield ("clients", client, "anchor"), f"stays {stays}: periods are closed up to {day}"
        if _contracts(before, client, day) != _contracts(after, client, day):
            yield (
                ("clients", client, "contracts"),
                f"what held before {day} stays as it is: those periods are closed",
            )
    yield from _prices(before, after, opened)


def _contracts(agency: Agency, client: str, day: date) -> list[object]:
    listed = agency.clients.get(client)
    return [contract for contract in listed.contracts if contract.from_day < day] if listed else []


def _prices(
    before: Agency, after: Agency, opened: Mapping[str, date]
) -> Iterator[tuple[Path, str]]:
    """A price that begins in a closed period is as it was; none is added there or taken out."""
    for position, price in enumerate(after.prices):
        day = _open_for(price.client, opened)
        if day and price.from_day < day and price not in before.prices:
            yield (
                ("prices", position),
                f"begins before {day}, in a period that is closed; let it begin there or later, "
                "and price what had no price then by `meterctl reprice`",
            )
    for price in before.prices:
        day = _open_for(price.client, opened)
        if day and price.from_day < day and price not in after.prices:
            yield (
                ("prices",),
                f"the price of {price.model!r} begins in a period that is closed; it must stay",
            )


def _open_for(client: str, opened: Mapping[str, date]) -> date | None:
    """From when on a price may begin: after the last closed period of whom it holds for."""
    if client:
        return opened.get(client)
    return max(opened.values())
