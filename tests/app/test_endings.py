"""How a call ends: a record is settled once, by whichever ending comes first, in any order."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from typing import TYPE_CHECKING, Any

import anthropic
import httpx
import httpx2
import openai
import pytest

from meterd_middleware import instrument, tagged
from meterd_middleware.lease import Reservation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from meterd_middleware.testing import RecordingMeter
    from tests.support.provider import Provider

LIBRARIES = pytest.mark.parametrize("library", [httpx, httpx2])
CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
STREAM = {**CHAT, "stream": True}
PATH = "/v1/chat/completions"


@pytest.fixture(autouse=True)
def _acme() -> Iterator[None]:
    with tagged(client="acme-corp"):
        yield


class Held(Reservation):
    """A reservation that counts how often it was ended."""

    __slots__ = ("ended",)

    def __init__(self) -> None:
        super().__init__(7, 1_000)
        self.ended: list[tuple[int, int]] = []

    def settle(self, input_tokens: int, output_tokens: int) -> None:
        if not self.ended:
            self.ended.append((input_tokens, output_tokens))

    def release(self) -> None:
        self.settle(0, 0)


@pytest.fixture
def held(meter: RecordingMeter, monkeypatch: pytest.MonkeyPatch) -> list[Held]:
    """Every reservation that was made; each has to end exactly once."""
    made: list[Held] = []

    def reserve(*_: object) -> Held:
        made.append(Held())
        return made[-1]

    async def areserve(*_: object) -> Held:
        return reserve()

    monkeypatch.setattr(meter._leases, "reserve", reserve, raising=False)
    monkeypatch.setattr(meter._leases, "areserve", areserve, raising=False)
    return made


def test_openai_stops_reading_at_done_and_the_record_is_there_at_once(
    provider: Provider, meter: RecordingMeter, held: list[Held]
) -> None:
    """Neither end of file nor close need ever come: the terminal event is the end."""
    client = instrument(
        openai.OpenAI(api_key="k", base_url=provider.base_url("openai")), meter=meter
    )
    stream = client.chat.completions.create(**STREAM)
    for chunk in stream:
        if chunk.choices and chunk.choices[0].finish_reason:
            break
    iterator = stream._iterator
    assert list(iterator) == []

    (record,) = meter.records
    assert (record.status, record.tokens) == ("complete", provider.ledger.counts().tokens)
    assert held[0].ended == [(record.input_tokens, record.output_tokens)]
    assert record.lease_id == 7


@LIBRARIES
def test_a_stream_left_by_break_is_abandoned_and_estimated(
    provider: Provider, meter: RecordingMeter, held: list[Held], library: ModuleType
) -> None:
    """Plain httpx never closes there: its iterator's GeneratorExit is all there is."""
    client = instrument(library.Client(base_url=provider.url), meter=meter)
    request = client.build_request("POST", PATH, json=STREAM, headers={"X-Provider-Do": "hold=3"})
    response = client.send(request, stream=True)
    for chunk in response.iter_raw():
        if b"content" in chunk:
            break
    del response
    gc.collect()
    provider.release()

    (record,) = meter.records
    assert record.status == "abandoned"
    assert record.is_partial and record.is_estimated
    assert record.input_tokens > 0
    assert len(held[0].ended) == 1
    client.close()


@LIBRARIES
def test_a_stream_that_is_never_read_is_recorded_when_it_is_collected(
    provider: Provider, meter: RecordingMeter, held: list[Held], library: ModuleType
) -> None:
    client = instrument(library.Client(base_url=provider.url), meter=meter)
    response = client.send(client.build_request("POST", PATH, json=STREAM), stream=True)
    assert meter.records == []

    response.cycle = response  # only the cyclic collector can find it
    del response
    gc.collect()

    assert [r.status for r in meter.records] == ["abandoned"]
    assert len(held[0].ended) == 1
    client.close()


@LIBRARIES
def test_closing_after_the_end_changes_nothing(
    provider: Provider, meter: RecordingMeter, held: list[Held], library: ModuleType
) -> None:
    client = instrument(library.Client(base_url=provider.url), meter=meter)
    with client.stream("POST", PATH, json=STREAM) as response:
        response.read()
        response.close()
    response.close()
    del response
    gc.collect()

    assert [r.status for r in meter.records] == ["complete"]
    assert len(held[0].ended) == 1
    client.close()


