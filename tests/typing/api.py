"""The public API as a caller would use it: type-checked, never run.

`make types` reads this file; a signature that changes shows up here first.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, assert_type

import anthropic
import httpx
import httpx2
import openai
from fastapi import FastAPI

from meterd_middleware import (
    Instrumentation,
    Meter,
    MeterMiddleware,
    QuotaExceeded,
    Tags,
    UsageRecord,
    current_tags,
    instrument,
    instrument_all,
    refusal_of,
    tag_request,
    tagged,
)
from meterd_middleware.httpx import AsyncMeteredTransport as AsyncTransport1
from meterd_middleware.httpx import MeteredTransport as Transport1
from meterd_middleware.httpx2 import AsyncMeteredTransport, MeteredTransport
from meterd_middleware.testing import RecordingMeter


def on_record(record: UsageRecord) -> None:
    assert_type(record.tokens, int)
    assert_type(record.is_estimated, bool)
    assert_type(record.is_partial, bool)
    assert_type(record.provider_cost, Decimal | None)


def who(scope: Any) -> Tags | str | None:
    return Tags("acme-corp", "support-chatbot") if scope["path"] == "/" else "acme-corp"


async def who_later(scope: Any) -> Tags | None:
    return Tags("acme-corp")


def inbound(meter: Meter) -> None:
    app = FastAPI()
    app.add_middleware(MeterMiddleware, meter=meter, identify=who)
    app.add_middleware(MeterMiddleware, meter=meter, identify=who_later, refuse=True)
    app.add_middleware(
        MeterMiddleware, meter=meter, trust_headers=True, refuse=lambda scope: scope["path"] != "/"
    )


def outbound(meter: Meter) -> None:
    assert_type(instrument(openai.OpenAI(), meter=meter), openai.OpenAI)
    assert_type(instrument(anthropic.AsyncAnthropic(), meter=meter, account="key-7"),
                anthropic.AsyncAnthropic)  # fmt: skip
    assert_type(instrument(httpx2.Client(), meter=meter), httpx2.Client)
    assert_type(instrument_all(meter), Instrumentation)
    with instrument_all(meter) as everything:
        everything.undo()
    httpx2.Client(transport=MeteredTransport(meter))
    httpx2.AsyncClient(transport=AsyncMeteredTransport(meter, httpx2.AsyncHTTPTransport()))
    httpx.Client(transport=Transport1(meter, httpx.HTTPTransport(), account="key-7"))
    httpx.AsyncClient(transport=AsyncTransport1(meter))


def tags() -> None:
    with tagged(client="acme-corp", project="support-chatbot") as inside:
        assert_type(inside, Tags)
    assert_type(current_tags(), Tags | None)
    assert_type(tag_request(client="acme-corp"), bool)
    carried = Tags("acme-corp").headers()
    assert_type(Tags.from_headers(carried), Tags | None)


async def tags_async() -> None:
    async with tagged(Tags("acme-corp")):
        pass


def counting(meter: Meter) -> None:
    with meter.call(provider="xai", request_model="grok-4", max_tokens=500) as call:
        call.settle(input_tokens=10, output_tokens=20, cache_read_tokens=3)
    meter.record(
        client="acme-corp",
        project=None,
        provider="openai",
        operation="chat",
        request_model="gpt-4o",
        input_tokens=10,
        output_tokens=20,
        cache_read_tokens=0,
        occurred_at=datetime.now(UTC),
        dedupe_id=None,
    )
    try:
        meter.check(client="acme-corp", tokens=5_000)
    except QuotaExceeded as refused:
        assert_type(refused.limit, int)
        assert_type(refused.resets_at, datetime | None)
    assert_type(meter.flush(timeout=5), bool)
    meter.close()


async def counting_async(meter: Meter) -> None:
    await meter.acheck(client="acme-corp")
    async with meter.call(client="acme-corp", request_model="grok-4") as call:
        call.settle(input_tokens=1, output_tokens=1)


def refusals(error: Exception) -> str:
    refused = refusal_of(error)
    assert_type(refused, QuotaExceeded | None)
    return refused.rule if refused else ""


def making() -> None:
    with Meter(
        target="unix:/run/meterd/meterd.sock",
        spool="/var/spool/meterd",
        service="web",
        access_key="…",
        client="internal",
        on_unreachable="allow",
        on_untagged="record",
        on_record=on_record,
    ) as meter:
        assert_type(meter, Meter)


def testing() -> None:
    meter = RecordingMeter()
    meter.refuse("acme-corp")
    assert_type(meter.records, list[UsageRecord])
    inbound(meter)
    outbound(meter)
