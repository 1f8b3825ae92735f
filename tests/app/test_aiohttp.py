"""aiohttp, by itself and inside SDKs: counted as the app reads, and by nobody twice."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import litellm
import pytest
from google import genai
from google.genai import errors, types

from meterd_middleware import instrument, instrument_all, refusal_of, tagged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd_middleware.testing import RecordingMeter
    from tests.support.provider import Provider

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello there"}]}
STREAM: dict[str, Any] = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
PATH = "/v1/chat/completions"


@pytest.fixture(autouse=True)
def _acme() -> Iterator[None]:
    with tagged(client="acme-corp"):
        yield


async def whole(response: aiohttp.ClientResponse) -> bytes:
    return await response.read()


async def as_json(response: aiohttp.ClientResponse) -> bytes:
    return json.dumps(await response.json(content_type=None)).encode()


async def by_line(response: aiohttp.ClientResponse) -> bytes:
    return b"".join([line async for line in response.content])


async def by_seven(response: aiohttp.ClientResponse) -> bytes:
    return b"".join([chunk async for chunk in response.content.iter_chunked(7)])


async def as_it_comes(response: aiohttp.ClientResponse) -> bytes:
    return b"".join([chunk async for chunk in response.content.iter_any()])


async def by_chunk(response: aiohttp.ClientResponse) -> bytes:
    return b"".join([data async for data, _ in response.content.iter_chunks()])


async def by_event(response: aiohttp.ClientResponse) -> bytes:
    events = []
    while event := await response.content.readuntil(b"\n\n"):
        events.append(event)
    return b"".join(events)


READERS = pytest.mark.parametrize(
    "read", [whole, by_line, by_seven, as_it_comes, by_chunk, by_event]
)
Read = "Callable[[aiohttp.ClientResponse], Awaitable[bytes]]"


async def post(session: aiohttp.ClientSession, url: str, body: Any, read: Any) -> bytes:
    async with session.post(url + PATH, json=body) as response:
        data: bytes = await read(response)
        return data


def counted(meter: RecordingMeter, provider: Provider, calls: int) -> None:
    served = provider.ledger.counts()
    assert len(meter.records) == calls
    assert sum(r.input_tokens for r in meter.records) == served.input_tokens
    assert sum(r.output_tokens for r in meter.records) == served.output_tokens
    assert {(r.client, r.status, r.is_estimated) for r in meter.records} == {
        ("acme-corp", "complete", False)
    }


@READERS
@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["json", "stream"])
@pytest.mark.parametrize("do", ["", "encoding=gzip", "pieces=7"])
async def test_a_session_is_counted_however_the_app_reads(
    meter: RecordingMeter, provider: Provider, read: Any, body: Any, do: str
) -> None:
    provider.do = f"{do},fixed_ids"
    async with aiohttp.ClientSession() as session:
        bare = await post(session, provider.url, body, read)
        provider.ledger.clear()
        assert instrument(session, meter=meter) is session
        metered = await post(session, provider.url, body, read)

    assert metered == bare
    counted(meter, provider, 1)


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
async def test_a_session_that_does_not_decode_passes_the_bytes_as_sent(
    meter: RecordingMeter, provider: Provider, encoding: str
) -> None:
    """litellm's transport is one; httpx decodes above it."""
    provider.do = f"force_encoding={encoding}"
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        instrument(session, meter=meter)
        data = await post(session, provider.url, CHAT, whole)

    assert not data.startswith(b"{")
    counted(meter, provider, 1)


async def test_headers_of_session_and_call_say_who_pays_and_stay_here(
    meter: RecordingMeter, provider: Provider
) -> None:
    async with aiohttp.ClientSession(headers={"X-Project-ID": "support-chatbot"}) as session:
        instrument(session, meter=meter)
        headers = {"X-Client-ID": "bigco-inc"}
        async with session.post(provider.url + PATH, json=CHAT, headers=headers) as response:
            await response.read()

    assert [(r.client, r.project) for r in meter.records] == [("bigco-inc", "support-chatbot")]
    [served] = provider.ledger.served
    assert not [name for name in served.received_headers if name.startswith("x-")]


async def test_what_is_no_llm_call_passes_untouched(
    meter: RecordingMeter, provider: Provider
) -> None:
    async with aiohttp.ClientSession() as session:
        instrument(session, meter=meter)
        async with session.get(provider.url + "/v1/models") as response:
            assert response.status == 200
        async with session.post(provider.url + "/nothing", data=b"x") as response:
            assert response.status == 404

    assert meter.records == []


async def leave(response: aiohttp.ClientResponse) -> None:
    async for number, _ in _numbered(response):
        if number == 3:
            return