def test_a_finaliser_takes_no_lock_and_calls_no_callback(
    provider: Provider, meter: RecordingMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Garbage collection can run inside `append`, on the same thread: a lock there hangs."""
    told: list[str] = []
    monkeypatch.setattr(meter.exchanges, "_on_record", lambda record: told.append("told"))
    appended: list[str] = []
    sink = type(meter._shipper)
    for name in ("append", "append_later"):
        whole = getattr(sink, name)

        def noted(self: Any, *given: Any, _name: str = name, _whole: Any = whole) -> Any:
            appended.append(_name)
            return _whole(self, *given)

        monkeypatch.setattr(sink, name, noted)
    client = instrument(httpx2.Client(base_url=provider.url), meter=meter)
    response = client.send(client.build_request("POST", PATH, json=STREAM), stream=True)
    del response
    gc.collect()

    assert appended == ["append_later"]
    assert told == []

    client.post(PATH, json=CHAT)  # the next ordinary call catches up
    assert told == ["told", "told"]
    client.close()


async def test_openais_async_client_drains_through_a_second_iterator(
    provider: Provider, meter: RecordingMeter, held: list[Held]
) -> None:
    """The second iterator goes on where the first stopped: state belongs to the stream."""
    async with instrument(
        openai.AsyncOpenAI(api_key="k", base_url=provider.base_url("openai")), meter=meter
    ) as client:
        text = ""
        async for chunk in await client.chat.completions.create(**STREAM):
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""

        again = await client.chat.completions.create(**CHAT)

    assert text == again.choices[0].message.content
    assert [r.status for r in meter.records] == ["complete", "complete"]
    assert sum(r.tokens for r in meter.records) == provider.ledger.counts().tokens
    assert all(len(each.ended) == 1 for each in held)


async def test_an_async_stream_left_by_break_is_recorded(
    provider: Provider, meter: RecordingMeter, held: list[Held]
) -> None:
    provider.next_do.append("hold=3")
    client = instrument(
        openai.AsyncOpenAI(api_key="k", base_url=provider.base_url("openai")), meter=meter
    )
    stream = await client.chat.completions.create(**STREAM)
    async for _ in stream:
        break
    await stream.close()
    provider.release()

    assert [r.status for r in meter.records] == ["abandoned"]
    assert len(held[0].ended) == 1
    await client.close()


async def test_a_cancelled_async_stream_is_recorded_and_the_cancellation_goes_on(
    provider: Provider, meter: RecordingMeter, held: list[Held]
) -> None:
    provider.next_do.append("hold=2")
    client = instrument(
        openai.AsyncOpenAI(api_key="k", base_url=provider.base_url("openai")), meter=meter
    )
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in await client.chat.completions.create(**STREAM):
            begun.set()

    task = asyncio.create_task(read())
    await asyncio.wait_for(begun.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    provider.release()

    assert [r.status for r in meter.records] == ["abandoned"]
    assert len(held[0].ended) == 1
    await client.close()


def test_an_exception_in_the_loop_that_reads_is_the_apps_and_the_call_is_recorded(
    provider: Provider, meter: RecordingMeter, held: list[Held]
) -> None:
    provider.next_do.append("hold=4")
    client = instrument(
        anthropic.Anthropic(api_key="k", base_url=provider.base_url("anthropic")), meter=meter
    )
    with pytest.raises(ZeroDivisionError), client.messages.stream(
        model="claude-sonnet-4", max_tokens=50, messages=CHAT["messages"]
    ):  # fmt: skip
        raise ZeroDivisionError
    provider.release()

    assert [r.status for r in meter.records] == ["abandoned"]
    assert len(held[0].ended) == 1


def test_a_stream_that_dies_after_its_headers_is_cut_and_estimated(
    provider: Provider, meter: RecordingMeter, held: list[Held]
) -> None:
    provider.next_do.append("cut=2")
    client = instrument(
        openai.OpenAI(api_key="k", base_url=provider.base_url("openai"), max_retries=0),
        meter=meter,
    )
    with pytest.raises(openai.APIConnectionError):
        list(client.chat.completions.create(**STREAM))

    (record,) = meter.records
    assert (record.status, record.http_status) == ("cut", 200)
    assert record.is_estimated
    assert len(held[0].ended) == 1


def test_each_retry_of_an_sdk_is_a_record_of_its_own(
    provider: Provider, meter: RecordingMeter, held: list[Held]
) -> None:
    provider.next_do.extend(["status=500", "status=429"])
    client = instrument(
        openai.OpenAI(api_key="k", base_url=provider.base_url("openai"), max_retries=2),
        meter=meter,
    )
    client.chat.completions.create(**CHAT)

    assert [(r.status, r.http_status, r.attempt) for r in meter.records] == [
        ("failed", 500, 0),
        ("failed", 429, 1),
        ("complete", 200, 2),
    ]
    assert [each.ended[0] for each in held][:2] == [(0, 0), (0, 0)]
    assert sum(r.tokens for r in meter.records) == provider.ledger.counts().tokens


def test_a_forked_child_does_not_count_what_its_parent_began(
    provider: Provider, meter: RecordingMeter
) -> None:
    """The child's copy of an open stream is collected there, too: the call is the parent's."""
    client = instrument(httpx2.Client(base_url=provider.url), meter=meter)
    response = client.send(client.build_request("POST", PATH, json=STREAM), stream=True)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover  runs in the child
        del response
        gc.collect()
        os.write(writer, bytes([len(meter.records)]))
        os._exit(0)
    os.waitpid(child, 0)

    assert os.read(reader, 1) == b"\0"
    response.read()
    assert [r.status for r in meter.records] == ["complete"]
    os.close(reader)
    os.close(writer)
    client.close()


def test_many_threads_end_each_call_once(
    provider: Provider, meter: RecordingMeter, held: list[Held]
) -> None:
    client = instrument(httpx2.Client(base_url=provider.url), meter=meter)

    def work() -> None:
        for number in range(12):
            body = STREAM if number % 2 else CHAT
            with tagged(client="acme-corp"), client.stream("POST", PATH, json=body) as response:
                if number % 3:
                    response.read()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    gc.collect()

    assert len(meter.records) == len(held) == 48
    assert all(len(each.ended) == 1 for each in held)
    client.close()
