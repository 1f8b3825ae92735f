"""The loopback provider itself: a ledger that lies would prove anything."""

from __future__ import annotations

import threading

import httpx2
import openai

from tests.support.provider import Provider, provider_process

MESSAGES: list[dict[str, str]] = [{"role": "user", "content": "Where is my parcel?"}]


def test_the_same_request_costs_the_same_and_another_one_something_else() -> None:
    """A constant answer would hide a count that is kept of the wrong request."""
    with Provider() as provider, httpx2.Client(base_url=provider.url) as client:
        for text in ("one", "one", "another, longer question"):
            client.post("/v1/chat/completions", json={"model": "m", "messages": [text]})

        first, second, third = (call.counts for call in provider.ledger.served)

    assert first == second != third


def test_a_stream_that_its_caller_leaves_is_entered_as_abandoned() -> None:
    """Tests of endings rest on it, also where bytes were unread and the line is reset."""
    with Provider(do="hold=2") as provider:
        client = openai.OpenAI(api_key="test", base_url=provider.base_url("openai"))
        with client.chat.completions.create(
            model="gpt-5.4-mini", messages=[{"role": "user", "content": "hi"}], stream=True
        ) as stream:
            next(iter(stream))
        (call,) = provider.ledger.wait_until(lambda served: bool(served[0].ending))
        client.close()

    assert call.ending == "abandoned"
    assert 0 < call.sent_output_tokens < call.counts.output_tokens


def test_a_held_answer_goes_on_when_released() -> None:
    """The way to have a call in flight for certain, without a sleep."""
    with Provider(do="hold=1") as provider, httpx2.Client(base_url=provider.url) as client:
        answers: list[int] = []
        thread = threading.Thread(
            target=lambda: answers.append(
                client.post(
                    "/v1/chat/completions",
                    json={"model": "m", "messages": MESSAGES, "stream": True},
                ).status_code
            )
        )
        thread.start()
        provider.ledger.wait_until(lambda served: bool(served))
        assert provider.ledger.served[0].ending == ""
        provider.release()
        thread.join(10)
        provider.ledger.wait_until(lambda served: bool(served[0].ending))

    assert answers == [200]
    assert provider.ledger.served[0].ending == "finished"


def test_wishes_come_from_header_body_model_and_queue() -> None:
    """An SDK can reach one of them, whichever it is."""
    with Provider() as provider, httpx2.Client(base_url=provider.url) as client:
        body = {"model": "m", "messages": MESSAGES}
        path = "/v1/chat/completions"
        statuses = [
            client.post(path, json=body, headers={"X-Provider-Do": "status=429"}).status_code,
            client.post(path, json={**body, "provider_do": "status=500"}).status_code,
            client.post(path, json={**body, "model": "m@status=503"}).status_code,
        ]
        provider.next_do.append("status=418")
        statuses += [client.post(path, json=body).status_code for _ in range(2)]

    assert statuses == [429, 500, 503, 418, 200]
    assert {call.model for call in provider.ledger.served} == {"m"}


def test_the_process_answers_and_tells_its_ledger_over_http() -> None:
    """The demo and scripts in other languages read it there."""
    with provider_process() as url:
        answer = httpx2.post(
            f"{url}/v1/messages",
            json={"model": "claude-haiku-4-5", "max_tokens": 9, "messages": MESSAGES},
            headers={"X-Request-ID": "r-1"},
            trust_env=False,
        )
        ledger = httpx2.get(f"{url}/ledger", trust_env=False).json()

    usage = answer.json()["usage"]
    counts = ledger["by_request_id"]["r-1"]
    assert counts["output_tokens"] == usage["output_tokens"]
    assert counts["input_tokens"] == (
        usage["input_tokens"]
        + usage["cache_read_input_tokens"]
        + usage["cache_creation_input_tokens"]
    )
    assert ledger["served"][0]["ending"] == "finished"
