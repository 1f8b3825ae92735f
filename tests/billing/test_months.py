"""`last-month`, for the one command of the month's end: by the agency's own calendar."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from meterd.config import toml
from meterd.service.months import month_asked
from tests.support.office import open_office


@pytest.mark.parametrize(
    ("now", "index"),
    [
        ("2025-12-01T04:59", (2025, 10)),  # still November in New York
        ("2025-12-01T05:00", (2025, 11)),
        ("2026-01-15T00:00", (2025, 12)),
        ("2026-03-31T23:00", (2026, 2)),
    ],
)
def test_last_month_is_the_one_before_today_where_the_agency_is(
    now: str, index: tuple[int, int]
) -> None:
    """The first of a month in UTC is not yet everywhere the first."""
    agency = toml.read(b'[agency]\ntimezone = "America/New_York"\n', "meterd.toml").agency

    found = month_asked(agency, "last-month", datetime.fromisoformat(now).replace(tzinfo=UTC))

    assert found == index[0] * 12 + index[1] - 1


async def test_last_month_for_all_clients_is_one_command() -> None:
    """Also for a client whose period begins on another day; closing says which month it was."""
    toml_text = (
        '[agency]\nname = "N"\nclose_after_hours = 0\n[plans.free]\ntype = "free"\n'
        '[clients.acme]\nplan = "free"\n[clients.mid]\nplan = "free"\nanchor = 15\n'
    )
    november = datetime(2025, 11, 20, 12, tzinfo=UTC)
    async with open_office(toml_text, november) as office:
        for client in ("acme", "mid"):
            await office.use(client, requests=2, input_tokens=10, output_tokens=2, at=november)
        office.clock.step(datetime(2025, 12, 20, tzinfo=UTC))

        rollup = await office.meterctl("rollup", "last-month")
        closed = await office.meterctl("close", "last-month")

    assert [line.split()[:2] for line in rollup.lines[1:4]] == [
        ["acme", "2"], ["mid", "2"], ["TOTAL", "4"],
    ]  # fmt: skip
    assert closed.lines[-1] == "2025-11 is closed: 0 invoices."
