"""How `meterd` is started: options before environment before defaults, decided once.

    --option ▸ METERD_* ▸ the system's paths where they were made for us ▸ the user's

The system's paths (`/var/lib/meterd`, `/var/spool/meterd`, `/run/meterd`) are used where
systemd says so or somebody made the first writable for this user; else everything lies in
the user's own state directory. The middleware decides by the same rule, so that app and
daemon meet without any setting.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from meterd.errors import InvalidSetting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PORT = 7310
SOCKET_PATH_BYTES_MAX = 107
"""sun_path of Linux without its final zero; macOS has 103."""

SYSTEM_DATA = Path("/var/lib/meterd")
SYSTEM_SPOOL_ROOT = Path("/var/spool/meterd")
SYSTEM_RUNTIME = Path("/run/meterd")

_EXAMPLES = """\
examples:
  meterd                                          sockets and data of this user, no plans yet
  meterd --config meterd.toml                     apply this configuration at start
  meterd --group www-data                         apps of other users in this group may connect
  meterd --listen 0.0.0.0:7310 --tls-cert meterd.crt --tls-key meterd.key
"""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a unix socket's path, or a host and port (0: any free one)."""

    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"{self.bracketed_host}:{self.port}"

    @property
    def bracketed_host(self) -> str:
        """The host as it stands before a port."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return self.host == "localhost" or self._is("is_loopback")

    @property
    def is_private(self) -> bool:
        """Whether it is an address of a private network, or all of this machine's."""
        return self.is_loopback or self._is("is_private") or self._is("is_unspecified")

    def _is(self, quality: str) -> bool:
        try:
            return bool(getattr(ipaddress.ip_address(self.host), quality))
        except ValueError:
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `meterd` was told."""

    data: Path
    listen: tuple[Address, ...]
    spool_roots: tuple[Path, ...]
    """Swept for what dead processes left; the first is made if it isn't there."""
    config: Path | None = None
    group: str = ""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    insecure_network: bool = False


def parse(arguments: Sequence[str], environ: Mapping[str, str], version: str) -> Options:
    """Options from the command line, then the environment, then defaults.

    Wrong usage ends the process with 2, as argparse does.

    Raises:
        InvalidSetting: a value can't be used; names the option.
    """
    given = _parser(version).parse_args(arguments)

    def setting(name: str, variable: str) -> str:
        return getattr(given, name) or environ.get(variable, "")

    home = _state_home(environ)
    listen = given.listen or _words(environ.get("METERD_LISTEN", ""))
    is_system = _is_system(environ)
    spool_root = setting("spool_root", "METERD_SPOOL")
    options = Options(
        data=_path(setting("data", "METERD_DATA")) or _data(environ, home, is_system),
        listen=tuple(_address(one) for one in listen) or _sockets(environ, is_system),
        spool_roots=(Path(spool_root).absolute(),) if spool_root else _spool_roots(home, is_system),
        config=_path(setting("config", "METERD_CONFIG")),
        group=setting("group", "METERD_GROUP"),
        tls_cert=_path(setting("tls_cert", "METERD_TLS_CERT")),
        tls_key=_path(setting("tls_key", "METERD_TLS_KEY")),
        tls_client_ca=_path(setting("tls_client_ca", "METERD_TLS_CLIENT_CA")),
        insecure_network=given.insecure_network
        or environ.get("METERD_INSECURE_NETWORK", "") not in ("", "0"),
    )
    _check_network(options)
    return options


def _parser(version: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="meterd",
        description="Meters, prices and limits the AI usage of each client, on this machine.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", metavar="FILE", help="apply this meterd.toml at start (METERD_CONFIG)")
    add(
        "--data",
        metavar="DIR",
        help=f"the ledger's directory (METERD_DATA; default: {SYSTEM_DATA} if "
        "this user may write there, else ~/.local/state/meterd/data)",
    )
    add(
        "--listen",
        metavar="unix:PATH|HOST:PORT",
        action="append",
        help=f"where to listen; may be repeated; default port {PORT} (METERD_LISTEN, by commas; "
        "default: this user's sockets, where apps of the same user look)",
    )
    add(
        "--spool-root",
        metavar="DIR",
        help="where apps write their spools (METERD_SPOOL; "
        f"default: ~/.local/state/meterd/spool and {SYSTEM_SPOOL_ROOT})",
    )
    add(
        "--group",
        metavar="NAME",
        help="let this group's users connect and write spools (METERD_GROUP)",
    )
    add(
        "--tls-cert", metavar="FILE", help="certificate chain, PEM, for HOST:PORT (METERD_TLS_CERT)"
    )
    add("--tls-key", metavar="FILE", help="its private key, PEM (METERD_TLS_KEY)")
    add(
        "--tls-client-ca",
        metavar="FILE",
        help="demand client certificates of this authority (METERD_TLS_CLIENT_CA)",
    )
    add(
        "--insecure-network",
        action="store_true",
        help="accept access keys without TLS on a private network too, not on loopback alone "
        "(METERD_INSECURE_NETWORK=1)",
    )
    add("--version", action="version", version=f"meterd {version}")
    return parser


