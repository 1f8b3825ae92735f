"""Starting and ending: ready in one line, refused in one sentence, drained with 0."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias

import grpc
import pytest

from meterd_proto.v1 import admin_pb2, admin_pb2_grpc
from tests.deploy.asking import channel, rollup, ship, status, until, used
from tests.support.daemon import Daemon, start_daemon

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime.now(UTC)

_Bytes: TypeAlias = "grpc.UnaryUnaryMultiCallable[bytes, bytes]"
_Streams: TypeAlias = "grpc.StreamStreamMultiCallable[bytes, bytes]"


def refused(place: Path, *options: str, **environ: str) -> str:
    """What a meterd that can't start says, with its exit code 1 checked."""
    done = subprocess.run(
        [sys.executable, "-m", "meterd.main", *options],
        env={"PATH": os.environ["PATH"], "HOME": str(place), **environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_it_runs_with_no_option_at_all(place: Path) -> None:
    """The user's own socket and state directory; nothing to decide before the first record."""
    command = [sys.executable, "-m", "meterd.main"]
    environ = {"PATH": os.environ["PATH"], "HOME": str(place)}
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        state = place / ".local/state/meterd"
        assert f"is ready on unix:{state}/meterd.sock" in line
        assert stat.S_IMODE((state / "meterd.sock").stat().st_mode) == 0o600
        assert stat.S_IMODE((state / "data").stat().st_mode) == 0o700
        assert (state / "spool").is_dir()
        process.terminate()
        assert process.stderr.read() == ""
    assert process.returncode == 0
    assert not (state / "meterd.sock").exists()


def test_it_says_where_and_serves_health_and_reflection(place: Path) -> None:
    """Ready means SERVING: what an orchestrator asks and what `grpcurl` lists."""
    with start_daemon(place) as daemon, channel(daemon) as opened:
        check: _Bytes = opened.unary_unary("/grpc.health.v1.Health/Check")
        reflect: _Streams = opened.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        )

        serving = check(b"", timeout=20)
        service = check(b"\n\x16meterd.v1.UsageService", timeout=20)
        listed = b"".join(reflect(iter([b"\x3a\x01*"]), timeout=20))

        assert serving == service == b"\x08\x01"
        for name in (b"UsageService", b"QuotaService", b"RollupService", b"AdminService"):
            assert b"meterd.v1." + name in listed
        assert list(status(daemon).listening) == [daemon.target]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_it_drains_and_exits_with_0(place: Path, number: signal.Signals) -> None:
    """What was acknowledged is there again after the next start; a stream ends in good order."""
    with start_daemon(place) as daemon:
        ship(daemon, used("acme-corp", NOW))
        with channel(daemon) as opened:
            stub = admin_pb2_grpc.AdminServiceStub(opened)
            tail = stub.Tail(admin_pb2.TailRequest(), timeout=20)
            os.kill(daemon.pid, number)
            with pytest.raises(grpc.RpcError):
                next(iter(tail))

        assert daemon.wait() == 0
        assert "Traceback" not in daemon.stderr
        daemon.start()
        assert rollup(daemon)[""].tokens == 1_000


def test_it_runs_without_standard_files(place: Path) -> None:
    """As some supervisors start it: its sockets got their numbers, and its end was a crash."""
    target, environ = f"unix:{place / 'm.sock'}", {"PATH": os.environ["PATH"], "HOME": str(place)}
    command = [sys.executable, "-m", "meterd.main", "--data", str(place / "data"),
               "--listen", target, "--spool-root", str(place / "spool")]  # fmt: skip
    closed = ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "_", *command]
    with subprocess.Popen(closed, env=environ, start_new_session=True) as process:
        try:
            with grpc.insecure_channel(target) as opened:
                stub = admin_pb2_grpc.AdminServiceStub(opened)
                answer = stub.Status(admin_pb2.StatusRequest(), timeout=30, wait_for_ready=True)
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()

    assert list(answer.listening) == [target]


def test_a_daemon_that_was_killed_leaves_a_socket_that_the_next_one_takes(place: Path) -> None:
    """kill -9 cleans nothing up; the next start does."""
    with start_daemon(place) as daemon:
        daemon.kill()
        assert (place / "m.sock").exists()

        daemon.start()

        assert status(daemon).records == 0


