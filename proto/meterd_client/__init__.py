"""meterd from Python: rollups, quotas, invoices, profit, closing and records, sync and async.

    from meterd_client import Client

    with Client() as meterd:
        for row in meterd.rollup("2026-11").rows:
            print(row.client, row.usage.tokens, row.usage.cost)

Money is `Decimal`, times are aware datetimes, and what the daemon won't do is an exception
that says its sentence. docs/client.md has an example of everything.
"""

from meterd_client.aio import AsyncClient
from meterd_client.client import Client
from meterd_client.errors import (
    CloseRefused,
    InvalidArgument,
    MeterdError,
    NotAllowed,
    NotFound,
    NotIdentified,
    Refused,
    Unavailable,
)
from meterd_client.invoices import (
    Closing,
    Document,
    ExchangeRate,
    Invoice,
    InvoiceLine,
    PriceRow,
    ProfitRow,
    ProjectAmount,
    Remedy,
    RepriceRow,
    TrendPoint,
)
from meterd_client.values import Holder, Quota, Record, Rollup, RollupRow, Usage

__all__ = [
    "AsyncClient",
    "Client",
    "CloseRefused",
    "Closing",
    "Document",
    "ExchangeRate",
    "Holder",
    "InvalidArgument",
    "Invoice",
    "InvoiceLine",
    "MeterdError",
    "NotAllowed",
    "NotFound",
    "NotIdentified",
    "PriceRow",
    "ProfitRow",
    "ProjectAmount",
    "Quota",
    "Record",
    "Refused",
    "Remedy",
    "RepriceRow",
    "Rollup",
    "RollupRow",
    "TrendPoint",
    "Unavailable",
    "Usage",
]