def _check_network(options: Options) -> None:
    """TCP needs TLS, but on loopback, and on a private network if somebody insists."""
    if bool(options.tls_cert) != bool(options.tls_key):
        raise InvalidSetting("--tls-cert", str(options.tls_cert), "to stand with --tls-key")
    if options.tls_client_ca and not options.tls_cert:
        raise InvalidSetting("--tls-client-ca", str(options.tls_client_ca), "--tls-cert beside it")
    for address in options.listen:
        if address.path or address.is_loopback or options.tls_cert:
            continue
        if not options.insecure_network:
            raise InvalidSetting(
                "--listen",
                str(address),
                "--tls-cert and --tls-key beside it, since an access key would else travel "
                "unencrypted (or --insecure-network, on a private network)",
            )
        if not address.is_private:
            raise InvalidSetting(
                "--listen", str(address), "an address of a private network, or TLS"
            )


def _address(text: str) -> Address:
    if text.startswith("/"):
        text = f"unix:{text}"
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        path = "/" + path.lstrip("/") if path.startswith("//") else path
        if not path:
            raise InvalidSetting("--listen", text, "unix:PATH or HOST:PORT")
        path = os.path.abspath(path)  # noqa: PTH100 - Path.resolve would follow a link
        if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
            raise InvalidSetting(
                "--listen", text, f"a socket path of at most {SOCKET_PATH_BYTES_MAX} bytes"
            )
        return Address(path=path)
    host, port = _host_and_port(text)
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise InvalidSetting("--listen", text, "unix:PATH or HOST:PORT")
    return Address(host=host, port=int(port))


def _host_and_port(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest.removeprefix(":") or str(PORT)
    host, _, port = text.partition(":")
    is_plausible = bool(host) and all(letter.isalnum() or letter in "-._" for letter in host)
    return (host if is_plausible else ""), port or str(PORT)


def _sockets(environ: Mapping[str, str], is_system: bool) -> tuple[Address, ...]:
    """The default sockets: every one where an app of this user would look."""
    if is_system:
        runtime = Path(_first(environ.get("RUNTIME_DIRECTORY", "")) or SYSTEM_RUNTIME)
        return (_address(f"unix:{runtime / 'meterd.sock'}"),)
    paths = [_home(environ) / ".local/state/meterd/meterd.sock"]
    runtime_directory = environ.get("XDG_RUNTIME_DIR", "")
    if runtime_directory and Path(runtime_directory).is_dir():
        paths.insert(0, Path(runtime_directory) / "meterd.sock")
    return tuple(_address(f"unix:{path}") for path in paths)


def _data(environ: Mapping[str, str], state_home: Path, is_system: bool) -> Path:
    if is_system:
        return Path(_first(environ.get("STATE_DIRECTORY", "")) or SYSTEM_DATA)
    return state_home / "meterd/data"


def _spool_roots(state_home: Path, is_system: bool) -> tuple[Path, ...]:
    users = state_home / "meterd/spool"
    return (SYSTEM_SPOOL_ROOT, users) if is_system else (users, SYSTEM_SPOOL_ROOT)


def _is_system(environ: Mapping[str, str]) -> bool:
    if environ.get("STATE_DIRECTORY"):
        return True
    return SYSTEM_DATA.is_dir() and os.access(SYSTEM_DATA, os.W_OK | os.X_OK)


def _state_home(environ: Mapping[str, str]) -> Path:
    state = environ.get("XDG_STATE_HOME", "")
    return Path(state) if state else _home(environ) / ".local/state"


def _home(environ: Mapping[str, str]) -> Path:
    home = environ.get("HOME", "")
    if home:
        return Path(home)
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")  # a bare container without a user


def _path(text: str) -> Path | None:
    return Path(text).expanduser().absolute() if text else None


def _first(paths: str) -> str:
    """The first of systemd's colon-separated directories."""
    return paths.partition(":")[0]


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
