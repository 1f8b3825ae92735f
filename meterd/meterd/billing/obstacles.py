"""Why a period can't be closed yet: a sentence each, so that somebody can act on it.

A producer holds a closing up only while it can still have usage of the period: it is behind,
and the newest record that the ledger has of it is from before the period's end, or a call of
it that began before then is still open. One that has finished holds nothing up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meterd.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from datetime import datetime, timedelta

    from meterd.billing.statement import Statement
    from meterd.config.agency import Agency

CLIENTS_NAMED = 5


@dataclass(frozen=True, slots=True)
class Waited:
    """What a closing has to know of one producer. Times are milliseconds since 1970."""

    name: str
    """service@host."""
    records_behind: int
    newest_ms: int
    """Of what the ledger has of it; 0: nothing."""
    open_calls: int
    oldest_open_at_ms: int
    """0: unknown."""
    is_finished: bool
    is_connected: bool


def of_time(
    agency: Agency, statements: Iterable[Statement], now: datetime, close_after: timedelta
) -> Iterator[str]:
    """Periods that aren't over, or only just: a sentence for all that end together."""
    waiting: dict[datetime, list[str]] = {}
    for statement in statements:
        if now < statement.period.end + close_after:
            waiting.setdefault(statement.period.end, []).append(statement.client)
    for end, clients in sorted(waiting.items()):
        ends = "ends" if now < end else "ended"
        yield (
            f"the period of {_some(clients)} {ends} on {_shown(end, agency)} and can be closed "
            f"from {_shown(end + close_after, agency)} on (close_after_hours = "
            f"{agency.close_after_hours})"
        )


def of_producers(
    agency: Agency, producers: Iterable[Waited], end_ms: int, without: Collection[str], name: str
) -> Iterator[str]:
    """Producers that may still have usage of the period, beside those nobody waits for.

    Raises:
        InvalidRequest: `without` names one that isn't known.
    """
    known = list(producers)
    strangers = sorted(set(without) - {one.name for one in known})
    if strangers:
        raise InvalidRequest(f"no producer is called {', '.join(strangers)}")
    for one in known:
        if one.is_finished or one.name in without:
            continue
        may = f"; ship it, or close with --without {one.name}"
        silent = "" if one.is_connected else " and is silent"
        if one.records_behind > 0 and one.newest_ms < end_ms:
            records = "1 record" if one.records_behind == 1 else f"{one.records_behind:,} records"
            yield f"{one.name} is {records} behind{silent}: they may be of {name}{may}"
        elif one.open_calls and one.oldest_open_at_ms < end_ms:
            calls = "a call" if one.open_calls == 1 else f"{one.open_calls:,} calls"
            yield f"{one.name} has {calls} of {name} still open{silent}{may}"


def of_prices(unpriced: Iterable[tuple[str, int]]) -> Iterator[str]:
    """Usage without a price, by model; one sentence."""
    models = [f"{model} ({count:,})" for model, count in unpriced]
    if models:
        total = ", ".join(models)
        yield (
            f"requests without a price: {total}; price them in meterd.toml, or close with "
            "--allow-unpriced and have them named on the invoice"
        )


def _some(clients: list[str]) -> str:
    named = ", ".join(sorted(clients)[:CLIENTS_NAMED])
    more = len(clients) - CLIENTS_NAMED
    return f"{named} and {more} more" if more > 0 else named


def _shown(moment: datetime, agency: Agency) -> str:
    return moment.astimezone(agency.zone).strftime("%Y-%m-%d %H:%M")
