"""Where a daemon may be reached, and whether something answers there.

The same candidates in the same order as an app's middleware tries them: METERD_TARGET, else
the user's sockets, else the system's; so what `meterctl` reaches is what the apps of this
user reach.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from meterd.cli.console import DaemonUnavailable, WrongValue

if TYPE_CHECKING:
    from collections.abc import Mapping

PORT = 7310
CONNECT_TIMEOUT_S = 3.0
SYSTEM_SOCKET = "/run/meterd/meterd.sock"
_UNIX_PATH_BYTES_MAX = 107  # sun_path of Linux without its final zero; macOS has 103


@dataclass(frozen=True, slots=True)
class Target:
    """An address of a daemon: a unix socket's path, or a host and port."""

    path: str = ""
    host: str = ""
    port: int = PORT

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"{self._bracketed_host}:{self.port}"

    @property
    def address(self) -> str:
        """The address as gRPC takes it."""
        return f"unix:{self.path}" if self.path else f"dns:///{self._bracketed_host}:{self.port}"

    @property
    def _bracketed_host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


def parse(text: str, name: str = "--target") -> Target:
    """The target that `text` names: unix:PATH, a bare absolute path, HOST or HOST:PORT."""
    path = text.removeprefix("unix:") if text.startswith("unix:") else ""
    if text.startswith("/"):
        path = text
    if path:
        path = "/" + path.lstrip("/") if path.startswith("//") else path
        if len(os.fsencode(path)) <= _UNIX_PATH_BYTES_MAX:
            return Target(path=path)
        raise WrongValue(
            name, text, f"a socket path of at most {_UNIX_PATH_BYTES_MAX} bytes, a system's limit"
        )
    host, port = ("", "") if text.startswith("unix:") else _host_and_port(text)
    if host and port.isdecimal() and 0 < int(port) < 65_536:
        return Target(host=host, port=int(port))
    raise WrongValue(name, text, "unix:PATH or HOST:PORT")


def _host_and_port(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        return (host if bracket else "", rest.removeprefix(":") or str(PORT))
    host, _, port = text.partition(":")
    is_plausible = bool(host) and all(letter.isalnum() or letter in "-._" for letter in host)
    return (host if is_plausible else "", port or str(PORT))


def candidates(environ: Mapping[str, str], option: str | None = None) -> list[Target]:
    """The targets to try, in order: one where it was named, else the default sockets."""
    if option:
        return [parse(option)]
    if environ.get("METERD_TARGET"):
        return [parse(environ["METERD_TARGET"], "METERD_TARGET")]
    return [Target(path=path) for path in default_sockets(environ)]


def default_sockets(environ: Mapping[str, str]) -> list[str]:
    """The user's sockets, then the system's."""
    home = environ.get("HOME") or str(Path.home())
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    users = [f"{runtime}/meterd.sock"] if runtime else []
    return [*users, f"{home}/.local/state/meterd/meterd.sock", SYSTEM_SOCKET]


def why_silent(target: Target) -> str:
    """Why nothing answers at the target, one clause; empty where something does.

    A bare connect: it costs microseconds on a unix socket, and tells a refusal from a
    missing file, which gRPC's UNAVAILABLE doesn't.
    """
    try:
        if target.path:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(CONNECT_TIMEOUT_S)
                connection.connect(target.path)
        else:
            socket.create_connection((target.host, target.port), CONNECT_TIMEOUT_S).close()
    except OSError as error:
        return _clause(target, error)
    return ""


def _clause(target: Target, error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "the host's name can't be resolved"
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_TIMEOUT_S:.0f} s"
    if error.errno == errno.ENOENT:
        return "no such file"
    if error.errno == errno.ECONNREFUSED:
        return "nobody listens" + (": a daemon that died left the file" if target.path else "")
    if error.errno in (errno.EACCES, errno.EPERM) and target.path:
        return f"this user may not open it ({_owner(target.path)})"
    return (error.strerror or str(error)).lower()


def _owner(path: str) -> str:
    try:
        found = os.stat(path)  # noqa: PTH116 - the path may lie behind a closed directory
    except OSError:
        return "its directory is closed to us"
    return f"owner {found.st_uid}, group {found.st_gid}, mode {stat.S_IMODE(found.st_mode):04o}"


def choose(environ: Mapping[str, str], option: str | None = None) -> Target:
    """The first candidate that answers.

    Raises:
        DaemonUnavailable: none does; the sentence says what was tried.
    """
    tried = []
    for target in candidates(environ, option):
        reason = why_silent(target)
        if not reason:
            return target
        tried.append(f"{target} ({reason})")
    raise DaemonUnavailable(
        f"no meterd answers at {', '.join(tried)}: start `meterd`, or name one with --target"
    )
