"""aiohttp: SDKs that send through a ClientSession of their own, and sessions used by hand.

    session.request ─▶ Metering (a client middleware) ─▶ connector ─▶ provider
    app ◀─ response.content ◀─ AioTee: what the app reads, as it reads it ◀─┘

A client middleware is aiohttp's own place for this, since 3.12: it sees each hop of a
redirect, the headers of session and call together, and the response before its body. The body
that passes is decoded by aiohttp already, unless the session was told not to.

Usage isn't asked for on the app's behalf here. The only file that imports aiohttp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import ClientResponseError, ClientSession, StreamReader
from aiohttp.base_protocol import BaseProtocol
from aiohttp.payload import BytesPayload
from aiohttp.streams import AsyncStreamIterator, ChunkTupleAsyncStreamIterator
from multidict import CIMultiDict, CIMultiDictProxy

from meterd_middleware.errors import CannotInstrument
from meterd_middleware.settlement import Ending
from meterd_middleware.tags import CLIENT_HEADER, PROJECT_HEADER
from meterd_middleware.tee import ending_of
from meterd_middleware.transport import inside

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from meterd_middleware.exchange import Exchange
    from meterd_middleware.meter import Meter

_OURS = (CLIENT_HEADER, PROJECT_HEADER)


class Metering:
    """A client middleware that meters the LLM calls of its session."""

    def __init__(self, meter: Meter, account: str = "", *, strips_always: bool = True) -> None:
        self.meter = meter
        self.account = account
        self._strips_always = strips_always

    async def __call__(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """Meter the request if it is an LLM call; pass it on untouched if it isn't."""
        if self.meter.is_disabled or inside.get() or request.method not in ("POST", "GET"):
            return await handler(request)
        given = await self._given(request)
        exchange = await self.meter.exchanges.abegin(*given) if given is not None else None
        self._strip(request, exchange)
        if exchange is None:
            return await handler(request)
        if exchange.refused is not None:
            return _refused(request, exchange)
        exchange.new_body = None  # what asking would add can't be taken out here
        try:
            response = await handler(request)
        except GeneratorExit:
            exchange.end_late()
            raise
        except BaseException as error:
            exchange.end(ending_of(error))
            raise
        _answer(exchange, request, response)
        return response

    async def _given(self, request: Any) -> tuple[Any, ...] | None:
        try:
            body = None
            if request.method == "POST" and isinstance(request.body, BytesPayload):
                body = await request.body.as_bytes()
            headers = _fields(request.headers)
            url = request.url
            host, path = (url.host or "").lower(), url.path
            return request.method, host, path, url.raw_query_string, headers, body, self.account
        except Exception as error:
            self.meter.exchanges.faults.note("transport", error)
            return None

    def _strip(self, request: Any, exchange: Exchange | None) -> None:
        """Take our headers off, which are no business of the provider's; never off a signed one."""
        if not any(name in request.headers for name in _OURS):
            return
        if request.headers.get("authorization", "").startswith("AWS4-HMAC-SHA256"):
            return
        known = self.meter.exchanges.intake.is_known(request.url.host or "")
        if exchange is not None or self._strips_always or known:
            for name in _OURS:
                request.headers.popall(name, None)


def _fields(headers: Any) -> dict[str, str]:
    """Fields by lower-case name; several of one joined, two of ours that differ by a NUL."""
    fields: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        if lower not in fields:
            fields[lower] = value
        elif lower not in _OURS:
            fields[lower] += f", {value}"
        elif value not in fields[lower].split("\0"):
            fields[lower] += f"\0{value}"
    return fields


def meter_session(session: ClientSession, meter: Meter, account: str) -> None:
    """Meter a session in place; a metered one changes its meter.

    Raises:
        CannotInstrument: this aiohttp has no client middlewares.
    """
    held = _middlewares(session)
    for middleware in held:
        if isinstance(middleware, Metering):
            middleware.meter, middleware.account = meter, account or middleware.account
            return
    session._middlewares = (*held, Metering(meter, account))


def _middlewares(session: Any) -> tuple[Any, ...]:
    held = getattr(session, "_middlewares", None)
    if held is None:
        raise CannotInstrument(
            "aiohttp before 3.12 has no client middlewares, by which its sessions are metered: "
            "use a newer one, or count its calls with meter.call(...) or meter.record(...)"
        )
    return tuple(held)


class SessionPatch:
    """Meters all of aiohttp's sessions, those that exist and those to come, until `undo`."""

    def __init__(self, meter: Meter) -> None:
        self._metering = Metering(meter, strips_always=False)
        self._original = original = ClientSession._request
        self._is_undone = False

        async def _request(session: Any, method: str, url: Any, **options: Any) -> Any:
            if not self._is_undone:
                given = options.get("middlewares")
                held = tuple(given) if given is not None else _middlewares(session)
                if not any(isinstance(middleware, Metering) for middleware in held):
                    options["middlewares"] = (*held, self._metering)
            return await original(session, method, url, **options)

        self._patched: Any = _request
        kind: Any = ClientSession
        kind._request = _request

    @property
    def meter(self) -> Meter:
        """The meter that counts."""
        return self._metering.meter

    @meter.setter
    def meter(self, meter: Meter) -> None:
        self._metering.meter = meter

    def undo(self) -> None:
        """Put the original method back, unless somebody has patched it again since."""
        self._is_undone = True
        kind: Any = ClientSession
        if kind._request is self._patched:
            kind._request = self._original


