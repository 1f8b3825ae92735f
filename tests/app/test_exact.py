"""With the extra `tiktoken` what would be estimated is counted: after the call, by nobody's leave.

On a thread of its own; a call that waits for it is open in the spool until it is counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from meterd_middleware import Meter, exact, instrument, vocabulary
from meterd_middleware.adoption import adoptable
from meterd_middleware.delivery import Delivery
from meterd_middleware.disk import OsDisk
from meterd_middleware.readers import text as reader_text
from meterd_middleware.shipping import sender_of
from meterd_middleware.tokenizer import Tokenizer
from meterd_proto.v1 import usage_pb2
from tests.app.exact_app import CHAT
from tests.support.network import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd_middleware.usage import UsageRecord
    from tests.support.provider import Provider

ROOT = Path(__file__).parents[2]
PROMPT = 3 + 1 + 2 + 3
"""A message, its role, `hello there`, the reply."""


@pytest.fixture(scope="module")
def tokens_of() -> Any:
    tokens = vocabulary.tokens("o200k_base")
    return Tokenizer(vocabulary.PATTERNS["o200k_base"], tokens, lambda: None).count


@pytest.fixture(autouse=True)
def _texts_are_kept_here_alone() -> Iterator[None]:
    yield
    reader_text.keep_text = False


class Counted:
    """A real meter, without a meterd; its records as they come."""

    def __init__(self, spool: Path) -> None:
        self.records: list[UsageRecord] = []
        self.meter = Meter(
            spool=spool,
            target="unix:/nonexistent/meterd.sock",
            client="acme-corp",
            on_record=self.records.append,
        )

    def all(self, timeout: float = 30) -> list[UsageRecord]:
        """The records, once those that wait are counted."""
        self.meter.exchanges.catch_up()
        assert self.meter.exchanges.drain(timeout)
        return self.records

    def leave_a_stream(self, provider: Provider, **body: object) -> str:
        """Ask, read one chunk, leave; the text that passed."""
        client = instrument(httpx.Client(base_url=provider.base_url("openai")), meter=self.meter)
        passed = b""
        with client, client.stream("POST", "/chat/completions", json={**CHAT, **body}) as answer:
            for chunk in answer.iter_bytes():
                passed += chunk
                if passed.count(b"data: ") >= 4:
                    break
        events = [json.loads(line[6:]) for line in passed.decode().split("\n\n") if line]
        choices = [event["choices"][0]["delta"] for event in events]
        return "".join(choice.get("content") or "" for choice in choices)


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[Counted]:
    counted = Counted(tmp_path / "spool")
    yield counted
    counted.meter.close(timeout=0.1)


def left_in(spool: Path) -> list[usage_pb2.UsageRecord]:
    """What an adopter finds, the process being over."""
    ledger = Ledger()
    for adopted in adoptable(OsDisk(), str(spool)):
        delivery = Delivery(adopted, sender_of(adopted), random=Random(1))
        for answer in ledger.receive(adopted.producer, delivery.begin()):
            delivery.receive(answer, 0)
        while (request := delivery.next_request(0, 1)) is not None:
            for answer in ledger.receive(adopted.producer, request):
                delivery.receive(answer, 0)
        adopted.finish()
    return ledger.records


def run_app(ending: str, provider: Provider, spool: Path) -> int:
    path = os.pathsep.join(str(ROOT / part) for part in ("", "middleware", "proto"))
    return subprocess.run(
        [sys.executable, "-m", "tests.app.exact_app", ending, provider.base_url("openai"), spool],
        env={**os.environ, "PYTHONPATH": path},
        cwd=ROOT,
        timeout=60,
        check=False,
    ).returncode


# Counts


def test_a_stream_that_was_left_is_counted_to_the_token(
    counted: Counted, provider: Provider, tokens_of: Any
) -> None:
    """It stays marked as estimated: the provider reported nothing, and bills more than passed."""
    text = counted.leave_a_stream(provider)

    [record] = counted.all()
    assert (record.status, record.http_status) == ("abandoned", 200)
    assert (record.input_tokens, record.output_tokens) == (PROMPT, tokens_of(text))
    assert record.is_estimated
    assert record.note == exact.NOTE


def test_a_stream_that_came_to_its_end_is_what_the_provider_says(
    counted: Counted, provider: Provider
) -> None:
    """At once, and not by us."""
    client = instrument(httpx.Client(base_url=provider.base_url("openai")), meter=counted.meter)
    with client:
        body = {**CHAT, "provider_do": "", "stream_options": {"include_usage": True}}
        client.post("/chat/completions", json=body)

    [record] = counted.all()
    assert not record.is_estimated
    assert (record.status, record.note) == ("complete", "")
    assert record.tokens == provider.ledger.counts().input_tokens + record.output_tokens


def test_a_model_of_another_tokenizer_is_reckoned_as_ever(
    counted: Counted, provider: Provider
) -> None:
    counted.leave_a_stream(provider, model="llama-4")

    [record] = counted.all()
    assert record.is_estimated
    assert record.note == ""


def test_a_call_that_got_no_answer_in_time_is_counted_too(
    counted: Counted, provider: Provider
) -> None:
    """The provider has its request, and bills it."""
    client = instrument(
        httpx.Client(base_url=provider.base_url("openai"), timeout=httpx.Timeout(5, read=0.05)),
        meter=counted.meter,
    )
    with client, pytest.raises(httpx.ReadTimeout):
        client.post("/chat/completions", json={**CHAT, "stream": False, "provider_do": "hold=0"})

    [record] = counted.all()
    assert (record.status, record.input_tokens, record.note) == ("timed_out", PROMPT, exact.NOTE)


def test_the_switch_turns_it_off(
    tmp_path: Path, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METERD_TIKTOKEN", "0")
    off = Counted(tmp_path / "off")

    off.leave_a_stream(provider)

    [record] = off.all()
    assert record.is_estimated
    assert record.note == ""
    off.meter.close(timeout=0.1)


def test_where_the_vocabulary_cannot_be_read_the_rule_holds(
    counted: Counted, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Iterator[bytes]:
        raise FileNotFoundError(name)

    monkeypatch.setattr(exact, "COUNTING", exact.Counting())
    monkeypatch.setattr(vocabulary, "tokens", missing)

    counted.leave_a_stream(provider)

    [record] = counted.all()
    assert record.is_estimated
    assert record.output_tokens > 0
    assert record.note == ""


def test_a_crowd_that_leaves_at_once_is_reckoned_beyond_what_may_wait(
    counted: Counted, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits holds its body: it is bounded."""
    is_let_go = threading.Event()
    monkeypatch.setattr(exact, "PENDING_MAX", 2)
    exact.COUNTING.start()
    exact.COUNTING.later(lambda: is_let_go.wait(30))

    for _ in range(5):
        counted.leave_a_stream(provider)
    counted.meter.exchanges.catch_up()
    at_once = len(counted.records)
    is_let_go.set()

    assert at_once >= 2
    assert len(counted.all()) == 5


