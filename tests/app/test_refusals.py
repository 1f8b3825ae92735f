"""A refused call: sent to nobody, raised as the SDK's own error, and known for ours."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import httpx2
import openai
import pytest

from meterd_middleware import QuotaExceeded, instrument, refusal, refusal_of, tagged
from meterd_middleware.errors import Refused
from meterd_middleware.testing import RecordingMeter
from tests.app.sdks import MESSAGES, SDKS, Sdk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.provider import Provider

ALL = pytest.mark.parametrize("sdk", SDKS, ids=str)
LIMIT = 2_000_000


@pytest.fixture(autouse=True)
def _acme() -> Iterator[None]:
    with tagged(client="acme-corp"):
        yield


def was_refused(raised: BaseException, sdk: Sdk, meter: RecordingMeter, provider: Provider) -> None:
    assert type(raised).__name__ == sdk.refused_as
    found = refusal_of(raised)
    assert found is not None
    assert (found.client, found.rule, found.limit) == ("acme-corp", "client acme-corp", LIMIT)
    assert "meterd: client acme-corp has 0 of 2,000,000 tokens left" in str(raised)
    assert provider.ledger.served == []
    assert [(r.status, r.tokens, r.http_status) for r in meter.records] == [("refused", 0, 429)]


@ALL
def test_a_refusal_is_raised_as_the_sdks_own_error_and_sent_to_nobody(
    meter: RecordingMeter, provider: Provider, sdk: Sdk
) -> None:
    meter.refuse("acme-corp", limit=LIMIT)
    with sdk.client(provider.base_url(sdk.style)) as client:
        instrument(client, meter=meter)
        started = time.monotonic()
        with pytest.raises(Exception) as caught:
            sdk.call(client)

    was_refused(caught.value, sdk, meter, provider)
    assert time.monotonic() - started < 5, "the SDK slept inside the app"


@ALL
def test_a_streamed_call_is_refused_before_its_first_byte(
    meter: RecordingMeter, provider: Provider, sdk: Sdk
) -> None:
    if sdk.stream is None:
        pytest.skip("this kind of call has no stream")
    meter.refuse("acme-corp", limit=LIMIT)
    with sdk.client(provider.base_url(sdk.style)) as client:
        instrument(client, meter=meter)
        with pytest.raises(Exception) as caught:
            sdk.stream(client)

    was_refused(caught.value, sdk, meter, provider)


@ALL
async def test_an_async_call_is_refused_alike(
    meter: RecordingMeter, provider: Provider, sdk: Sdk
) -> None:
    if sdk.acall is None:
        pytest.skip("covered by its sync kind")
    meter.refuse("acme-corp", limit=LIMIT)
    async with sdk.async_client(provider.base_url(sdk.style)) as client:
        instrument(client, meter=meter)
        with pytest.raises(Exception) as caught:
            await sdk.acall(client)

    was_refused(caught.value, sdk, meter, provider)


def test_a_providers_own_429_is_not_ours(meter: RecordingMeter, provider: Provider) -> None:
    provider.next_do.append("status=429")
    with instrument(
        openai.OpenAI(api_key="k", base_url=provider.base_url("openai"), max_retries=0),
        meter=meter,
    ) as client, pytest.raises(openai.RateLimitError) as caught:  # fmt: skip
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)

    assert refusal_of(caught.value) is None


def test_a_refusal_is_found_behind_what_the_app_raised_from_it(
    meter: RecordingMeter, provider: Provider
) -> None:
    meter.refuse("acme-corp")
    client = instrument(
        openai.OpenAI(api_key="k", base_url=provider.base_url("openai")), meter=meter
    )

    def job() -> None:
        try:
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        except openai.RateLimitError as error:
            raise RuntimeError("the report could not be made") from error

    with pytest.raises(RuntimeError) as caught:
        job()

    assert refusal_of(caught.value) is not None
    assert refusal_of(ExceptionGroup("jobs", [ValueError(), caught.value])) is not None
    assert refusal_of(ValueError("meterd: no")) is None


def test_the_facts_travel_in_the_body_to_other_processes(
    meter: RecordingMeter, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway passes the 429 on: its caller's process never refused anything itself."""
    meter.refuse("acme-corp", limit=LIMIT)
    client = instrument(
        openai.OpenAI(api_key="k", base_url=provider.base_url("openai")), meter=meter
    )
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    refusal._recent.clear()

    found = refusal_of(caught.value)

    assert found is not None
    assert (found.client, found.limit, found.used, found.reason) == (
        "acme-corp", LIMIT, LIMIT, "quota",
    )  # fmt: skip
    assert found.resets_at is not None


def response_for(meter: RecordingMeter, path: str, body: dict[str, Any]) -> httpx2.Response:
    with instrument(httpx2.Client(), meter=meter) as client:
        return client.post(f"https://provider.example{path}", json=body)


def test_headers_end_the_retries_of_each_sdk(meter: RecordingMeter) -> None:
    """What `Retry-After` makes one SDK give up makes another sleep until next month."""
    meter.refuse("acme-corp", limit=LIMIT)
    chat = {"model": "m", "messages": MESSAGES}
    openai_shaped = response_for(meter, "/v1/chat/completions", chat)
    cohere_shaped = response_for(meter, "/v2/chat", chat)

    for response in (openai_shaped, cohere_shaped):
        assert response.status_code == 429
        assert response.headers["x-should-retry"] == "false"
        assert response.headers["x-meterd-refused"] == "quota"
        assert response.headers["content-type"] == "application/json"
    assert int(openai_shaped.headers["retry-after"]) > 24 * 3600
    assert "retry-after-ms" not in openai_shaped.headers
    assert "retry-after" not in cohere_shaped.headers
    assert cohere_shaped.headers["retry-after-ms"] == "1"


