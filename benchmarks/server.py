"""A provider that answers as fast as a loopback socket allows: fixed bytes by path.

A bare asyncio protocol, since a framework's own time would hide ours. Runs as a process of
its own, on the last core: `python -m benchmarks.server` prints its port.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING, cast

import uvloop

from benchmarks.exchanges import EXCHANGES, Exchange
from benchmarks.harness import pin

if TYPE_CHECKING:
    from collections.abc import Iterator

SLOW_MS = 20


class _Connection(asyncio.Protocol):
    """Answers one request after another; the path says which exchange and how."""

    def __init__(self) -> None:
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (request := self._next_request()) is not None:
            self._answer(*request)

    def _next_request(self) -> tuple[str, bytes] | None:
        """The next whole request's path and head, taken off the buffer."""
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            return None
        length = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line[15:])
        if len(rest) < length:
            return None
        self._received = rest[length:]
        body = rest[:length]
        path = head.split(b" ", 2)[1].decode()
        return path, body

    def _answer(self, path: str, body: bytes) -> None:
        slow = path.startswith("/slow/")
        exchange = _exchange_of(path.removeprefix("/slow"))
        is_asked = b'"stream":true' in body.replace(b" ", b"")
        is_path = exchange.path != exchange.stream_path and path.endswith(exchange.stream_path)
        streamed = is_asked or is_path
        if slow:
            asyncio.get_running_loop().call_later(SLOW_MS / 1000, self._send, exchange, streamed)
        else:
            self._send(exchange, streamed)

    def _send(self, exchange: Exchange, streamed: bool) -> None:
        assert self._transport is not None
        if not streamed:
            head = (
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                f"content-length: {len(exchange.answer)}\r\n\r\n"
            )
            self._transport.write(head.encode() + exchange.answer)
            return
        head = (
            f"HTTP/1.1 200 OK\r\ncontent-type: {exchange.stream_type}\r\n"
            "transfer-encoding: chunked\r\n\r\n"
        )
        self._transport.write(head.encode())
        self._transport.write(
            b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in exchange.events)
            + b"0\r\n\r\n"
        )


def _exchange_of(path: str) -> Exchange:
    for exchange in EXCHANGES.values():
        if path in (exchange.path, exchange.stream_path):
            return exchange
    raise LookupError(path)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """The server in a process of its own; gives its base URL."""
    command = [sys.executable, "-m", "benchmarks.server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


if __name__ == "__main__":
    pin((os.cpu_count() or 1) - 1)
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_serve())
