"""What the transports of httpx and httpx2 share: request in, tee, end.

    client ─▶ MeteredTransport.handle_request ─▶ exchange.begin ─▶ inner transport ─▶ provider
    app ◀─ tee: the same bytes at the same time ◀─ response.stream ◀─┘
                 └─▶ exchange.feed

The shells in `httpx.py` and `httpx2.py` add nothing but the base classes of their family.
The request that the app made is never changed: the provider gets a copy without our headers.
The response is the inner transport's own object; its `stream` alone is replaced, by a tee.
"""

from __future__ import annotations

import zlib
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self

from meterd_middleware.errors import CannotInstrument
from meterd_middleware.fields import OURS, Fields, without_ours
from meterd_middleware.settlement import Ending
from meterd_middleware.tee import ending_of

if TYPE_CHECKING:
    from types import TracebackType

    from meterd_middleware.exchange import Exchange
    from meterd_middleware.meter import Meter

_METHODS = frozenset({"POST", "GET"})

ERROR_BYTES_MAX = 64 * 1024
"""How much of a 400 or 422 is read to see whether it names what we added."""


inside: ContextVar[bool] = ContextVar("meterd_inside", default=False)
"""Set while a metered transport sends through a library that may be metered itself: litellm's
and httpx-aiohttp's transports send through aiohttp."""

FORM_FIELD_BYTES_MAX = 200
"""Of a multipart form, how long a field may be that is looked at: the model, `stream`."""

Given = tuple[str, str, str, str, Fields, bytes | None, str]
"""Method, host, path, query, headers, body, account: the arguments of `Exchanges.begin`."""


class Shell:
    """One transport's share of metering: which meter, which label, what to strip."""

    _tee: type[Any]
    _replay: type[Any]
    _request: type[Any]
    _response: type[Any]
    _memory: type[Any]

    def __init__(self, meter: Meter, inner: Any, account: str = "", always: bool = True) -> None:
        self.meter = meter
        self.inner = inner
        self.account = account
        self.strips_always = always
        self._nests = not type(inner).__module__.startswith(("httpx.", "httpx2."))

    def given(self, request: Any) -> Given | None:
        """What `Exchanges.begin` wants to know of a request; None: look no further."""
        try:
            if request.method not in _METHODS:
                return None
            url = request.url
            query = url.query.decode("ascii", "replace")
            body = _body_in_memory(request, self._memory) if request.method == "POST" else None
            headers = Fields(request.headers)
            return request.method, url.host, url.path, query, headers, body, self.account
        except Exception as error:
            self.meter.exchanges.faults.note("transport", error)
            return None

    def outgoing(self, request: Any, given: Given, exchange: Exchange | None) -> Any:
        """The request to send: the app's own, or a copy without our headers."""
        headers = given[4]
        try:
            if exchange is not None:
                if exchange.new_body is not None:
                    return _with_body(request, exchange.new_body)
                if exchange.sent.call.is_signed:
                    return request
            if not headers.has_ours:
                return request
            if exchange is None and not self._strips(request, headers):
                return request
            return _stripped(request)
        except Exception as error:
            self.meter.exchanges.faults.note("transport", error)
            return request

    def _strips(self, request: Any, headers: Fields) -> bool:
        """Whether a request that isn't an LLM call may not carry our headers either.

        Under `instrument_all` the app's own services may well be meant to get them.
        """
        if headers.get("authorization", "").startswith("AWS4-HMAC-SHA256"):
            return False
        return self.strips_always or self.meter.exchanges.intake.is_known(request.url.host)


def _body_in_memory(request: Any, memory: type[Any]) -> bytes | None:
    """The body, unless it is a generator or a file: those can be read once, by who sends them.

    A redirect hands on the stream alone, which is in memory as well.
    """
    body: bytes
    try:
        body = request.content
    except Exception:  # RequestNotRead, of whichever family
        if not isinstance(request.stream, memory):
            return _form_in_memory(request.stream)
        body = b"".join(request.stream)
    return body


