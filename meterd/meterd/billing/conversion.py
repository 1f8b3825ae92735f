"""The one exchange rate of a period: what a US dollar is in the agency's currency.

Prices are in US dollars. An agency that bills in another currency records rates from a day
on; the one in force on the period's last day converts the exact cost, once.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from meterd.billing.period import day_of
from meterd.billing.statement import Conversion

if TYPE_CHECKING:
    from meterd.billing.period import Period
    from meterd.config.agency import Agency

BOOK_CURRENCY = "USD"


def conversion_of(agency: Agency, period: Period) -> Conversion | None:
    """The rate that a period is converted at; None: in US dollars, or no rate is recorded.

    A rate that only begins after the period holds for it if there is no earlier one.
    """
    if agency.currency == BOOK_CURRENCY or not agency.exchange_rates:
        return None
    last_day = day_of(period.end, agency.zone) - timedelta(days=1)
    known = [rate for rate in agency.exchange_rates if rate.from_day <= last_day]
    rate = known[-1] if known else agency.exchange_rates[0]
    return Conversion(rate.rate, max(rate.from_day, day_of(period.start, agency.zone)), rate.source)


def lacks_rate(agency: Agency) -> bool:
    """Whether the agency bills in a currency that nobody has said the rate of."""
    return agency.currency != BOOK_CURRENCY and not agency.exchange_rates
