"""The tee: a response's stream, its bytes shown to the exchange as they pass on to the app.

    app ◀── the same chunks at the same time ── Tee ◀── the inner transport's stream
                                                 └─▶ exchange.feed … exchange.end

How each SDK ends a stream differs, so every way of ending one is seen here: the terminal
event (by the reader), end of file, `close`, GeneratorExit, cancellation, any exception. A
stream's state belongs to the stream, not to its iterator: openai's async client drains what
it left unread through a second one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meterd_middleware.faults import is_from_signal
from meterd_middleware.settlement import Ending

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from meterd_middleware.exchange import Exchange


class Tee:
    """A response's stream, sync: the inner one's bytes, shown to the exchange as they pass."""

    def __init__(self, inner: Any, exchange: Exchange) -> None:
        self._inner = inner
        self._exchange = exchange

    def __iter__(self) -> Iterator[bytes]:
        exchange = self._exchange
        feed, keeps = exchange.feed, exchange.keeps
        hider = exchange.hider
        try:
            for chunk in self._inner:
                try:
                    is_kept = keeps is not None and keeps(chunk)
                except Exception as error:  # `feed` meets it again, and notes it
                    if is_from_signal(error):
                        raise
                    is_kept = False
                if not is_kept:
                    feed(chunk)
                if hider is not None:
                    chunk = exchange.hide(chunk)
                    if not chunk:
                        continue
                yield chunk
            exchange.end(Ending.END_OF_FILE)
            if hider is not None and (rest := exchange.hide_rest()):
                yield rest
        except GeneratorExit:  # the app left, perhaps by garbage collection
            exchange.end_late()
            raise
        except BaseException as error:
            exchange.end(ending_of(error))
            if isinstance(error, Exception) and (rest := exchange.hide_rest()):
                yield rest  # what was held back, as the app would have had it before the end
            raise

    def close(self) -> None:
        """Close the inner stream. An SDK's finaliser may be who closes it."""
        self._exchange.end_late()
        self._inner.close()


class AsyncTee:
    """A response's stream, async."""

    def __init__(self, inner: Any, exchange: Exchange) -> None:
        self._inner = inner
        self._exchange = exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        exchange = self._exchange
        feed, keeps = exchange.feed, exchange.keeps
        hider = exchange.hider
        try:
            async for chunk in self._inner:
                try:
                    is_kept = keeps is not None and keeps(chunk)
                except Exception as error:  # `feed` meets it again, and notes it
                    if is_from_signal(error):
                        raise
                    is_kept = False
                if not is_kept:
                    feed(chunk)
                if hider is not None:
                    chunk = exchange.hide(chunk)
                    if not chunk:
                        continue
                yield chunk
            exchange.end(Ending.END_OF_FILE)
            if hider is not None and (rest := exchange.hide_rest()):
                yield rest
        except GeneratorExit:
            exchange.end_late()
            raise
        except BaseException as error:
            exchange.end(ending_of(error))
            if isinstance(error, Exception) and (rest := exchange.hide_rest()):
                yield rest  # what was held back, as the app would have had it before the end
            raise

    async def aclose(self) -> None:
        """Close the inner stream."""
        self._exchange.end_late()
        await self._inner.aclose()


class Replay:
    """The part of a body that we have read, then the rest; for either kind of client."""

    def __init__(self, read: list[bytes], rest: Any, inner: Any) -> None:
        self._read = read
        self._rest = rest
        self._inner = inner

    def __iter__(self) -> Iterator[bytes]:
        yield from self._read
        yield from self._rest

    def close(self) -> None:
        """Close the inner stream."""
        self._inner.close()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._read:
            yield chunk
        async for chunk in self._rest:
            yield chunk

    async def aclose(self) -> None:
        """Close the inner stream."""
        await self._inner.aclose()


def ending_of(error: BaseException) -> Ending:
    """How a call ended that raised this; by class names, which both families share."""
    for kind in type(error).__mro__:
        ending = _ENDINGS.get(kind.__name__)
        if ending is not None:
            return ending
    return Ending.CUT if isinstance(error, Exception) else Ending.LEFT


_ENDINGS = {
    "ConnectTimeout": Ending.NOT_SENT_IN_TIME,
    "PoolTimeout": Ending.NOT_SENT_IN_TIME,
    "WriteTimeout": Ending.NOT_SENT_IN_TIME,
    "ConnectError": Ending.NOT_SENT,
    "WriteError": Ending.NOT_SENT,
    "ProxyError": Ending.NOT_SENT,
    "UnsupportedProtocol": Ending.NOT_SENT,
    "LocalProtocolError": Ending.NOT_SENT,
    "ConnectTimeoutError": Ending.NOT_SENT_IN_TIME,  # botocore's and urllib3's
    "EndpointConnectionError": Ending.NOT_SENT,
    "ProxyConnectionError": Ending.NOT_SENT,
    "SSLError": Ending.NOT_SENT,
    "ReadTimeoutError": Ending.TIMED_OUT,
    "ConnectionTimeoutError": Ending.NOT_SENT_IN_TIME,  # aiohttp's
    "ClientConnectorError": Ending.NOT_SENT,
    "TimeoutException": Ending.TIMED_OUT,
    "TimeoutError": Ending.TIMED_OUT,
}
