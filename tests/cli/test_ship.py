"""`meterctl ship`: what dead processes left reaches the daemon, once or for ever."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from typing import TYPE_CHECKING

import grpc

from meterd_proto.v1 import usage_pb2
from tests.cli.spooled import leave_records
from tests.cli.test_process import DEADLINE_S, METERCTL, environment

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.answering import Answers
    from tests.cli.running import Meterctl


def shipped_records(answers: Answers) -> int:
    return sum(
        len(request.batch.dimension)
        for request in answers.asked
        if isinstance(request, usage_pb2.ShipRequest)
    )


def test_what_a_dead_process_left_is_shipped_to_its_end(
    answers: Answers, meterctl: Meterctl, home: Path
) -> None:
    """Records and the calls that were open when it died; the second time nothing is left."""
    directory = leave_records(home / "spool", 12, open_calls=1)

    first = meterctl("ship", str(home / "spool"))
    second = meterctl("ship", str(home / "spool"))

    assert first.lines == [
        f"web@host-1  13 records, 1 interrupted call among them, finished  ({directory})"
    ]
    assert (first.code, second.code) == (0, 0)
    assert second.lines == [f"Nothing waits in {home / 'spool'}."]
    assert shipped_records(answers) == 13


def test_ship_as_json_is_one_object(answers: Answers, meterctl: Meterctl, home: Path) -> None:
    """A cron job can tell how much it was."""
    leave_records(home / "spool", 3)

    document = json.loads(meterctl("ship", str(home / "spool"), "--format", "json").out)

    assert document["schema"] == "meterd.ship/1"
    assert document["rows"][0]["producer"] == "web@host-1"
    assert document["rows"][0]["records"] == 3
    assert document["rows"][0]["finished"] is True


def test_a_daemon_that_goes_away_ends_with_3_and_loses_nothing(
    answers: Answers, meterctl: Meterctl, home: Path
) -> None:
    """What isn't finished is anybody's to adopt."""
    directory = leave_records(home / "spool", 3)
    answers.error = (grpc.StatusCode.UNAVAILABLE, "going down")

    result = meterctl("ship", str(home / "spool"))

    assert result.code == 3
    assert f"{directory} is not shipped to its end: UNAVAILABLE" in result.err
    assert not (directory / "finished").exists()


def test_a_daemon_that_refuses_ends_with_1(
    answers: Answers, meterctl: Meterctl, home: Path
) -> None:
    """A wrong access key is mended by somebody, not by waiting."""
    leave_records(home / "spool", 3)
    answers.error = (grpc.StatusCode.UNAUTHENTICATED, "no access key")

    result = meterctl("ship", str(home / "spool"))

    assert result.code == 1
    assert "not finished: UNAUTHENTICATED: no access key" in result.out


def test_a_root_that_isnt_there_is_wrong_usage(meterctl: Meterctl, home: Path) -> None:
    """A typing mistake must not read as "nothing waits"."""
    result = meterctl("ship", str(home / "spoool"))

    assert result.code == 2
    assert "expected a directory" in result.err


def test_watching_ships_what_comes_and_ends_at_sigterm(answers: Answers, home: Path) -> None:
    """As a container's first process does: with 0, and its locks let go."""
    is_shipped = threading.Event()

    def look() -> None:
        last = answers.asked[-1]
        if isinstance(last, usage_pb2.ShipRequest) and last.HasField("goodbye"):
            is_shipped.set()

    answers.until = look
    (home / "spool").mkdir()
    with subprocess.Popen(
        [*METERCTL, "ship", str(home / "spool"), "--watch"], env=environment(home), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        directory = leave_records(home / "spool", 5)
        assert is_shipped.wait(DEADLINE_S)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("web@host-1  5 records, finished")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=DEADLINE_S)

    assert (process.returncode, err) == (0, "")
    assert (directory / "finished").exists()


def test_watching_waits_for_a_daemon_that_is_away(meterctl: Meterctl, home: Path) -> None:
    """It says so once, not every two seconds."""
    leave_records(home / "spool", 5)
    meterctl.waits = 5

    result = meterctl("ship", str(home / "spool"), "--watch")

    assert result.code == 130
    assert result.err.count("no meterd answers") == 1
    assert "trying again every 2 s" in result.err