def test_a_second_meterd_on_the_same_data_says_so(place: Path) -> None:
    """Two writers on one ledger would be worse than none."""
    with start_daemon(place) as daemon:
        said = refused(place, "--data", str(daemon.data), "--listen", f"unix:{place}/other.sock")

        assert said == f"meterd: another meterd already uses the data directory {daemon.data}\n"
        assert status(daemon).records == 0


def test_a_socket_in_use_is_left_alone(place: Path) -> None:
    """gRPC would unlink it, and the first daemon would serve nobody without knowing."""
    with start_daemon(place) as daemon:
        said = refused(place, "--data", str(place / "other"), "--listen", daemon.target)

        assert said == f"meterd: another meterd listens on {daemon.target} already\n"
        assert status(daemon).records == 0


def test_a_socket_of_another_program_is_left_alone(place: Path) -> None:
    """It has no lock beside it, but it answers."""
    path = place / "theirs.sock"
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
        theirs.listen()

        said = refused(place, "--listen", f"unix:{path}")

        assert said == f"meterd: something else listens on unix:{path} already\n"
        assert path.exists()


def test_a_file_in_a_sockets_place_is_not_removed(place: Path) -> None:
    """A wrong path must not cost a file."""
    (place / "notes").write_text("mine")

    said = refused(place, "--listen", f"unix:{place}/notes")

    assert said == f"meterd: {place}/notes is no socket; name another with --listen\n"
    assert (place / "notes").read_text() == "mine"


def test_a_port_in_use_says_so(place: Path) -> None:
    """With SO_REUSEPORT, gRPC's default, half of the apps would reach the other program."""
    with socket.create_server(("127.0.0.1", 0)) as theirs:
        port = theirs.getsockname()[1]

        said = refused(place, "--listen", f"127.0.0.1:{port}")

        assert said == f"meterd: can't listen on 127.0.0.1:{port}: the port is in use already\n"


def test_a_data_directory_that_cannot_be_written_says_so(place: Path) -> None:
    """A file is in its way: as root nothing else forbids writing."""
    (place / "file").write_text("")

    said = refused(place, "--data", str(place / "file" / "data"))

    assert said.startswith(f"meterd: the data directory {place}/file/data can't be written: ")
    assert said.count("\n") == 1


def test_a_group_that_is_not_there_says_so(place: Path) -> None:
    """Before anything is bound."""
    said = refused(place, "--group", "no-such-group")

    assert said == "meterd: there is no group 'no-such-group' on this machine (--group)\n"


def test_with_a_group_others_may_connect_and_spool(place: Path) -> None:
    """Two users, one machine: 0660 on the socket, 2770 on the spool root."""
    import grp

    group = grp.getgrgid(os.getgid()).gr_name
    with start_daemon(place, options=("--group", group)) as daemon:
        spool = daemon.spool_root.stat()

        assert stat.S_IMODE((place / "m.sock").stat().st_mode) == 0o660
        assert stat.S_IMODE(spool.st_mode) == 0o2770
        assert spool.st_gid == os.getgid()


def test_a_socket_that_somebody_removed_is_made_anew(place: Path) -> None:
    """Streams that are open go on; new apps, which would wait on disk, find it again."""
    with start_daemon(place) as daemon, channel(daemon) as before:
        admin_pb2_grpc.AdminServiceStub(before).Status(admin_pb2.StatusRequest(), timeout=20)

        (place / "m.sock").unlink()

        assert until(lambda: "was removed by somebody; made anew" in daemon.stderr)
        assert status(daemon).records == 0
        assert stat.S_IMODE((place / "m.sock").stat().st_mode) == 0o600
        stub = admin_pb2_grpc.AdminServiceStub(before)
        assert stub.Status(admin_pb2.StatusRequest(), timeout=20).records == 0
        assert daemon.stop() == 0
        assert not (place / "m.sock").exists()


