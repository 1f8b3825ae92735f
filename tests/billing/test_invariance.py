"""What never changes an amount: order, batches, senders, repeats, restarts, the host's time zone.

The same records in, always the same sheet out, line for line and cent for cent; and who uses what
two others use together is billed by rule: exact costs and tokens add, each line is rounded once.
"""

from __future__ import annotations

import json
import os
import random
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, NamedTuple

import pytest

from meterd.clock import unix_ns_of
from tests.support.builders import batch_of, usage
from tests.support.office import open_office

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd_proto.v1.usage_pb2 import UsageRecord
    from tests.support.office import Office

START = datetime(2025, 11, 1, 4, tzinfo=UTC)  # midnight in New York, before the clocks change
MINUTES = (30 * 24 + 1) * 60  # the hour that November gives back
SENT = datetime(2025, 12, 1, 12, tzinfo=UTC)
TOML = """
[agency]
name = "N"
timezone = "America/New_York"
[[prices]]
model = "own"
input = "0.333333"
output = "1.000001"
per_request = "0.0001"
[plans.managed]
type = "cost_plus"
markup = "33.33%"
[plans.starter]
type = "retainer"
fee = "500"
included_tokens = "1M"
overage_per_million = "59.99"
[clients.acme-corp]
plan = "managed"
[clients.bigco-inc]
plan = "starter"
[clients.one]
plan = "managed"
[clients.other]
plan = "managed"
[clients.both]
plan = "managed"
"""
ZONES = ("UTC", "Pacific/Kiritimati", "America/St_Johns", "Asia/Kathmandu")


class Call(NamedTuple):
    """What a record is made of; the minute counts from the month's start."""

    client: str
    project: str
    model: str
    took: int
    gave: int
    minute: int

    def record(self, client: str = "") -> UsageRecord:
        at = START + timedelta(minutes=self.minute)
        return usage(
            client or self.client, self.project, model=self.model,
            provider="gcp.gemini" if self.model.startswith("gemini") else "openai",
            input_tokens=self.took, output_tokens=self.gave,
            occurred_at_ms=unix_ns_of(at) // 1_000_000,
        )  # fmt: skip


def made_calls(random_: random.Random, clients: tuple[str, ...]) -> list[Call]:
    """Up to a dozen calls, some just at the month's ends and at the edges of a bracket."""
    return [
        Call(
            random_.choice(clients),
            random_.choice(["", "chat", "search"]),
            random_.choice(["gpt-4o", "own", "gemini-2.5-pro"]),
            random_.choice([0, 1, 200_000, 200_001, random_.randrange(900_000)]),
            random_.randrange(90_000),
            random_.choice([0, MINUTES - 1, random_.randrange(MINUTES)]),
        )
        for _ in range(random_.randrange(1, 13))
    ]


@contextmanager
def host_in(zone: str) -> Iterator[None]:
    """This process as on a host whose clock shows another zone."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = zone
    time.tzset()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()


async def sheets(office: Office) -> list[str]:
    """Drafts, the rollup by all that it can be by, and the invoices once the month is closed."""
    asked = [
        await office.meterctl("invoice", client, "2025-11", "--format", "json")
        for client in ("acme-corp", "bigco-inc")
    ]
    by = "client,project,model,day"
    asked.append(await office.meterctl("rollup", "2025-11", "--by", by, "--format", "json"))
    office.clock.step(datetime(2025, 12, 4, tzinfo=UTC))
    asked.append(await office.meterctl("close", "2025-11", "--format", "json"))
    assert [run.code for run in asked] == [0, 0, 0, 0], [run.err for run in asked]
    return [_without_what_names_the_ledger(json.loads(run.out)) for run in asked]


def _without_what_names_the_ledger(document: dict[str, object]) -> str:
    """Rows and rates are numbered as they come; the hash is over them, too."""
    for sheet in (document, *document.get("invoices", ())):  # type: ignore[misc]  # a list of them
        for name in ("rests_on", "hash", "previous_hash"):
            sheet.pop(name, None)
    if isinstance(rows := document.get("rows"), list):
        rows.sort(key=json.dumps)  # those that cost the same have no order of their own
    return json.dumps(document, sort_keys=True)


async def at_once(made: list[Call]) -> list[str]:
    async with open_office(TOML, SENT) as office:
        await office.record(*(call.record() for call in made))
        return await sheets(office)


@pytest.mark.parametrize("seed", range(8))
async def test_how_records_arrive_never_changes_an_amount(seed: int) -> None:
    """Reordered, in many batches, by two processes, each batch twice, restarted in between, on a
    host of another time zone."""
    random_ = random.Random(seed)
    made = made_calls(random_, ("acme-corp", "bigco-inc"))
    turned = random_.sample(made, len(made))
    expected = await at_once(made)

    with host_in(ZONES[seed % len(ZONES)]):
        async with open_office(TOML, SENT) as office:
            for position, call in enumerate(turned):
                producer = f"web-{position % 2}"
                await office.record(call.record(), producer=producer)
                await send_again(office, call, producer)
                if position == len(turned) // 2:
                    await office.restart()
            found = await sheets(office)

    assert found == expected


async def send_again(office: Office, call: Call, producer: str) -> None:
    """The same batch under the same sequence, as after an acknowledgment that was lost."""
    sent_ms = office.clock.unix_ns() // 1_000_000
    office._sequences[producer] -= 1
    await office.ship(batch_of([call.record()], sent_at_ms=sent_ms), 1, producer)


@pytest.mark.parametrize("seed", range(8))
async def test_a_union_is_billed_by_rule(seed: int) -> None:
    """Exact costs add, whatever brackets the calls were in; the line is rounded once, so that
    two lines rounded alone may be a cent off it, and no more than that."""
    random_ = random.Random(seed)
    first, second = (made_calls(random_, ("",)) for _ in range(2))
    async with open_office(TOML, SENT) as office:
        await office.record(
            *(call.record("one") for call in first),
            *(call.record("other") for call in second),
            *(call.record("both") for call in (*first, *second)),
        )
        rollup = json.loads((await office.meterctl("rollup", "2025-11", "--format", "json")).out)
        lines = {}
        for client in ("one", "other", "both"):
            shown = await office.meterctl("invoice", client, "2025-11", "--format", "json")
            lines[client] = json.loads(shown.out)["lines"]

    rows = {row["client"]: row for row in rollup["rows"]}
    cost = {client: Decimal(row["cost"]) for client, row in rows.items()}
    assert cost["both"] == cost["one"] + cost["other"]
    assert rows["both"]["tokens"] == rows["one"]["tokens"] + rows["other"]["tokens"]
    cent = Decimal("0.01")
    for client, found in lines.items():
        printed = cost[client].quantize(cent, ROUND_HALF_UP)
        markup = (printed * Decimal("0.3333")).quantize(cent, ROUND_HALF_UP)
        amounts = {line["kind"]: Decimal(line["amount"]) for line in found}
        assert amounts["usage"] == printed
        assert amounts.get("markup", Decimal(0)) == markup
