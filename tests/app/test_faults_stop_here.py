"""Whatever of ours breaks, the app's call goes on; the fault is counted and logged once."""

from __future__ import annotations

import logging
import pickle
import signal
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from meterd_middleware import exchange, exchanges, instrument
from meterd_middleware.faults import Faults, where
from meterd_middleware.intake import Intake
from meterd_middleware.testing import RecordingMeter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.provider import Provider

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "secret"}]}


class Broken(Exception):
    """A bug of ours, whose text quotes a prompt."""

    def __init__(self) -> None:
        super().__init__("secret")


def broken(*_: Any, **__: Any) -> Any:
    raise Broken


def call(provider: Provider, meter: RecordingMeter, *, stream: bool = False) -> Any:
    with instrument(httpx2.Client(base_url=provider.url), meter=meter) as client:
        return client.post("/v1/chat/completions", json={**CHAT, "stream": stream})


def sent(provider: Provider) -> bytes:
    """The body of the provider's one answer, once it has noted it."""
    (served,) = provider.ledger.wait_until(lambda served: bool(served) and served[0].ending != "")
    return served.sent_body


ENTRIES = {
    "begin": (exchanges, "read_request"),
    "payer": (Intake, "payer"),
    "measure": (Intake, "measure"),
    "reader": (exchange, "reader_for"),
    "records": (exchanges, "records_of"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_fault_in_any_of_our_parts_leaves_the_call_whole(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, entry: str, stream: bool
) -> None:
    meter = RecordingMeter(client="acme-corp")
    owner, name = ENTRIES[entry]
    monkeypatch.setattr(owner, name, broken)

    response = call(provider, meter, stream=stream)

    assert response.status_code == 200
    assert response.content == sent(provider)
    assert meter.faults


@pytest.mark.parametrize("method", ["open_call", "append", "note_untagged", "note_fault"])
def test_a_sink_that_breaks_leaves_the_call_whole(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    meter = RecordingMeter()
    monkeypatch.setattr(type(meter._shipper), method, broken)

    assert call(provider, meter).content == sent(provider)


def test_a_quota_that_breaks_lets_the_call_through_and_it_is_recorded(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = RecordingMeter(client="acme-corp")
    monkeypatch.setattr(type(meter._leases), "reserve", broken)

    assert call(provider, meter).status_code == 200
    assert [r.client for r in meter.records] == ["acme-corp"]
    assert [kind for kind, _ in meter.faults] == ["reserve"]


def test_a_reader_that_breaks_in_mid_stream_leaves_the_stream_whole(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reader:
        is_finished = False
        feed = finish = broken

    meter = RecordingMeter(client="acme-corp")
    monkeypatch.setattr(exchange, "reader_for", lambda *_: Reader())

    response = call(provider, meter, stream=True)

    assert response.content == sent(provider)
    assert {kind for kind, _ in meter.faults} == {"feed", "read"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_fault_after_the_record_is_written_does_not_count_the_call_again(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    meter = RecordingMeter(client="acme-corp")
    monkeypatch.setattr(Intake, "remember", broken)

    call(provider, meter, stream=stream)

    assert len(meter.records) == 1
    assert [kind for kind, _ in meter.faults] == ["settle"]


class TimeLimit(Exception):
    """As Celery's SoftTimeLimitExceeded: raised by a signal handler, wherever it strikes."""


@pytest.fixture
def alarm() -> Iterator[Callable[..., Any]]:
    """Stands in for a part of ours, in which the signal strikes."""

    def handler(*_: Any) -> None:
        raise TimeLimit

    def strike(*_: Any, **__: Any) -> Any:
        signal.raise_signal(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    yield strike
    signal.signal(signal.SIGUSR1, before)


STRIKES = {
    **ENTRIES,
    "reserve": (RecordingMeter()._leases.__class__, "reserve"),
    "open": (RecordingMeter()._shipper.__class__, "open_call"),
    "append": (RecordingMeter()._shipper.__class__, "append"),
    "remember": (Intake, "remember"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("entry", STRIKES)
def test_a_time_limit_that_strikes_within_our_code_reaches_the_app(
    provider: Provider,
    monkeypatch: pytest.MonkeyPatch,
    alarm: Callable[..., Any],
    entry: str,
    stream: bool,
) -> None:
    """Kept from it, the task would go on until it is killed; and the call is counted once."""
    meter = RecordingMeter(client="acme-corp")
    owner, name = STRIKES[entry]
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, alarm)
        with pytest.raises(TimeLimit):
            call(provider, meter, stream=stream)
    struck = len(meter.records)

    call(provider, meter, stream=stream)

    assert struck == (0 if entry in {"begin", "payer", "append"} else 1)
    assert len(meter.records) == struck + 1
    assert meter.faults == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_time_limit_reaches_an_async_app_too(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, alarm: Callable[..., Any], stream: bool
) -> None:
    meter = RecordingMeter(client="acme-corp")
    monkeypatch.setattr(exchange, "reader_for", alarm)

    async with instrument(httpx2.AsyncClient(base_url=provider.url), meter=meter) as client:
        with pytest.raises(TimeLimit):
            await client.post("/v1/chat/completions", json={**CHAT, "stream": stream})

    assert len(meter.records) == 1


def test_a_callback_that_raises_is_logged_once_and_counted(
    provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    meter = RecordingMeter(client="acme-corp", on_record=broken)

    for _ in range(3):
        call(provider, meter)

    assert [kind for kind, _ in meter.faults] == ["on_record"] * 3
    assert len([r for r in caplog.records if "on_record" in r.getMessage()]) == 1
    assert len(meter.records) == 3


def test_a_faults_text_is_told_to_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """An exception's text may quote a prompt: its class and place have to do."""
    meter = RecordingMeter()
    faults = Faults(meter._shipper)
    try:
        broken()
    except Broken as error:
        faults.note("begin", error)
        told = where(error)

    assert told.startswith("Broken at test_faults_stop_here.py:")
    assert "secret" not in caplog.text
    assert meter.faults == [("begin", told)]


def test_logging_that_is_broken_itself_breaks_nothing(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = RecordingMeter()
    monkeypatch.setattr(logging.Logger, "warning", broken)

    assert call(provider, meter).status_code == 200


def test_a_refusal_survives_pickling() -> None:
    """Celery hands exceptions from worker to caller in pickles."""
    meter = RecordingMeter()
    meter.refuse("acme-corp", limit=1_000)
    from meterd_middleware import QuotaExceeded

    with pytest.raises(QuotaExceeded) as caught:
        meter.check(client="acme-corp")
    again = pickle.loads(pickle.dumps(caught.value))

    assert str(again) == str(caught.value)
    assert (again.client, again.limit, again.reason) == ("acme-corp", 1_000, "quota")
