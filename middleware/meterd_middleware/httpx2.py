"""Metered transports for httpx2; the one file of the middleware that imports it.

    client = httpx2.Client(transport=MeteredTransport(meter))

A client that is given a transport ignores environment proxies: `instrument(client)`, which
wraps the transports a client already has, is the better way wherever a client exists.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx2

from meterd_middleware.tee import AsyncTee, Replay, Tee
from meterd_middleware.transport import AsyncShell, SyncShell, check_family

if TYPE_CHECKING:
    from meterd_middleware.meter import Meter


class _Tee(Tee, httpx2.SyncByteStream):
    pass


class _AsyncTee(AsyncTee, httpx2.AsyncByteStream):
    pass


class _Replay(Replay, httpx2.SyncByteStream, httpx2.AsyncByteStream):
    pass


class MeteredTransport(SyncShell, httpx2.BaseTransport):
    """Meters the LLM calls that pass through it; anything else passes untouched.

    Args:
        meter: counts the calls.
        inner: what sends them; a new `httpx2.HTTPTransport()` by default, which knows of no
            environment proxy.
        account: labels the provider's key in the records, for reconciling with its bill.

    Raises:
        CannotInstrument: `inner` is no sync transport of httpx2.
    """

    _tee, _replay = _Tee, _Replay
    _request, _response, _memory = httpx2.Request, httpx2.Response, httpx2.ByteStream

    def __init__(
        self,
        meter: Meter,
        inner: httpx2.BaseTransport | None = None,
        *,
        account: str = "",
    ) -> None:
        check_family(inner, httpx2.BaseTransport, "httpx2", "MeteredTransport")
        super().__init__(meter, inner or httpx2.HTTPTransport(), account)


class AsyncMeteredTransport(AsyncShell, httpx2.AsyncBaseTransport):
    """Meters the LLM calls that pass through it; the async `MeteredTransport`."""

    _tee, _replay = _AsyncTee, _Replay
    _request, _response, _memory = httpx2.Request, httpx2.Response, httpx2.ByteStream

    def __init__(
        self,
        meter: Meter,
        inner: httpx2.AsyncBaseTransport | None = None,
        *,
        account: str = "",
    ) -> None:
        check_family(inner, httpx2.AsyncBaseTransport, "httpx2", "AsyncMeteredTransport")
        super().__init__(meter, inner or httpx2.AsyncHTTPTransport(), account)
