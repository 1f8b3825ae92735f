"""Usage is asked for on the app's behalf, invisibly; a host that refuses is asked no more."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import httpx2
import openai
import pytest

from meterd_middleware import instrument, tagged
from meterd_middleware.testing import RecordingMeter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from tests.support.provider import Provider

LIBRARIES = pytest.mark.parametrize("library", [httpx, httpx2])
STREAM: dict[str, Any] = {
    "model": "gpt-4o",
    "messages": [{"role": "user", "content": "hi"}],
    "stream": True,
}
PATH = "/v1/chat/completions"
HOSTS = ("127.0.0.1",)


@pytest.fixture
def meter() -> Iterator[RecordingMeter]:
    with RecordingMeter(include_usage_hosts=HOSTS) as meter, tagged(client="acme-corp"):
        yield meter
        assert meter.faults == []


@LIBRARIES
@pytest.mark.parametrize("wish", ["", "pieces=7", "no_done", "cut=3"])
def test_the_app_sees_the_stream_it_would_have_seen(
    meter: RecordingMeter, provider: Provider, library: ModuleType, wish: str
) -> None:
    headers = {"X-Provider-Do": f"fixed_ids,{wish}"}
    seen = []
    for client in (library.Client(), instrument(library.Client(), meter=meter)):
        body = b""
        with client, client.stream(
            "POST", provider.url + PATH, json=STREAM, headers=headers
        ) as response:  # fmt: skip
            try:
                for chunk in response.iter_raw():
                    body += chunk
            except library.RemoteProtocolError:
                body += b"<cut>"
        seen.append(body)

    assert seen[1] == seen[0]
    bare, asked = provider.ledger.served
    assert (bare.asked_for_usage, asked.asked_for_usage) == (False, True)
    if "cut" not in wish:
        (record,) = meter.records
        assert not record.is_estimated
        assert record.tokens == asked.counts.tokens


@LIBRARIES
def test_a_host_that_refuses_is_remembered_and_the_call_is_repeated_without(
    meter: RecordingMeter, provider: Provider, library: ModuleType
) -> None:
    provider.do = "refuse_usage"
    with instrument(library.Client(base_url=provider.url), meter=meter) as client:
        first = client.post(PATH, json=STREAM)
        second = client.post(PATH, json=STREAM)

    assert (first.status_code, second.status_code) == (200, 200)
    assert [(c.status, c.asked_for_usage) for c in provider.ledger.served] == [
        (400, True),
        (200, False),
        (200, False),
    ]
    assert [(r.status, r.http_status) for r in meter.records] == [("complete", 200)] * 2


async def test_a_refusal_is_repeated_without_by_an_async_client_too(
    meter: RecordingMeter, provider: Provider
) -> None:
    provider.do = "refuse_usage"
    async with instrument(
        openai.AsyncOpenAI(api_key="k", base_url=provider.base_url("openai")), meter=meter
    ) as client:
        text = [chunk async for chunk in await client.chat.completions.create(**STREAM)]

    assert text
    assert [c.status for c in provider.ledger.served] == [400, 200]
    assert len(meter.records) == 1


@LIBRARIES
@pytest.mark.parametrize("is_long", [False, True])
def test_another_400_is_the_apps_to_see_byte_for_byte(
    meter: RecordingMeter, library: ModuleType, is_long: bool
) -> None:
    message = b"the model does not exist" * (10_000 if is_long else 1)
    sent: list[bool] = []

    def answer(request: Any) -> Any:
        sent.append(b"include_usage" in request.read())
        return library.Response(
            400, content=(message[i : i + 999] for i in range(0, len(message), 999))
        )

    with instrument(library.Client(transport=library.MockTransport(answer)), meter=meter) as client:
        response = client.post("https://api.openai.com" + PATH, json=STREAM)

    assert sent == [True]
    assert (response.status_code, response.content) == (400, message)
    assert [(r.status, r.http_status) for r in meter.records] == [("failed", 400)]


def test_an_app_that_asks_itself_sees_its_usage(meter: RecordingMeter, provider: Provider) -> None:
    with instrument(
        openai.OpenAI(api_key="k", base_url=provider.base_url("openai")), meter=meter
    ) as client:
        chunks = list(
            client.chat.completions.create(**STREAM, stream_options={"include_usage": True})
        )

    assert chunks[-1].usage is not None
    assert meter.records[0].tokens == chunks[-1].usage.total_tokens


def test_asking_can_be_switched_off(provider: Provider) -> None:
    meter = RecordingMeter(include_usage=False, include_usage_hosts=HOSTS, client="acme-corp")
    with instrument(httpx2.Client(base_url=provider.url), meter=meter) as client:
        client.post(PATH, json=STREAM)

    (served,) = provider.ledger.served
    assert json.loads(served.received_body) == STREAM
    assert meter.records[0].is_estimated


def test_a_host_nobody_knows_is_not_asked(provider: Provider) -> None:
    meter = RecordingMeter(client="acme-corp")
    with instrument(httpx2.Client(base_url=provider.url), meter=meter) as client:
        client.post(PATH, json=STREAM)

    assert provider.ledger.served[0].asked_for_usage is False


def test_the_apps_own_request_still_holds_its_own_body(
    meter: RecordingMeter, provider: Provider
) -> None:
    with instrument(httpx2.Client(base_url=provider.url), meter=meter) as client:
        response = client.post(PATH, json=STREAM, headers={"X-Client-ID": "acme-corp"})

    assert json.loads(response.request.content) == STREAM
    assert response.request.headers["accept-encoding"] != "identity"
    assert provider.ledger.served[0].received_headers["accept-encoding"] == "identity"
