"""The official SDKs, sync and async, streamed and not: each call counted to the token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from meterd_middleware import instrument, instrument_all, tagged
from tests.app.sdks import SDKS, Sdk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd_middleware.testing import RecordingMeter
    from tests.support.provider import Provider

ALL = pytest.mark.parametrize("sdk", SDKS, ids=str)


@pytest.fixture(autouse=True)
def _acme() -> Iterator[None]:
    with tagged(client="acme-corp", project="support-chatbot"):
        yield


def counted_what_was_served(meter: RecordingMeter, provider: Provider, calls: int) -> None:
    """As many records as calls, all whole, reported and to the token; and no header of ours."""
    assert len(meter.records) == calls
    served = provider.ledger.counts()
    for name in ("input_tokens", "output_tokens", "cache_read_tokens", "reasoning_tokens"):
        assert sum(getattr(r, name) for r in meter.records) == getattr(served, name), name
    for record in meter.records:
        assert (record.client, record.project) == ("acme-corp", "support-chatbot")
        assert (record.status, record.http_status) == ("complete", 200)
        assert not record.is_estimated
        assert record.request_model
        assert record.response_model or record.provider == "cohere"  # which names none
    for call in provider.ledger.served:
        assert not [name for name in call.received_headers if name.startswith("x-client")]


@ALL
def test_a_sync_client_is_counted_to_the_token(
    meter: RecordingMeter, provider: Provider, sdk: Sdk
) -> None:
    with sdk.client(provider.base_url(sdk.style)) as client:
        assert instrument(client, meter=meter) is client
        sdk.call(client)
        if sdk.stream is not None:
            sdk.stream(client)

    counted_what_was_served(meter, provider, 2 if sdk.stream else 1)


@ALL
async def test_an_async_client_is_counted_to_the_token(
    meter: RecordingMeter, provider: Provider, sdk: Sdk
) -> None:
    if sdk.acall is None:
        pytest.skip("covered by its sync kind")
    async with sdk.async_client(provider.base_url(sdk.style)) as client:
        instrument(client, meter=meter)
        await sdk.acall(client)
        if sdk.astream is not None:
            await sdk.astream(client)

    counted_what_was_served(meter, provider, 2 if sdk.astream else 1)


@ALL
def test_instrument_all_counts_clients_that_exist_and_clients_to_come(
    meter: RecordingMeter, provider: Provider, sdk: Sdk
) -> None:
    url = provider.base_url(sdk.style)
    with sdk.client(url) as before, instrument_all(meter), sdk.client(url) as after:
        sdk.call(before)
        sdk.call(after)

    counted_what_was_served(meter, provider, 2)


@ALL
async def test_instrument_all_counts_async_clients(
    meter: RecordingMeter, provider: Provider, sdk: Sdk
) -> None:
    if sdk.acall is None:
        pytest.skip("covered by its sync kind")
    with instrument_all(meter):
        async with sdk.async_client(provider.base_url(sdk.style)) as client:
            await sdk.acall(client)

    counted_what_was_served(meter, provider, 1)


def test_headers_on_the_call_itself_are_what_agencies_are_taught(
    meter: RecordingMeter, provider: Provider
) -> None:
    import anthropic
    import openai

    ours = {"X-Client-ID": "bigco-inc", "X-Project-ID": "lead-qualification"}
    chat: Any = instrument(
        openai.OpenAI(api_key="k", base_url=provider.base_url("openai")), meter=meter
    )
    claude: Any = instrument(
        anthropic.Anthropic(api_key="k", base_url=provider.base_url("anthropic")), meter=meter
    )
    messages = [{"role": "user", "content": "hi"}]
    chat.chat.completions.create(model="gpt-4o", messages=messages, extra_headers=ours)
    chat.with_options(timeout=5).responses.create(model="gpt-5", input="x", extra_headers=ours)
    claude.messages.create(
        model="claude-sonnet-4", max_tokens=9, messages=messages, extra_headers=ours
    )

    assert {(r.client, r.project) for r in meter.records} == {("bigco-inc", "lead-qualification")}
    assert len(meter.records) == 3
    for call in provider.ledger.served:
        assert not {"x-client-id", "x-project-id"} & call.received_headers.keys()
