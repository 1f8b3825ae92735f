"""The client for ordinary code: each call waits for its answer. Safe to share among threads."""

from __future__ import annotations

import os
from threading import Lock
from typing import TYPE_CHECKING, Self, TypeVar

import grpc

from meterd_client import calls
from meterd_client.errors import error_of
from meterd_client.target import OPTIONS, access_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
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

TIMEOUT_S = 30.0


class Client:
    """A daemon to ask. Connects at the first call; `close()`, or `with`, ends the connection.

    Months are `"2026-11"`, any `date` in them, `"last-month"`, or None for the running one.

    Args:
        target: `unix:PATH` or `HOST:PORT`; else METERD_TARGET, else the first of the user's
            and the system's sockets that answers.
        access_key: what a daemon on TCP asks for; else METERD_ACCESS_KEY, or the file that
            METERD_ACCESS_KEY_FILE names.
        tls_ca: a file of certificate authorities; else METERD_TLS_CA. Without one a public
            address is met with the system's, a private network and a socket without TLS.
        timeout_s: how long one answer may take; streams of rows take as long as they take.
        environ: instead of the process's environment.

    Every method raises `Refused` where the daemon says no, `Unavailable` where it says nothing.
    """

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
        self._lock = Lock()
        self._open: tuple[grpc.Channel, Access] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection. A later call makes a new one."""
        with self._lock:
            if self._open is not None:
                self._open[0].close()
                self._open = None

    # ── who used what ──

    def rollup(
        self,
        month: str | date | None = None,
        by: str | Iterable[str] = "client",
        client: str | None = None,
    ) -> Rollup:
        """A month's usage and cost by any of client, project, model and day, and the total."""
        return self._whole(calls.rollup(month, by, client))

    def rollup_rows(
        self,
        month: str | date | None = None,
        by: str | Iterable[str] = "client",
        client: str | None = None,
    ) -> Iterator[RollupRow]:
        """The rows of `rollup` as they come, for more of them than memory should hold."""
        return self._rows(calls.rollup_rows(month, by, client))

    def records(
        self, client: str, first: date, last: date | None = None, *, project: str | None = None
    ) -> Iterator[Record]:
        """The ledger's rows of the days `first` to `last`, both counted in, as they come."""
        return self._rows(calls.records(client, first, last, project))

    def quotas(self, client: str | None = None) -> tuple[Quota, ...]:
        """What each client, or one, may use, has used and has left in the running period."""
        return self._one(calls.quotas(client))

    # ── invoices ──

    def invoice(
        self,
        client: str | None = None,
        month: str | date | None = None,
        *,
        number: str | None = None,
    ) -> Invoice:
        """The final invoice of a closed month, else its draft as it is now; or one by number."""
        return self._one(calls.invoice(client, month, number))

    def invoices(
        self, month: str | date | None = None, client: str | None = None
    ) -> Iterator[Invoice]:
        """Final invoices and credit notes in the order of their numbers; None: of all months."""
        return self._rows(calls.invoices(month, client))

    def document(
        self,
        client: str | None = None,
        month: str | date | None = None,
        *,
        number: str | None = None,
        format: str = "pdf",
    ) -> Document:
        """An invoice as a file: pdf, html, csv or json."""
        return self._whole(calls.document(client, month, number, format))

    def close_month(
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
        return self._whole(calls.close(month, dry_run, without, allow_unpriced))

    def void(self, number: str, *, why: str, who: str = "") -> Invoice:
        """Declare an invoice void: it keeps its number, and is not billed again."""
        return self._one(calls.void(number, why, who))

    def credit(
        self, number: str, amount: Decimal | None = None, *, why: str, who: str = ""
    ) -> Invoice:
        """Take an invoice back by a credit note, which is returned; None: all that is left."""
        return self._one(calls.credit(number, amount, why, who))

    # ── profit, prices, proof ──

    def profit(
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
        return tuple(self._rows(calls.profit(month, client, by, what_if_input)))

    def prices(
        self, month: str | date | None = None, model: str | None = None
    ) -> tuple[PriceRow, ...]:
        """What a month's usage was priced by."""
        return tuple(self._rows(calls.prices(month, model)))

    def reprice(
        self,
        *,
        dry_run: bool,
        client: str | None = None,
        every: bool = False,
        why: str = "",
        who: str = "",
    ) -> tuple[RepriceRow, ...]:
        """Price what had no price, or with `every` whatever the prices in force say otherwise."""
        return tuple(self._rows(calls.reprice(dry_run, client, every, why, who)))

    def verify(self, month: str | date | None = None) -> tuple[str, ...]:
        """Prove that ledger, rollups and invoices agree; what doesn't, a sentence each."""
        return (
            *self._whole(calls.verify_ledger(month)),
            *self._whole(calls.verify_invoices(month)),
        )

    # ── the way there ──

    def _one(self, call: calls.One[Answer, Value]) -> Value:
        channel, access = self._connected()
        method = channel.unary_unary(call.path, serialised, call.parse)
        try:
            answer = method(call.request, timeout=self._timeout_s, metadata=access.metadata)
        except grpc.RpcError as error:
            raise _error(error, access) from None
        return call.read(answer)

    def _whole(self, call: calls.Whole[Answer, Value]) -> Value:
        return call.read(self._stream(call))

    def _rows(self, call: calls.Rows[Answer, Value]) -> Iterator[Value]:
        for answer in self._stream(call):
            yield from call.read(answer)

    def _stream(
        self, call: calls.Whole[Answer, Value] | calls.Rows[Answer, Value]
    ) -> Iterator[Answer]:
        channel, access = self._connected()
        method = channel.unary_stream(call.path, serialised, call.parse)
        stream = method(call.request, metadata=access.metadata)
        try:
            yield from stream
        except grpc.RpcError as error:
            raise _error(error, access) from None
        finally:
            stream.cancel()

    def _connected(self) -> tuple[grpc.Channel, Access]:
        with self._lock:
            if self._open is None:
                access = access_of(*self._asked, self._environ)
                self._open = (_channel(access), access)
            return self._open


def _channel(access: Access) -> grpc.Channel:
    if access.credentials is None:
        return grpc.insecure_channel(access.address, OPTIONS)
    return grpc.secure_channel(access.address, access.credentials, OPTIONS)


def serialised(request: object) -> bytes:
    """A request as bytes."""
    found: bytes = request.SerializeToString()  # type: ignore[attr-defined]  # a message
    return found


def _error(error: grpc.RpcError, access: Access) -> MeterdError:
    # Every RpcError that a call raises is the call itself, which the stubs don't say.
    assert isinstance(error, grpc.Call)
    return error_of(error.code(), error.details() or "", access.target)
