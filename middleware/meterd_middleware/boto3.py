"""boto3: Bedrock's Converse and InvokeModel, streamed or not, which go through urllib3.

    boto3 client ─▶ endpoint ─▶ MeteredSession.send ─▶ URLLib3Session ─▶ Bedrock
    app ◀─ StreamingBody, EventStream ◀─ BotoTee: the same bytes at the same time ◀─┘

Below botocore's own retries, so that each attempt is a call of its own, and above urllib3,
where the bytes pass as they came. A request is signed: nothing of it is changed, and who pays
comes from `tagged(...)`. A refusal is raised as the client's own `ThrottlingException`, which
botocore doesn't retry where it is raised and not answered.

The only file that imports botocore, and that knows `_endpoint.http_session`.
"""

from __future__ import annotations

import json
import re
import weakref
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from botocore.exceptions import ClientError
from botocore.httpsession import URLLib3Session

from meterd_middleware.settlement import Ending
from meterd_middleware.tee import ending_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meterd_middleware.exchange import Exchange
    from meterd_middleware.meter import Meter

_OPERATIONS = {
    "converse": "Converse",
    "converse-stream": "ConverseStream",
    "invoke": "InvokeModel",
    "invoke-with-response-stream": "InvokeModelWithResponseStream",
}
_ACTION = re.compile(r"/model/.+/([a-z-]+)$")
_ATTEMPT = re.compile(r"attempt=(\d{1,3})")
_REFUSED_AS = "ThrottlingException"
_SEEN = "_meterd_seen"
"""Marks a request that is metered already, by its client and by the process."""


class MeteredSession:
    """A client's HTTP session, metered; in place of the one that botocore made."""

    def __init__(self, meter: Meter, inner: Any, client: Any = None, account: str = "") -> None:
        self.meter = meter
        self.inner = inner
        self.account = account
        self._client = weakref.ref(client) if client is not None else lambda: None

    def send(self, request: Any) -> Any:
        """Send a request, metered if it runs a model."""
        return metered_send(self, self.inner.send, request)

    def error_class(self) -> type[Exception]:
        """The client's own class of a throttled call, which apps may well catch."""
        client = self._client()
        found: type[Exception] = ClientError
        if client is not None:
            found = client.exceptions.from_code(_REFUSED_AS)
        return found

    def close(self) -> None:
        """Close the inner session."""
        self.inner.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def meter_client(client: Any, meter: Meter, account: str) -> None:
    """Meter a boto3 client in place; a metered one changes its meter."""
    endpoint = client._endpoint
    session = endpoint.http_session
    if isinstance(session, MeteredSession):
        session.meter, session.account = meter, account or session.account
        return
    endpoint.http_session = MeteredSession(meter, session, client, account)