def test_a_socket_that_goes_because_the_daemon_ends_is_not_made_anew(place: Path) -> None:
    """While open streams drain, a new server would take apps in, and nobody would end it."""
    code = (
        "import sys; from meterd import daemon, main; daemon.SOCKETS_LOOKED_AT_S = 0.001; "
        "sys.exit(main.main())"
    )
    options = ["--data", str(place / "data"), "--listen", f"unix:{place / 'm.sock'}",
               "--spool-root", str(place / "spool")]  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-c", code, *options],
        env={"PATH": os.environ["PATH"], "HOME": str(place)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert "is ready on" in process.stderr.readline()
        with grpc.insecure_channel(f"unix:{place / 'm.sock'}") as opened:
            stub = admin_pb2_grpc.AdminServiceStub(opened)
            stub.Status(admin_pb2.StatusRequest(), timeout=20)
            tail = stub.Tail(admin_pb2.TailRequest(), timeout=20)
            process.terminate()
            with pytest.raises(grpc.RpcError):
                next(iter(tail))
            assert process.stderr.read() == ""

    assert process.returncode == 0
    assert not (place / "m.sock").exists()


def test_a_directory_that_somebody_removed_is_made_anew(place: Path) -> None:
    """`/run` may be cleaned up under a running service."""
    listen = (f"unix:{place}/run/m.sock",)
    with start_daemon(place, listen=listen) as daemon:
        shutil.rmtree(place / "run")

        assert until(lambda: "was removed by somebody; made anew" in daemon.stderr)
        assert status(daemon).records == 0


def test_a_spool_root_that_cannot_be_made_keeps_nobody_from_metering(place: Path) -> None:
    """Said once; whatever comes over the socket is counted."""
    (place / "spool").write_text("in the way")
    with start_daemon(place) as daemon:
        ship(daemon, used("acme-corp", NOW))

        assert f"the spool root {daemon.spool_root} can't be made" in daemon.stderr
        assert rollup(daemon)[""].requests == 1


def test_a_refused_configuration_at_start_leaves_the_old_one_in_force(place: Path) -> None:
    """Metering goes on; stderr and `status` say what is wrong, with line and field."""
    good = '[agency]\nname = "Northwind"\n'
    with start_daemon(place, config=good) as daemon:
        daemon.stop()
        (place / "meterd.toml").write_text('[agency]\nname = "Other"\ncurrency = "usd"\n')

        daemon.start()

        found = status(daemon)
        assert (found.agency, found.config_version) == ("Northwind", 1)
        assert [(one.line, one.field) for one in found.config_refused] == [(3, "agency.currency")]
        assert "meterd.toml was refused; version 1 stays in force" in daemon.stderr
        assert "line 3: agency.currency: 'usd' is no currency" in daemon.stderr


def test_a_configuration_file_that_is_not_there_is_said_and_shown(place: Path) -> None:
    """A wrong path in a unit file must not stop the counting."""
    with start_daemon(place, config=place / "missing.toml") as daemon:
        (mistake,) = status(daemon).config_refused

        assert mistake.message == "can't be read: No such file or directory"


def test_the_same_configuration_again_is_no_new_version(place: Path) -> None:
    """Every start applies it; only a change is a version."""
    with start_daemon(place, config='[agency]\nname = "Northwind"\n') as daemon:
        daemon.restart()

        assert status(daemon).config_version == 1


def test_wrong_options_are_wrong_usage(place: Path) -> None:
    """Exit 2, one sentence, nothing made."""
    done = subprocess.run(
        [sys.executable, "-m", "meterd.main", "--listen", "0.0.0.0:7310"],
        env={"PATH": os.environ["PATH"], "HOME": str(place)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode == 2
    assert done.stderr.startswith("meterd: --listen is '0.0.0.0:7310', expected --tls-cert")
    assert not (place / ".local").exists()


def test_two_daemons_racing_for_one_directory_leave_one(place: Path) -> None:
    """Started at the same moment; the loser says why, the winner serves."""
    racers = [Daemon(place, listen=(f"unix:{place}/{name}.sock",)) for name in ("a", "b")]
    for racer in racers:
        racer.begin()

    codes = []
    for racer in racers:
        if "is ready on" not in _first_words(racer):
            codes.append(racer.wait())
            assert "another meterd already uses" in racer.stderr

    assert codes == [1]
    assert sorted(racer.stop() for racer in racers) == [0, 0]


def _first_words(daemon: Daemon) -> str:
    """The first line that a daemon says."""
    with daemon._changed:
        daemon._changed.wait_for(lambda: daemon._said, 30)
        return daemon._said[0]
