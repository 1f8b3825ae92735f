"""A pass-through gateway for callers in other languages, built on the same metered transport.

    openai client in JavaScript, Go, … ── baseURL = http://gateway:8080/openai/v1
         │  X-Client-ID: acme-corp                (a default header of the client)
         ▼
    Gateway ─ AsyncMeteredTransport ─▶ https://api.openai.com/v1     the same bytes, both ways

The caller's own API key passes through; nothing is stored. Whoever can reach the gateway can
name any client, so it belongs on a private network, beside the apps that use it. Run it with
`uvicorn examples.gateway:app --port 8080`; `GATEWAY_UPSTREAMS` adds or changes upstreams
(`openai=https://api.openai.com,mine=https://llm.example`).
"""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx2

from meterd_middleware import Meter
from meterd_middleware.httpx2 import AsyncMeteredTransport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, MutableMapping

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

UPSTREAMS = {
    "openai": "https://api.openai.com",
    "anthropic": "https://api.anthropic.com",
    "gemini": "https://generativelanguage.googleapis.com",
    "mistral": "https://api.mistral.ai",
    "groq": "https://api.groq.com",
}
TIMEOUT = httpx2.Timeout(600, connect=10)

_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding "
    b"upgrade host".split()
)


class Gateway:
    """An ASGI app: `/NAME/path` goes to the upstream of that name, metered."""

    def __init__(self, meter: Meter, upstreams: Mapping[str, str] = UPSTREAMS) -> None:
        self.meter = meter
        self.upstreams = dict(upstreams)
        self._client: httpx2.AsyncClient | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._pass_on(scope, receive, send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        name, _, path = scope["path"].lstrip("/").partition("/")
        upstream = self.upstreams.get(name)
        if upstream is None:
            known = ", ".join(sorted(self.upstreams))
            await _problem(send, 404, f"no upstream {name!r}; the path begins with one of {known}")
            return
        body = await _whole_body(receive)
        if body is None:
            return  # the caller left before it had said what it wanted
        query = scope["query_string"].decode("latin-1")
        url = f"{upstream}/{path}" + (f"?{query}" if query else "")
        headers = [(n, v) for n, v in scope["headers"] if n not in _HOP_BY_HOP]
        request = self._http().build_request(scope["method"], url, headers=headers, content=body)
        # A caller who leaves must end the call to the provider, which bills until then.
        relay = asyncio.ensure_future(self._relay(request, send))
        left = asyncio.ensure_future(_until_left(receive))
        await asyncio.wait((relay, left), return_when=asyncio.FIRST_COMPLETED)
        left.cancel()
        if not relay.done():
            relay.cancel()
        with suppress(asyncio.CancelledError):
            await relay

    async def _relay(self, request: httpx2.Request, send: Send) -> None:
        """The provider's answer, byte for byte, each chunk as it comes."""
        try:
            response = await self._http().send(request, stream=True)
        except httpx2.HTTPError as error:
            await _problem(send, 502, f"the upstream can't be reached: {type(error).__name__}")
            return
        try:
            headers = [(n.lower(), v) for n, v in response.headers.raw]
            headers = [(n, v) for n, v in headers if n not in _HOP_BY_HOP]
            start = {"type": "http.response.start", "status": response.status_code}
            await send({**start, "headers": headers})
            async for chunk in response.aiter_raw():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await response.aclose()

    def _http(self) -> httpx2.AsyncClient:
        """The one client, made where its event loop runs."""
        if self._client is None:
            inner = httpx2.AsyncHTTPTransport(limits=httpx2.Limits(max_connections=1000))
            transport = AsyncMeteredTransport(self.meter, inner)
            self._client = httpx2.AsyncClient(transport=transport, timeout=TIMEOUT)
        return self._client

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if self._client is not None:
            await self._client.aclose()
        await asyncio.to_thread(self.meter.close)
        await send({"type": "lifespan.shutdown.complete"})


async def _whole_body(receive: Receive) -> bytes | None:
    pieces = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(pieces)


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _problem(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"title": "Gateway", "status": status, "detail": detail}).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(body)),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def upstreams_from_environment(text: str) -> dict[str, str]:
    """`UPSTREAMS` with what `GATEWAY_UPSTREAMS` adds or changes."""
    pairs = (part.partition("=") for part in text.split(",") if part.strip())
    given = {name.strip(): url.strip().rstrip("/") for name, _, url in pairs}
    return {**UPSTREAMS, **given}


app = Gateway(
    Meter(service="gateway"), upstreams_from_environment(os.environ.get("GATEWAY_UPSTREAMS", ""))
)