def _answer(exchange: Exchange, request: Any, response: Any) -> None:
    """Tee an answer's body."""
    try:
        fields = _fields(response.headers)
        if _is_decoded(request, response):
            fields.pop("content-encoding", None)
            fields.pop("content-length", None)  # of what was sent, not of what passes
        exchange.answered(response.status, fields)
        if not exchange.is_over and response.status != 101:
            response.content = AioTee(response.content, exchange)
    except Exception as error:
        exchange.fault(error)


def _is_decoded(request: Any, response: Any) -> bool:
    """Whether aiohttp undoes the encoding itself: as a rule, unless it was told not to."""
    protocol = getattr(response, "_protocol", None)
    parser = getattr(protocol, "_parser", None)
    told = getattr(parser, "_auto_decompress", None)
    if told is None:
        session = getattr(request, "_session", None) or getattr(response, "_session", None)
        told = getattr(session, "_auto_decompress", True)
    return bool(told)


class AioTee:
    """A response's StreamReader, what the app reads of it shown to the exchange."""

    def __init__(self, inner: Any, exchange: Exchange) -> None:
        self._inner = inner
        self._exchange = exchange

    async def _passed(self, reading: Awaitable[bytes], *, is_all: bool = False) -> bytes:
        try:
            data = await reading
        except BaseException as error:
            self._ended_by(error)
            raise
        self._saw(data)
        if is_all or (not data and self._inner.at_eof()):
            self._exchange.end(Ending.END_OF_FILE)
        return data

    def _saw(self, data: bytes) -> None:
        if data:
            self._exchange.feed(data)

    def _ended_by(self, error: BaseException) -> None:
        partial = getattr(error, "partial", None)
        if isinstance(partial, bytes):  # readexactly, at the end of file
            self._saw(partial)
            self._exchange.end(Ending.END_OF_FILE)
        elif isinstance(error, GeneratorExit):
            self._exchange.end_late()
        else:
            self._exchange.end(ending_of(error))

    async def read(self, n: int = -1) -> bytes:
        """Up to `n` bytes, or all that are left."""
        return await self._passed(self._inner.read(n), is_all=n < 0)

    async def readany(self) -> bytes:
        """What is there, or the next that comes."""
        return await self._passed(self._inner.readany())

    async def readline(self, **options: Any) -> bytes:
        """The next line."""
        return await self._passed(self._inner.readline(**options))

    async def readuntil(self, separator: bytes = b"\n", **options: Any) -> bytes:
        """All up to the separator."""
        return await self._passed(self._inner.readuntil(separator, **options))

    async def readexactly(self, n: int) -> bytes:
        """Just so many bytes."""
        return await self._passed(self._inner.readexactly(n))

    async def readchunk(self) -> tuple[bytes, bool]:
        """The next part as it came, and whether an HTTP chunk ends with it."""
        try:
            data, is_end = await self._inner.readchunk()
        except BaseException as error:
            self._ended_by(error)
            raise
        self._saw(data)
        if not data and not is_end:
            self._exchange.end(Ending.END_OF_FILE)
        return data, is_end

    def read_nowait(self, n: int = -1) -> bytes:
        """What is there already."""
        data: bytes = self._inner.read_nowait(n)
        self._saw(data)
        return data

    def __aiter__(self) -> AsyncStreamIterator[bytes]:
        return AsyncStreamIterator(self.readline)

    def iter_chunked(self, n: int) -> AsyncStreamIterator[bytes]:
        """Chunks of up to `n` bytes."""
        return AsyncStreamIterator(lambda: self.read(n))

    def iter_any(self) -> AsyncStreamIterator[bytes]:
        """What comes, as it comes."""
        return AsyncStreamIterator(self.readany)

    def iter_chunks(self) -> ChunkTupleAsyncStreamIterator:
        """Parts as they came."""
        stream: Any = self
        return ChunkTupleAsyncStreamIterator(stream)

    def set_exception(self, *args: Any) -> None:
        """The response was closed or released, perhaps by a finaliser, or the line is cut."""
        self._exchange.end_late()
        self._inner.set_exception(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _NothingSent:
    """What a response asks of its request's writer: how much it wrote."""

    output_size = 0


def _refused(request: Any, exchange: Exchange) -> Any:
    """A 429 in the provider's shape, as if it had come over the wire."""
    fields, body = exchange.refusal()
    try:
        return _response(request, fields, body)
    except Exception as error:  # an aiohttp that makes its responses otherwise
        exchange.fault(error)
    raise ClientResponseError(
        request.request_info, (), status=429, message=str(exchange.refused),
        headers=CIMultiDictProxy(CIMultiDict(fields)),
    ) from exchange.refused  # fmt: skip


def _response(request: Any, fields: dict[str, str], body: bytes) -> Any:
    loop: asyncio.AbstractEventLoop = request.loop
    options: dict[str, Any] = {"stream_writer": _NothingSent()}
    response: Any = request.response_class(
        request.method, request.original_url, writer=None, continue100=None, timer=None,
        request_info=request.request_info, traces=[], loop=loop, session=request._session,
        **options,
    )  # fmt: skip
    response.version, response.status, response.reason = None, 429, "Too Many Requests"
    response._headers = CIMultiDictProxy(CIMultiDict(fields))
    response._raw_headers = tuple((n.encode(), v.encode()) for n, v in fields.items())
    response.content = StreamReader(BaseProtocol(loop), 2**16, loop=loop)
    response.content.feed_data(body)
    response.content.feed_eof()
    return response
