"""The client for asyncio: the same calls, awaited. Belongs to the loop it is first used in."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Self, TypeVar

import grpc
import grpc.aio

from meterd_client import calls
from meterd_client.client import TIMEOUT_S, serialised
from meterd_client.errors import error_of
from meterd_client.target import OPTIONS, access_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping
    from datetime import date
    from decimal import Decimal

    from meterd_client.errors import MeterdError
    from meterd_client.invoices import (
        Closing,
        Document,
        Invoice,
        PriceRow,
        ProfitRow,
        RepriceRow,
    )
    from meterd_client.target import Access
    from meterd_client.values import Quota, Record, Rollup, RollupRow

Answer = TypeVar("Answer")
Value = TypeVar("Value")


class AsyncClient:
    """A daemon to ask, as `Client`, with `await` and `async for`; arguments are the same."""

    def __init__(
        self,
        target: str | None = None,
        *,
        access_key: str | None = None,
        tls_ca: str | None = None,
        timeout_s: float = TIMEOUT_S,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._asked = (target, access_key, tls_ca)
        self._environ = os.environ if environ is None else environ
        self._timeout_s = timeout_s
        self._lock = asyncio.Lock()
        self._open: tuple[grpc.aio.Channel, Access] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection. A later call makes a new one."""
        async with self._lock:
            if self._open is not None:
                await self._open[0].close()
                self._open = None

    # ── who used what ──

    async def rollup(
        self,
        month: str | date | None = None,
        by: str | Iterable[str] = "client",
        client: str | None = None,
    ) -> Rollup:
        """A month's usage and cost by any of client, project, model and day, and the total."""
        return await self._whole(calls.rollup(month, by, client))

    def rollup_rows(
        self,
        month: str | date | None = None,
        by: str | Iterable[str] = "client",
        client: str | None = None,
    ) -> AsyncIterator[RollupRow]:
        """The rows of `rollup` as they come, for more of them than memory should hold."""
        return self._rows(calls.rollup_rows(month, by, client))

    def records(
        self, client: str, first: date, last: date | None = None, *, project: str | None = None
    ) -> AsyncIterator[Record]:
        """The ledger's rows of the days `first` to `last`, both counted in, as they come."""
        return self._rows(calls.records(client, first, last, project))

    async def quotas(self, client: str | None = None) -> tuple[Quota, ...]:
        """What each client, or one, may use, has used and has left in the running period."""
        return await self._one(calls.quotas(client))

    # ── invoices ──

    async def invoice(
        self,
        client: str | None = None,
        month: str | date | None = None,
        *,
        number: str | None = None,
    ) -> Invoice:
        """The final invoice of a closed month, else its draft as it is now; or one by number."""
        return await self._one(calls.invoice(client, month, number))

    def invoices(
        self, month: str | date | None = None, client: str | None = None
    ) -> AsyncIterator[Invoice]:
        """Final invoices and credit notes in the order of their numbers; None: of all months."""
        return self._rows(calls.invoices(month, client))

    async def document(
        self,
        client: str | None = None,
        month: str | date | None = None,
        *,
        number: str | None = None,
        format: str = "pdf",
    ) -> Document:
        """An invoice as a file: pdf, html, csv or json."""
        return await self._whole(calls.document(client, month, number, format))

    async def close_month(
        self,
        month: str | date,
        *,
        dry_run: bool = False,
        without: Iterable[str] = (),
        allow_unpriced: bool = False,
    ) -> Closing:
        """Make all invoices of a month final, or none. Repeating it shows the same invoices.

        Args:
            month: one that is over.
            dry_run: change nothing; the answer has drafts, and what stands in the way.
            without: `service@host` of processes that nobody waits for.
            allow_unpriced: close although some usage has no price.

        Raises:
            CloseRefused: something stands in the way; nothing was closed.
        """
        return await self._whole(calls.close(month, dry_run, without, allow_unpriced))

    async def void(self, number: str, *, why: str, who: str = "") -> Invoice:
        """Declare an invoice void: it keeps its number, and is not billed again."""
        return await self._one(calls.void(number, why, who))

    async def credit(
        self, number: str, amount: Decimal | None = None, *, why: str, who: str = ""
    ) -> Invoice:
        """Take an invoice back by a credit note, which is returned; None: all that is left."""
        return await self._one(calls.credit(number, amount, why, who))

    # ── profit, prices, proof ──

    async def profit(
        self,
        month: str | date | None = None,
        client: str | None = None,
        *,
        by: str = "client",
        what_if_input: str | None = None,
    ) -> tuple[ProfitRow, ...]:
        """Revenue, cost and margin, the greatest loss first, the total last.

        Args:
            month: the running one by default.
            client: this one alone, then with its trend.
            by: client, or project.
            what_if_input: as `"-67%"`: what a client with that much less input would cost.
        """
        return tuple(
            [row async for row in self._rows(calls.profit(month, client, by, what_if_input))]
        )

    async def prices(
        self, month: str | date | None = None, model: str | None = None
    ) -> tuple[PriceRow, ...]:
        """What a month's usage was priced by."""
        return tuple([row async for row in self._rows(calls.prices(month, model))])

    async def reprice(
        self,
        *,
        dry_run: bool,
        client: str | None = None,
        every: bool = False,
        why: str = "",
        who: str = "",
    ) -> tuple[RepriceRow, ...]:
        """Price what had no price, or with `every` whatever the prices in force say otherwise."""
        return tuple(
            [row async for row in self._rows(calls.reprice(dry_run, client, every, why, who))]
        )

    async def verify(self, month: str | date | None = None) -> tuple[str, ...]:
        """Prove that ledger, rollups and invoices agree; what doesn't, a sentence each."""
        return (
            *await self._whole(calls.verify_ledger(month)),
            *await self._whole(calls.verify_invoices(month)),
        )

    # ── the way there ──

    async def _one(self, call: calls.One[Answer, Value]) -> Value:
        channel, access = await self._connected()
        method = channel.unary_unary(call.path, serialised, call.parse)
        try:
            answer = await method(call.request, timeout=self._timeout_s, metadata=access.metadata)
        except grpc.aio.AioRpcError as error:
            raise _error(error, access) from None
        return call.read(answer)

    async def _whole(self, call: calls.Whole[Answer, Value]) -> Value:
        return call.read([answer async for answer in self._stream(call)])

    async def _rows(self, call: calls.Rows[Answer, Value]) -> AsyncIterator[Value]:
        async for answer in self._stream(call):
            for value in call.read(answer):
                yield value

    async def _stream(
        self, call: calls.Whole[Answer, Value] | calls.Rows[Answer, Value]
    ) -> AsyncIterator[Answer]:
        channel, access = await self._connected()
        method = channel.unary_stream(call.path, serialised, call.parse)
        stream = method(call.request, metadata=access.metadata)
        try:
            async for answer in stream:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise _error(error, access) from None
        finally:
            stream.cancel()

    async def _connected(self) -> tuple[grpc.aio.Channel, Access]:
        async with self._lock:
            if self._open is None:
                # Names are looked up and files read: not on the loop.
                access = await asyncio.to_thread(access_of, *self._asked, self._environ)
                self._open = (_channel(access), access)
            return self._open


def _channel(access: Access) -> grpc.aio.Channel:
    if access.credentials is None:
        return grpc.aio.insecure_channel(access.address, OPTIONS)
    return grpc.aio.secure_channel(access.address, access.credentials, OPTIONS)


def _error(error: grpc.aio.AioRpcError, access: Access) -> MeterdError:
    return error_of(error.code(), error.details() or "", access.target)
