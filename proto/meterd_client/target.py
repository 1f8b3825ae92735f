"""Where the daemon is and how to show who asks: arguments, else the environment.

The same candidates in the same order as the apps and `meterctl` take: METERD_TARGET, else
the first of the user's and the system's sockets that answers.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from meterd_client.errors import InvalidArgument, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

PORT = 7310
SYSTEM_SOCKET = "/run/meterd/meterd.sock"
OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # of a shared pool a forked child inherits dead ones
    ("grpc.enable_http_proxy", 0),  # a proxy of the environment is not meant for a local daemon
    ("grpc.max_receive_message_length", 64 << 20),
)
_SOCKET_TIMEOUT_S = 1.0
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[\w.-]+)(?::([0-9]{1,5}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Access:
    """All that a channel needs."""

    target: str
    """As people write it: unix:PATH or HOST:PORT."""
    address: str
    """As gRPC takes it."""
    credentials: grpc.ChannelCredentials | None
    """None: not encrypted, which only a socket, this machine and a private network are."""
    metadata: tuple[tuple[str, str], ...]


def access_of(
    target: str | None, access_key: str | None, tls_ca: str | None, environ: Mapping[str, str]
) -> Access:
    """Decide where and how to connect. Looks names up and touches sockets: may block.

    Raises:
        InvalidArgument: a target, or a file that was named, is none.
        Unavailable: no target was named, and none of the default sockets answers.
    """
    named = target or environ.get("METERD_TARGET") or _first_that_answers(environ)
    key = access_key or environ.get("METERD_ACCESS_KEY", "").strip()
    if not key and (file := environ.get("METERD_ACCESS_KEY_FILE")):
        key = _read(file, "METERD_ACCESS_KEY_FILE").decode("ascii", "replace").strip()
    if not (key.isascii() and key.isprintable()):
        raise InvalidArgument("the access key has characters that no access key has")
    metadata = (("authorization", f"Bearer {key}"),) if key else ()
    path = _path(named)
    if path:
        return Access(f"unix:{path}", f"unix:{path}", None, metadata)
    host, port = _host_and_port(named)
    shown = f"{host}:{port}"
    authority = tls_ca or environ.get("METERD_TLS_CA", "")
    credentials = None
    if authority or not _is_private(host.strip("[]")):
        roots = _read(authority, "tls_ca") if authority else None
        credentials = grpc.ssl_channel_credentials(roots)
    return Access(shown, f"dns:///{shown}", credentials, metadata)


def _path(target: str) -> str:
    """The path of a unix socket; empty where the target is none."""
    if not target.startswith(("unix:", "/")):
        return ""
    path = target.removeprefix("unix:")
    if not path:
        raise InvalidArgument(f"the target is {target!r}, expected unix:PATH or HOST:PORT")
    return "/" + path.lstrip("/") if path.startswith("//") else path


def _host_and_port(target: str) -> tuple[str, int]:
    found = _HOST.fullmatch(target)
    port = int(found[2] or PORT) if found else 0
    if found is None or not 0 < port < 65_536:
        raise InvalidArgument(f"the target is {target!r}, expected unix:PATH or HOST:PORT")
    return found[1], port


def _first_that_answers(environ: Mapping[str, str]) -> str:
    home = environ.get("HOME") or str(Path.home())
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    users = [f"{runtime}/meterd.sock"] if runtime else []
    tried = [*users, f"{home}/.local/state/meterd/meterd.sock", SYSTEM_SOCKET]
    for path in tried:
        if _answers(path):
            return f"unix:{path}"
    raise Unavailable(f"no meterd answers at {', '.join(tried)}: start it, or name its target")


def _answers(path: str) -> bool:
    """Whether somebody listens: a bare connect, microseconds on a unix socket."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_SOCKET_TIMEOUT_S)
            connection.connect(path)
    except OSError:
        return False
    return True


def _is_private(host: str) -> bool:
    """Whether every address of the host is of this machine or a private network."""
    try:
        found = socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP)
    except OSError:
        return False
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    return all(address.is_private for address in addresses)


def _read(path: str, name: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InvalidArgument(f"{name} is {os.fspath(path)!r}: {reason}") from None