# The end


def test_close_and_flush_wait_no_longer_than_they_were_told(
    counted: Counted, provider: Provider
) -> None:
    """A count that takes for ever is left to an adopter."""
    is_let_go = threading.Event()
    exact.COUNTING.start()
    exact.COUNTING.later(lambda: is_let_go.wait(60))
    counted.leave_a_stream(provider)

    assert not counted.meter.flush(timeout=0.05)
    counted.meter.close(timeout=0.05)

    assert counted.records == []
    is_let_go.set()
    assert [record.note for record in counted.all()] == [exact.NOTE]


def test_a_process_that_ends_waits_for_its_count(
    provider: Provider, tmp_path: Path, tokens_of: Any
) -> None:
    """At most a second."""
    assert run_app("exit", provider, tmp_path / "spool") == 0

    [record] = left_in(tmp_path / "spool")
    assert record.status == usage_pb2.STATUS_ABANDONED
    assert (record.client, record.input_tokens, record.note) == ("parent", PROMPT, exact.NOTE)


def test_a_process_that_is_killed_before_its_count_leaves_an_interrupted_record(
    provider: Provider, tmp_path: Path
) -> None:
    """One: the call was open in its spool."""
    assert run_app("killed", provider, tmp_path / "spool") < 0

    [record] = left_in(tmp_path / "spool")
    assert record.status == usage_pb2.STATUS_INTERRUPTED
    assert (record.client, record.estimated) == ("parent", 3)
    assert record.input_tokens > 0


def test_a_forked_child_counts_its_own_calls_alone(provider: Provider, tmp_path: Path) -> None:
    """What waits in the parent is the parent's."""
    assert run_app("fork", provider, tmp_path / "spool") == 0

    records = left_in(tmp_path / "spool")
    assert sorted(record.client for record in records) == ["parent", "unattributed"]
    assert {record.note for record in records} == {exact.NOTE}
    assert {record.status for record in records} == {usage_pb2.STATUS_ABANDONED}
