"""A real meterd, killed in the middle of closing a month: all invoices, or none, never twice."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import grpc
import pytest

from meterd_middleware import Meter
from meterd_proto.v1 import billing_pb2, billing_pb2_grpc
from tests.cli.running import Meterctl
from tests.support.daemon import start_daemon

if TYPE_CHECKING:
    from tests.support.daemon import Daemon

CLIENTS = 230
DEADLINE_S = 30.0
TOML = (
    '[agency]\nname = "N"\nclose_after_hours = 0\n[plans.flat]\ntype = "retainer"\nfee = "9.99"\n'
    'overage = "none"\nincluded_tokens = "1M"\n'
    + "".join(f'[clients.c{number:03d}]\nplan = "flat"\n' for number in range(CLIENTS))
)


def last_month() -> datetime:
    """Noon of the last day of the month before this one: never more than 31 days ago."""
    first = datetime.now(UTC).replace(day=1, hour=12, minute=0, second=0, microsecond=0)
    return first - timedelta(days=1)


def kill_while_closing(daemon: Daemon, month: str, after: int) -> None:
    """Kill it once so many steps of the closing were told."""
    with grpc.insecure_channel(daemon.target) as channel:
        stub = billing_pb2_grpc.BillingServiceStub(channel)
        steps = stub.Close(billing_pb2.CloseRequest(period=month), timeout=DEADLINE_S)
        try:
            for number, _ in enumerate(steps, 1):
                if number == after:
                    daemon.kill()
        except grpc.RpcError:
            pass
    daemon.kill()


@pytest.mark.parametrize("after", [1, 3, 5])
def test_a_closing_that_is_killed_is_done_whole_by_the_next(after: int) -> None:
    """Numbers without gaps, each client once, an unbroken chain; and it is quick to repeat."""
    month = f"{last_month():%Y-%m}"
    with start_daemon(config=TOML) as daemon:
        meterctl = Meterctl({"HOME": str(daemon.directory), "METERD_TARGET": daemon.target})
        with Meter(target=daemon.target, spool=daemon.spool_root, service="web") as meter:
            meter.record(client="c000", provider="openai", operation="chat",
                         request_model="gpt-4o", input_tokens=5, output_tokens=5,
                         occurred_at=last_month())  # fmt: skip
            assert meter.flush(timeout=DEADLINE_S)
        kill_while_closing(daemon, month, after)
        daemon.start()

        between = meterctl("invoice", "--all", month, "--format", "json")
        closed = meterctl("close", month, "--format", "json")
        verified = meterctl("verify")

    invoices = json.loads(closed.out)["invoices"]
    assert between.code == 1 or len(json.loads(between.out)["invoices"]) == CLIENTS
    assert [one["number"] for one in invoices] == [f"INV-{n:06d}" for n in range(1, CLIENTS + 1)]
    assert len({one["client"] for one in invoices}) == CLIENTS
    assert verified.code == 0, verified.out
    assert f"{CLIENTS} documents in one unbroken chain" in verified.out


def test_invoices_over_the_wire_are_files_that_open() -> None:
    """From a real meterd: a PDF once and the same the second time, HTML, csv, json."""
    month = f"{last_month():%Y-%m}"
    with start_daemon(config=TOML) as daemon:
        meterctl = Meterctl({"HOME": str(daemon.directory), "METERD_TARGET": daemon.target})
        assert meterctl("close", month).code == 0
        files = {}
        for form in ("pdf", "html", "csv", "json"):
            path = daemon.directory / f"invoice.{form}"
            run = meterctl("invoice", "c007", month, "--output", str(path))
            assert (run.code, run.err) == (0, "")
            files[form] = path.read_bytes()
        daemon.restart()
        path = daemon.directory / "again.pdf"
        meterctl("invoice", "--number", "INV-000008", "--output", str(path))
        again = path.read_bytes()
        wrong = meterctl("invoice", "c007", month, "--output", str(daemon.directory / "x.docx"))

    assert files["pdf"].startswith(b"%PDF-")
    assert again == files["pdf"]
    assert b"INV-000008" in files["html"]
    assert files["csv"].decode().splitlines()[-1].startswith("INV-000008,c007,")
    assert json.loads(files["json"])["total"] == "9.99"
    assert wrong.code == 2


def test_a_name_that_no_font_can_draw_costs_its_own_pdf_alone() -> None:
    """The others' are due as well; its HTML is there for whoever has the fonts."""
    month = f"{last_month():%Y-%m}"
    toml = TOML.partition("[clients.")[0] + "".join(
        f'[clients.{client}]\nname = "{name}"\nplan = "flat"\n'
        for client, name in (("a", "Acme"), ("b", "Party 🎉"), ("c", "Zeta"))
    )
    with start_daemon(config=toml) as daemon:
        meterctl = Meterctl({"HOME": str(daemon.directory), "METERD_TARGET": daemon.target})
        assert meterctl("close", month).code == 0
        target = daemon.directory / "invoices"
        target.mkdir()

        run = meterctl("invoice", "--all", month, "--output", str(target))

        names = sorted(path.name for path in target.iterdir())
        drawn = (target / "INV-000002.html").read_text(encoding="utf-8")

    assert names == ["INV-000001.pdf", "INV-000002.html", "INV-000003.pdf"]
    assert "Party 🎉" in drawn
    assert run.code == 1
    assert "INV-000002 of b is HTML: no shipped font can draw 🎉" in run.err
    assert run.lines == [f"3 files written to {target}."]