class SessionPatch:
    """Meters all of botocore's sessions, those that exist and those to come, until `undo`."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self._original = original = URLLib3Session.send
        self._is_undone = False

        def send(session: Any, request: Any) -> Any:
            def inner(request: Any) -> Any:
                return original(session, request)

            if self._is_undone:
                return inner(request)
            return metered_send(MeteredSession(self.meter, session), inner, request)

        self._patched = URLLib3Session.send = send

    def undo(self) -> None:
        """Put the original method back, unless somebody has patched it again since."""
        self._is_undone = True
        if URLLib3Session.send is self._patched:
            URLLib3Session.send = self._original


def metered_send(session: MeteredSession, send: Callable[[Any], Any], request: Any) -> Any:
    """Send a request through `send`, and meter it if it runs a model."""
    meter = session.meter
    given = None if meter.is_disabled else _given(session, request)
    if given is None:
        return send(request)
    exchange = meter.exchanges.begin(*given)
    if exchange is None:
        return send(request)
    if exchange.refused is not None:
        raise _refusal(session, exchange, given[2]) from exchange.refused
    try:
        response = send(request)
    except BaseException as error:
        exchange.end(ending_of(error))
        raise
    _answer(exchange, request, response)
    return response


def _given(session: MeteredSession, request: Any) -> tuple[Any, ...] | None:
    """What `Exchanges.begin` wants to know of a request; None: look no further."""
    try:
        url = urlsplit(request.url)
        if request.method != "POST" or "/model/" not in url.path or hasattr(request, _SEEN):
            return None
        setattr(request, _SEEN, True)
        headers = {_text(name).lower(): _text(value) for name, value in request.headers.items()}
        attempt = _ATTEMPT.search(headers.get("amz-sdk-request", ""))
        if attempt is not None:
            headers["x-stainless-retry-count"] = str(int(attempt[1]) - 1)
        body = request.body
        if isinstance(body, str):
            body = body.encode()
        if not isinstance(body, (bytes, bytearray)):
            body = None
        host = (url.hostname or "").lower()
        path = unquote(url.path)
        return "POST", host, path, url.query, headers, body, session.account
    except Exception as error:
        session.meter.exchanges.faults.note("transport", error)
        return None


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _answer(exchange: Exchange, request: Any, response: Any) -> None:
    """Read an answer that is here, or tee one that is still to come."""
    try:
        headers = {name.lower(): _text(value) for name, value in response.headers.items()}
        exchange.answered(response.status_code, headers)
        if exchange.is_over:
            return
        if request.stream_output:
            response.raw = BotoTee(response.raw, exchange)
        else:  # read by the session, whole, before it handed the answer on
            exchange.feed(response.content)
            exchange.end(Ending.END_OF_FILE)
    except Exception as error:
        exchange.fault(error)


def _refusal(session: MeteredSession, exchange: Exchange, path: str) -> Exception:
    """What botocore would have raised of Bedrock's own 429."""
    fields, body = exchange.refusal()
    known = json.loads(body)
    message = known.get("message", "")
    response = {
        "Error": {"Code": _REFUSED_AS, "Message": message},
        "message": message,
        "meterd": known.get("meterd", {}),
        "ResponseMetadata": {
            "HTTPStatusCode": 429,
            "HTTPHeaders": dict(fields),
            "RetryAttempts": 0,
        },
    }
    action = _ACTION.search(path)
    operation = _OPERATIONS.get(action[1], "InvokeModel") if action else "InvokeModel"
    kind: Any = session.error_class()
    error: Exception = kind(response, operation)
    return error


class BotoTee:
    """urllib3's response under a StreamingBody or an EventStream, shown to the exchange."""

    def __init__(self, inner: Any, exchange: Exchange) -> None:
        self._inner = inner
        self._exchange = exchange

    def stream(self, *args: Any, **options: Any) -> Iterator[bytes]:
        """The body as it comes."""
        exchange = self._exchange
        try:
            for chunk in self._inner.stream(*args, **options):
                exchange.feed(chunk)
                yield chunk
            exchange.end(Ending.END_OF_FILE)
        except GeneratorExit:
            exchange.end_late()
            raise
        except BaseException as error:
            exchange.end(ending_of(error))
            raise

    def __iter__(self) -> Iterator[bytes]:
        for line in self._inner:
            self._exchange.feed(line)
            yield line
        self._exchange.end(Ending.END_OF_FILE)

    def read(self, amt: int | None = None, *args: Any, **options: Any) -> bytes:
        """Up to `amt` bytes, or all that are left."""
        return self._passed(self._inner.read, amt, *args, **options)

    def readline(self, size: int = -1) -> bytes:
        """The next line."""
        return self._passed(self._inner.readline, size)

    def readlines(self, hint: int = -1) -> list[bytes]:
        """All lines that are left."""
        return list(self)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; how much of it was filled."""
        size: int = self._ended_by(self._inner.readinto, buffer)
        if size:
            self._exchange.feed(bytes(memoryview(buffer)[:size]))
        elif len(buffer):
            self._exchange.end(Ending.END_OF_FILE)
        return size

    def _passed(self, read: Any, amount: int | None, *args: Any, **options: Any) -> bytes:
        chunk: bytes = self._ended_by(read, amount, *args, **options)
        if chunk:
            self._exchange.feed(chunk)
        if amount is None or amount < 0 or (not chunk and amount):
            self._exchange.end(Ending.END_OF_FILE)
        return chunk

    def _ended_by(self, read: Any, *args: Any, **options: Any) -> Any:
        try:
            return read(*args, **options)
        except BaseException as error:
            self._exchange.end(ending_of(error))
            raise

    def close(self) -> None:
        """Close the inner response."""
        self._exchange.end_late()
        self._inner.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
