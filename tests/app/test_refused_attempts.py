"""How often each SDK asks again after a refusal, how long that takes, and what it keeps of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anthropic
import httpx
import openai
import pytest
from google import genai
from google.genai import types

from meterd_middleware import instrument, refusal, refusal_of, tagged
from meterd_middleware.testing import RecordingMeter
from tests.app.sdks import MESSAGES, SDKS, Sdk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.provider import Provider

ATTEMPTS = {"cohere": 3}
"""All others make one, and of a streamed call cohere does, too."""
SECONDS_MAX = 5.0
LIMIT = 2_000_000
STREAMED = [sdk for sdk in SDKS if sdk.astream is not None]


@pytest.fixture
def meter() -> Iterator[RecordingMeter]:
    meter = RecordingMeter()
    meter.refuse("acme-corp", limit=LIMIT)
    with tagged(client="acme-corp"):
        yield meter


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shape of each refusal that was given: one an attempt."""
    made: list[str] = []
    answer = refusal.outbound

    def counted(shape: str, *rest: Any) -> Any:
        made.append(shape)
        return answer(shape, *rest)

    monkeypatch.setattr(refusal, "outbound", counted)
    return made


def refused(call: Any) -> tuple[BaseException, float]:
    """What a call raised, and how long it took."""
    started = time.monotonic()
    with pytest.raises(Exception) as caught:
        call()
    return caught.value, time.monotonic() - started


@pytest.mark.parametrize("sdk", SDKS, ids=str)
def test_an_sdk_asks_as_often_as_documented_and_does_not_sleep(
    meter: RecordingMeter, provider: Provider, attempts: list[str], sdk: Sdk
) -> None:
    """With the retries that it has by default: cohere would sleep twice a minute in the app."""
    with sdk.client(provider.base_url(sdk.style)) as client:
        instrument(client, meter=meter)
        error, seconds = refused(lambda: sdk.call(client))

    assert type(error).__name__ == sdk.refused_as
    assert len(attempts) == ATTEMPTS.get(sdk.name, 1)
    assert seconds < SECONDS_MAX
    assert len(meter.records) == 1


@pytest.mark.parametrize("sdk", STREAMED, ids=str)
async def test_an_async_stream_is_refused_before_its_first_byte(
    meter: RecordingMeter, provider: Provider, attempts: list[str], sdk: Sdk
) -> None:
    assert sdk.astream is not None
    async with sdk.async_client(provider.base_url(sdk.style)) as client:
        instrument(client, meter=meter)
        with pytest.raises(Exception) as caught:
            await sdk.astream(client)

    assert refusal_of(caught.value) is not None
    assert len(attempts) == 1
    assert provider.ledger.served == []


@pytest.mark.parametrize("sdk", SDKS, ids=str)
def test_the_facts_stand_in_the_body_that_the_sdk_keeps(
    meter: RecordingMeter, provider: Provider, sdk: Sdk
) -> None:
    """Behind a gateway nothing else tells of the refusal. ollama keeps its sentence alone."""
    with sdk.client(provider.base_url(sdk.style)) as client:
        instrument(client, meter=meter)
        error, _ = refused(lambda: sdk.call(client))
    if sdk.name == "ollama":
        assert f"meterd: client acme-corp has 0 of {LIMIT:,} tokens left" in str(error)
        return
    refusal._recent.clear()

    found = refusal_of(error)

    assert found is not None
    assert (found.client, found.limit, found.used, found.remaining) == (
        "acme-corp", LIMIT, LIMIT, 0,
    )  # fmt: skip


def azure(url: str) -> Any:
    return openai.AzureOpenAI(api_key="k", api_version="2024-10-21", azure_endpoint=url)


def test_azure_refuses_as_openai_does(
    meter: RecordingMeter, provider: Provider, attempts: list[str]
) -> None:
    """Its deployments stand in the path; streamed or not."""
    with azure(provider.url) as client:
        instrument(client, meter=meter)
        for is_stream in (False, True):
            error, seconds = refused(
                lambda is_stream=is_stream: client.chat.completions.create(
                    model="gpt-4o", messages=MESSAGES, stream=is_stream
                )
            )
            assert isinstance(error, openai.RateLimitError)
            assert error.code == "insufficient_quota"
            assert seconds < SECONDS_MAX

    assert attempts == ["openai", "openai"]
    assert provider.ledger.served == []


def test_anthropic_on_bedrock_refuses_in_bedrocks_shape(
    meter: RecordingMeter, attempts: list[str]
) -> None:
    """Signed requests aren't altered, and aren't sent either."""
    with anthropic.AnthropicBedrock(
        aws_access_key="a", aws_secret_key="b", aws_region="us-east-1"
    ) as client:
        instrument(client, meter=meter)
        error, seconds = refused(
            lambda: client.messages.create(
                model="anthropic.claude-sonnet-4-20250514-v1:0", max_tokens=64, messages=MESSAGES
            )
        )

    assert isinstance(error, anthropic.RateLimitError)
    assert refusal_of(error) is not None
    assert attempts == ["bedrock"]
    assert seconds < SECONDS_MAX


def test_geminis_interactions_give_up_at_once(
    meter: RecordingMeter, provider: Provider, attempts: list[str]
) -> None:
    """Five attempts without a pause; "next month" would make it sleep."""
    options = types.HttpOptions(base_url=provider.url, httpx_client=httpx.Client())
    with genai.Client(api_key="k", http_options=options) as client:
        instrument(client, meter=meter)
        error, seconds = refused(
            lambda: client.interactions.create(model="gemini-3-flash", input="hello there")
        )

    assert refusal_of(error) is not None
    assert len(attempts) <= 5
    assert seconds < SECONDS_MAX
    assert provider.ledger.served == []
