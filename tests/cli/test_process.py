"""`meterctl` as a process: exit codes, closed pipes, Ctrl-C, terminals, what it imports."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc
import pytest

from meterd.cli.client import sentence_of
from meterd.cli.commands import COMMANDS
from meterd.cli.targets import parse
from tests.cli.test_rollup import EXPORT, client, rollup

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.answering import Answers
    from tests.cli.running import Meterctl

METERCTL = [sys.executable, "-m", "meterd.cli.main"]
DEADLINE_S = 30


def environment(home: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH") if name in os.environ}
    return {**kept, "HOME": str(home)}


def meterctl_process(
    home: Path, *arguments: str, **streams: int
) -> subprocess.CompletedProcess[str]:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.run(
        [*METERCTL, *arguments], env=environment(home), text=True, check=False,
        timeout=DEADLINE_S, stdout=streams["stdout"], stderr=streams["stderr"],
    )  # fmt: skip


def test_a_process_prints_the_export(answers: Answers, home: Path) -> None:
    """From the command line to the socket and back."""
    answers.rollup = EXPORT

    done = meterctl_process(home, "rollup", "2025-11")

    assert done.returncode == 0
    assert done.stdout.splitlines()[1] == "bigco-inc       45,890    12.7M   $31.42"
    assert done.stderr == ""


def test_no_daemon_ends_with_3(home: Path) -> None:
    """One sentence that names what was tried."""
    done = meterctl_process(home, "rollup")

    assert done.returncode == 3
    assert done.stderr.startswith("meterctl rollup: no meterd answers at unix:")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("status", "code", "sentence"),
    [
        (grpc.StatusCode.UNAVAILABLE, 3, "is unavailable: the reason"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 3, "didn't answer in time"),
        (grpc.StatusCode.INVALID_ARGUMENT, 1, "the reason"),
        (grpc.StatusCode.NOT_FOUND, 1, "the reason"),
        (grpc.StatusCode.FAILED_PRECONDITION, 1, "the reason"),
        (grpc.StatusCode.PERMISSION_DENIED, 1, "the reason"),
        (grpc.StatusCode.UNAUTHENTICATED, 1, "set METERD_ACCESS_KEY"),
        (grpc.StatusCode.UNIMPLEMENTED, 1, "upgrade it"),
        (grpc.StatusCode.INTERNAL, 1, "the reason"),
    ],
)
def test_each_status_of_the_daemon_has_an_exit_code(
    answers: Answers, meterctl: Meterctl, status: grpc.StatusCode, code: int, sentence: str
) -> None:
    """What to change something for is 1, what to try again is 3."""
    answers.error = (status, "the reason")

    result = meterctl("rollup")

    assert result.code == code
    assert sentence in result.err
    assert result.err.count("\n") == 1
    assert "Traceback" not in result.err


def test_a_closed_stdout_takes_nothing_and_is_no_error(answers: Answers, home: Path) -> None:
    """As a shell's `>&-` leaves it: Python has no stream then."""
    answers.rollup = EXPORT

    done = subprocess.run(
        ["bash", "-c", '"$@" >&-', "_", *METERCTL, "rollup"],
        env=environment(home), capture_output=True, text=True, check=False, timeout=DEADLINE_S,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")


def test_a_certificate_that_has_expired_is_told_without_the_librarys_words() -> None:
    """As gRPC 1.85 says it; the rest of its sentence is file names and line numbers."""
    said = sentence_of(
        grpc.StatusCode.UNAVAILABLE,
        "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:7391: Tls "
        "handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1000007d:SSL routines:"
        "OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: certificate has expired: OK",
        parse("meterd.internal:7391", "--target"),
    )

    assert str(said) == (
        "the certificate of the daemon at meterd.internal:7391 isn't accepted: certificate has "
        "expired; METERD_TLS_CA names the authority that has to have signed it"
    )


def test_a_reader_that_leaves_ends_it_quietly(answers: Answers, home: Path) -> None:
    """As `| head -1` does; 141 is what a shell expects of it."""
    rows = [client(f"client-{number}", 1, 1, "1") for number in range(3_000)]
    answers.rollup = rollup(*rows, total={"cost": "3000"})

    done = subprocess.run(
        ["bash", "-c", '"$@" | head -1; echo ${PIPESTATUS[0]}', "_", *METERCTL, "rollup"],
        env=environment(home), capture_output=True, text=True, check=False, timeout=DEADLINE_S,
    )  # fmt: skip

    assert done.stdout.splitlines()[0].startswith("CLIENT")
    assert done.stdout.splitlines()[1] == "141"
    # On a busy machine it takes longer than a second, and says how far it is.
    assert [line for line in done.stderr.splitlines() if not line.startswith("reading")] == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_a_full_disk_is_an_error_and_no_traceback(answers: Answers, home: Path) -> None:
    """An export that isn't whole must not end with 0."""
    answers.rollup = EXPORT
    full = os.open("/dev/full", os.O_WRONLY)

    done = meterctl_process(home, "rollup", stdout=full)

    os.close(full)
    assert done.returncode == 1
    assert done.stderr == "meterctl rollup: No space left on device\n"


@pytest.mark.parametrize("command", ["tail", "rollup", "verify"])
def test_ctrl_c_is_quiet(answers: Answers, home: Path, command: str) -> None:
    """130, and nothing on stderr: it was the user's wish."""
    is_asked, may_answer = threading.Event(), threading.Event()

    def hold() -> None:
        is_asked.set()
        may_answer.wait(DEADLINE_S)

    answers.until = hold
    with subprocess.Popen(
        [*METERCTL, command], env=environment(home), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert is_asked.wait(DEADLINE_S)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE_S)
        may_answer.set()

    assert (process.returncode, out, err) == (130, "", "")


@contextmanager
def terminal(columns: int) -> Iterator[tuple[int, int]]:
    main, end = pty.openpty()
    termios.tcsetwinsize(end, (24, columns))
    try:
        yield main, end
    finally:
        os.close(main)


def test_a_narrow_terminal_gets_a_narrow_table(answers: Answers, home: Path) -> None:
    """And no colours, which nobody asked for."""
    answers.rollup = rollup(
        client("a-client-with-a-rather-long-name", 45_890, 12_702_113, "31.4203"),
        total={"requests": 45_890, "tokens": 12_702_113, "cost": "31.4203"},
    )

    with terminal(40) as (main, end):
        done = meterctl_process(home, "rollup", "2025-11", stdout=end)
        os.close(end)
        lines = os.read(main, 65_536).decode().splitlines()

    assert done.returncode == 0
    assert max(map(len, lines)) <= 40
    assert lines[1].split()[-3:] == ["45,890", "12.7M", "$31.42"]
    assert "\x1b" not in "".join(lines)


def test_work_of_more_than_a_second_shows_its_progress(answers: Answers, home: Path) -> None:
    """On the terminal's stderr, in one line that is gone when the answer comes."""
    is_asked, may_answer = threading.Event(), threading.Event()

    def hold() -> None:
        is_asked.set()
        may_answer.wait(DEADLINE_S)

    answers.until = hold
    answers.rollup = EXPORT
    with terminal(80) as (main, end), subprocess.Popen(
        [*METERCTL, "rollup", "2025-11"], env=environment(home), text=True,
        stdout=subprocess.PIPE, stderr=end,
    ) as process:  # fmt: skip
        os.close(end)
        told = os.read(main, 1024)
        may_answer.set()
        out, _ = process.communicate(timeout=DEADLINE_S)
        told += os.read(main, 1024)

    assert b"reading" in told
    assert told.endswith(b"\r\x1b[K")
    assert out.splitlines()[0].startswith("CLIENT")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_has_an_example(meterctl: Meterctl, command: str) -> None:
    """Help wins over whatever else is wrong."""
    result = meterctl(command, "--help", "--nonsense")

    assert result.code == 0
    assert f"usage: meterctl {command}" in result.out
    assert f"example:\n  meterctl {command}" in result.out
    assert result.out.endswith("\n")


def test_a_command_that_isnt_one_is_wrong_usage(meterctl: Meterctl) -> None:
    """The one that was probably meant is named."""
    typo, nonsense, none = meterctl("rolup"), meterctl("xyzzy"), meterctl()

    assert (typo.code, nonsense.code, none.code) == (2, 2, 2)
    assert "COMMAND is 'rolup', did you mean rollup?" in typo.err
    assert "expected one of rollup, quota" in nonsense.err
    assert "COMMAND is missing" in none.err


def test_the_help_and_the_version_need_no_command(meterctl: Meterctl) -> None:
    """The first thing that anybody types."""
    helped, version = meterctl("--help"), meterctl("--version")

    assert (helped.code, version.code) == (0, 0)
    assert all(f"  {name}" in helped.out for name in COMMANDS)
    assert version.out.startswith("meterctl ")


def test_the_command_line_imports_only_what_a_command_needs() -> None:
    """How a whole process stays under its 400 ms: nothing of the daemon, and grpc last."""
    look = (
        "import sys, meterd.cli.main; before = set(sys.modules); import meterd.cli.rollup;"
        "print('grpc' in before, 'decimal' in before);"
        "print(sorted(name for name in sys.modules if name.partition('.')[0] in"
        " ('genai_prices', 'uvloop', 'aiosqlite', 'sqlite3', 'meterd_middleware')"
        " or name.startswith('meterd.') and not name.startswith('meterd.cli')))"
    )

    done = subprocess.run(
        [sys.executable, "-c", look], capture_output=True, text=True, check=True, timeout=DEADLINE_S
    )

    lines = done.stdout.splitlines()
    assert lines[0].startswith("False")
    assert lines[1] == "['meterd.errors']"
