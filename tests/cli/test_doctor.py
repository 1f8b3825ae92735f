"""`meterctl doctor`: why is nothing arriving? Each cause gets a sentence and what to do."""

from __future__ import annotations

import fcntl
import json
import os
from typing import TYPE_CHECKING

import grpc
import pytest

from meterd.cli import spool_findings
from meterd.cli.daemon_findings import daemon_findings
from meterd.cli.findings import Level
from meterd.cli.spools import SpoolRoot
from meterd_middleware.directory import Counters, SegmentName
from meterd_proto.v1 import admin_pb2
from tests.cli.answering import Answers, serve_on_a_port
from tests.cli.running import NOW
from tests.cli.spooled import HOUR_AGO, leave_records
from tests.cli.test_status import MINUTE_NS, a_status

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.running import Meterctl


@pytest.fixture
def spool(home: Path) -> Path:
    root = home / ".local/state/meterd/spool"
    root.mkdir(parents=True)
    return root


def healthy(answers: Answers, spool: Path) -> None:
    answers.status = a_status()
    answers.status.spool_roots = str(spool)
    answers.verify = [admin_pb2.VerifyProgress(checked=10, total=10, is_done=True)]


def problems(meterctl: Meterctl) -> list[str]:
    document = json.loads(meterctl("doctor", "--format", "json").out)
    return [
        f"{one['message']} → {one['advice']}"
        for one in document["findings"]
        if one["level"] == "problem"
    ]


def test_where_all_is_well_it_says_what_it_looked_at(
    answers: Answers, meterctl: Meterctl, spool: Path
) -> None:
    """Target, storage, producers, proof and spool; exit code 0."""
    healthy(answers, spool)

    result = meterctl("doctor")

    assert result.code == 0
    assert "a meterd answers at unix:" in result.out
    assert "1 producer connected: web@host-1" in result.out
    assert "ledger and rollups of 2026-11 agree: 10 records checked" in result.out
    assert f"the spool root {spool} can be written" in result.out
    assert result.lines[-1].startswith("Nothing is wrong")
    assert admin_pb2.VerifyRequest(period="2026-11") in answers.asked


def test_no_daemon_is_told_with_each_place_that_was_tried(meterctl: Meterctl, home: Path) -> None:
    """And why: a file that isn't there, or one that a dead daemon left."""
    socket = home / ".local/state/meterd/meterd.sock"
    result = meterctl("doctor")

    assert result.code == 1
    assert f"unix:{socket}: no such file" in result.out
    assert "start `meterd`" in result.out


def test_a_socket_of_a_dead_daemon_is_told_apart(meterctl: Meterctl, home: Path) -> None:
    """It looks alive in a listing."""
    import socket

    path = home / ".local/state/meterd/meterd.sock"
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))

    assert "nobody listens: a daemon that died left the file" in meterctl("doctor").out


def test_a_daemon_that_answers_with_an_error_is_a_finding(
    answers: Answers, meterctl: Meterctl, spool: Path
) -> None:
    """The spool is looked at all the same."""
    healthy(answers, spool)
    answers.error = (grpc.StatusCode.UNAUTHENTICATED, "no access key")

    found = problems(meterctl)

    assert len(found) == 1
    assert "wants an access key that it knows" in found[0]


def test_records_of_a_dead_process_are_found(
    answers: Answers, meterctl: Meterctl, spool: Path
) -> None:
    """Whose they are, how many, since when, and what ships them."""
    healthy(answers, spool)
    answers.status.spool_roots = "/var/spool/other"
    answers.status.producers[0].producer = "cd" * 16
    directory = leave_records(spool, 12, acknowledged=2)

    found = problems(meterctl)

    assert found == [
        f"10 records wait in {directory}, the newest written 1 h ago, left by web@host-1 "
        f"(pid 41) that has ended → start meterd with --spool-root {spool}, or run "
        f"`meterctl ship {spool}`"
    ]


