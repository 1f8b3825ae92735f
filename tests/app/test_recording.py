"""For the agency's own tests: RecordingMeter and its fixture, as they would use them."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import httpx2
import openai
import pytest

from meterd_middleware import instrument, refusal_of, tagged

if TYPE_CHECKING:
    from pathlib import Path

    from meterd_middleware.testing import RecordingMeter

MESSAGES: Any = [{"role": "user", "content": "hi"}]


def fake_openai(meter: RecordingMeter) -> openai.OpenAI:
    """An agency's own stand-in: no network, the real SDK."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        usage = {"prompt_tokens": 12, "completion_tokens": 8, "total_tokens": 20}
        message = {"role": "assistant", "content": "hello"}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        body = {"id": "x", "object": "chat.completion", "created": 1, "model": "gpt-4o"}
        return httpx2.Response(200, json={**body, "choices": [choice], "usage": usage})

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    return instrument(openai.OpenAI(api_key="k", http_client=http), meter=meter)


def test_the_fixture_holds_what_a_test_used(recorded_usage: RecordingMeter) -> None:
    with tagged(client="acme-corp"), fake_openai(recorded_usage) as client:
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)

    (record,) = recorded_usage.records
    assert (record.client, record.tokens) == ("acme-corp", 20)
    assert recorded_usage.tokens("acme-corp") == recorded_usage.tokens() == 20


def test_the_fixture_is_new_for_each_test(recorded_usage: RecordingMeter) -> None:
    assert recorded_usage.records == []


def test_refuse_and_allow(recorded_usage: RecordingMeter) -> None:
    recorded_usage.refuse("acme-corp")
    with tagged(client="acme-corp"), fake_openai(recorded_usage) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        assert refusal_of(caught.value) is not None
        recorded_usage.allow("acme-corp")
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)

    assert [r.status for r in recorded_usage.records] == ["refused", "complete"]
    recorded_usage.clear()
    assert recorded_usage.tokens() == 0


def test_a_place_that_names_no_client_is_found(
    recorded_usage: RecordingMeter, caplog: pytest.LogCaptureFixture
) -> None:
    with fake_openai(recorded_usage) as client:
        for _ in range(2):
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)

    (place, again) = recorded_usage.untagged_places
    assert place == again
    assert place.startswith("tests/app/test_recording.py:")
    assert [r.getMessage() for r in caplog.records if r.name == "meterd"] == [
        f"no client for this call: {place}"
    ]


def test_nothing_of_it_touches_disk_thread_or_grpc(tmp_path: Path) -> None:
    code = """
        import sys, threading
        from meterd_middleware.testing import RecordingMeter
        with RecordingMeter() as meter:
            meter.record(client="acme-corp", request_model="m", input_tokens=1)
            with meter.call(client="acme-corp", request_model="m") as call:
                call.settle(input_tokens=1, output_tokens=1)
            assert meter.flush()
        assert threading.active_count() == 1
        assert "grpc" not in sys.modules
        print(len(meter.records))
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=tmp_path,
        env={"HOME": str(tmp_path)},
    )

    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
    assert list(tmp_path.iterdir()) == []
