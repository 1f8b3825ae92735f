"""What SDKs do when a call goes wrong: retries, redirects, time limits before and after the head.

Each attempt is a call of its own, and a record of its own; together they cost what the provider
has in its ledger.
"""

from __future__ import annotations

import gc
import importlib
from typing import TYPE_CHECKING, Any

import httpx
import httpx2
import pytest

from meterd_middleware import instrument, tagged
from meterd_middleware.testing import RecordingMeter
from tests.support.provider import Provider
from tests.wire.sdk_cases import CHAT, CLAUDE, MESSAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

pytestmark = pytest.mark.filterwarnings("ignore")  # the SDKs' own, and sockets they leave open

Asks = tuple[str, str, "Callable[[str, Any], Any]", dict[str, Any]]


def _messages(url: str, sdk: Any) -> Any:
    return sdk.Anthropic(api_key="k", base_url=url, max_retries=2)


def _chat(kind: str) -> Callable[[str, Any], Any]:
    return lambda url, sdk: getattr(sdk, kind)(api_key="k", base_url=url, max_retries=2)


RETRYING: list[Asks] = [
    ("openai", "openai", _chat("OpenAI"), CHAT),
    ("groq", "groq", _chat("Groq"), CHAT),
    ("together", "together", _chat("Together"), CHAT),
    ("anthropic", "anthropic", _messages, CLAUDE),
]


def _create(client: Any, asked: dict[str, Any]) -> Any:
    return (client.messages if asked is CLAUDE else client.chat.completions).create(**asked)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(do="delay_ms=0") as provider, tagged(client="acme-corp"):
        yield provider
        provider.release()
    gc.collect()


@pytest.fixture
def meter() -> Iterator[RecordingMeter]:
    with RecordingMeter() as meter:
        yield meter
        assert meter.faults == []


@pytest.mark.parametrize("asks", RETRYING, ids=[asks[0] for asks in RETRYING])
def test_each_retry_is_a_record_and_says_which_it_is(
    provider: Provider, meter: RecordingMeter, asks: Asks
) -> None:
    name, style, make, asked = asks
    provider.next_do.extend(["status=500", "cut=0"])
    client = make(provider.base_url(style), pytest.importorskip(name))

    _create(instrument(client, meter=meter), asked)

    outcomes = [(r.status, r.http_status, r.attempt) for r in meter.records]
    assert outcomes == [("failed", 500, 0), ("cut", 0, 1), ("complete", 200, 2)]
    reported = [record for record in meter.records if not record.is_estimated]
    assert sum(record.tokens for record in reported) == provider.ledger.served[-1].counts.tokens
    assert {record.client for record in meter.records} == {"acme-corp"}


def test_coheres_retries_are_records_too(provider: Provider, meter: RecordingMeter) -> None:
    """It doesn't say which attempt it is."""
    cohere = pytest.importorskip("cohere")
    provider.next_do.extend(["status=500"])
    client = cohere.ClientV2(api_key="k", base_url=provider.base_url("cohere"))

    instrument(client, meter=meter).chat(model="command-a-03-2025", messages=MESSAGES)

    assert [(r.status, r.http_status) for r in meter.records] == [
        ("failed", 500),
        ("complete", 200),
    ]


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_a_redirect_is_a_hop_without_tokens_and_its_target_is_counted(
    meter: RecordingMeter, library: ModuleType
) -> None:
    """307 keeps method and body."""
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}

    def answer(request: Any) -> Any:
        if request.url.host == "api.openai.com":
            location = "https://eu.api.openai.com/v1/chat/completions"
            return library.Response(307, headers={"location": location})
        body = {"model": "gpt-4o", "choices": [{"finish_reason": "stop"}], "usage": usage}
        return library.Response(200, json=body)

    transport = library.MockTransport(answer)
    client = library.Client(transport=transport, follow_redirects=True)
    with instrument(client, meter=meter), tagged(client="acme-corp"):
        client.post("https://api.openai.com/v1/chat/completions", json=CHAT)

    assert [(r.http_status, r.tokens, r.client) for r in meter.records] == [
        (307, 0, "acme-corp"),
        (200, 10, "acme-corp"),
    ]
    assert not any(record.is_estimated for record in meter.records)


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_a_time_limit_in_the_middle_of_a_stream_is_told_as_one(
    provider: Provider, meter: RecordingMeter, library: ModuleType
) -> None:
    """After the head; what passed is the floor of what is billed."""
    provider.next_do.append("hold=3,output=60,reasoning=0")
    client = library.Client(timeout=library.Timeout(5, read=0.2))
    url = f"{provider.url}/v1/chat/completions"

    with (
        instrument(client, meter=meter),
        pytest.raises(library.ReadTimeout),
        client.stream("POST", url, json={**CHAT, "stream": True}) as answer,
    ):
        for _ in answer.iter_bytes():
            pass

    [record] = meter.records
    assert (record.status, record.http_status) == ("timed_out", 200)
    assert record.is_estimated
    assert record.input_tokens > 0
    assert record.output_tokens > 0


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_an_async_time_limit_in_the_middle_of_a_stream_is_told_as_one(
    provider: Provider, meter: RecordingMeter, library: ModuleType
) -> None:
    provider.next_do.append("hold=3,output=60,reasoning=0")
    client = library.AsyncClient(timeout=library.Timeout(5, read=0.2))
    url = f"{provider.url}/v1/chat/completions"

    async with instrument(client, meter=meter):
        with pytest.raises(library.ReadTimeout):
            async with client.stream("POST", url, json={**CHAT, "stream": True}) as answer:
                async for _ in answer.aiter_bytes():
                    pass

    [record] = meter.records
    assert (record.status, record.is_estimated) == ("timed_out", True)


def test_an_sdks_time_limit_is_told_as_one(provider: Provider, meter: RecordingMeter) -> None:
    """Before the head, at each of its attempts."""
    openai = importlib.import_module("openai")
    provider.next_do.extend(["wait_ms=3000", "wait_ms=3000"])
    client = openai.OpenAI(
        api_key="k", base_url=provider.base_url("openai"), max_retries=1, timeout=0.2
    )

    with pytest.raises(openai.APITimeoutError):
        instrument(client, meter=meter).chat.completions.create(**CHAT)

    assert [(r.status, r.http_status, r.attempt) for r in meter.records] == [
        ("timed_out", 0, 0),
        ("timed_out", 0, 1),
    ]
