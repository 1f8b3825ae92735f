"""Which daemon is asked, and what it is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meterd.cli.client import _is_private
from meterd.cli.console import WrongValue
from meterd.cli.targets import Target, default_sockets, parse, why_silent
from meterd_middleware.settings import Settings
from tests.cli.answering import Answers, serve
from tests.cli.test_rollup import EXPORT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.running import Meterctl


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("unix:/run/x.sock", "unix:/run/x.sock"),
        ("unix:///run/x.sock", "unix:/run/x.sock"),
        ("/run/x.sock", "unix:/run/x.sock"),
        ("unix:x.sock", "unix:x.sock"),
        ("meter.internal:7310", "meter.internal:7310"),
        ("meterd", "meterd:7310"),
        ("[::1]:7311", "[::1]:7311"),
        ("127.0.0.1:1", "127.0.0.1:1"),
    ],
)
def test_a_target_is_read_as_people_write_it(text: str, shown: str) -> None:
    """The port may be left out: there is one default."""
    assert str(parse(text)) == shown


@pytest.mark.parametrize(
    "text", ["unix:", "host:0", "host:99999", "host:port", "http://x:1", "[::1", ":7310", "a b"]
)
def test_nonsense_is_no_target(text: str) -> None:
    """With the sentence that says what one is."""
    with pytest.raises(WrongValue, match="expected unix:PATH or HOST:PORT"):
        parse(text)


def test_a_socket_path_that_no_system_takes_is_refused() -> None:
    """The system's own message says "AF_UNIX path too long" and not whose."""
    with pytest.raises(WrongValue, match="at most 107 bytes"):
        parse("unix:/" + "x" * 120)


@pytest.mark.parametrize("runtime", ["", "/run/user/1000"])
def test_the_sockets_are_those_that_an_app_tries(runtime: str) -> None:
    """In the same order, or `meterctl` would show another daemon's figures."""
    environ = {"HOME": "/home/ann", "XDG_RUNTIME_DIR": runtime}

    apps = Settings.load(environ=environ).targets()

    assert tuple(f"unix:{path}" for path in default_sockets(environ)) == apps


def test_the_first_socket_that_answers_is_asked(
    answers: Answers, meterctl: Meterctl, home: Path
) -> None:
    """A dead daemon's file in front of it is passed over."""
    answers.rollup = EXPORT
    (home / "run").mkdir()
    (home / "run/meterd.sock").touch()
    meterctl.environ["XDG_RUNTIME_DIR"] = str(home / "run")

    assert meterctl("rollup").code == 0


def test_target_and_environment_name_another(
    answers: Answers, meterctl: Meterctl, home: Path
) -> None:
    """The option wins, before or after the command."""
    other = Answers(rollup=EXPORT)
    server = serve(other, f"unix:{home}/other.sock")
    meterctl.environ["METERD_TARGET"] = "unix:/nowhere.sock"

    option, before = f"unix:{home}/other.sock", f"{home}/other.sock"
    codes = [
        meterctl("rollup", "--target", option).code,
        meterctl("--target", before, "rollup").code,
        meterctl("rollup").code,
    ]

    server.stop(None).wait()
    assert codes == [0, 0, 3]
    assert len(other.asked) == 2
    assert answers.asked == []


def test_a_target_in_the_environment_that_is_none_is_named(meterctl: Meterctl) -> None:
    """By the variable, since nobody typed it here."""
    meterctl.environ["METERD_TARGET"] = "unix:"

    result = meterctl("rollup")

    assert result.code == 2
    assert "METERD_TARGET is 'unix:', expected" in result.err


def test_the_access_key_is_shown_to_the_daemon(
    answers: Answers, meterctl: Meterctl, home: Path
) -> None:
    """From the variable, or the file that a secret store writes."""
    answers.rollup = EXPORT
    (home / "key").write_text("from-a-file\n")

    meterctl("rollup")
    meterctl.environ["METERD_ACCESS_KEY_FILE"] = str(home / "key")
    meterctl("rollup")
    meterctl.environ["METERD_ACCESS_KEY"] = "from-a-variable"
    meterctl("rollup")

    shown = [metadata.get("authorization") for metadata in answers.metadata]
    assert shown == [None, "Bearer from-a-file", "Bearer from-a-variable"]


def test_a_key_file_that_isnt_there_is_named(
    answers: Answers, meterctl: Meterctl, home: Path
) -> None:
    """Rather than going on without a key, which the daemon would refuse less clearly."""
    meterctl.environ["METERD_ACCESS_KEY_FILE"] = str(home / "none")

    result = meterctl("rollup")

    assert result.code == 2
    assert "METERD_ACCESS_KEY_FILE is" in result.err


@pytest.mark.parametrize(
    ("host", "is_private"),
    [("127.0.0.1", True), ("10.1.2.3", True), ("::1", True), ("8.8.8.8", False)],
)
def test_a_key_leaves_a_private_network_only_encrypted(host: str, is_private: bool) -> None:
    """As an app's channel decides it."""
    assert _is_private(host) is is_private


def test_why_nothing_answers_is_told_apart(tmp_path: Path) -> None:
    """No file, a file that is no socket, a port that nobody has."""
    (tmp_path / "file").touch()

    assert why_silent(Target(path=str(tmp_path / "none"))) == "no such file"
    assert "nobody listens" in why_silent(Target(path=str(tmp_path / "file")))
    assert why_silent(Target(host="127.0.0.1", port=1)) == "nobody listens"


def test_a_key_that_none_can_be_is_named_without_being_shown(
    answers: Answers, meterctl: Meterctl
) -> None:
    """gRPC says "Invalid metadata", which nobody understands."""
    meterctl.environ["METERD_ACCESS_KEY"] = "schlüssel"

    result = meterctl("rollup")

    assert result.code == 2
    assert "the key of METERD_ACCESS_KEY has characters" in result.err
    assert "schl" not in result.err
