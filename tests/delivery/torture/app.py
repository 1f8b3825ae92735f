"""An app with real SDK clients, several kinds of call, run by uvicorn in several processes.

POST /call/KIND   one LLM call for the tags of the request's headers; answers once it is over
GET  /            up

The call's own id is its project and its `X-Request-ID`, so that the provider's ledger and
meterd's can be laid side by side, call by call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anthropic
import openai
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from meterd_middleware import Meter, MeterMiddleware, instrument

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

meter = Meter(service="torture")
_openai = instrument(openai.AsyncOpenAI(max_retries=2), meter=meter)
_openai_sync = instrument(openai.OpenAI(max_retries=2), meter=meter)
_anthropic = instrument(anthropic.AsyncAnthropic(max_retries=2), meter=meter)
_anthropic_sync = instrument(anthropic.Anthropic(max_retries=2), meter=meter)


def _messages(text: str) -> Any:
    return [{"role": "user", "content": text}]


async def _chat(text: str, headers: dict[str, str]) -> None:
    await _openai.chat.completions.create(
        model="gpt-5.4-mini", messages=_messages(text), extra_headers=headers
    )


async def _chat_stream(text: str, headers: dict[str, str]) -> None:
    # The usage is asked for: it is added of itself on hosts that are known to take it, and
    # the loopback provider is none.
    stream = await _openai.chat.completions.create(
        model="gpt-5.4-mini",
        messages=_messages(text),
        stream=True,
        stream_options={"include_usage": True},
        extra_headers=headers,
    )
    async for _ in stream:
        pass


async def _responses_stream(text: str, headers: dict[str, str]) -> None:
    stream = await _openai.responses.create(
        model="gpt-5.4-mini", input=text, stream=True, extra_headers=headers
    )
    async for _ in stream:
        pass


async def _messages_stream(text: str, headers: dict[str, str]) -> None:
    async with _anthropic.messages.stream(
        model="claude-haiku-4-5", max_tokens=200, messages=_messages(text), extra_headers=headers
    ) as stream:
        await stream.get_final_message()


async def _messages_in_a_thread(text: str, headers: dict[str, str]) -> None:
    await run_in_threadpool(
        _anthropic_sync.messages.create,
        model="claude-haiku-4-5",
        max_tokens=200,
        messages=_messages(text),
        extra_headers=headers,
    )


async def _embeddings_in_a_thread(text: str, headers: dict[str, str]) -> None:
    await run_in_threadpool(
        _openai_sync.embeddings.create,
        model="text-embedding-3-small",
        input=text,
        extra_headers=headers,
    )


KINDS: dict[str, Callable[[str, dict[str, str]], Awaitable[None]]] = {
    "chat": _chat,
    "chat-stream": _chat_stream,
    "responses-stream": _responses_stream,
    "messages-stream": _messages_stream,
    "messages-thread": _messages_in_a_thread,
    "embeddings-thread": _embeddings_in_a_thread,
}


async def call(request: Request) -> Response:
    """Make one call; the provider is told how slow to be."""
    uid = request.headers["X-Project-ID"]
    headers = {"X-Request-ID": uid, "X-Provider-Do": request.headers.get("X-Provider-Do", "")}
    await KINDS[request.path_params["kind"]](f"{uid} tell me a thing", headers)
    return PlainTextResponse(uid)


async def up(request: Request) -> Response:
    """Answer."""
    return PlainTextResponse("up")


app = Starlette(routes=[Route("/", up), Route("/call/{kind}", call, methods=["POST"])])
app.add_middleware(MeterMiddleware, meter=meter, trust_headers=True)
