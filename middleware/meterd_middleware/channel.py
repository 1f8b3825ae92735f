"""The channel to meterd: the only file that imports grpc, and only the shipper's thread imports it.

    courier ─ connect(target) ─▶ Channel ─ ship() ──▶ Stream of ShipRequest, ShipResponse
                                        └ lease() ─▶ Stream of LeaseRequest, LeaseResponse
    what comes in, and the end of a stream, go to the owner's inbox, in order

Every channel has its subchannels for itself (`grpc.use_local_subchannel_pool`): of the shared
pool a forked child of a streaming parent inherits connections that nobody serves any more.
Each attempt to connect makes a new channel, so that the waits between attempts are ours.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

import grpc

from meterd_middleware import turns
from meterd_middleware.heard import Heard
from meterd_proto.v1.quota_pb2_grpc import QuotaServiceStub
from meterd_proto.v1.usage_pb2_grpc import UsageServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meterd_middleware.settings import Settings
    from meterd_proto.v1.quota_pb2 import LeaseRequest, LeaseResponse
    from meterd_proto.v1.usage_pb2 import ShipRequest, ShipResponse

_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),  # the app's proxy is for its providers, not for meterd
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_receive_message_length", 4 * 2**20),
)

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


Inbox: TypeAlias = "SimpleQueue[object]"
ShipStream: TypeAlias = "Stream[ShipRequest, ShipResponse]"
LeaseStream: TypeAlias = "Stream[LeaseRequest, LeaseResponse]"


class Stream(Generic[_Request, _Response]):
    """A bidirectional stream: what is sent waits its turn, what is heard goes to the inbox."""

    def __init__(
        self,
        start: Callable[[Iterator[_Request]], Iterator[_Response]],
        inbox: Inbox,
    ) -> None:
        self._inbox = inbox
        self._outgoing: SimpleQueue[_Request | None] = SimpleQueue()
        self._call = start(iter(self._outgoing.get, None))
        self._listener = Thread(target=self._listen, name="meterd-listener", daemon=True)
        self._listener.start()

    def send(self, request: _Request) -> None:
        """Send a message. Bounded by who calls: delivery's window, leases that are asked for."""
        self._outgoing.put(request)

    def finish(self) -> None:
        """Say that nothing more comes; the daemon ends the stream then."""
        self._outgoing.put(None)

    def cancel(self) -> None:
        """End it at once."""
        self._outgoing.put(None)
        self._call.cancel()  # type: ignore[attr-defined]  # a grpc.Call, which its stub doesn't say

    def join(self, timeout_s: float) -> None:
        """Wait for the stream's thread to have ended."""
        self._listener.join(timeout_s)

    def _listen(self) -> None:
        ended, is_refusal = "the stream ended", False
        try:
            for response in self._call:
                self._inbox.put(Heard(self, response))  # type: ignore[arg-type]  # one of the two
        except grpc.RpcError as error:
            code = error.code() if isinstance(error, grpc.Call) else None
            details = error.details() if isinstance(error, grpc.Call) else ""
            ended = f"{code.name if code else 'UNKNOWN'}: {details}"
            is_refusal = code in _REFUSALS
        finally:
            self._outgoing.put(None)  # grpc's thread waits there for what to send
            self._inbox.put(Heard(self, None, ended, is_refusal))


_REFUSALS = frozenset(
    {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.FAILED_PRECONDITION,
    }
)


class Channel:
    """One connection to one target. Nothing is connected before the first stream."""

    def __init__(self, target: str, *, access_key: str = "", tls_ca: str = "") -> None:
        """Make the channel.

        Raises:
            OSError: the file of the certificate authority can't be read.
        """
        self.target = target
        self._metadata = (("authorization", f"Bearer {access_key}"),) if access_key else ()
        if is_plain(target, tls_ca):
            self._channel = grpc.insecure_channel(target, options=_OPTIONS)
        else:
            roots = Path(tls_ca).read_bytes() if tls_ca else None
            credentials = grpc.ssl_channel_credentials(root_certificates=roots)
            self._channel = grpc.secure_channel(target, credentials, options=_OPTIONS)

    def ship(self, inbox: Inbox) -> ShipStream:
        """The stream of usage records."""
        call = UsageServiceStub(self._channel).Ship
        return Stream(lambda requests: call(requests, metadata=self._metadata), inbox)

    def lease(self, inbox: Inbox) -> LeaseStream:
        """The stream of leases."""
        call = QuotaServiceStub(self._channel).Lease
        return Stream(lambda requests: call(requests, metadata=self._metadata), inbox)

    def close(self) -> None:
        """End every stream and the connection."""
        self._channel.close()


def connect(settings: Settings, target: str) -> Channel:
    """A channel to a target as the settings say.

    Raises:
        OSError: the file of the certificate authority can't be read.
    """
    _take_turns()
    return Channel(target, access_key=settings.access_key, tls_ca=settings.tls_ca)


_told_in_process = 0


def _take_turns() -> None:
    """Under gevent grpc waits in gevent's pool of threads, once it is told to."""
    global _told_in_process
    if _told_in_process != os.getpid() and turns.are_gevents():
        from grpc.experimental import gevent

        gevent.init_gevent()
        _told_in_process = os.getpid()


def is_there(target: str) -> bool:
    """Whether trying makes sense: a socket that doesn't exist answers nobody."""
    path = _socket_path(target)
    return path is None or os.path.exists(path)  # noqa: PTH110 - a plain look


def accepts(target: str, timeout_s: float) -> bool:
    """Whether somebody accepts connections there, asked without grpc.

    Where it does and grpc has no answer, it is grpc that is stuck: in about one forked child
    of 300 of a streaming parent.
    """
    try:
        path = _socket_path(target)
        if path is not None:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(timeout_s)
                probe.connect(path)
        else:
            host, port = _host_and_port(target)
            socket.create_connection((host, port), timeout_s).close()
    except (OSError, ValueError):
        return False
    return True


def is_plain(target: str, tls_ca: str) -> bool:
    """Whether to connect without TLS: to a socket, this host, or a private network.

    A certificate authority in the settings always means TLS; so does an address that the
    whole world can reach, with the system's authorities.
    """
    if _socket_path(target) is not None:
        return True
    if tls_ca:
        return False
    try:
        host, port = _host_and_port(target)
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        return True  # nobody to connect to: no key is sent
    addresses = [ipaddress.ip_address(str(address[0]).partition("%")[0]) for *_, address in found]
    return all(address.is_private or address.is_loopback for address in addresses)


def _socket_path(target: str) -> str | None:
    if not target.startswith("unix:"):
        return None
    path = target.removeprefix("unix:")
    return path[2:] if path.startswith("//") else path


def _host_and_port(target: str) -> tuple[str, int]:
    host, _, port = target.rpartition(":")
    return host.strip("[]"), int(port)
