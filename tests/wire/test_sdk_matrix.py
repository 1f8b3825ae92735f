"""The matrix: each SDK × sync, async × JSON, stream × complete, abandoned, cancelled, error.

What the loopback provider has in its ledger is what meterd has to count, to the token.
`METERD_MATRIX_SDKS` names the SDKs to run, for the older majors (`make sdk-matrix-old`).
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from meterd_middleware import instrument, instrument_all, tagged
from meterd_middleware.testing import RecordingMeter
from tests.support.provider import Provider
from tests.wire.sdk_cases import cases

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.wire.sdk_cases import Case

CASES = cases(os.environ.get("METERD_MATRIX_SDKS", ""))
SYNC = [case for case in CASES if case.make is not None]
ASYNC = [case for case in CASES if case.amake is not None]

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # the SDKs' own, and sockets they leave open
    pytest.mark.skipif(not CASES, reason="none of the SDKs asked for is installed"),
]


@pytest.fixture(scope="module", autouse=True)
def _a_quick_collector() -> Iterator[None]:
    """With all SDKs loaded a collection takes half a second, and each ending needs one."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def shared_provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


@pytest.fixture
def provider(shared_provider: Provider) -> Iterator[Provider]:
    shared_provider.ledger.clear()
    shared_provider.next_do.clear()
    shared_provider.do = "delay_ms=0"
    with tagged(client="acme-corp"):
        yield shared_provider
    gc.collect()


@pytest.fixture
def meter() -> Iterator[RecordingMeter]:
    with RecordingMeter(include_usage_hosts=("127.0.0.1",)) as meter:
        yield meter
        assert meter.faults == []


@contextmanager
def metered(case: Case, client: Any, meter: RecordingMeter) -> Iterator[Any]:
    if case.is_metered_by_process:
        with instrument_all(meter):
            yield client
    else:
        yield instrument(client, meter=meter)


def let_go(meter: RecordingMeter) -> None:
    """Wait until older versions of litellm, whose logging keeps streams, let go of this one."""
    for _ in range(100):
        gc.collect()
        if meter.records or threading.Event().wait(0.05):
            return


def counted_to_the_token(meter: RecordingMeter, provider: Provider) -> None:
    let_go(meter)
    served = provider.ledger.counts()
    [record] = meter.records
    for name in ("input_tokens", "output_tokens", "cache_read_tokens", "reasoning_tokens"):
        assert getattr(record, name) == getattr(served, name), name
    assert (record.client, record.status, record.http_status) == ("acme-corp", "complete", 200)
    assert not record.is_estimated
    assert not [name for name in provider.ledger.served[0].received_headers if "client-id" in name]


def abandoned(meter: RecordingMeter, provider: Provider, *, output: bool) -> None:
    """Billed all the same: the input as we count it, and what passed of the reply."""
    let_go(meter)
    [record] = meter.records
    assert (record.status, record.is_estimated, record.is_partial) == ("abandoned", True, True)
    assert record.input_tokens > 0
    if output:
        assert record.output_tokens <= 3 * provider.ledger.counts().output_tokens


async def settled(meter: RecordingMeter) -> None:
    """Generators that are collected are closed by tasks of the loop."""
    for _ in range(200):
        gc.collect()
        await asyncio.sleep(0)
        if meter.records:
            return


def failed(meter: RecordingMeter, http_status: int) -> None:
    let_go(meter)
    [record] = meter.records
    assert (record.status, record.http_status) == ("failed", http_status)
    if http_status != 200:
        assert record.tokens == 0


SYNC_CASES = pytest.mark.parametrize("case", SYNC, ids=str)
ASYNC_CASES = pytest.mark.parametrize("case", ASYNC, ids=str)


def streams_of(cases: list[Case]) -> pytest.MarkDecorator:
    """Those with streams; what keeps its streams until the process ends has no ending here."""
    kept = pytest.mark.skip(reason="this version never lets go of a stream it doesn't read out")
    found = [c for c in cases if c.stream or c.astream]
    params = [pytest.param(c, marks=[kept] if c.keeps_streams else []) for c in found]
    return pytest.mark.parametrize("case", params, ids=str)


SYNC_STREAMS = streams_of(SYNC)
ASYNC_STREAMS = streams_of(ASYNC)


def client_of(case: Case, provider: Provider) -> Any:
    assert case.make is not None
    return case.make(provider.base_url(case.style))


def aclient_of(case: Case, provider: Provider) -> Any:
    assert case.amake is not None
    return case.amake(provider.base_url(case.style))


async def iterator_of(case: Case, client: Any) -> AsyncIterator[Any]:
    """The async stream of any SDK: some await it, some give it at once."""
    assert case.astream is not None
    stream: Any = case.astream(client)
    if inspect.isawaitable(stream):
        stream = await stream
    iterator: AsyncIterator[Any] = aiter(stream)
    return iterator


def all_but_errors(stream: Any) -> None:
    try:
        for _ in stream:
            pass
    except Exception:  # each SDK's own; what counts is the record
        pass


# Complete


@SYNC_CASES
def test_a_whole_answer(meter: RecordingMeter, provider: Provider, case: Case) -> None:
    with metered(case, client_of(case, provider), meter) as client:
        assert case.call is not None
        case.call(client)
    counted_to_the_token(meter, provider)


@SYNC_STREAMS
def test_a_whole_stream(meter: RecordingMeter, provider: Provider, case: Case) -> None:
    with metered(case, client_of(case, provider), meter) as client:
        assert case.stream is not None
        assert list(case.stream(client))
    counted_to_the_token(meter, provider)