def _form_in_memory(stream: Any) -> bytes | None:
    """The short fields of a multipart form, its files untouched; None where it is no form.

    An upload says its model there and nowhere else; sending it renders the fields anew.
    """
    fields = getattr(stream, "fields", None)
    if not isinstance(fields, list):
        return None
    form = []
    for field in fields:
        value = getattr(field, "value", b"")
        raw = value.encode() if isinstance(value, str) else value
        if isinstance(raw, bytes) and 0 < len(raw) <= FORM_FIELD_BYTES_MAX:
            form.append(b'name="%s"\r\n\r\n%s\r\n' % (str(field.name).encode(), raw))
    return b"".join(form)


def _stripped(request: Any) -> Any:
    """A copy without our headers, sharing body and extensions: azure and httpcore read those."""
    kind: Any = type(request)
    copy = kind.__new__(kind)
    copy.__dict__.update(request.__dict__)
    copy.headers = without_ours(request.headers)
    return copy


_REPLACED = OURS | {b"content-length", b"accept-encoding"}


def _with_body(request: Any, body: bytes) -> Any:
    """A copy with another body, and an answer that can be read without decoding it."""
    headers = [(n, v) for n, v in request.headers.raw if n.lower() not in _REPLACED]
    headers += [(b"Content-Length", b"%d" % len(body)), (b"Accept-Encoding", b"identity")]
    kind = type(request)
    return kind(
        request.method, request.url, headers=headers, content=body, extensions=request.extensions
    )


def head(exchange: Exchange, response: Any) -> bool:
    """Tell the exchange of a response's head; False if there is nothing left to tee."""
    try:
        exchange.answered(response.status_code, Fields(response.headers))
        if exchange.is_over or response.status_code == 101:
            return False
        if response.is_closed:  # an answer made in memory (a mock transport): never iterated
            exchange.feed(b"".join(response.stream))
            exchange.end(Ending.END_OF_FILE)
            return False
    except Exception as error:
        exchange.fault(error)
        return False
    return True


def names_stream_options(response: Any, body: bytes) -> bool:
    """Whether an error complains about what we added; a compressed one is looked into."""
    if response.headers.get("content-encoding", "") in ("gzip", "x-gzip", "deflate"):
        try:
            body = zlib.decompressobj(wbits=47).decompress(body, ERROR_BYTES_MAX)
        except zlib.error:
            return False
    return b"stream_options" in body or b"include_usage" in body


def check_family(inner: object, base: type, family: str, name: str) -> None:
    """Notice a transport of the wrong family before its first call dies with a bare assertion.

    Raises:
        CannotInstrument: `inner` is given and is not a `base`.
    """
    if inner is None or isinstance(inner, base):
        return
    other = next(
        (kind.__module__.partition(".")[0] for kind in type(inner).__mro__[-3::-1]), "another"
    )
    raise CannotInstrument(
        f"{name} of meterd_middleware.{family} needs a {family}.{base.__name__} as its inner "
        f"transport, and was given {type(inner).__module__}.{type(inner).__qualname__} "
        f"(of {other}); use the {name} that fits: meterd_middleware.httpx or "
        "meterd_middleware.httpx2, sync for Client, async for AsyncClient"
    )


def _wrong_client(shell: object, request: object) -> CannotInstrument:
    """Raised before anything is sent: sending first and failing then would cost tokens."""
    kind = type(shell)
    family = type(request).__module__.partition(".")[0]
    return CannotInstrument(
        f"{kind.__module__}.{kind.__name__} was given to a client of {family}; "
        f"use the transport of meterd_middleware.{family}, or instrument(client)"
    )


