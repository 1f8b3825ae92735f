"""MeterMiddleware: who is an inbound request for, may they, and what a refusal looks like.

    server ─▶ MeterMiddleware ─▶ app
                │  identify(scope), or trusted headers ─▶ a holder in the contextvar,
                │  which tag_request() fills wherever the login really runs
                └─ a refusal of ours that the app leaves uncaught ─▶ 429 problem+json

Pure ASGI: no task, no buffering, nothing between the app and its server but two small
functions. Lifespan passes untouched; a websocket is one request, for as long as it lasts, and is
never refused here: its messages are the app's own protocol.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, cast

from meterd_middleware import refusal
from meterd_middleware.tags import (
    CLIENT_HEADER,
    PROJECT_HEADER,
    Tags,
    serving_request,
    who_pays,
)

if TYPE_CHECKING:
    from meterd_middleware.meter import Meter
    from meterd_middleware.refusal import QuotaExceeded

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Identify = Callable[[Scope], "Tags | str | Awaitable[Tags | str | None] | None"]
Refuse = bool | Callable[[Scope], bool]

FLUSH_AT_SHUTDOWN_S = 2.0

_CLIENT, _PROJECT = CLIENT_HEADER.encode(), PROJECT_HEADER.encode()


async def _flush(meter: Meter) -> None:
    """Flush without holding up the loop; at most `FLUSH_AT_SHUTDOWN_S`, whatever the loop is."""
    import asyncio  # loaded by whoever serves this app; not by importing us

    try:
        asyncio.get_running_loop()
    except RuntimeError:  # trio's loop, which has nothing else to do any more
        meter.flush(FLUSH_AT_SHUTDOWN_S)
    else:
        await asyncio.to_thread(meter.flush, FLUSH_AT_SHUTDOWN_S)


class MeterMiddleware:
    """ASGI middleware that bills what a request does to whom the request is for.

        app.add_middleware(MeterMiddleware, meter=meter, identify=who)

    Args:
        app: the ASGI app.
        meter: counts the calls.
        identify: says from the scope of a request or websocket who is asking, sync or async;
            None: not known (yet: `tag_request` may say so later). One that raises is logged
            once and counts as None.
        trust_headers: believe the inbound `X-Client-ID` and `X-Project-ID`. Only behind an
            edge of your own that sets them: a stranger could else bill another's client.
        refuse: answer 429 before the app runs where the client has used up its quota; True,
            or a predicate on the scope. By default only calls to providers are refused, so
            that the other pages keep working.
    """

    def __init__(
        self,
        app: App,
        meter: Meter,
        identify: Identify | None = None,
        trust_headers: bool = False,
        refuse: Refuse = False,
    ) -> None:
        self.app = app
        self.meter = meter
        self._identify = identify
        self._trust_headers = trust_headers
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        if scope["type"] not in ("http", "websocket") or self.meter.is_disabled:
            await self.app(scope, receive, send)
            return
        tags = await self._who(scope) if self._identify is not None else None
        if tags is None and self._trust_headers:
            tags = self._from_headers(scope)
        if scope["type"] == "websocket":
            with serving_request(tags):
                await self.app(scope, receive, send)
            return
        if self._refuse:
            refused = await self._refused(scope, tags)
            if refused is not None:
                await self._answer(refused, send)
                return
        has_started = False

        def watched(message: Message) -> Awaitable[None]:
            nonlocal has_started
            has_started = True
            return send(message)

        with serving_request(tags):
            try:
                await self.app(scope, receive, watched)
            except Exception as error:
                refused = refusal.refusal_of(error)
                if refused is None or has_started:
                    raise
                await self._answer(refused, send)

    async def _who(self, scope: Scope) -> Tags | None:
        try:
            told = cast("Identify", self._identify)(scope)
            if inspect.isawaitable(told):
                told = await told
            if told is None or isinstance(told, Tags):
                return told
            if isinstance(told, str):
                return Tags(told) if told else None
            raise TypeError(f"identify gave {type(told).__name__}, expected Tags, str or None")
        except Exception as error:
            self.meter.exchanges.faults.note("identify", error)
            return None

    def _from_headers(self, scope: Scope) -> Tags | None:
        """The tags that a trusted edge put into the request's headers."""
        client = project = ""
        for name, value in scope["headers"]:
            if name == _CLIENT:
                text = value.decode("latin-1")
                client = text if client in ("", text) else f"{client}\0{text}"
            elif name == _PROJECT:
                project = value.decode("latin-1")
        return Tags(client, project) if client or project else None

    async def _refused(self, scope: Scope, tags: Tags | None) -> QuotaExceeded | None:
        """Why this request is answered before the app runs; None: it isn't."""
        try:
            if self._refuse is not True and not cast("Callable[[Scope], bool]", self._refuse)(
                scope
            ):
                return None
        except Exception as error:
            self.meter.exchanges.faults.note("refuse", error)
            return None
        with serving_request(tags):
            payer = who_pays((), (), self.meter.settings.client)
        if not payer.is_named:  # nobody is known yet: the calls themselves will be decided on
            return None
        try:
            await self.meter.acheck(client=payer.tags.client, project=payer.tags.project)
        except refusal.QuotaExceeded as refused:
            return refused
        return None

    async def _answer(self, refused: QuotaExceeded, send: Send) -> None:
        headers, body = refusal.problem(refused, self.meter.exchanges.now_ns())
        start = {"type": "http.response.start", "status": refusal.STATUS, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": body})

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Left alone; when the app has ended, what is left gets a moment to reach meterd."""
        try:
            await self.app(scope, receive, send)
        finally:
            if not self.meter.is_disabled:
                await _flush(self.meter)
