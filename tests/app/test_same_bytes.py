"""The app gets what it would have got without us: bytes, headers, timing, exceptions, request."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx
import httpx2
import pytest

from meterd_middleware import instrument
from meterd_middleware.testing import RecordingMeter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from tests.support.provider import Provider

LIBRARIES = pytest.mark.parametrize("library", [httpx, httpx2])

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
MESSAGES = {**CHAT, "model": "claude-sonnet-4", "max_tokens": 50}
GEMINI = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
STREAM = {"stream": True}

REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", {**CHAT, **STREAM}),
    ("/v1/chat/completions", {**CHAT, **STREAM, "stream_options": {"include_usage": True}}),
    ("/v1/responses", {"model": "gpt-5", "input": "hi"}),
    ("/v1/responses", {"model": "gpt-5", "input": "hi", **STREAM}),
    ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "hi"}),
    ("/v1/messages", MESSAGES),
    ("/v1/messages", {**MESSAGES, **STREAM}),
    ("/v1beta/models/gemini-2.5-flash:generateContent", GEMINI),
    ("/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse", GEMINI),
    ("/v2/chat", {**CHAT, **STREAM}),
    ("/api/chat", CHAT),
]

WISHES = [
    "",
    "pieces=7",
    "encoding=gzip",
    "encoding=br",
    "encoding=zstd",
    "status=429",
    "status=500",
    "html",
    "empty",
    "error=2",
    "no_usage",
    "no_done",
]


@pytest.fixture
def meter() -> Iterator[RecordingMeter]:
    """One that asks no provider for usage: test_asking_for_usage.py has those that do."""
    with RecordingMeter() as meter:
        yield meter
        assert meter.faults == []


def comparable(response: Any) -> dict[str, Any]:
    """What an app can see of a response, but for its date."""
    return {
        "status": response.status_code,
        "headers": [(n, v) for n, v in response.headers.multi_items() if n.lower() != "date"],
        "http": response.http_version,
        "request": sorted(response.request.headers.multi_items()),
    }


@LIBRARIES
@pytest.mark.parametrize("wish", WISHES)
def test_bytes_and_headers_are_the_providers(
    provider: Provider, meter: RecordingMeter, library: ModuleType, wish: str
) -> None:
    headers = {"X-Client-ID": "acme-corp", "X-Provider-Do": f"fixed_ids,{wish}"}
    with library.Client(base_url=provider.url) as bare, library.Client(
        base_url=provider.url
    ) as metered:  # fmt: skip
        instrument(metered, meter=meter)
        for path, body in REQUESTS:
            seen = []
            for client in (bare, metered):
                with client.stream("POST", path, json=body, headers=headers) as response:
                    seen.append((comparable(response), b"".join(response.iter_raw())))
            assert seen[1] == seen[0], path

    assert len(meter.records) == len(REQUESTS)


@LIBRARIES
async def test_bytes_are_the_providers_for_an_async_client(
    provider: Provider, meter: RecordingMeter, library: ModuleType
) -> None:
    headers = {"X-Client-ID": "acme-corp", "X-Provider-Do": "fixed_ids"}
    async with library.AsyncClient(base_url=provider.url) as bare, library.AsyncClient(
        base_url=provider.url
    ) as metered:  # fmt: skip
        instrument(metered, meter=meter)
        for path, body in REQUESTS:
            seen = []
            for client in (bare, metered):
                async with client.stream("POST", path, json=body, headers=headers) as response:
                    raw = [chunk async for chunk in response.aiter_raw()]
                    seen.append((comparable(response), b"".join(raw)))
            assert seen[1] == seen[0], path

    assert len(meter.records) == len(REQUESTS)


@LIBRARIES
def test_each_chunk_arrives_when_the_provider_sends_it(
    provider: Provider, meter: RecordingMeter, library: ModuleType
) -> None:
    """The provider holds its third chunk back until the app has seen the second."""
    headers = {"X-Client-ID": "acme-corp", "X-Provider-Do": "hold=2"}
    with instrument(library.Client(base_url=provider.url), meter=meter) as client, client.stream(
        "POST", "/v1/chat/completions", json={**CHAT, **STREAM}, headers=headers
    ) as response:  # fmt: skip
        chunks = response.iter_raw()
        first = next(chunks)
        provider.release()
        rest = b"".join(chunks)

    assert first and rest
    assert [r.status for r in meter.records] == ["complete"]


@LIBRARIES
@pytest.mark.parametrize("wish", ["cut=0", "cut=1"])
@pytest.mark.parametrize("body", [CHAT, {**CHAT, **STREAM}])
def test_a_dying_connection_raises_what_it_raises_without_us(
    provider: Provider, meter: RecordingMeter, library: ModuleType, wish: str, body: Any
) -> None:
    headers = {"X-Client-ID": "acme-corp", "X-Provider-Do": wish}
    raised = []
    for client in (library.Client(), instrument(library.Client(), meter=meter)):
        with client, pytest.raises(library.HTTPError) as caught:
            client.post(f"{provider.url}/v1/chat/completions", json=body, headers=headers)
        raised.append((type(caught.value), str(caught.value), str(caught.value.request.url)))

    assert raised[1] == raised[0]
    assert [r.status for r in meter.records] == ["cut"]


@LIBRARIES
def test_a_refused_connection_used_nothing(meter: RecordingMeter, library: ModuleType) -> None:
    with instrument(library.Client(), meter=meter) as client, pytest.raises(library.ConnectError):
        client.post("http://127.0.0.1:1/v1/chat/completions", json=CHAT)

    (record,) = meter.records
    assert (record.status, record.tokens, record.is_estimated) == ("cut", 0, False)


@LIBRARIES
def test_a_time_limit_of_the_app_is_told_as_one(
    provider: Provider, meter: RecordingMeter, library: ModuleType
) -> None:
    with instrument(library.Client(timeout=0.05), meter=meter) as client, pytest.raises(
        library.ReadTimeout
    ):  # fmt: skip
        client.post(
            f"{provider.url}/v1/chat/completions",
            json=CHAT,
            headers={"X-Provider-Do": "hold=0"},
        )
    provider.release()

    (record,) = meter.records
    assert record.status == "timed_out"
    assert record.is_estimated and record.input_tokens > 0


async def test_cancellation_passes_through_and_is_recorded(
    provider: Provider, meter: RecordingMeter
) -> None:
    async with instrument(httpx2.AsyncClient(), meter=meter) as client:
        task = asyncio.create_task(
            client.post(
                f"{provider.url}/v1/chat/completions",
                json=CHAT,
                headers={"X-Provider-Do": "hold=0"},
            )
        )
        await asyncio.to_thread(provider.ledger.wait_until, lambda served: len(served) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    provider.release()

    assert [r.status for r in meter.records] == ["abandoned"]


@LIBRARIES
def test_our_headers_never_reach_the_provider_and_stay_on_the_apps_request(
    provider: Provider, meter: RecordingMeter, library: ModuleType
) -> None:
    headers = {"X-Client-ID": "acme-corp", "x-project-id": "support-chatbot", "X-Mine": "stays"}
    with instrument(library.Client(base_url=provider.url), meter=meter) as client:
        made = client.post("/v1/chat/completions", json=CHAT, headers=headers)
        listed = client.get("/v1/models", headers=headers)

    for served in provider.ledger.served:
        assert not {"x-client-id", "x-project-id"} & served.received_headers.keys()
        assert served.received_headers["x-mine"] == "stays"
    for response in (made, listed):
        assert response.request.headers["X-Client-ID"] == "acme-corp"
    assert [(r.client, r.project) for r in meter.records] == [("acme-corp", "support-chatbot")]


@LIBRARIES
def test_streamed_request_bodies_are_not_consumed(
    provider: Provider, meter: RecordingMeter, library: ModuleType
) -> None:
    """A generator can be read once: by the one who sends it."""
    whole = json.dumps(CHAT).encode()
    with instrument(library.Client(base_url=provider.url), meter=meter) as client:
        response = client.post("/v1/chat/completions", content=iter([whole[:10], whole[10:]]))

    assert response.status_code == 200
    assert provider.ledger.served[0].received_body == whole
    assert meter.records[0].tokens == provider.ledger.counts().tokens


@LIBRARIES
def test_extensions_reach_the_inner_transport_and_the_response_keeps_its_own(
    meter: RecordingMeter, library: ModuleType
) -> None:
    """openai reads `http_version` off the response, azure its own key off the request."""
    seen: list[Any] = []

    def answer(request: Any) -> Any:
        seen.append(request.extensions["openai.azure_auth_origin"])
        return library.Response(200, json={}, extensions={"http_version": b"HTTP/2"})

    transport = library.MockTransport(answer)
    with instrument(library.Client(transport=transport), meter=meter) as client:
        response = client.post(
            "https://x.openai.azure.com/v1/chat/completions",
            json=CHAT,
            headers={"X-Client-ID": "acme-corp"},
            extensions={"openai.azure_auth_origin": "kept"},
        )

    assert seen == ["kept"]
    assert response.http_version == "HTTP/2"


def test_a_signed_request_is_sent_as_it_was_signed(
    provider: Provider, meter: RecordingMeter
) -> None:
    """AWS's signature covers headers and body: any change would be refused."""
    headers = {
        "Authorization": "AWS4-HMAC-SHA256 Credential=x, SignedHeaders=x-client-id, Signature=y",
        "X-Client-ID": "acme-corp",
    }
    with instrument(httpx2.Client(base_url=provider.url), meter=meter) as client:
        client.post("/v1/chat/completions", json={**CHAT, **STREAM}, headers=headers)

    (served,) = provider.ledger.served
    assert served.received_headers["x-client-id"] == "acme-corp"
    assert json.loads(served.received_body) == {**CHAT, **STREAM}


