"""An agency's app on FastAPI: three products for three clients, each call billed to its client.

    GET  /                          who is signed in; no LLM call, works over the quota too
    POST /support-chatbot/chat      openai, streamed to the browser
    POST /support-chatbot/search    openai embeddings
    POST /content-generator/draft   anthropic; a headline follows in a background task
    POST /lead-qualification/score  google-genai

The login is an ordinary FastAPI dependency; the line `tag_request(...)` in it is all that
meterd needs to know. Run it with `uvicorn examples.fastapi_app:app`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import anthropic
import openai
from fastapi import BackgroundTasks, Depends, FastAPI, Header, HTTPException
from fastapi.responses import StreamingResponse
from google import genai
from google.genai import types
from pydantic import BaseModel

from meterd_middleware import Meter, MeterMiddleware, instrument, tag_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ACCOUNTS = {"acme": "acme-corp", "tech": "techstartup", "bigco": "bigco-inc"}
"""Whose key is whose. An agency has these in its database."""

CHAT_MODEL = "gpt-5.4-mini"
DRAFT_MODEL = "claude-haiku-4-5"
SCORE_MODEL = "gemini-3.8-flash"
SEARCH_MODEL = "text-embedding-3-small"

meter = Meter(service="agency-app")
chat_client = instrument(openai.AsyncOpenAI(), meter=meter)
draft_client = instrument(anthropic.AsyncAnthropic(), meter=meter)
score_client = instrument(genai.Client(), meter=meter)

app = FastAPI(title="An agency's app")
app.add_middleware(MeterMiddleware, meter=meter)


@dataclass(frozen=True)
class Account:
    """Who is signed in, and the id by which one request is traced to the provider."""

    client: str
    request_id: str


def signed_in(project: str) -> Callable[..., Account]:
    """The login, as a dependency; `project` is the product that it opens."""

    def login(
        authorization: Annotated[str, Header()] = "",
        x_request_id: Annotated[str, Header()] = "",
    ) -> Account:
        client = ACCOUNTS.get(authorization.removeprefix("Bearer "))
        if client is None:
            raise HTTPException(401, "unknown key")
        tag_request(client=client, project=project)
        return Account(client, x_request_id)

    return login


class Prompt(BaseModel):
    """What the browser sends."""

    text: str


@app.get("/")
def home(account: Annotated[Account, Depends(signed_in(""))]) -> dict[str, str]:
    """A page without an LLM: a client over its quota still gets it."""
    return {"client": account.client}


@app.post("/support-chatbot/chat")
async def chat(
    prompt: Prompt, account: Annotated[Account, Depends(signed_in("support-chatbot"))]
) -> StreamingResponse:
    """Stream an answer. The call is made before the response starts, so that a refusal is a 429."""
    stream = await chat_client.chat.completions.create(
        model=CHAT_MODEL,
        messages=[{"role": "user", "content": prompt.text}],
        stream=True,
        extra_headers=_trace(account),
    )

    async def words() -> AsyncIterator[str]:
        async for chunk in stream:
            yield chunk.choices[0].delta.content or ""

    return StreamingResponse(words(), media_type="text/plain")


@app.post("/support-chatbot/search")
async def search(
    prompt: Prompt, account: Annotated[Account, Depends(signed_in("support-chatbot"))]
) -> dict[str, int]:
    """Embed a question."""
    answer = await chat_client.embeddings.create(
        model=SEARCH_MODEL, input=prompt.text, extra_headers=_trace(account)
    )
    return {"dimensions": len(answer.data[0].embedding)}


@app.post("/content-generator/draft")
async def draft(
    prompt: Prompt,
    later: BackgroundTasks,
    account: Annotated[Account, Depends(signed_in("content-generator"))],
) -> dict[str, str]:
    """Draft a text; its headline is written after the answer has gone out, on the same bill."""
    message = await draft_client.messages.create(
        model=DRAFT_MODEL,
        max_tokens=400,
        messages=[{"role": "user", "content": prompt.text}],
        extra_headers=_trace(account),
    )
    text = "".join(block.text for block in message.content if block.type == "text")
    later.add_task(_write_headline, text, account)
    return {"draft": text}


async def _write_headline(text: str, account: Account) -> None:
    await chat_client.chat.completions.create(
        model=CHAT_MODEL,
        messages=[{"role": "user", "content": f"A headline for: {text}"}],
        extra_headers=_trace(account),
    )


@app.post("/lead-qualification/score")
async def score(
    prompt: Prompt, account: Annotated[Account, Depends(signed_in("lead-qualification"))]
) -> dict[str, str]:
    """Score a lead, however long its history is."""
    answer = await score_client.aio.models.generate_content(
        model=SCORE_MODEL,
        contents=prompt.text,
        config=types.GenerateContentConfig(http_options=types.HttpOptions(headers=_trace(account))),
    )
    return {"score": answer.text or ""}


def _trace(account: Account) -> dict[str, str]:
    # Nothing that meterd needs: the demo compares the provider's ledger with meterd's by it.
    return {"X-Request-ID": account.request_id}
