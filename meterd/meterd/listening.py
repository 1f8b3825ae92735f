"""Where the daemon can be reached: unix sockets and TCP ports, claimed before they are bound.

gRPC unlinks a socket that is in its way, even another daemon's; so each path is claimed
first, by a lock beside it, and a socket that still answers is left alone.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from meterd.errors import CannotStart
from meterd.options import Address

if TYPE_CHECKING:
    from meterd.options import Options

SOCKET_MODE, SOCKET_MODE_GROUP = 0o600, 0o660
DIRECTORY_MODE = 0o700
SPOOL_MODE_GROUP = 0o2770
"""With setgid, so that what an app makes there belongs to the group that the daemon is in."""


class Listening:
    """Claims addresses and binds servers to them; what was claimed is let go at the end."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._group = _group_id(options.group)
        self._claims: dict[Address, _Claim] = {}
        self.bound: list[str] = []
        """Addresses as people type them, with the ports that were really bound."""

    def close(self) -> None:
        """Take the sockets away and let go of their locks."""
        for claim in self._claims.values():
            claim.release()
        self._claims.clear()

    def bind_unix(self, server: grpc.aio.Server, address: Address) -> None:
        """Bind a server to a socket that this user, or the group, alone may open.

        Raises:
            CannotStart: the path is taken, or can't be made.
        """
        path = Path(address.path)
        try:
            self._claims[address] = _Claim.of(path)
            self._bind_claimed(server, address)
        except OSError as error:
            reason = error.strerror or str(error)
            raise CannotStart(f"can't listen on {address}: {reason.lower()}") from error
        self.bound.append(str(address))

    def lost(self) -> list[Address]:
        """The sockets that somebody has removed: nobody new can reach the daemon there."""
        return [address for address, claim in self._claims.items() if not claim.is_standing()]

    def bind_again(self, server: grpc.aio.Server, address: Address) -> None:
        """Bind another server where a socket was removed; the first keeps its connections.

        Raises:
            CannotStart: somebody else is there now.
            OSError: it can't be made.
        """
        claim = self._claims[address]
        if not claim.is_locked():
            self._claims[address] = _Claim.of(claim.path)
            claim.abandon()
        self._bind_claimed(server, address)

    def bind_tcp(self, server: grpc.aio.Server, address: Address) -> None:
        """Bind a server to a port, with TLS where a certificate was given.

        Raises:
            CannotStart: the port is taken, or the certificate can't be used.
        """
        credentials = _credentials(self._options) if self._options.tls_cert else None
        port = _bind(server, str(address), address, credentials)
        self.bound.append(str(Address(host=address.host, port=port)))

    def make_spool_root(self, root: Path) -> None:
        """Make a spool root, open to the group where there is one.

        Raises:
            OSError: it can't be made.
        """
        is_new = not root.is_dir()
        root.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        if self._group is not None and (is_new or root.stat().st_uid == os.geteuid()):
            os.chown(root, -1, self._group)
            root.chmod(SPOOL_MODE_GROUP)

    def _bind_claimed(self, server: grpc.aio.Server, address: Address) -> None:
        claim = self._claims[address]
        _bind(server, f"unix:{claim.path}", address)
        if self._group is not None:
            os.chown(claim.path, -1, self._group)
        claim.path.chmod(SOCKET_MODE if self._group is None else SOCKET_MODE_GROUP)
        claim.note()


@dataclass(slots=True)
class _Claim:
    """A socket's path held for this process, by a lock on the file beside it."""

    path: Path
    lock: Path
    descriptor: int
    socket: os.stat_result | None = None

    @classmethod
    def of(cls, path: Path) -> _Claim:
        """Claim a path: nobody else's, and nothing in the way."""
        path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        lock = path.with_name(f".{path.name}.lock")
        claim = cls(path, lock, _locked(lock, path))
        try:
            _clear_the_way(path)
        except BaseException:
            claim.abandon()
            raise
        return claim

    def note(self) -> None:
        """Remember the socket as it was made."""
        self.socket = self.path.stat()

    def is_standing(self) -> bool:
        """Whether the socket is still the one that was made."""
        return self.socket is None or _is_same(self.socket, self.path)

    def is_locked(self) -> bool:
        """Whether the lock still stands beside the socket; the whole directory may be gone."""
        return _is_same(os.fstat(self.descriptor), self.lock)

    def release(self) -> None:
        """Take the socket and its lock away, if they are ours."""
        if self.socket is not None and self.is_standing():
            self.path.unlink(missing_ok=True)
        if self.is_locked():
            self.lock.unlink(missing_ok=True)
        self.abandon()

    def abandon(self) -> None:
        """Let go of the lock and leave everything as it is."""
        os.close(self.descriptor)


def _group_id(name: str) -> int | None:
    if not name:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise CannotStart(f"there is no group {name!r} on this machine (--group)") from None


def _locked(lock: Path, path: Path) -> int:
    """A locked descriptor of the lock file as it stands in the directory now."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same(os.fstat(descriptor), lock):
                return descriptor
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise CannotStart(f"another meterd listens on unix:{path} already") from None
            raise
        os.close(descriptor)  # its last holder took the file away; lock the one that is there


def _is_same(known: os.stat_result, path: Path) -> bool:
    try:
        return os.path.samestat(known, path.stat())
    except OSError:
        return False


def _clear_the_way(path: Path) -> None:
    """Take away the socket of a process that died; leave one that answers, or is none."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise CannotStart(f"{path} is no socket; name another with --listen")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        else:
            raise CannotStart(f"something else listens on unix:{path} already")


def _bind(
    server: grpc.aio.Server,
    target: str,
    address: Address,
    credentials: grpc.ServerCredentials | None = None,
) -> int:
    try:
        if credentials is None:
            return server.add_insecure_port(target)
        return server.add_secure_port(target, credentials)
    except RuntimeError as error:
        raise CannotStart(f"can't listen on {address}: {_why_unbound(address)}") from error


def _why_unbound(address: Address) -> str:
    """gRPC says only that it failed; binding a plain socket says why."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        if address.path:
            return "the socket can't be made there"
        with socket.socket(family) as probe:
            probe.bind((address.host, address.port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return "the port is in use already"
        return (error.strerror or str(error)).lower()
    return "gRPC could not bind it"


def _credentials(options: Options) -> grpc.ServerCredentials:
    assert options.tls_cert and options.tls_key  # options.parse sees to both
    chain = (_read(options.tls_key), _read(options.tls_cert))
    if options.tls_client_ca is None:
        return grpc.ssl_server_credentials([chain])
    authority = _read(options.tls_client_ca)
    return grpc.ssl_server_credentials([chain], authority, require_client_auth=True)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CannotStart(f"{path} can't be read: {(error.strerror or '').lower()}") from error
