"""Settings: arguments before environment before defaults, each mistake named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meterd_middleware import InvalidSetting, Meter, settings
from meterd_middleware.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

HOME: Mapping[str, str] = {"HOME": "/home/ada"}


@pytest.fixture(autouse=True)
def _no_system_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "SYSTEM_SPOOL_ROOT", tmp_path / "none")


def test_without_anything_the_users_own_places_are_used() -> None:
    loaded = Settings.load(environ=HOME)

    assert loaded.spool_root == Path("/home/ada/.local/state/meterd/spool")
    assert loaded.targets() == (
        "unix:/home/ada/.local/state/meterd/meterd.sock",
        "unix:/run/meterd/meterd.sock",
    )


def test_xdg_directories_are_honoured() -> None:
    environ = {**HOME, "XDG_STATE_HOME": "/state", "XDG_RUNTIME_DIR": "/run/user/1000"}

    loaded = Settings.load(environ=environ)

    assert loaded.spool_root == Path("/state/meterd/spool")
    assert loaded.targets()[0] == "unix:/run/user/1000/meterd.sock"


def test_the_systems_spool_is_used_where_it_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "SYSTEM_SPOOL_ROOT", tmp_path)

    assert Settings.load(environ=HOME).spool_root == tmp_path


def test_arguments_come_before_the_environment() -> None:
    environ = {
        **HOME,
        "METERD_TARGET": "env:1",
        "METERD_SPOOL": "/env",
        "METERD_SERVICE": "env",
        "METERD_ACCESS_KEY": "env",
        "METERD_INCLUDE_USAGE": "0",
    }
    from_environment = Settings.load(environ=environ)
    from_arguments = Settings.load(
        target="arg:2",
        spool="/arg",
        service="arg",
        access_key="arg",
        include_usage=True,
        environ=environ,
    )

    assert (from_environment.target, from_environment.spool_root) == ("env:1", Path("/env"))
    assert (from_environment.service, from_environment.access_key) == ("env", "env")
    assert from_environment.include_usage is False
    assert (from_arguments.target, from_arguments.spool_root) == ("arg:2", Path("/arg"))
    assert (from_arguments.service, from_arguments.access_key) == ("arg", "arg")
    assert from_arguments.include_usage is True


@pytest.mark.parametrize(
    ("given", "target"),
    [
        ("unix:/run/meterd.sock", "unix:/run/meterd.sock"),
        ("unix:///run/meterd.sock", "unix:/run/meterd.sock"),
        ("/run/meterd.sock", "unix:/run/meterd.sock"),
        ("meterd:7310", "meterd:7310"),
        ("meterd.internal", "meterd.internal:7310"),
        ("[::1]:7310", "[::1]:7310"),
    ],
)
def test_targets_are_read_as_people_write_them(given: str, target: str) -> None:
    assert Settings.load(target=given, environ=HOME).target == target


@pytest.mark.parametrize("given", ["unix:", "meterd:0", "meterd:x", "http://meterd:7310", ":7310"])
def test_a_target_that_cant_be_read_is_named(given: str) -> None:
    with pytest.raises(InvalidSetting, match="expected unix:PATH or HOST:PORT"):
        Settings.load(target=given, environ=HOME)
    with pytest.raises(InvalidSetting, match="METERD_TARGET is"):
        Settings.load(environ={**HOME, "METERD_TARGET": given})


@pytest.mark.parametrize(
    ("given", "is_on"), [("", True), ("1", True), ("0", False), ("off", False)]
)
def test_counting_with_tiktoken_can_be_turned_off(given: str, is_on: bool) -> None:
    """Where it is installed for something else."""
    assert Settings.load(environ={**HOME, "METERD_TIKTOKEN": given}).tiktoken is is_on


def test_a_mistake_names_field_value_and_what_was_expected() -> None:
    with pytest.raises(InvalidSetting) as caught:
        Meter(on_untagged="drop")

    assert str(caught.value) == 'on_untagged is \'drop\', expected "record" or "refuse"'
    with pytest.raises(InvalidSetting, match="METERD_DISABLED is 'maybe', expected 1 or 0"):
        Settings.load(environ={**HOME, "METERD_DISABLED": "maybe"})
    with pytest.raises(InvalidSetting, match="client is 'a\\\\n'"):
        Meter(client="a\n")


def test_an_access_key_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("s3cret\n")

    loaded = Settings.load(environ={**HOME, "METERD_ACCESS_KEY_FILE": str(file)})

    assert loaded.access_key == "s3cret"
    assert "s3cret" not in repr(loaded)
    with pytest.raises(InvalidSetting, match="METERD_ACCESS_KEY_FILE"):
        Settings.load(environ={**HOME, "METERD_ACCESS_KEY_FILE": str(tmp_path / "none")})


def test_an_access_key_comes_without_the_line_break_of_the_secret_it_was_read_from() -> None:
    assert Settings.load(environ={**HOME, "METERD_ACCESS_KEY": "s3cret\n"}).access_key == "s3cret"


@pytest.mark.parametrize("key", ["schlüssel", "two\nlines", "a\x00b"])
def test_a_key_that_none_can_be_is_named_without_being_shown(key: str, tmp_path: Path) -> None:
    """gRPC would write three lines to the app's stderr for each attempt to connect."""
    file = tmp_path / "key"
    file.write_text(key, encoding="utf-8")
    for environ in ({"METERD_ACCESS_KEY": key}, {"METERD_ACCESS_KEY_FILE": str(file)}):
        with pytest.raises(InvalidSetting) as caught:
            Settings.load(environ={**HOME, **environ})

        assert "expected printable ASCII" in str(caught.value)
        assert key[:3] not in str(caught.value)


@pytest.mark.parametrize(
    ("argv", "service"),
    [
        (["/srv/app/worker.py"], "worker"),
        (["/srv/app/billing/__main__.py"], "billing"),
        (["/usr/bin/gunicorn"], "gunicorn"),
        (["-c"], "python"),
        ([""], "python"),
    ],
)
def test_a_service_without_a_name_is_called_as_its_script(
    monkeypatch: pytest.MonkeyPatch, argv: list[str], service: str
) -> None:
    monkeypatch.setattr("sys.argv", argv)

    assert Settings.load(environ=HOME).service == service


def test_how_long_a_first_call_waits_for_its_quota_may_be_said() -> None:
    assert Settings.load(environ=HOME).lease_timeout_ms == 50
    said = Settings.load(environ={**HOME, "METERD_LEASE_TIMEOUT_MS": " 2000 "})
    assert said.lease_timeout_ms == 2000


@pytest.mark.parametrize("given", ["-1", "0.5", "60001", "9" * 400, "²", "soon"])
def test_a_wait_that_cant_be_is_named(given: str) -> None:
    with pytest.raises(InvalidSetting, match="expected a whole number of milliseconds, 0 to 60,"):
        Settings.load(environ={**HOME, "METERD_LEASE_TIMEOUT_MS": given})
