"""Metered transports for httpx; the one file of the middleware that imports it.

    client = httpx.Client(transport=MeteredTransport(meter))

A client that is given a transport ignores environment proxies: `instrument(client)`, which
wraps the transports a client already has, is the better way wherever a client exists.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from meterd_middleware.tee import AsyncTee, Replay, Tee
from meterd_middleware.transport import AsyncShell, SyncShell, check_family

if TYPE_CHECKING:
    from meterd_middleware.meter import Meter


class _Tee(Tee, httpx.SyncByteStream):
    pass


class _AsyncTee(AsyncTee, httpx.AsyncByteStream):
    pass


class _Replay(Replay, httpx.SyncByteStream, httpx.AsyncByteStream):
    pass


class MeteredTransport(SyncShell, httpx.BaseTransport):
    """Meters the LLM calls that pass through it; anything else passes untouched.

    Args:
        meter: counts the calls.
        inner: what sends them; a new `httpx.HTTPTransport()` by default, which knows of no
            environment proxy.
        account: labels the provider's key in the records, for reconciling with its bill.

    Raises:
        CannotInstrument: `inner` is no sync transport of httpx.
    """

    _tee, _replay = _Tee, _Replay
    _request, _response, _memory = httpx.Request, httpx.Response, httpx.ByteStream

    def __init__(
        self,
        meter: Meter,
        inner: httpx.BaseTransport | None = None,
        *,
        account: str = "",
    ) -> None:
        check_family(inner, httpx.BaseTransport, "httpx", "MeteredTransport")
        super().__init__(meter, inner or httpx.HTTPTransport(), account)


class AsyncMeteredTransport(AsyncShell, httpx.AsyncBaseTransport):
    """Meters the LLM calls that pass through it; the async `MeteredTransport`."""

    _tee, _replay = _AsyncTee, _Replay
    _request, _response, _memory = httpx.Request, httpx.Response, httpx.ByteStream

    def __init__(
        self,
        meter: Meter,
        inner: httpx.AsyncBaseTransport | None = None,
        *,
        account: str = "",
    ) -> None:
        check_family(inner, httpx.AsyncBaseTransport, "httpx", "AsyncMeteredTransport")
        super().__init__(meter, inner or httpx.AsyncHTTPTransport(), account)