def test_openais_shape_is_openais_and_carries_the_facts(meter: RecordingMeter) -> None:
    meter.refuse("acme-corp", limit=LIMIT)
    body = {"model": "gpt-4o", "messages": MESSAGES, "max_tokens": 900}

    error = response_for(meter, "/v1/chat/completions", body).json()["error"]

    assert (error["type"], error["code"], error["param"]) == (
        "insufficient_quota", "insufficient_quota", None,
    )  # fmt: skip
    assert error["message"].startswith("meterd: ")
    assert error["meterd"]["rule"] == "client acme-corp"
    assert error["meterd"]["limit"] == error["meterd"]["used"] == LIMIT
    assert error["meterd"]["remaining"] == 0
    assert error["meterd"]["requested"] >= 900


def test_history_that_the_provider_keeps_is_reserved_too(
    meter: RecordingMeter, provider: Provider
) -> None:
    """Of a chain of responses the body is the last question alone, not what is billed: the
    next call of it is taken for what the last one reported, and the question."""
    client = instrument(
        openai.OpenAI(api_key="k", base_url=provider.base_url("openai")), meter=meter
    )
    first = client.responses.create(model="gpt-5", input="a long story " * 2_000)
    told = meter.records[-1].tokens

    meter.refuse("acme-corp")
    found = []
    for before in (first.id, "resp_unknown"):
        with pytest.raises(openai.RateLimitError) as caught:
            client.responses.create(model="gpt-5", input="go on", previous_response_id=before)
        found.append(refusal_of(caught.value))
    known, unknown = (one.requested if one else 0 for one in found)

    assert told > 2_000
    assert unknown < known
    assert known - unknown >= told - 20  # the two ids differ in length


def test_a_refused_retry_is_counted_once(meter: RecordingMeter, provider: Provider) -> None:
    """cohere asks three times; its caller made one call."""
    meter.refuse("acme-corp")
    cohere = next(sdk for sdk in SDKS if sdk.name == "cohere")
    with cohere.client(provider.base_url("cohere")) as client:
        instrument(client, meter=meter)
        with pytest.raises(Exception, match="meterd:"):
            cohere.call(client)

    assert len(meter.records) == 1


async def test_concurrent_refused_calls_are_each_counted(
    meter: RecordingMeter, provider: Provider
) -> None:
    meter.refuse("acme-corp")
    cohere = next(sdk for sdk in SDKS if sdk.name == "cohere")
    assert cohere.acall is not None
    async with cohere.async_client(provider.base_url("cohere")) as client:
        instrument(client, meter=meter)
        outcomes = await asyncio.gather(
            *(asyncio.create_task(_caught(cohere.acall(client))) for _ in range(3))
        )

    assert all(refusal_of(each) for each in outcomes)
    assert len(meter.records) == 3


async def _caught(call: Any) -> BaseException:
    try:
        await call
    except Exception as error:
        return error
    raise AssertionError("not refused")


def test_a_strict_meter_refuses_a_call_that_names_nobody(provider: Provider) -> None:
    meter = RecordingMeter(on_untagged="refuse")
    client = instrument(
        openai.OpenAI(api_key="k", base_url=provider.base_url("openai")), meter=meter
    )
    client.chat.completions.create(model="gpt-4o", messages=MESSAGES)  # acme-corp's

    from contextvars import Context

    with pytest.raises(openai.RateLimitError) as caught:
        Context().run(lambda: client.chat.completions.create(model="gpt-4o", messages=MESSAGES))

    found = refusal_of(caught.value)
    assert found is not None and found.reason == "untagged"
    assert "names no client" in str(found)
    assert [(r.client, r.status, r.note) for r in meter.records][1:] == [
        ("unattributed", "refused", "untagged")
    ]
    assert len(provider.ledger.served) == 1


def test_check_is_the_same_decision_as_a_function(meter: RecordingMeter) -> None:
    meter.check(client="acme-corp", tokens=5_000)
    meter.refuse("acme-corp", limit=LIMIT)

    with pytest.raises(QuotaExceeded) as caught:
        meter.check(tokens=5_000)

    assert isinstance(caught.value, Refused)
    assert caught.value.requested == 5_000
    assert meter.records == []


async def test_acheck_is_the_same_to_await(meter: RecordingMeter) -> None:
    await meter.acheck(client="acme-corp")
    meter.refuse("acme-corp")

    with pytest.raises(QuotaExceeded):
        await meter.acheck(client="acme-corp")


def test_the_message_of_an_unreachable_daemon_says_so() -> None:
    from dataclasses import replace

    away = replace(refusal._NOBODY, client="acme-corp", reason="unreachable")
    refused = QuotaExceeded(away)

    assert "meterd is away" in str(refused)
    headers, body = refusal.problem(refused, 0)
    assert (b"retry-after", b"5") in headers
    assert json.loads(body)["reason"] == "unreachable"
