"""`meterctl` against a real meterd that a real Meter ships to."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from meterd_middleware import Meter
from tests.cli.running import Meterctl
from tests.cli.test_process import DEADLINE_S, METERCTL
from tests.support.daemon import Daemon, start_daemon

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG = """\
[agency]
name = "Northwind Studio"
timezone = "America/New_York"

[plans.starter]
type = "retainer"
fee = "500"
included_tokens = "2M"
overage_per_million = "60"
limit = "hard"

[clients.acme-corp]
plan = "starter"
from = 2025-01-01
"""
CALLS = {"acme-corp": 5, "bigco-inc": 3}
KILLED_APP = """\
import os, signal, sys
from meterd_middleware import Meter
meter = Meter(target="unix:/nowhere.sock", spool=sys.argv[1], service="job")
for _ in range(7):
    meter.record(client="techstartup", provider="openai", operation="chat",
                 request_model="gpt-4o-mini", input_tokens=1000, output_tokens=100)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """A meterd that has eight calls of two clients, one of them of a model without a price."""
    with start_daemon(config=CONFIG) as started:
        with Meter(target=started.target, spool=started.spool_root, service="web") as meter:
            for client, calls in CALLS.items():
                for _ in range(calls):
                    record(meter, client, "gpt-4o-mini")
            record(meter, "bigco-inc", "gpt-99-unheard-of")
            assert meter.flush(timeout=DEADLINE_S)
        yield started


@pytest.fixture
def meterctl(daemon: Daemon) -> Meterctl:
    return as_user_of(daemon)


def as_user_of(daemon: Daemon) -> Meterctl:
    return Meterctl(
        {
            "HOME": str(daemon.directory),
            "METERD_TARGET": daemon.target,
            "METERD_SPOOL": str(daemon.spool_root),
        }
    )


def record(meter: Meter, client: str, model: str) -> None:
    meter.record(
        client=client, project="chat", provider="openai", operation="chat",
        request_model=model, input_tokens=1_000, output_tokens=100,
    )  # fmt: skip


def test_the_rollup_is_what_was_recorded(meterctl: Meterctl) -> None:
    """To the token, and to the last digit of the cost."""
    document = json.loads(meterctl("rollup", "--format", "json").out)

    rows = {row["client"]: row for row in document["rows"]}
    assert {client: rows[client]["requests"] for client in CALLS} == {
        "acme-corp": 5,
        "bigco-inc": 4,
    }
    assert document["total"]["tokens"] == 9 * 1_100
    assert document["total"]["unpriced_requests"] == 1
    # gpt-4o-mini: 0.15 and 0.60 dollars a million.
    assert Decimal(rows["acme-corp"]["cost"]) == 5 * (Decimal("0.00015") + Decimal("0.00006"))
    assert document["timezone"] == "America/New_York"


def test_every_way_to_look_at_a_month_has_the_same_total(meterctl: Meterctl) -> None:
    """By client, project, model, day, or all at once."""
    totals = [
        json.loads(meterctl("rollup", "--by", by, "--format", "json").out)
        for by in ("client", "project", "model", "day", "client,project,model,day")
    ]

    assert all(document["total"] == totals[0]["total"] for document in totals)
    for document in totals:
        costs = [Decimal(row["cost"]) for row in document["rows"]]
        assert sum(costs) == Decimal(document["total"]["cost"])


def test_the_rows_behind_a_figure_add_up_to_it(meterctl: Meterctl) -> None:
    """What a client who doubts the bill is shown."""
    period = json.loads(meterctl("rollup", "--client", "acme-corp", "--format", "json").out)
    first, last = period["start"][:10], period["end"][:10]

    shown = meterctl(
        "records", "--client", "acme-corp", "--from", first, "--to", last, "--format", "json"
    )

    rows = json.loads(shown.out)["rows"]
    assert len(rows) == 5
    assert sum(Decimal(row["cost"]) for row in rows) == Decimal(period["total"]["cost"])
    assert {row["producer"].partition("@")[0] for row in rows} == {"web"}


def test_quota_and_grant_count_the_same_tokens(meterctl: Meterctl) -> None:
    """A grant raises the limit at once."""
    before = json.loads(meterctl("quota", "acme-corp", "--format", "json").out)["quotas"][0]
    granted = meterctl("grant", "acme-corp", "500k", "--why", "launch", "--who", "ann")
    after = json.loads(meterctl("quota", "acme-corp", "--format", "json").out)["quotas"][0]

    assert before["used"] == 5 * 1_100
    assert before["mode"] == "hard"
    assert granted.code == 0
    assert after["limit"] == before["limit"] + 500_000


def test_status_names_the_producer_and_what_has_no_price(meterctl: Meterctl) -> None:
    """Both as a person would look for them."""
    out = meterctl("status").out

    assert "web@" in out
    assert "gpt-99-unheard-of" in out
    assert "Northwind Studio" in out


def test_doctor_finds_the_model_without_a_price_and_nothing_else(meterctl: Meterctl) -> None:
    """Everything else is well: target, storage, proof, spool."""
    result = meterctl("doctor", "--format", "json")

    document = json.loads(result.out)
    problems = [one["message"] for one in document["findings"] if one["level"] == "problem"]
    assert result.code == 1
    assert len(problems) == 1
    assert "gpt-99-unheard-of of openai has no price" in problems[0]
    assert any(
        one["check"] == "ledger" and "agree" in one["message"] for one in document["findings"]
    )


def test_the_ledger_is_proved(meterctl: Meterctl) -> None:
    """Recomputed, not believed."""
    result = meterctl("verify")

    assert result.code == 0
    assert "Ledger and rollups agree" in result.out


