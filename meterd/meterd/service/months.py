"""Which month was meant: `2026-11`, `last-month`, or nothing for the running one.

`last-month` is the calendar month before today's in the agency's time zone, for every client
the same, so that one command in a crontab does a month's work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.billing.contract import period_for
from meterd.billing.period import day_of, index_of
from meterd.store.values import PeriodIndex

if TYPE_CHECKING:
    from datetime import datetime

    from meterd.config.agency import Agency

LAST_MONTH = "last-month"


def month_asked(agency: Agency, name: str, now: datetime, client: str = "") -> PeriodIndex:
    """The index of the month that a request names.

    Args:
        agency: whose time zone says which day it is.
        name: as people write it; empty: the running period.
        now: the moment of asking.
        client: whose period is the running one; empty: the agency's own.

    Raises:
        InvalidRequest: it names no month.
    """
    if not name:
        return PeriodIndex(period_for(agency, client, now).index)
    if name == LAST_MONTH:
        today = day_of(now, agency.zone)
        return PeriodIndex(today.year * 12 + today.month - 2)
    return PeriodIndex(index_of(name))
