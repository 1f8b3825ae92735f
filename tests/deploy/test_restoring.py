"""A backup of a live daemon is put back, or the ledger is another: what becomes of what came since.

What the spools still keep is filled in again, what nobody has is declared lost with its
range, and no producer is ever blocked.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from meterd_proto.v1 import admin_pb2, admin_pb2_grpc
from tests.deploy.apps import App, run_app
from tests.deploy.asking import WITHIN_S, channel, rollup, status, until
from tests.support.daemon import Daemon, start_daemon

if TYPE_CHECKING:
    from pathlib import Path


def back_up(daemon: Daemon, file: Path) -> None:
    """What `meterctl backup FILE` does."""
    with channel(daemon) as opened, file.open("wb") as target:
        stub = admin_pb2_grpc.AdminServiceStub(opened)
        for chunk in stub.Backup(admin_pb2.BackupRequest(), timeout=WITHIN_S):
            target.write(chunk.data)


def differences(daemon: Daemon) -> list[str]:
    """What `meterctl verify` finds."""
    found: list[str] = []
    with channel(daemon) as opened:
        stub = admin_pb2_grpc.AdminServiceStub(opened)
        for step in stub.Verify(admin_pb2.VerifyRequest(), timeout=WITHIN_S):
            found = list(step.differences)
    return found


def is_all_there(daemon: Daemon, **requests: int) -> bool:
    """Whether each client has so many requests."""
    by_client = rollup(daemon)
    return all(
        client in by_client and by_client[client].requests == count
        for client, count in requests.items()
    )


def test_what_came_since_a_backup_is_filled_in_again_when_it_is_restored(place: Path) -> None:
    """By the daemon alone, from directories that were adopted and finished before the backup
    was put back."""
    with start_daemon(place) as daemon:
        run_app(daemon, "before", 5)
        assert until(lambda: is_all_there(daemon, before=5))
        back_up(daemon, place / "backup.db")
        run_app(daemon, "after", 4)
        assert until(lambda: is_all_there(daemon, before=5, after=4))
        assert until(lambda: all(one.is_finished for one in status(daemon).producers))

        daemon.kill()  # its write-ahead log stays behind: it must not be played over the copy
        (place / "backup.db").replace(daemon.data / "ledger.db")
        daemon.start()

        assert until(lambda: is_all_there(daemon, before=5, after=4))
        assert (daemon.data / "ledger.db-wal.of-former").exists()
        assert status(daemon).lost_records == 0
        assert differences(daemon) == []


def test_a_living_producer_fills_a_restored_ledger_again(place: Path) -> None:
    """From what it keeps, and goes on."""
    with start_daemon(place) as daemon, App(daemon, "living") as living:
        living.record(3)
        assert living.flush()
        back_up(daemon, place / "backup.db")
        living.record(2)
        assert living.flush()

        daemon.kill()
        (place / "backup.db").replace(daemon.data / "ledger.db")
        daemon.start()
        living.record(1)

        assert living.flush()
        assert is_all_there(daemon, living=6)
        assert status(daemon).lost_records == 0
        assert differences(daemon) == []


def test_what_nobody_keeps_any_more_is_declared_lost_with_its_range(place: Path) -> None:
    """Never silently; and what comes after it is counted."""
    with start_daemon(place) as daemon:
        back_up(daemon, place / "backup.db")
        with App(daemon, "kept") as kept:
            kept.record(3)
            assert kept.flush()
            (directory,) = daemon.spool_root.iterdir()
            daemon.kill()
            (place / "backup.db").replace(daemon.data / "ledger.db")
            for segment in directory.glob("*.segment"):
                segment.unlink()
            daemon.start()

            assert until(lambda: status(daemon).lost_records > 0)
        (lost,) = status(daemon).losses
        assert (lost.first_sequence, lost.last_sequence) == (1, 3)
        assert lost.producer.startswith("kept@")
        assert lost.reason == "acknowledged before, and no longer kept"
        assert differences(daemon) == []


def test_a_deleted_data_directory_blocks_no_producer(place: Path) -> None:
    """It begins anew with another ledger id; what the former had is declared, not counted twice."""
    with start_daemon(place) as daemon, App(daemon, "living") as living:
        living.record(3)
        assert living.flush()

        daemon.kill()
        shutil.rmtree(daemon.data)
        run_app(daemon, "waiting", 4)
        daemon.start()
        living.record(2)

        assert living.flush()
        assert until(lambda: is_all_there(daemon, living=2, waiting=4))
        (lost,) = status(daemon).losses
        assert (lost.first_sequence, lost.last_sequence) == (1, 3)
        assert lost.reason.startswith("acknowledged by another ledger, ")
        assert differences(daemon) == []


def test_a_data_directory_deleted_under_a_running_daemon_blocks_no_producer(place: Path) -> None:
    """It notices before it acknowledges anything that nobody could ever read."""
    with start_daemon(place) as daemon, App(daemon, "living") as living:
        living.record(3)
        assert living.flush()

        shutil.rmtree(daemon.data)
        living.record(2)

        assert living.flush()
        assert is_all_there(daemon, living=2)


def test_another_daemons_target_takes_what_no_ledger_has(place: Path) -> None:
    """An app is pointed at another meterd: from its oldest unacknowledged record on."""
    with start_daemon(place) as daemon, App(daemon, "moved") as moved:
        moved.record(3)
        assert moved.flush()
        daemon.kill()
        moved.record(2)
        other = Daemon(place, options=("--data", str(place / "other")))
        try:
            other.start()

            assert moved.flush()
            assert is_all_there(other, moved=2)
        finally:
            other.stop()
        daemon.start()
        moved.record(1)

        assert moved.flush()
        assert is_all_there(daemon, moved=4)  # its own three, and the newest; two are elsewhere
