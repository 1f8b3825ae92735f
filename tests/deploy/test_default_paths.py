"""Options, environment, defaults: where the daemon listens, sweeps and keeps its ledger."""

from __future__ import annotations

from pathlib import Path

import pytest

from meterd import options
from meterd.errors import InvalidSetting
from meterd.options import Address, parse
from meterd_middleware.settings import Settings

HOME = {"HOME": "/home/ann"}


def test_a_users_daemon_and_app_meet_without_a_setting() -> None:
    """Whatever the app tries and writes, the daemon listens on and sweeps."""
    daemon = parse([], HOME, "0")
    app = Settings.load(environ=HOME)

    assert str(daemon.listen[0]) in app.targets()
    assert app.spool_root in daemon.spool_roots
    assert daemon.data == Path("/home/ann/.local/state/meterd/data")


def test_with_a_runtime_directory_both_of_the_users_sockets_are_listened_on(
    tmp_path: Path,
) -> None:
    """An app of a cron job has no XDG_RUNTIME_DIR; it looks in the other place."""
    environ = {**HOME, "XDG_RUNTIME_DIR": str(tmp_path)}

    daemon = parse([], environ, "0")

    assert [str(address) for address in daemon.listen] == [
        f"unix:{tmp_path}/meterd.sock",
        "unix:/home/ann/.local/state/meterd/meterd.sock",
    ]
    for environ_of_app in (environ, HOME):
        assert str(daemon.listen[-1]) in Settings.load(environ=environ_of_app).targets()


def test_a_state_home_of_the_users_own_is_followed_by_both() -> None:
    """The spool is where the app writes it."""
    environ = {**HOME, "XDG_STATE_HOME": "/state"}

    daemon = parse([], environ, "0")

    assert daemon.data == Path("/state/meterd/data")
    assert Settings.load(environ=environ).spool_root in daemon.spool_roots


def test_under_systemd_the_directories_are_the_units() -> None:
    """RuntimeDirectory= and StateDirectory= say where."""
    environ = {"RUNTIME_DIRECTORY": "/run/meterd", "STATE_DIRECTORY": "/var/lib/meterd:/x"}

    daemon = parse([], environ, "0")

    assert daemon.listen == (Address(path="/run/meterd/meterd.sock"),)
    assert daemon.data == Path("/var/lib/meterd")
    assert daemon.spool_roots[0] == Path("/var/spool/meterd")
    assert str(daemon.listen[0]) in Settings.load(environ=HOME).targets()


def test_a_system_directory_made_for_us_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rule as the middleware's for the spool: there and writable."""
    monkeypatch.setattr(options, "SYSTEM_DATA", tmp_path)

    daemon = parse([], HOME, "0")

    assert daemon.data == tmp_path
    assert daemon.listen == (Address(path="/run/meterd/meterd.sock"),)


def test_options_come_before_the_environment() -> None:
    """And the environment before defaults."""
    environ = {
        **HOME,
        "METERD_DATA": "/env/data",
        "METERD_LISTEN": "unix:/env/m.sock, 127.0.0.1:7311",
        "METERD_SPOOL": "/env/spool",
        "METERD_CONFIG": "/env/meterd.toml",
    }

    by_environ = parse([], environ, "0")
    by_option = parse(
        ["--data", "/opt/data", "--listen", "unix:/opt/m.sock", "--spool-root", "/opt/spool"],
        environ,
        "0",
    )

    assert by_environ.data == Path("/env/data")
    assert by_environ.listen == (
        Address(path="/env/m.sock"),
        Address(host="127.0.0.1", port=7311),
    )
    assert by_environ.spool_roots == (Path("/env/spool"),)
    assert by_environ.config == Path("/env/meterd.toml")
    assert by_option.data == Path("/opt/data")
    assert by_option.listen == (Address(path="/opt/m.sock"),)
    assert by_option.spool_roots == (Path("/opt/spool"),)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/m.sock", Address(path="/run/m.sock")),
        ("unix:///run/m.sock", Address(path="/run/m.sock")),
        ("/run/m.sock", Address(path="/run/m.sock")),
        ("127.0.0.1:1234", Address(host="127.0.0.1", port=1234)),
        ("localhost", Address(host="localhost", port=7310)),
        ("[::1]:1234", Address(host="::1", port=1234)),
        ("[::1]", Address(host="::1", port=7310)),
    ],
)
def test_an_address_is_read_as_people_write_it(text: str, address: Address) -> None:
    """The port is 7310 where none is said."""
    assert parse(["--listen", text], HOME, "0").listen == (address,)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--listen", "nonsense:port"], "expected unix:PATH or HOST:PORT"),
        (["--listen", "unix:"], "expected unix:PATH or HOST:PORT"),
        (["--listen", "127.0.0.1:99999"], "expected unix:PATH or HOST:PORT"),
        (["--listen", "unix:/" + "a" * 108], "at most 107 bytes"),
        (["--listen", "0.0.0.0:7310"], "expected --tls-cert and --tls-key"),
        (["--listen", "10.0.0.1:7310"], "or --insecure-network, on a private network"),
        (["--listen", "8.8.8.8:7310", "--insecure-network"], "of a private network, or TLS"),
        (["--listen", "meterd.example:1", "--insecure-network"], "of a private network, or TLS"),
        (["--tls-cert", "a.pem"], "to stand with --tls-key"),
        (["--tls-key", "a.pem"], "to stand with --tls-key"),
        (["--tls-client-ca", "a.pem"], "--tls-cert beside it"),
    ],
)
def test_what_cannot_be_listened_on_is_one_sentence(arguments: list[str], said: str) -> None:
    """An access key must not travel where others can read it."""
    with pytest.raises(InvalidSetting, match=said.replace("(", r"\(")):
        parse(arguments, HOME, "0")


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "192.168.0.1", "[fd00::1]", "[::]"])
def test_a_private_network_is_enough_for_who_insists(host: str) -> None:
    """What a container listens on."""
    assert parse(["--listen", f"{host}:7310", "--insecure-network"], HOME, "0").insecure_network


def test_without_a_home_the_daemon_still_starts_somewhere() -> None:
    """A bare container has no HOME; the passwd entry, or the root, has to do."""
    assert parse([], {}, "0").data.is_absolute()
