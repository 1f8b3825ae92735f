"""The connection to the daemon: one channel, its credentials, and errors as sentences."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from meterd.cli.console import CommandRefused, DaemonUnavailable, WrongUsage, WrongValue
from meterd.cli.targets import Target, choose

# Before grpc is imported: its core else writes lines of its own between ours.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from meterd.cli.console import Console

Request = TypeVar("Request")
Answer = TypeVar("Answer")

ANSWER_TIMEOUT_S = 30.0
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),  # a proxy of the environment is not meant for a local daemon
    ("grpc.max_receive_message_length", 64 << 20),
)


class Daemon:
    """A daemon that answers, and how to ask it."""

    def __init__(self, target: Target, channel: grpc.Channel, access_key: str) -> None:
        self.target, self.channel = target, channel
        self._metadata = (("authorization", f"Bearer {access_key}"),) if access_key else ()

    def ask(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Answer],
        request: Request,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> Answer:
        """Ask once and return the answer.

        Raises:
            DaemonUnavailable: no answer; nothing is known of what was asked.
            CommandRefused: the daemon said why it won't.
        """
        try:
            return method(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._sentence(error) from None

    def follow(
        self,
        method: grpc.UnaryStreamMultiCallable[Request, Answer],
        request: Request,
        timeout_s: float | None = None,
    ) -> Iterator[Answer]:
        """Ask once and yield the answers as they come; leaving ends the stream. Raises as `ask`."""
        stream = method(request, timeout=timeout_s, metadata=self._metadata)
        try:
            yield from stream
        except grpc.RpcError as error:
            raise self._sentence(error) from None
        finally:
            stream.cancel()

    def _sentence(self, error: grpc.RpcError) -> CommandRefused | DaemonUnavailable:
        # Every RpcError that a call raises is the call itself, which the stubs don't say.
        assert isinstance(error, grpc.Call)
        return sentence_of(error.code(), error.details() or "", self.target)


_UNACCEPTED = re.compile(r"CERTIFICATE_VERIFY_FAILED: ([^:]+)")


def sentence_of(
    code: grpc.StatusCode, details: str, target: Target
) -> CommandRefused | DaemonUnavailable:
    """The error that a gRPC status means to the user: one table for all commands."""
    if code is grpc.StatusCode.UNAVAILABLE:
        if unaccepted := _UNACCEPTED.search(details):
            return DaemonUnavailable(
                f"the certificate of the daemon at {target} isn't accepted: {unaccepted[1]}; "
                "METERD_TLS_CA names the authority that has to have signed it"
            )
        hint = "" if target.path else "; if it speaks TLS, METERD_TLS_CA names its authority"
        return DaemonUnavailable(f"the daemon at {target} is unavailable: {details}{hint}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DaemonUnavailable(f"the daemon at {target} didn't answer in time; try again")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return CommandRefused(f"the daemon at {target} can't do this: upgrade it")
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return CommandRefused(
            f"the daemon at {target} wants an access key that it knows: {details}; "
            "set METERD_ACCESS_KEY or METERD_ACCESS_KEY_FILE"
        )
    return CommandRefused(details or f"the daemon at {target} failed with {code.name}")


@contextmanager
def connected(option: str | None, console: Console) -> Iterator[Daemon]:
    """Connect to the target that `--target` or the environment names, for one command."""
    target = choose(console.environ, option)
    access_key = _access_key(console.environ)
    channel = _open_channel(target, console.environ)
    try:
        yield Daemon(target, channel, access_key)
    finally:
        channel.close()


def _open_channel(target: Target, environ: Mapping[str, str]) -> grpc.Channel:
    """A channel, encrypted wherever an access key could be overheard: as the apps connect.

    Without METERD_TLS_CA a public address is met with the system's authorities; a socket,
    this machine and a private network need no TLS.
    """
    authority = environ.get("METERD_TLS_CA", "")
    if target.path or (not authority and _is_private(target.host)):
        return grpc.insecure_channel(target.address, _OPTIONS)
    roots = _read(authority, "METERD_TLS_CA") if authority else None
    return grpc.secure_channel(target.address, grpc.ssl_channel_credentials(roots), _OPTIONS)


def _is_private(host: str) -> bool:
    """Whether every address of the host is of this machine or a private network."""
    try:
        found = socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP)
    except OSError:
        return False
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    return all(address.is_private for address in addresses)


def _access_key(environ: Mapping[str, str]) -> str:
    name = "METERD_ACCESS_KEY"
    key = environ.get(name, "").strip()
    if not key and (file := environ.get("METERD_ACCESS_KEY_FILE", "")):
        name = "METERD_ACCESS_KEY_FILE"
        key = _read(file, name).decode("ascii", "replace").strip()
    if not (key.isascii() and key.isprintable()):
        raise WrongUsage(f"the key of {name} has characters that no access key has")
    return key


def _read(path: str, name: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        expected = f"a file that can be read ({(error.strerror or '').lower()})"
        raise WrongValue(name, path, expected) from None
