"""The agency whose records are measured: 1,000 clients × 10 projects × 8 models × 31 days.

One call in a hundred is of one more client, which gives every call a project of its own: the
worst that names can do to a ledger. Records come in order of time, as an app makes them.
Periods begin so that the running one holds the last 28 to 31 days.
"""

from __future__ import annotations

import random
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from meterd_middleware.usage import UsageRecord
from meterd_proto.v1 import usage_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENTS, PROJECTS, DAYS = 1_000, 10, 31
MONTH_RECORDS = 100_000_000
"""The pace at which records come, where a benchmark doesn't fill the whole month."""
RESTLESS = "restless"
RESTLESS_IN = 100
HISTORY_IN = 16
DAY_NS = 86_400 * 10**9


def span_ns(count: int) -> int:
    """How long so many records take at that pace."""
    return count * DAYS * DAY_NS // MONTH_RECORDS


SHAPES = ("plain", "sampled", "everything", "unpriced")
"""Chat records with nothing rare; one in 16 with `history_bytes`, as the middleware samples
it; all fields set; and models that no price book knows."""


class Model(NamedTuple):
    """A model as calls name it."""

    provider: str
    request: str
    response: str
    host: str


MODELS = (
    Model("openai", "gpt-4o", "gpt-4o-2024-08-06", "api.openai.com"),
    Model("openai", "gpt-4o-mini", "gpt-4o-mini-2024-07-18", "api.openai.com"),
    Model("openai", "gpt-4.1", "gpt-4.1-2025-04-14", "api.openai.com"),
    Model("anthropic", "claude-sonnet-4-5", "claude-sonnet-4-5-20250929", "api.anthropic.com"),
    Model("anthropic", "claude-haiku-4-5", "claude-haiku-4-5-20251001", "api.anthropic.com"),
    Model(
        "gcp.gemini", "gemini-2.5-flash", "gemini-2.5-flash", "generativelanguage.googleapis.com"
    ),
    Model("mistral_ai", "mistral-large-latest", "mistral-large-latest", "api.mistral.ai"),
    Model("cohere", "command-a-03-2025", "command-a-03-2025", "api.cohere.com"),
)  # fmt: skip


def config(own_prices: bool = False) -> str:
    """The agency's meterd.toml. With `own_prices` each client has a price of its own."""
    anchor = (datetime.now(UTC) + timedelta(days=1)).day
    lines = [
        '[agency]\nname = "Bench"\ncurrency = "USD"\ntimezone = "UTC"',
        f"anchor = {anchor}",
        '[plans.managed]\ntype = "cost_plus"\nmarkup = "30%"',
    ]
    for client in range(CLIENTS):
        lines.append(f'[clients.client-{client}]\nplan = "managed"\nfrom = 2020-01-01')
        if own_prices:
            lines.append(
                f'[[prices]]\nmodel = "gpt-4o*"\nclient = "client-{client}"\n'
                'from = 2020-01-01\ninput = "2"\noutput = "9"'
            )
    return "\n".join(lines) + "\n"


def period_start_ns() -> int:
    """When the running period of `config` began."""
    now = datetime.now(UTC)
    anchor = (now + timedelta(days=1)).day
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    for _ in range(32):
        if day.day == anchor:
            break
        day -= timedelta(days=1)
    return int(day.timestamp()) * 10**9


def records(
    count: int, first_ns: int, span_ns: int, seed: int, shape: str = "plain"
) -> Iterator[UsageRecord]:
    """Records in order of time over a span, the same for the same seed."""
    draw, step_ns = random.Random(seed).random, span_ns // count
    models, many = MODELS, len(MODELS)
    for index in range(count):
        model = models[int(draw() * many)]
        if index % RESTLESS_IN:
            client = f"client-{int(draw() * CLIENTS)}"
            project = f"project-{int(draw() * PROJECTS)}"
        else:
            client, project = RESTLESS, f"call-{seed}-{index}"
        input_tokens = 200 + int(draw() * 4_000)
        record = UsageRecord(
            client=client,
            project=project,
            provider=model.provider if shape != "unpriced" else "vllm",
            request_model=model.request,
            response_model=model.response,
            http_status=200,
            occurred_at_unix_ns=first_ns + index * step_ns,
            duration_ms=300 + int(draw() * 3_000),
            input_tokens=input_tokens,
            cache_read_tokens=input_tokens // 2 if input_tokens % 3 == 0 else 0,
            output_tokens=20 + int(draw() * 900),
            server_address=model.host,
            input_bytes=input_tokens * 4,
            history_bytes=input_tokens if shape == "sampled" and index % HISTORY_IN == 0 else None,
        )
        yield _with_everything(record, index) if shape == "everything" else record


