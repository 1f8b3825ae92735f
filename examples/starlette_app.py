"""A small app on Starlette, behind an edge of the agency's own that says who is asking.

    edge (checks the login, sets X-Client-ID and X-Project-ID) ─▶ this app ─▶ provider

`trust_headers=True` is right only there: a stranger could else bill another's client. Without
such an edge use `identify=`, as in the second app below, which reads a signed-in session.
Run it with `uvicorn examples.starlette_app:app`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openai
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import Route

from meterd_middleware import Meter, MeterMiddleware, Tags, instrument

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from starlette.requests import Request

MODEL = "gpt-5.4-mini"
SESSIONS = {"session-of-acme": "acme-corp", "session-of-bigco": "bigco-inc"}

meter = Meter(service="starlette-app")
client = instrument(openai.AsyncOpenAI(), meter=meter)


async def answer(request: Request) -> JSONResponse:
    """Answer a question."""
    question = (await request.json())["question"]
    completion = await client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": question}]
    )
    return JSONResponse({"answer": completion.choices[0].message.content})


def who(scope: MutableMapping[str, Any]) -> Tags | None:
    """Who is asking, from the session cookie; None where nobody is signed in."""
    headers = dict(scope["headers"])
    cookie = headers.get(b"cookie", b"").decode("latin-1")
    known = SESSIONS.get(cookie.removeprefix("session="))
    return Tags(known, "support-chatbot") if known else None


routes = [Route("/answer", answer, methods=["POST"])]

app = Starlette(
    routes=routes, middleware=[Middleware(MeterMiddleware, meter=meter, trust_headers=True)]
)

app_with_sessions = Starlette(
    routes=routes,
    # `refuse=True`: a client over its quota gets the 429 before the app runs at all.
    middleware=[Middleware(MeterMiddleware, meter=meter, identify=who, refuse=True)],
)