class SyncShell(Shell):
    """A sync transport around another; its family's file adds base classes and constructors."""

    def handle_request(self, request: Any) -> Any:
        """Meter the request if it is an LLM call; pass it on untouched if it isn't."""
        meter = self.meter
        if not isinstance(request, self._request):
            raise _wrong_client(self, request)
        given = None if meter.is_disabled else self.given(request)
        if given is None:
            return self.inner.handle_request(request)
        exchange = meter.exchanges.begin(*given)
        if exchange is None:
            return self.inner.handle_request(self.outgoing(request, given, None))
        if exchange.refused is not None:
            fields, body = exchange.refusal()
            return self._response(429, headers=fields, content=body)
        try:
            response = self.inner.handle_request(self.outgoing(request, given, exchange))
            if exchange.new_body is not None and response.status_code in (400, 422):
                response = self._refused_usage(request, given, exchange, response)
        except BaseException as error:
            exchange.end(ending_of(error))
            raise
        try:
            if head(exchange, response):
                response.stream = self._tee(response.stream, exchange)
        except BaseException as error:  # the app's own signal: nobody else closes it now
            exchange.end(ending_of(error))
            response.close()
            raise
        return response

    def _refused_usage(self, request: Any, given: Given, exchange: Exchange, response: Any) -> Any:
        """A listed host won't take `stream_options`: remember it, send once more without."""
        stream, read, size = response.stream, list[bytes](), 0
        chunks = iter(stream)
        for chunk in chunks:
            read.append(chunk)
            size += len(chunk)
            if size > ERROR_BYTES_MAX:
                break
        if not names_stream_options(response, b"".join(read)):
            response.stream = self._replay(read, chunks, stream)
            return response
        response.close()
        exchange.refuses_include_usage()
        return self.inner.handle_request(self.outgoing(request, given, exchange))

    async def handle_async_request(self, request: Any) -> Any:
        """Say what to use instead, before anything is sent."""
        raise CannotInstrument(
            "MeteredTransport is for Client; AsyncClient needs AsyncMeteredTransport"
        )

    def close(self) -> None:
        """Close the inner transport."""
        self.inner.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def __enter__(self) -> Self:
        self.inner.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self.inner.__exit__(kind, error, traceback)


class AsyncShell(Shell):
    """An async transport around another."""

    async def handle_async_request(self, request: Any) -> Any:
        """Meter the request if it is an LLM call; pass it on untouched if it isn't."""
        meter = self.meter
        if not isinstance(request, self._request):
            raise _wrong_client(self, request)
        given = None if meter.is_disabled else self.given(request)
        if given is None:
            return await self.inner.handle_async_request(request)
        exchange = await meter.exchanges.abegin(*given)
        if exchange is None:
            return await self.inner.handle_async_request(self.outgoing(request, given, None))
        if exchange.refused is not None:
            fields, body = exchange.refusal()
            return self._response(429, headers=fields, content=body)
        try:
            sent = self.outgoing(request, given, exchange)
            if self._nests:
                response = await self._send_inside(sent)
            else:
                response = await self.inner.handle_async_request(sent)
            if exchange.new_body is not None and response.status_code in (400, 422):
                response = await self._refused_usage(request, given, exchange, response)
        except GeneratorExit:  # the coroutine was dropped while it waited
            exchange.end_late()
            raise
        except BaseException as error:
            exchange.end(ending_of(error))
            raise
        try:
            if head(exchange, response):
                response.stream = self._tee(response.stream, exchange)
        except BaseException as error:  # the app's own signal: nobody else closes it now
            exchange.end(ending_of(error))
            await response.aclose()
            raise
        return response

    async def _send_inside(self, request: Any) -> Any:
        """Send through a transport that is made of another library."""
        token = inside.set(True)
        try:
            return await self.inner.handle_async_request(request)
        finally:
            try:
                inside.reset(token)
            except ValueError:  # closed by the garbage collector, in another context
                pass

    async def _refused_usage(
        self, request: Any, given: Given, exchange: Exchange, response: Any
    ) -> Any:
        """A listed host won't take `stream_options`: remember it, send once more without."""
        stream, read, size = response.stream, list[bytes](), 0
        chunks = aiter(stream)
        async for chunk in chunks:
            read.append(chunk)
            size += len(chunk)
            if size > ERROR_BYTES_MAX:
                break
        if not names_stream_options(response, b"".join(read)):
            response.stream = self._replay(read, chunks, stream)
            return response
        await response.aclose()
        exchange.refuses_include_usage()
        return await self.inner.handle_async_request(self.outgoing(request, given, exchange))

    def handle_request(self, request: Any) -> Any:
        """Say what to use instead, before anything is sent."""
        raise CannotInstrument(
            "AsyncMeteredTransport is for AsyncClient; Client needs MeteredTransport"
        )

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self.inner.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    async def __aenter__(self) -> Self:
        await self.inner.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.inner.__aexit__(kind, error, traceback)
