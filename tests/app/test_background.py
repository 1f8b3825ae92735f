"""Background responses: queued now, their usage seen later by a GET, here or elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import openai
import pytest

from meterd_middleware import instrument, tagged
from meterd_middleware.pending import Memory
from meterd_middleware.testing import RecordingMeter

if TYPE_CHECKING:
    from tests.support.provider import Provider


@pytest.fixture
def client(meter: RecordingMeter, provider: Provider) -> openai.OpenAI:
    return instrument(openai.OpenAI(api_key="k", base_url=provider.base_url("openai")), meter=meter)


def test_the_usage_of_a_background_response_is_counted_once_for_who_started_it(
    client: openai.OpenAI, meter: RecordingMeter, provider: Provider
) -> None:
    provider.do = "polls=2"
    with tagged(client="acme-corp", project="reports"):
        started = client.responses.create(model="gpt-5", input="hi", background=True)
    assert started.status in ("queued", "in_progress")
    assert [(r.tokens, r.is_estimated) for r in meter.records] == [(0, False)]

    with tagged(client="the-poller"):
        for _ in range(4):
            polled = client.responses.retrieve(started.id)
    assert polled.status == "completed" and polled.usage is not None

    assert len(meter.records) == 2
    record = meter.records[1]
    assert (record.client, record.project) == ("acme-corp", "reports")
    assert record.input_tokens == polled.usage.input_tokens
    assert record.output_tokens == polled.usage.output_tokens
    assert record.dedupe_id == started.id
    assert record.is_continuation, "its start counted as the request"
    client.close()


def test_another_process_that_polls_counts_it_under_the_same_id(
    client: openai.OpenAI, meter: RecordingMeter, provider: Provider
) -> None:
    """The daemon keeps the first of them; who polls need not be who started."""
    provider.do = "polls=1"
    with tagged(client="acme-corp"):
        started = client.responses.create(model="gpt-5", input="hi", background=True)
    elsewhere = RecordingMeter(client="acme-corp")
    poller = instrument(
        openai.OpenAI(api_key="k", base_url=provider.base_url("openai")), meter=elsewhere
    )

    for _ in range(2):
        poller.responses.retrieve(started.id)
    client.responses.retrieve(started.id)

    assert [r.dedupe_id for r in elsewhere.records] == [started.id]
    assert [r.dedupe_id for r in meter.records] == ["", started.id]
    client.close()
    poller.close()


def test_reading_an_ordinary_response_again_counts_nothing(meter: RecordingMeter) -> None:
    """Its usage was counted when it was made."""
    import httpx2

    def answer(request: httpx2.Request) -> httpx2.Response:
        usage = {"input_tokens": 3, "output_tokens": 4}
        body = {"id": "resp_1", "object": "response", "status": "completed", "usage": usage}
        return httpx2.Response(200, json=body)

    with instrument(
        httpx2.Client(transport=httpx2.MockTransport(answer)), meter=meter
    ) as http, tagged(client="acme-corp"):  # fmt: skip
        http.post("https://api.openai.com/v1/responses", json={"model": "m", "input": "x"})
        http.get("https://api.openai.com/v1/responses/resp_1")

    assert [r.tokens for r in meter.records] == [7]


def test_a_memory_forgets_the_oldest_and_what_is_too_old() -> None:
    memory: Memory[int] = Memory(keep_s=10, entries_max=2)
    for number in range(3):
        memory.put(f"id-{number}", number, now_ns=number)

    assert len(memory) == 2
    assert memory.get("id-0", 3) is None
    assert memory.get("id-2", 10 * 10**9 + 2) == 2
    assert memory.get("id-2", 10 * 10**9 + 3) is None
    assert memory.pop("id-1", 3) == 1
    assert memory.pop("id-1", 3) is None
