"""The HTTP/1.1 server: full control over when each byte leaves and how a connection ends."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.provider import asked as asking
from tests.support.provider.answer import Answer, Part, encoded
from tests.support.provider.ledger import Ledger, ServedCall
from tests.support.provider.routes import Routes
from tests.support.provider.wire import framed, head_of, read_body, read_head, wire_parts

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Iterator

    from tests.support.provider.asked import Asked

HEAD_BYTES_MAX = 1 << 20

_PREFIXES = {
    "openai": "/v1",
    "mistral": "/mistral",
    "groq": "/groq",
    "together": "/together",
    "hf": "/hf/v1",
}


def base_url(url: str, style: str) -> str:
    """The base URL to give to an SDK: `openai`, `anthropic`, `gemini`, `cohere`, `ollama` …"""
    return url + _PREFIXES.get(style, "")


class Provider:
    """The provider in a thread of this process; a context manager.

    Args:
        do: wishes for every request (see `asked.py`), weaker than the request's own.
        port: 0 takes a free one.
    """

    def __init__(self, *, do: str = "", port: int = 0) -> None:
        self.ledger = Ledger()
        self.do = do
        self.port = port
        self._routes = Routes()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._released: asyncio.Event | None = None
        self._stopping: asyncio.Event | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="loopback-provider", daemon=True)

    def __enter__(self) -> Provider:
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None and self._stopping is not None
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`, without a path."""
        return f"http://127.0.0.1:{self.port}"

    def base_url(self, style: str) -> str:
        """The base URL to give to an SDK of that style."""
        return base_url(self.url, style)

    @property
    def next_do(self) -> deque[str]:
        """Wishes for the next LLM requests, one each; append to it."""
        return self._routes.next_do

    def release(self) -> None:
        """Let every answer go on that is held by a `hold` wish, and all later ones."""
        assert self._loop is not None and self._released is not None
        self._loop.call_soon_threadsafe(self._released.set)

    def _run(self) -> None:
        asyncio.run(self.serve())

    async def serve(self, announce: bool = False) -> None:
        """Serve on the running loop until stopped."""
        self._loop = asyncio.get_running_loop()
        self._released = asyncio.Event()
        self._stopping = asyncio.Event()
        connections: set[asyncio.Task[None]] = set()

        async def serve_connection(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            task = asyncio.current_task()
            assert task is not None
            connections.add(task)
            try:
                await self._serve_connection(reader, writer)
            except asyncio.CancelledError:
                pass  # we are stopping; asyncio's own callback would report it as an error
            finally:
                connections.discard(task)
                writer.close()

        server = await asyncio.start_server(
            serve_connection, "127.0.0.1", self.port, limit=HEAD_BYTES_MAX, backlog=512
        )
        self.port = server.sockets[0].getsockname()[1]
        if announce:
            print(self.url, flush=True)
        self._ready.set()
        await self._stopping.wait()
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _serve_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One request after another, until the caller closes or a wish cuts the line."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                method, target, headers = read_head(head)
                body = await read_body(reader, headers)
                if not await self._serve(reader, writer, method, target, headers, body):
                    return

    async def _serve(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        method: str,
        target: str,
        headers: dict[str, str],
        body: bytes,
    ) -> bool:
        """Answer one request; False ends the connection."""
        path = urllib.parse.unquote(urllib.parse.urlsplit(target).path)
        if own := self._own_path(method, path):
            writer.write(head_of(own, len(own.parts[0].data)) + own.parts[0].data)
            await writer.drain()
            return True
        asked = asking.read(method, target, headers, body, self._common_wish(method))
        answer = self._routes.answer(asked, method, path)
        call = ServedCall(
            number=len(self.ledger.served) + 1,
            request_id=headers.get("x-request-id", headers.get("x-request", "")),
            dialect=asked.dialect,
            method=method,
            path=path,
            model=answer.model or asked.model,
            is_stream=answer.is_stream,
            status=answer.status,
            counts=answer.counts,
            response_id=answer.response_id,
            asked_for_usage=asked.asks_for_usage,
            received_headers=headers,
            received_body=body,
        )
        self.ledger.open(call)
        ending = "abandoned"
        try:
            ending = await self._send(reader, writer, asked, answer, headers, call)
        except ConnectionError:
            pass
        finally:
            self.ledger.close(call, ending)
        return ending == "finished" and headers.get("connection", "").lower() != "close"

    def _own_path(self, method: str, path: str) -> Answer | None:
        """The paths about the provider itself."""
        if path == "/ledger":
            if method == "DELETE":
                self.ledger.clear()
            return Answer([Part(encoded(self.ledger.to_json()))])
        if path == "/release" and method == "POST":
            self.release()
            return Answer([Part(b"{}")])
        return None

    def _common_wish(self, method: str) -> str:
        next_do = self._routes.next_do
        once = next_do.popleft() if method == "POST" and next_do else ""
        return f"{self.do},{once}"

    async def _send(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        asked: Asked,
        answer: Answer,
        headers: dict[str, str],
        call: ServedCall,
    ) -> str:
        """Write the answer as wished; returns how it ended."""
        await asyncio.sleep((asked.wish_int("wait_ms") or 0) / 1000)
        cut, hold = asked.wish_int("cut"), asked.wish_int("hold")
        if cut and not answer.is_stream:
            cut = 1  # a JSON body has two halves, however many chunks were wished for
        parts, encoding = wire_parts(asked, answer, headers, cut)
        if cut == 0:
            return _cut(writer)
        length = None if answer.is_stream else sum(len(part.data) for part in parts)
        writer.write(head_of(answer, length, encoding))
        await writer.drain()
        for number, part in enumerate(parts):
            if number == hold and not await self._held(reader):
                return "abandoned"
            if number == cut:
                await writer.drain()
                return _cut(writer)
            if part.data and _has_left(reader):
                return "finished" if part.is_trailer else "abandoned"
            writer.write(framed(part.data) if answer.is_stream else part.data)
            self.ledger.note_sent(call, part.data, part.output_tokens)
            if not part.is_trailer:
                await writer.drain()
            if delay_ms := asked.wish_int("delay_ms"):
                await asyncio.sleep(delay_ms / 1000)
        if answer.is_stream:
            writer.write(b"0\r\n\r\n")
        return "finished"

    async def _held(self, reader: asyncio.StreamReader) -> bool:
        """Wait for `release()`; False if the caller left meanwhile."""
        assert self._released is not None
        while not self._released.is_set():
            if _has_left(reader):
                return False
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._released.wait(), 0.01)
        return True


def _has_left(reader: asyncio.StreamReader) -> bool:
    # A caller who closes with bytes unread resets the connection: an exception, no end of file.
    return reader.at_eof() or reader.exception() is not None


def _cut(writer: asyncio.StreamWriter) -> str:
    # Closed, not aborted: a reset may overtake bytes that the test counts on having arrived.
    writer.close()
    return "cut"


@contextlib.contextmanager
def provider_process(*arguments: str) -> Iterator[str]:
    """The provider in a process of its own; gives its URL. Dies with its starter."""
    command = [sys.executable, "-m", "tests.support.provider", "--while-stdin-open", *arguments]
    root = Path(__file__).resolve().parents[3]
    with subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise RuntimeError("the loopback provider did not start")
        try:
            yield url
        finally:
            process.terminate()