@LIBRARIES
def test_a_redirect_strips_again_and_still_knows_who_pays(
    meter: RecordingMeter, library: ModuleType
) -> None:
    """Redirects carry every header but Authorization, to another host as well."""
    seen: list[tuple[str, bool]] = []

    def answer(request: Any) -> Any:
        seen.append((request.url.host, "x-client-id" in request.headers))
        if request.url.host == "api.openai.com":
            return library.Response(307, headers={"location": "https://eu.example/v1/responses"})
        return library.Response(200, json={"usage": {"input_tokens": 3, "output_tokens": 4}})

    transport = library.MockTransport(answer)
    with instrument(
        library.Client(transport=transport, follow_redirects=True), meter=meter
    ) as client:
        client.post(
            "https://api.openai.com/v1/responses",
            json={"model": "gpt-5", "input": "hi"},
            headers={"X-Client-ID": "acme-corp"},
        )

    assert seen == [("api.openai.com", False), ("eu.example", False)]
    assert [(r.client, r.http_status, r.tokens) for r in meter.records] == [
        ("acme-corp", 307, 0),
        ("acme-corp", 200, 7),
    ]


def test_a_websocket_passes_untouched(meter: RecordingMeter) -> None:
    """A 101's stream is the connection itself."""
    stream = httpx2.ByteStream(b"")
    answer = httpx2.Response(101, stream=stream)

    class Inner(httpx2.BaseTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            return answer

    with instrument(httpx2.Client(transport=Inner()), meter=meter) as client:
        transport = client._transport
        made = transport.handle_request(httpx2.Request("GET", "https://x/v1/responses"))

    assert made is answer and made.stream is stream
    assert meter.records == []


@LIBRARIES
def test_other_traffic_is_not_even_wrapped(meter: RecordingMeter, library: ModuleType) -> None:
    """An instrumented client's other requests keep request and stream, the very objects."""
    seen: list[Any] = []
    stream = library.ByteStream(b"page")

    class Inner(library.BaseTransport):  # type: ignore[misc, name-defined]  # either family's
        def handle_request(self, request: Any) -> Any:
            seen.append(request)
            return library.Response(200, stream=stream)

    with instrument(library.Client(transport=Inner()), meter=meter) as client:
        request = client.build_request("POST", "https://example.com/orders", json={"a": 1})
        response = client._transport.handle_request(request)

    assert seen == [request] and seen[0] is request
    assert response.stream is stream
    assert meter.records == []