def test_a_backup_is_a_database(meterctl: Meterctl, tmp_path: Path) -> None:
    """One that SQLite finds whole."""
    target = tmp_path / "ledger.db"

    result = meterctl("backup", str(target))

    assert result.code == 0
    with closing(sqlite3.connect(target)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_configuration_with_mistakes_changes_nothing(meterctl: Meterctl, tmp_path: Path) -> None:
    """Each with its line; the version in force stays."""
    file = tmp_path / "meterd.toml"
    file.write_text(CONFIG.replace('"500"', '"five"').replace('"hard"', '"brick"'))
    before = json.loads(meterctl("status", "--format", "json").out)["config"]["version"]

    result = meterctl("apply", str(file))

    assert result.code == 1
    assert f"{file}:7: plans.starter.fee" in result.err
    assert f"{file}:10: plans.starter.limit" in result.err
    assert json.loads(meterctl("status", "--format", "json").out)["config"]["version"] == before


def test_a_dry_run_shows_what_would_change(meterctl: Meterctl, tmp_path: Path) -> None:
    """And nothing else."""
    file = tmp_path / "meterd.toml"
    file.write_text(CONFIG.replace('fee = "500"', 'fee = "600"'))

    result = meterctl("apply", str(file), "--dry-run")

    assert [line.split() for line in result.lines[1:2]] == [["plans.starter.fee", "500", "600"]]
    assert result.code == 0


def test_a_client_that_is_listed_isnt_forgotten(meterctl: Meterctl) -> None:
    """The next `apply` would bring the name back."""
    assert "take it out and apply first" in meterctl("forget", "acme-corp").err


def test_tail_shows_a_call_as_it_is_committed(daemon: Daemon) -> None:
    """Without waiting for a buffer to fill."""
    with subprocess.Popen(
        [*METERCTL, "tail", "--client", "tail-test", "--format", "json"],
        env={**os.environ, **as_user_of(daemon).environ},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        with Meter(target=daemon.target, spool=daemon.spool_root, service="web") as meter:
            line = ""
            # Until the tail is connected nothing is shown of what was recorded before.
            for _ in range(100):
                record(meter, "tail-test", "gpt-4o-mini")
                assert meter.flush(timeout=DEADLINE_S)
                if _is_readable(process.stdout.fileno()):
                    line = process.stdout.readline()
                    break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=DEADLINE_S)

    document = json.loads(line)
    assert (document["client"], document["input_tokens"]) == ("tail-test", 1_000)
    assert Decimal(document["cost"]) == Decimal("0.00021")
    assert (process.returncode, err) == (130, "")


def _is_readable(descriptor: int) -> bool:
    import select

    return bool(select.select([descriptor], [], [], 0.1)[0])


def test_what_a_killed_process_left_is_shipped_from_another_root(tmp_path: Path) -> None:
    """`ship` is for the host where no daemon sweeps; the second time there is nothing left."""
    spool = tmp_path / "elsewhere"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_APP, str(spool)], check=False, timeout=DEADLINE_S
    )
    assert killed.returncode == -signal.SIGKILL
    with start_daemon() as daemon:
        meterctl = as_user_of(daemon)

        first, second = meterctl("ship", str(spool)), meterctl("ship", str(spool))
        rollup = json.loads(meterctl("rollup", "--format", "json").out)

    assert first.code == 0
    assert "7 records, finished" in first.out
    assert second.lines == [f"Nothing waits in {spool}."]
    assert rollup["total"]["tokens"] == 7 * 1_100


def test_over_tcp_an_access_key_reaches_as_far_as_its_scope(tmp_path: Path) -> None:
    """Made by `access-key`, put in force by `apply` over the unix socket."""
    local = f"unix:{tmp_path}/m.sock"
    if len(local) > 100:
        pytest.skip("the temporary directory's path is too long for a socket")
    with start_daemon(listen=("127.0.0.1:0",), options=("--listen", local)) as daemon:
        meterctl = as_user_of(daemon)
        made = {
            scope: json.loads(
                meterctl("access-key", scope, "--scope", scope, "--format", "json").out
            )
            for scope in ("ship", "read")
        }
        config = tmp_path / "meterd.toml"
        config.write_text(CONFIG + "\n" + "\n".join(key["config"] for key in made.values()) + "\n")
        applied = meterctl("apply", str(config), "--target", local)
        status = json.loads(meterctl("status", "--target", local, "--format", "json").out)
        meterctl.environ["METERD_TARGET"] = next(
            address for address in status["listening"] if "unix" not in address
        )

        without = meterctl("rollup")
        meterctl.environ["METERD_ACCESS_KEY"] = made["ship"]["access_key"]
        too_short = meterctl("rollup")
        meterctl.environ["METERD_ACCESS_KEY"] = made["read"]["access_key"]
        enough, too_far = meterctl("rollup"), meterctl("apply", str(config))

    assert applied.code == 0, applied.err
    assert (without.code, too_short.code, enough.code, too_far.code) == (1, 1, 0, 1)
    assert "set METERD_ACCESS_KEY" in without.err
    assert "has the scope ship; this needs read" in too_short.err
    assert "has the scope read; this needs admin" in too_far.err


def test_a_daemon_that_was_killed_is_unavailable() -> None:
    """3, and the sentence says that nobody listens at the socket it left."""
    with start_daemon() as daemon:
        daemon.kill()

        result = as_user_of(daemon)("rollup")

    assert result.code == 3
    assert "nobody listens" in result.err