def _with_everything(record: UsageRecord, index: int) -> UsageRecord:
    return replace(
        record,
        cache_read_tokens=record.input_tokens // 4,
        cache_write_tokens=record.input_tokens // 4,
        cache_write_long_tokens=record.input_tokens // 8,
        reasoning_tokens=record.output_tokens // 2,
        audio_input_tokens=10,
        audio_output_tokens=10,
        price_context={"service_tier": "default", "inference_geo": "us"},
        tool_calls={"web_search": 2},
        provider_cost=Decimal("0.01234"),
        account="team-a",
        history_bytes=record.input_bytes // 2,
        dedupe_id=f"resp_{index:08x}",
        is_stream=True,
    )


def batches(
    count: int, size: int, seed: int, first_sequence: int = 1, span_ns: int = 0
) -> Iterator[usage_pb2.Batch]:
    """Records as batches that are ready to be sent; over the running period, or a span of it.

    Made by column, five times as fast as by way of a spool: for ledgers of millions.
    """
    rng = random.Random(seed)
    first_us = period_start_ns() // 1_000
    step_us = (span_ns // 1_000 or time.time_ns() // 1_000 - first_us) // count
    for start in range(0, count, size):
        yield _batch(rng, min(size, count - start), first_sequence + start, seed,
                     first_us + start * step_us, step_us)  # fmt: skip


def _batch(
    rng: random.Random, count: int, first_sequence: int, seed: int, first_us: int, step_us: int
) -> usage_pb2.Batch:
    strings = ["", *_NAMES]
    drawn = rng.choices(range(CLIENTS * PROJECTS), k=count)
    distinct = {tag: at for at, tag in enumerate(dict.fromkeys(drawn))}
    tags = list(map(distinct.__getitem__, drawn))
    tag_client = [_CLIENT_AT + tag // PROJECTS for tag in distinct]
    tag_project = [_PROJECT_AT + tag % PROJECTS for tag in distinct]
    for at in range(0, count, RESTLESS_IN):
        tags[at] = len(tag_client)
        tag_client.append(_RESTLESS_AT)
        tag_project.append(len(strings))
        strings.append(f"call-{seed}-{first_sequence + at}")
    inputs = rng.choices(range(200, 4_200), k=count)
    return usage_pb2.Batch(
        first_sequence=first_sequence,
        sent_at_unix_ns=time.time_ns(),
        highest_appended_sequence=first_sequence + count - 1,
        schema=1,
        strings=strings,
        dimensions=_DIMENSIONS,
        dimension=rng.choices(range(len(MODELS)), k=count),
        first_occurred_at_unix_ns=first_us * 1_000,
        occurred_at_delta_us=[0, *[step_us] * (count - 1)],
        duration_ms=rng.choices(range(300, 3_300), k=count),
        input_tokens=inputs,
        cache_read_tokens=[tokens // 2 if tokens % 3 == 0 else 0 for tokens in inputs],
        output_tokens=rng.choices(range(20, 920), k=count),
        input_bytes=[tokens * 4 for tokens in inputs],
        tag=tags,
        tag_client=tag_client,
        tag_project=tag_project,
    )


_NAMES = (
    *(f"client-{number}" for number in range(CLIENTS)),
    *(f"project-{number}" for number in range(PROJECTS)),
    RESTLESS,
    "chat",
    *(text for model in MODELS for text in model),
)
_CLIENT_AT, _PROJECT_AT = 1, 1 + CLIENTS
_RESTLESS_AT = _PROJECT_AT + PROJECTS
_CHAT_AT = _RESTLESS_AT + 1
_DIMENSIONS = tuple(
    usage_pb2.Dimensions(
        provider=at,
        operation=_CHAT_AT,
        request_model=at + 1,
        response_model=at + 2,
        server_address=at + 3,
        status=usage_pb2.STATUS_COMPLETE,
        http_status=200,
    )
    for at in range(_CHAT_AT + 1, _CHAT_AT + 1 + 4 * len(MODELS), 4)
)
