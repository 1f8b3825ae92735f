"""FastAPI: the login runs in a dependency, sync, async or with `yield`, in a thread or not."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Annotated, Any

import openai
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Header
from fastapi.testclient import TestClient

from meterd_middleware import MeterMiddleware, instrument, tag_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from meterd_middleware.testing import RecordingMeter
    from tests.support.provider import Provider

MESSAGES: Any = [{"role": "user", "content": "hi"}]


def sync_login(user: Annotated[str, Header()]) -> str:
    assert threading.current_thread() is not threading.main_thread()
    tag_request(client=user, project="support-chatbot")
    return user


async def async_login(user: Annotated[str, Header()]) -> str:
    await asyncio.sleep(0)
    tag_request(client=user, project="support-chatbot")
    return user


def yielding_login(user: Annotated[str, Header()]) -> Iterator[str]:
    tag_request(client=user, project="support-chatbot")
    yield user


async def async_yielding_login(user: Annotated[str, Header()]) -> AsyncIterator[str]:
    tag_request(client=user, project="support-chatbot")
    yield user


@pytest.mark.parametrize("login", [sync_login, async_login, yielding_login, async_yielding_login])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_login_in_a_dependency_tags_the_calls_of_its_request(
    meter: RecordingMeter, provider: Provider, login: Any, is_async: bool
) -> None:
    app = FastAPI()
    app.add_middleware(MeterMiddleware, meter=meter)
    url = provider.base_url("openai")

    if is_async:

        @app.get("/")
        async def apage(user: str = Depends(login)) -> str:
            async with instrument(
                openai.AsyncOpenAI(api_key="k", base_url=url), meter=meter
            ) as chat:
                await chat.chat.completions.create(model="gpt-4o", messages=MESSAGES)
            return user
    else:

        @app.get("/")
        def page(user: str = Depends(login)) -> str:
            with instrument(openai.OpenAI(api_key="k", base_url=url), meter=meter) as chat:
                chat.chat.completions.create(model="gpt-4o", messages=MESSAGES)
            return user

    with TestClient(app) as client:
        client.get("/", headers={"user": "acme-corp"})
        client.get("/", headers={"user": "bigco-inc"})

    assert [(r.client, r.project) for r in meter.records] == [
        ("acme-corp", "support-chatbot"),
        ("bigco-inc", "support-chatbot"),
    ]


def test_threads_executors_and_background_tasks_of_a_request_keep_its_tags(
    meter: RecordingMeter, provider: Provider
) -> None:
    app = FastAPI()
    app.add_middleware(MeterMiddleware, meter=meter)
    chat = instrument(openai.OpenAI(api_key="k", base_url=provider.base_url("openai")), meter=meter)

    def call(model: str) -> None:
        chat.chat.completions.create(model=model, messages=MESSAGES)

    @app.get("/")
    async def page(user: Annotated[str, Depends(async_login)], background: BackgroundTasks) -> str:
        await asyncio.to_thread(call, "to_thread")
        with ThreadPoolExecutor(1) as pool:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(pool, copy_context().run, call, "executor")
        background.add_task(call, "background")
        return user

    with TestClient(app) as client:
        client.get("/", headers={"user": "acme-corp"})

    assert [(r.request_model, r.client) for r in meter.records] == [
        ("to_thread", "acme-corp"),
        ("executor", "acme-corp"),
        ("background", "acme-corp"),
    ]


def test_concurrent_requests_do_not_mix_their_tags(
    meter: RecordingMeter, provider: Provider
) -> None:
    app = FastAPI()
    app.add_middleware(MeterMiddleware, meter=meter)

    @app.get("/{name}")
    def page(name: str, user: Annotated[str, Depends(sync_login)]) -> str:
        with instrument(
            openai.OpenAI(api_key="k", base_url=provider.base_url("openai")), meter=meter
        ) as chat:
            chat.chat.completions.create(model=f"of-{name}", messages=MESSAGES)
        return user

    with TestClient(app) as client, ThreadPoolExecutor(8) as pool:
        names = [f"client-{number}" for number in range(24)]
        list(pool.map(lambda name: client.get(f"/{name}", headers={"user": name}), names))

    assert sorted((r.client, r.request_model) for r in meter.records) == sorted(
        (name, f"of-{name}") for name in names
    )
