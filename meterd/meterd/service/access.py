"""Who may ask what over TCP: access keys and their scopes.

A call over TCP shows its key as `authorization: Bearer KEY`; the configuration knows the
key's SHA-256 alone. Keys are 256 random bits, so a plain hash is enough: there is nothing
to guess. A unix socket is guarded by its file's mode and asks for no key.
"""

from __future__ import annotations

import hmac
import inspect
import ipaddress
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import grpc

from meterd.errors import NotAllowed, NotIdentified
from meterd.service.status import refuse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from meterd.config.agency import AccessKey

_READ = {
    "RollupService": {"Query"},
    "QuotaService": {"Status"},
    "AdminService": {"Status", "Tail", "Records", "Verify"},
    "BillingService": {
        "GetInvoice",
        "ListInvoices",
        "Document",
        "Profit",
        "Prices",
        "VerifyInvoices",
    },
}
_SHIP = {"UsageService": {"Ship"}, "QuotaService": {"Lease"}}
_PACKAGE = "meterd.v1."
_OPEN_TO_ALL = "grpc.health.v1.Health"
_ANY_KEY = "grpc.reflection."


def scopes_for(method: str) -> frozenset[str]:
    """The scopes that reach a method, given as "/package.Service/Method"; none: no key needed."""
    service, _, name = method.lstrip("/").partition("/")
    if service == _OPEN_TO_ALL:
        return frozenset()
    if service.startswith(_ANY_KEY):
        return frozenset(("ship", "read", "admin"))
    short = service.removeprefix(_PACKAGE)
    scopes = {"admin"}
    if name in _READ.get(short, ()):
        scopes.add("read")
    if name in _SHIP.get(short, ()):
        scopes.add("ship")
    return frozenset(scopes)


def check_key(shown: str, method: str, keys: Iterable[AccessKey]) -> None:
    """Let a call pass whose key reaches the method.

    Raises:
        NotIdentified: no key, or one that the configuration doesn't know.
        NotAllowed: the key's scope doesn't reach the method.
    """
    wanted = scopes_for(method)
    if not wanted:
        return
    if not shown:
        raise NotIdentified(
            "over TCP meterd asks for an access key; `meterctl access-key` makes one"
        )
    digest = sha256(shown.encode()).hexdigest()
    found = None
    for key in keys:  # every one is compared, so that time tells nothing
        if hmac.compare_digest(key.sha256, digest):
            found = key
    if found is None:
        raise NotIdentified("this access key is not in the configuration in force")
    if found.scope not in wanted:
        needed = " or ".join(sorted(wanted - {"admin"}) or ["admin"])
        raise NotAllowed(
            f"the access key {found.name!r} has the scope {found.scope}; this needs {needed}"
        )


class AccessKeys(grpc.aio.ServerInterceptor):
    """Checks each call of a TCP server before its handler runs."""

    def __init__(
        self, keys: Callable[[], Sequence[AccessKey]], *, private_peers_only: bool = False
    ) -> None:
        self._keys = keys
        self._private_peers_only = private_peers_only

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler, or one of the same kind that ends the call with the reason."""
        handler = await continuation(details)
        if handler is None:
            return None
        try:
            check_key(_bearer(details), str(details.method), self._keys())
        except NotAllowed as error:
            return _replaced(handler, _Refusal(error))
        if self._private_peers_only:
            return _replaced(handler, _PrivatePeers(handler))
        return handler


class _Refusal:
    """Handles a call by refusing it."""

    def __init__(self, error: NotAllowed) -> None:
        self._error = error

    async def __call__(self, request: Any, context: Any) -> Any:
        await refuse(context, self._error)


class _PrivatePeers:
    """Handles a call as its handler does, if it comes from a private network."""

    def __init__(self, handler: Any) -> None:
        self._inner = _behaviour_of(handler)

    async def __call__(self, request: Any, context: Any) -> Any:
        if not is_private_peer(context.peer()):
            await refuse(context, NotAllowed("without TLS only private networks are served"))
        if not inspect.isasyncgenfunction(self._inner):
            return await self._inner(request, context)
        async for answer in self._inner(request, context):
            await context.write(answer)
        return None


def is_private_peer(peer: str) -> bool:
    """Whether gRPC's name of a peer, as "ipv4:10.0.0.7:4711", is of a private network."""
    family, _, rest = peer.partition(":")
    if family == "unix":
        return True
    host = rest.rpartition(":")[0].replace("%5B", "[").replace("%5D", "]").strip("[]")
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_private)


def _bearer(details: grpc.HandlerCallDetails) -> str:
    for name, value in details.invocation_metadata or ():
        if name == "authorization" and isinstance(value, str):
            scheme, _, key = value.partition(" ")
            return key.strip() if scheme.lower() == "bearer" else ""
    return ""


def _behaviour_of(handler: Any) -> Any:
    return (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )


def _replaced(handler: Any, behaviour: Any) -> Any:
    """A handler of the same kind, with the same codecs, that behaves otherwise."""
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]

    async def behave(request: Any, context: Any) -> Any:
        return await behaviour(request, context)

    return make(
        behave,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