def test_records_that_the_ledger_has_dont_wait(
    answers: Answers, meterctl: Meterctl, spool: Path
) -> None:
    """The watermark of the daemon counts where the file in the spool is older."""
    healthy(answers, spool)
    directory = leave_records(spool, 1_000)
    with (directory / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        assert problems(meterctl) == []


def test_calls_that_a_dead_process_left_open_are_told(
    answers: Answers, meterctl: Meterctl, spool: Path
) -> None:
    """Its records are in the ledger; what it had sent and not settled isn't."""
    healthy(answers, spool)
    leave_records(spool, 5, acknowledged=5)

    found = problems(meterctl)

    assert len(found) == 1
    assert "waits to be adopted for 1 h: calls that were open" in found[0]


def test_a_living_process_that_isnt_connected_is_found(
    answers: Answers, meterctl: Meterctl, spool: Path
) -> None:
    """Its lock is held, and this daemon doesn't know it: it ships elsewhere, or can't."""
    healthy(answers, spool)
    del answers.status.producers[0]
    answers.status.producers.add(name="other@host-1", is_connected=True, last_seen_unix_ns=NOW)
    directory = leave_records(spool, 3)
    with (directory / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        found = problems(meterctl)

    assert len(found) == 1
    assert "web@host-1 (pid 41) lives and is not connected to this meterd" in found[0]
    assert "METERD_TARGET" in found[0]


def test_a_daemon_on_another_machine_sweeps_no_spool_of_ours(
    meterctl: Meterctl, spool: Path
) -> None:
    """Its roots are paths over there, even if one is called as ours."""
    answers = Answers()
    healthy(answers, spool)
    server, port = serve_on_a_port(answers)
    leave_records(spool, 3)
    answers.status.producers[0].watermark = 1
    meterctl.environ["METERD_TARGET"] = f"127.0.0.1:{port}"

    found = problems(meterctl)

    server.stop(None).wait()
    assert len(found) == 1
    assert f"2 records wait in {spool}" in found[0]
    assert f"`meterctl ship {spool}`" in found[0]


def test_a_look_doesnt_keep_the_lock(answers: Answers, meterctl: Meterctl, spool: Path) -> None:
    """An adopter must find it free."""
    healthy(answers, spool)
    directory = leave_records(spool, 1)

    meterctl("doctor")

    with (directory / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_torn_segment_is_read_as_far_as_it_goes(
    answers: Answers, meterctl: Meterctl, spool: Path
) -> None:
    """A doctor that dies of a wound is of no use."""
    healthy(answers, spool)
    answers.status.producers[0].watermark = 0
    directory = leave_records(spool, 12)
    segment = directory / str(SegmentName(1))
    segment.write_bytes(b"garbage" + segment.read_bytes()[:-3])
    os.utime(segment, ns=(HOUR_AGO, HOUR_AGO))

    found = problems(meterctl)

    assert [one[:15] for one in found] == ["11 records wait"]


def test_segments_set_aside_and_refused_records_are_found(
    answers: Answers, meterctl: Meterctl, spool: Path
) -> None:
    """Neither is in any figure."""
    healthy(answers, spool)
    answers.status.producers[0].producer = "cd" * 16
    directory = leave_records(spool, 5, acknowledged=5)
    (directory / "00000000000000000001.segment.refused").touch()
    # The daemon sees the same file: one finding, not two.
    answers.status.refused_segments.append(f"{directory}/00000000000000000001.segment.refused")
    (directory / "counters").write_bytes(Counters(refused_records=7, refused_tokens=9_000).pack())

    found = problems(meterctl)

    assert sum("1.segment.refused was set aside" in one for one in found) == 1
    assert any("refused 7 records, 9k tokens" in one for one in found)


@pytest.mark.skipif(os.getuid() == 0, reason="root may look into every directory")
def test_what_is_closed_to_this_user_is_said(
    answers: Answers, meterctl: Meterctl, spool: Path
) -> None:
    """Rather than passed over, as if nothing were there."""
    healthy(answers, spool)
    directory = leave_records(spool, 5)
    directory.chmod(0)

    out = meterctl("doctor").out

    directory.chmod(0o700)
    assert "closed to this user" in out


@pytest.mark.parametrize(
    ("file_system", "sentence"),
    [("overlay", "lost with the container"), ("tmpfs", "lost with"), ("nfs4", "network file")],
)
def test_a_file_system_that_doesnt_keep_records_is_named(
    file_system: str, sentence: str, tmp_path: Path
) -> None:
    """A spool inside a container's own layer dies with it."""
    root = SpoolRoot(tmp_path, True, True, file_system, 1 << 40)
    around = spool_findings.Surroundings(None, NOW, 1 << 28)

    found = list(spool_findings.root_findings(root, around))

    assert found[0].level is Level.WARNING
    assert sentence in found[0].message
    assert f"on {file_system}" in found[0].message


def test_a_full_disk_is_told_before_records_are_refused(tmp_path: Path) -> None:
    """The spool refuses below its limit of free space."""
    root = SpoolRoot(tmp_path, True, True, "ext4", 1 << 20)
    around = spool_findings.Surroundings(None, NOW, 256 << 20)

    found = list(spool_findings.root_findings(root, around))

    assert found[0].level is Level.PROBLEM
    assert "only 1.0 MiB are free" in found[0].message
    assert "at least 256.0 MiB" in found[0].advice


def _storage(status: admin_pb2.StatusResponse) -> None:
    status.storage_fault = "no space left on device"


def _refused_config(status: admin_pb2.StatusResponse) -> None:
    status.config_refused.add(line=4, field="plans.x", message="is no plan")


def _quarantine(status: admin_pb2.StatusResponse) -> None:
    status.quarantined_records = 3
    status.quarantine.add(producer="web@host", reason="schema 7")


def _loss(status: admin_pb2.StatusResponse) -> None:
    status.losses.add(
        producer="web@host", first_sequence=3, last_sequence=5, reason="9 corrupt bytes",
        declared_at_unix_ns=NOW - MINUTE_NS,
    )  # fmt: skip


def _late(status: admin_pb2.StatusResponse) -> None:
    status.late_clients.add(client="acme-corp", records=12, tokens=48_000)


def _unpriced(status: admin_pb2.StatusResponse) -> None:
    status.unpriced_models.add(provider="openai", model="gpt-9", requests=3, tokens=1_500)


def _untagged(status: admin_pb2.StatusResponse) -> None:
    status.producers[0].report.untagged.add(place="app/jobs.py:41", calls=7)


def _fault(status: admin_pb2.StatusResponse) -> None:
    status.producers[0].report.faults.add(kind="reader", count=2, last_message="KeyError: 'usage'")


def _spool_refusal(status: admin_pb2.StatusResponse) -> None:
    status.producers[0].report.refused_records = 7
    status.producers[0].report.refused_tokens = 9_000


def _skew(status: admin_pb2.StatusResponse) -> None:
    status.producers[0].skew_ms = -24 * 3_600_000


def _silent(status: admin_pb2.StatusResponse) -> None:
    status.producers[0].is_connected = False
    status.producers[0].last_seen_unix_ns = NOW - 90 * MINUTE_NS


def _nobody(status: admin_pb2.StatusResponse) -> None:
    del status.producers[:]


@pytest.mark.parametrize(
    ("spoil", "message", "advice"),
    [
        (_storage, "can't store anything now: no space left on device", "room"),
        (_refused_config, "line 4: plans.x: is no plan", "meterctl apply FILE"),
        (_quarantine, "3 records in quarantine, not counted: schema 7 (1)", "upgrade meterd"),
        (_loss, "3 records of web@host (3 to 5) were declared lost", "provider's bill"),
        (_late, "12 records of acme-corp", "meterctl accept --late acme-corp"),
        (_unpriced, "gpt-9 of openai has no price: 3 requests, 1.5k tokens", "meterd.toml"),
        (_untagged, "no client for 7 calls of the last 24 h: app/jobs.py:41", "tagged("),
        (_fault, "2 faults of kind reader in web@host-1", "log"),
        (_spool_refusal, "refused 7 records, 9k tokens", "make room"),
        (_skew, "is 1 d ahead of this machine's", "NTP"),
        (_silent, "was heard of 1 h ago and never said goodbye: 12 records", "METERD_TARGET"),
        (_nobody, "no app has ever connected", "instrument(client, meter=Meter())"),
    ],
)
def test_each_fault_in_a_status_has_one_sentence_and_what_to_do(
    spoil: Callable[[admin_pb2.StatusResponse], None], message: str, advice: str
) -> None:
    """One planted fault, one problem."""
    status = a_status()
    spoil(status)

    found = [one for one in daemon_findings(status) if one.level is Level.PROBLEM]

    assert len(found) == 1
    assert message in found[0].message
    assert advice in found[0].advice


def test_apps_that_ended_in_good_order_are_no_cause_for_a_warning() -> None:
    """A nightly job is finished most of the day."""
    status = a_status()
    for producer in status.producers:
        producer.is_connected, producer.is_finished = False, True

    found = [one for one in daemon_findings(status) if one.check == "producers"]

    assert [one.level for one in found] == [Level.OK]
    assert found[0].message.startswith("no app runs now; the last ended in good order")


def test_a_command_to_paste_runs_nothing_that_a_client_id_says() -> None:
    """Ids come from request headers."""
    status = a_status()
    status.late_clients.add(client="$(reboot); x", records=1, tokens=1)

    advice = [one.advice for one in daemon_findings(status) if one.check == "late"]

    assert advice == ["`meterctl accept --late '$(reboot); x'` counts them"]


def test_what_an_old_process_reported_is_history() -> None:
    """An app that was mended since would else be accused for ever."""
    status = a_status()
    _untagged(status)
    status.producers[0].is_connected = False
    status.producers[0].is_finished = True
    status.producers[0].last_seen_unix_ns = NOW - 25 * 60 * MINUTE_NS

    assert all(one.level is not Level.PROBLEM for one in daemon_findings(status))


def test_a_difference_between_ledger_and_rollups_is_a_problem(
    answers: Answers, meterctl: Meterctl, spool: Path
) -> None:
    """The proof is made, not assumed."""
    healthy(answers, spool)
    answers.verify[0].differences.append("acme-corp 2026-11: ledger 10, rollup 11 tokens")

    assert any("ledger and rollups differ: acme-corp 2026-11" in one for one in problems(meterctl))


def test_metering_that_is_switched_off_is_the_first_thing_told(
    answers: Answers, meterctl: Meterctl, spool: Path
) -> None:
    """Nothing arrives, and nothing else is wrong."""
    healthy(answers, spool)
    meterctl.environ["METERD_DISABLED"] = "1"

    assert "METERD_DISABLED is set" in problems(meterctl)[0]