@ASYNC_CASES
async def test_a_whole_answer_async(meter: RecordingMeter, provider: Provider, case: Case) -> None:
    with metered(case, aclient_of(case, provider), meter) as client:
        assert case.acall is not None
        await case.acall(client)
    counted_to_the_token(meter, provider)


@ASYNC_STREAMS
async def test_a_whole_stream_async(meter: RecordingMeter, provider: Provider, case: Case) -> None:
    with metered(case, aclient_of(case, provider), meter) as client:
        async for _ in await iterator_of(case, client):
            pass
    counted_to_the_token(meter, provider)


# Abandoned


@SYNC_STREAMS
@pytest.mark.parametrize("how", ["close", "break", "exception"])
def test_a_stream_that_is_left(
    meter: RecordingMeter, provider: Provider, case: Case, how: str
) -> None:
    if case.is_metered_by_process and how != "close":
        pytest.skip("litellm keeps a stream that isn't closed: its record comes when it lets go")
    provider.next_do.append("hold=4,output=60,reasoning=0")
    with metered(case, client_of(case, provider), meter) as client:
        _leave(case, client, how)
        gc.collect()
    abandoned(meter, provider, output=True)


def _leave(case: Case, client: Any, how: str) -> None:
    assert case.stream is not None
    stream = case.stream(client)
    try:
        for _ in stream:
            if how == "exception":
                raise ValueError
            break
    except ValueError:
        pass
    close = getattr(stream, "close", None)
    if how == "close" and callable(close):
        close()


@ASYNC_STREAMS
async def test_an_async_stream_that_is_left(
    meter: RecordingMeter, provider: Provider, case: Case
) -> None:
    provider.next_do.append("hold=4,output=60,reasoning=0")
    with metered(case, aclient_of(case, provider), meter) as client:
        await _aleave(case, client)
        await settled(meter)
    abandoned(meter, provider, output=True)


async def _aleave(case: Case, client: Any) -> None:
    stream: Any = await iterator_of(case, client)
    async for _ in stream:
        break
    for name in ("aclose", "close"):
        if callable(close := getattr(stream, name, None)):
            closing = close()
            if inspect.isawaitable(closing):
                await closing
            return


# Cancelled


async def _cancelled(provider: Provider, coroutine: Any, *, is_stream: bool) -> None:
    task = asyncio.ensure_future(coroutine)
    await asyncio.to_thread(
        provider.ledger.wait_until,
        lambda served: bool(served) and (not is_stream or bool(served[0].sent_body)),
    )
    while not task.done():  # langchain's first stream of a process lives through a first one
        task.cancel()
        await asyncio.wait([task], timeout=1)
    if not task.cancelled():
        task.exception()  # some SDKs end quietly, or with an error of their own


@ASYNC_CASES
async def test_a_call_that_is_cancelled(
    meter: RecordingMeter, provider: Provider, case: Case
) -> None:
    provider.next_do.append("hold=0")
    with metered(case, aclient_of(case, provider), meter) as client:
        assert case.acall is not None
        await _cancelled(provider, case.acall(client), is_stream=False)
    abandoned(meter, provider, output=False)


@ASYNC_STREAMS
async def test_a_stream_that_is_cancelled(
    meter: RecordingMeter, provider: Provider, case: Case
) -> None:
    provider.next_do.append("hold=3,output=60,reasoning=0")

    async def read(client: Any) -> None:
        async for _ in await iterator_of(case, client):
            pass

    with metered(case, aclient_of(case, provider), meter) as client:
        await _cancelled(provider, read(client), is_stream=True)
        await settled(meter)
    abandoned(meter, provider, output=True)


# Errors


@SYNC_CASES
@pytest.mark.parametrize("streamed", [False, True], ids=["json", "stream"])
def test_a_call_that_the_provider_refuses(
    meter: RecordingMeter, provider: Provider, case: Case, streamed: bool
) -> None:
    provider.next_do.append("status=400")
    ask = case.stream if streamed else case.call
    if ask is None:
        pytest.skip("this kind of call has no stream")
    with metered(case, client_of(case, provider), meter) as client, pytest.raises(Exception):  # noqa: B017  # each SDK's own
        answer = ask(client)
        if streamed:
            list(answer)
    failed(meter, 400)


@ASYNC_CASES
async def test_an_async_call_that_the_provider_refuses(
    meter: RecordingMeter, provider: Provider, case: Case
) -> None:
    provider.next_do.append("status=400")
    with metered(case, aclient_of(case, provider), meter) as client:
        assert case.acall is not None
        with pytest.raises(Exception):  # noqa: B017  # each SDK's own
            await case.acall(client)
    failed(meter, 400)


@SYNC_STREAMS
def test_an_error_inside_a_stream(meter: RecordingMeter, provider: Provider, case: Case) -> None:
    provider.next_do.append("error=2")
    with metered(case, client_of(case, provider), meter) as client:
        assert case.stream is not None
        try:
            all_but_errors(case.stream(client))
        except Exception:  # raised where the stream is opened
            pass
        gc.collect()
    failed(meter, 200)


@ASYNC_STREAMS
async def test_an_error_inside_an_async_stream(
    meter: RecordingMeter, provider: Provider, case: Case
) -> None:
    provider.next_do.append("error=2")
    with metered(case, aclient_of(case, provider), meter) as client:
        try:
            async for _ in await iterator_of(case, client):
                pass
        except Exception:  # each SDK's own
            pass
        await settled(meter)
    failed(meter, 200)