async def _numbered(response: aiohttp.ClientResponse) -> Any:
    number = 0
    async for line in response.content:
        yield number, line
        number += 1


async def test_a_stream_that_the_app_leaves_is_estimated_from_what_it_read(
    meter: RecordingMeter, provider: Provider
) -> None:
    provider.next_do.append("hold=4,output=50")
    async with aiohttp.ClientSession() as session:
        instrument(session, meter=meter)
        async with session.post(provider.url + PATH, json=STREAM) as response:
            await leave(response)

    [record] = meter.records
    assert (record.status, record.is_estimated) == ("abandoned", True)
    assert record.output_tokens > 0


async def test_a_cancelled_task_is_an_abandoned_call(
    meter: RecordingMeter, provider: Provider
) -> None:
    provider.next_do.append("hold=1")
    async with aiohttp.ClientSession() as session:
        instrument(session, meter=meter)
        task = asyncio.create_task(post(session, provider.url, STREAM, whole))
        await asyncio.to_thread(
            provider.ledger.wait_until, lambda served: bool(served and served[0].sent_body)
        )
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert [r.status for r in meter.records] == ["abandoned"]


async def test_a_cut_stream_and_a_failure_are_what_they_are(
    meter: RecordingMeter, provider: Provider
) -> None:
    provider.next_do.extend(["cut=2", "status=503"])
    async with aiohttp.ClientSession() as session:
        instrument(session, meter=meter)
        with pytest.raises(aiohttp.ClientPayloadError):
            await post(session, provider.url, STREAM, whole)
        await post(session, provider.url, CHAT, whole)
        with pytest.raises(aiohttp.ClientConnectorError):
            await post(session, "http://127.0.0.1:9", CHAT, whole)

    assert [(r.status, r.http_status) for r in meter.records] == [
        ("cut", 200), ("failed", 503), ("cut", 0),
    ]  # fmt: skip
    assert [r.tokens for r in meter.records[1:]] == [0, 0]


async def test_a_refusal_is_a_429_of_the_providers_shape(
    meter: RecordingMeter, provider: Provider
) -> None:
    meter.refuse("acme-corp")
    async with aiohttp.ClientSession() as session:
        instrument(session, meter=meter)
        async with session.post(provider.url + PATH, json=CHAT) as response:
            assert response.status == 429
            error = (await response.json())["error"]
            assert response.headers["x-should-retry"] == "false"

    assert error["code"] == "insufficient_quota"
    assert provider.ledger.served == []
    assert [r.status for r in meter.records] == ["refused"]


async def test_google_genai_with_a_session_of_the_apps_own_is_counted(
    meter: RecordingMeter, provider: Provider
) -> None:
    """Its async calls go through it; a refusal is its own ClientError."""
    async with aiohttp.ClientSession() as session:
        options = types.HttpOptions(base_url=provider.url, aiohttp_client=session)
        client = instrument(genai.Client(api_key="k", http_options=options), meter=meter)
        asked: dict[str, Any] = {"model": "gemini-2.5-flash", "contents": "hello there"}
        await client.aio.models.generate_content(**asked)
        stream = await client.aio.models.generate_content_stream(**asked)
        assert [chunk async for chunk in stream]
        counted(meter, provider, 2)

        meter.refuse("acme-corp")
        with pytest.raises(errors.ClientError) as raised:
            await client.aio.models.generate_content(**asked)
        assert raised.value.code == 429
        assert refusal_of(raised.value) is not None
        client.close()


@pytest.mark.filterwarnings("ignore")  # litellm's own, while it imports more of itself
async def test_litellm_whose_httpx_sends_through_aiohttp_is_counted_once(
    meter: RecordingMeter, provider: Provider
) -> None:
    """Both libraries are metered; the outer one counts."""
    with instrument_all(meter):
        asked: dict[str, Any] = {
            "model": "openai/gpt-4o", "messages": CHAT["messages"], "api_key": "k",
            "base_url": provider.base_url("openai"),
        }  # fmt: skip
        await litellm.acompletion(**asked)
        stream: Any = await litellm.acompletion(**asked, stream=True)
        assert [chunk async for chunk in stream]

    counted(meter, provider, 2)


async def test_instrument_all_counts_sessions_until_it_is_undone(
    meter: RecordingMeter, provider: Provider
) -> None:
    async with aiohttp.ClientSession() as session:
        everything = instrument_all(meter)
        await post(session, provider.url, CHAT, whole)
        instrument(session, meter=meter)  # counted once all the same
        await post(session, provider.url, CHAT, whole)
        everything.undo()
    async with aiohttp.ClientSession() as session:
        await post(session, provider.url, CHAT, whole)

    assert len(meter.records) == 2
