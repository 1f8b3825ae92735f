"""What an app can do when a client is over its quota: a page, a cheaper model, or later.

    /answer   a friendly page in place of the answer
    /cheaper  the same answer from a cheaper model, where the expensive one alone is used up
    /later    202 now; a task of this process answers once the client may call again

`uvicorn examples.recipes.over_quota:app`. docs/quotas.md says when to take which.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any

import openai
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route

from meterd_middleware import (
    Meter,
    MeterMiddleware,
    QuotaExceeded,
    Tags,
    current_tags,
    instrument,
    refusal_of,
    tagged,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.responses import Response

BEST, CHEAPER = "gpt-5.4", "gpt-5.4-mini"
ASK_AGAIN_S = 1.0
JOBS_MAX = 1_000

meter = Meter(service="over-quota")
client = instrument(openai.AsyncOpenAI(), meter=meter)
answers: dict[str, str] = {}
waiting: deque[tuple[dict[str, str], str]] = deque()


async def ask(question: str, model: str = BEST) -> str:
    """One call for whoever is asking."""
    completion = await client.chat.completions.create(
        model=model, max_tokens=200, messages=[{"role": "user", "content": question}]
    )
    return completion.choices[0].message.content or ""


async def over_quota(request: Request, error: Exception) -> Response:
    """A friendly page where the client is over its own quota; else the provider is busy."""
    refused = refusal_of(error)
    if refused is None:
        return HTMLResponse("<p>We are busy. Please try again in a minute.</p>", 503)
    until = f" until {refused.resets_at:%B %d}" if refused.resets_at else ""
    page = f"<p>Your plan's {refused.limit:,} tokens are used up{until}. Write to us for more.</p>"
    return HTMLResponse(page, 429)


async def answer(request: Request) -> Response:
    """Nothing but the call: `over_quota` above is the app's handler for its refusal."""
    return JSONResponse({"answer": await ask(request.query_params["q"])})


async def ask_cheaper(question: str) -> str:
    """The best model while its quota lasts, then the cheaper one."""
    try:
        return await ask(question, BEST)
    except openai.RateLimitError as error:
        if refusal_of(error) is None:
            raise  # the provider's own limit: another model of it won't help
    return await ask(question, CHEAPER)


async def cheaper(request: Request) -> Response:
    """Degraded, not refused; a client without any tokens left still gets the page."""
    return JSONResponse({"answer": await ask_cheaper(request.query_params["q"])})


async def ask_later(question: str) -> str | None:
    """The answer, or None where the question waits for tokens, with whom it is billed to."""
    try:
        return await ask(question)
    except openai.RateLimitError as error:
        tags = current_tags()
        if refusal_of(error) is None or tags is None or len(waiting) >= JOBS_MAX:
            raise
        waiting.append((tags.headers(), question))
        return None


async def work_off() -> None:
    """Answer what waits, oldest first, as soon as its client may call: `acheck` sends nothing."""
    while True:
        await asyncio.sleep(ASK_AGAIN_S)
        for _ in range(len(waiting)):
            headers, question = waiting.popleft()
            tags = Tags.from_headers(headers)
            if tags is None:
                continue
            try:
                await meter.acheck(client=tags.client, tokens=1_000)
                with tagged(tags):
                    answers[question] = await ask(question)
            except (QuotaExceeded, openai.RateLimitError):
                waiting.append((headers, question))


async def later(request: Request) -> Response:
    """The answer if it is there, else 202: come again."""
    question = request.query_params["q"]
    found = answers.pop(question, None)
    if found is None and not any(question == waits for _, waits in waiting):
        found = await ask_later(question)
    if found is None:
        return JSONResponse({"status": "waiting for tokens"}, 202)
    return JSONResponse({"answer": found})


@contextlib.asynccontextmanager
async def working(app: Starlette) -> AsyncIterator[None]:
    """The task lives as long as the app."""
    task = asyncio.create_task(work_off())
    yield
    task.cancel()


_handlers: dict[Any, Any] = {openai.RateLimitError: over_quota}

app = Starlette(
    routes=[Route("/answer", answer), Route("/cheaper", cheaper), Route("/later", later)],
    exception_handlers=_handlers,
    lifespan=working,
)
app.add_middleware(MeterMiddleware, meter=meter, trust_headers=True)
