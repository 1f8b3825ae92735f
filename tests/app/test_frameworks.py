"""Frameworks over the SDKs: LangChain, pydantic-ai, openai-agents, LiteLLM, and the modules."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import agents
import huggingface_hub
import openai
import pytest
from google import genai
from google.genai import types
from langchain_openai import ChatOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from meterd_middleware import CannotInstrument, instrument, instrument_all, refusal_of, tagged
from tests.app.sdks import MESSAGES

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own deprecations
    import litellm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd_middleware.testing import RecordingMeter
    from tests.support.provider import Provider


@pytest.fixture(autouse=True)
def _acme() -> Iterator[None]:
    with tagged(client="acme-corp"):
        yield


def counted(meter: RecordingMeter, provider: Provider, calls: int) -> None:
    done = [r for r in meter.records if r.status == "complete"]
    assert len(done) == calls
    assert sum(r.tokens for r in done) == provider.ledger.counts().tokens
    assert {r.client for r in done} == {"acme-corp"}


async def test_langchain(meter: RecordingMeter, provider: Provider) -> None:
    model: Any = instrument(
        ChatOpenAI(model="gpt-4o", api_key="k", base_url=provider.base_url("openai")),  # type: ignore[arg-type]  # a plain key is taken
        meter=meter,
    )
    model.invoke("hi")
    list(model.stream("hi"))
    await model.ainvoke("hi")
    counted(meter, provider, 3)

    meter.refuse("acme-corp")
    with pytest.raises(Exception) as caught:
        model.invoke("hi")
    assert refusal_of(caught.value) is not None


async def test_pydantic_ai(meter: RecordingMeter, provider: Provider) -> None:
    model = OpenAIChatModel(
        "gpt-4o", provider=OpenAIProvider(base_url=provider.base_url("openai"), api_key="k")
    )
    agent = Agent(model)
    instrument(agent, meter=meter)
    await agent.run("hi")
    counted(meter, provider, 1)

    meter.refuse("acme-corp")
    with pytest.raises(Exception) as caught:
        await agent.run("hi")
    assert refusal_of(caught.value) is not None


async def test_openai_agents(meter: RecordingMeter, provider: Provider) -> None:

    agents.set_tracing_disabled(True)
    client = instrument(
        openai.AsyncOpenAI(api_key="k", base_url=provider.base_url("openai")), meter=meter
    )
    agents.set_default_openai_client(client, use_for_tracing=False)
    agent = agents.Agent(name="helper", model="gpt-4o")
    await agents.Runner.run(agent, "hi")
    counted(meter, provider, 1)

    meter.refuse("acme-corp")
    with pytest.raises(Exception) as caught:
        await agents.Runner.run(agent, "hi")
    assert refusal_of(caught.value) is not None
    await client.close()


@pytest.mark.filterwarnings("ignore")  # litellm's own
async def test_litellm_is_metered_by_instrument_all(
    meter: RecordingMeter, provider: Provider
) -> None:
    targets = [
        {"model": "openai/gpt-4o", "api_base": provider.base_url("openai")},
        {"model": "anthropic/claude-sonnet-4", "api_base": provider.base_url("anthropic")},
    ]
    with instrument_all(meter):
        for target in targets:
            litellm.completion(messages=MESSAGES, api_key="k", **target)
            await litellm.acompletion(messages=MESSAGES, api_key="k", **target)
        counted(meter, provider, 4)

        meter.refuse("acme-corp")
        for target in targets:
            with pytest.raises(litellm.exceptions.RateLimitError) as caught:
                litellm.completion(messages=MESSAGES, api_key="k", num_retries=0, **target)
            assert refusal_of(caught.value) is not None
    with pytest.raises(CannotInstrument, match=r"instrument_all\(meter\)"):
        instrument(litellm, meter=meter)


def test_the_module_level_functions_of_openai(
    meter: RecordingMeter, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr(openai, "api_key", "k")
    monkeypatch.setattr(openai, "base_url", provider.base_url("openai") + "/")
    monkeypatch.setattr(openai, "http_client", None)
    openai._reset_client()
    instrument(openai, meter=meter)

    openai.chat.completions.create(model="gpt-4o", messages=MESSAGES)

    counted(meter, provider, 1)
    assert openai.http_client is not None
    openai.http_client.close()
    openai._reset_client()


async def test_googles_async_client_is_turned_from_aiohttp_to_httpx(
    meter: RecordingMeter, provider: Provider
) -> None:
    """aiohttp, which it prefers where that is installed, gets its session late."""
    client = genai.Client(
        api_key="k", http_options=types.HttpOptions(base_url=provider.base_url("gemini"))
    )
    assert client._api_client._use_aiohttp()
    instrument(client, meter=meter)
    instrument(client, meter=meter)

    await client.aio.models.generate_content(model="gemini-2.5-flash", contents="hi")

    counted(meter, provider, 1)
    await client.aio.aclose()


async def test_hugging_faces_async_clients_are_made_anew_and_metered(
    meter: RecordingMeter, provider: Provider
) -> None:

    for _ in range(2):
        async with huggingface_hub.AsyncInferenceClient(
            base_url=provider.base_url("hf"), api_key="k"
        ) as client:
            instrument(client, meter=meter)
            await client.chat_completion(model="gpt-oss", messages=MESSAGES)

    counted(meter, provider, 2)


def test_gemini_interactions(meter: RecordingMeter) -> None:
    """They retry four times whatever the server says, unless it says `retry-after-ms`."""
    import httpx2

    sent: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.url.path)
        usage = {"total_input_tokens": 5, "total_output_tokens": 3, "total_tokens": 8}
        body = {"id": "int_1", "model": "gemini-3-pro", "status": "completed", "outputs": []}
        return httpx2.Response(200, json={**body, "object": "interaction", "usage": usage})

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    client = genai.Client(api_key="k", http_options=types.HttpOptions(httpx_client=http))
    instrument(client, meter=meter)
    client.interactions.create(model="gemini-3-pro", input="hi")
    assert [(r.provider, r.tokens) for r in meter.records] == [("gcp.gemini", 8)]

    meter.refuse("acme-corp")
    with pytest.raises(Exception) as caught:
        client.interactions.create(model="gemini-3-pro", input="hi")
    assert type(caught.value).__name__ == "RateLimitError"
    assert refusal_of(caught.value) is not None
    assert len(sent) == 1
    assert [r.status for r in meter.records] == ["complete", "refused"]
    client.close()
