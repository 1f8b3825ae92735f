"""The daemon put together: what rests on what, in which order it starts, and how it ends.

    store open ─▶ configuration in force ─▶ servicers ─▶ listening ─▶ SERVING
                                              ├─ sweeper: adoption
                                              ├─ quota: lends, watches thresholds
                                              └─ hooks
    SIGTERM ─▶ NOT_SERVING ─▶ calls drain ─▶ tasks end ─▶ store closes ─▶ exit 0

Every task lives in the one TaskGroup; what one of them raises ends the daemon, and systemd
or its like starts it anew. Nothing acknowledged can be lost by that.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from meterd.config.in_force import InForce
from meterd.errors import CannotStart
from meterd.hooks import Announcements, Hooks
from meterd.listening import Listening
from meterd.service import usage
from meterd.service.access import AccessKeys
from meterd.service.admin import AdminServicer, Host
from meterd.service.billing import BillingServicer
from meterd.service.configuring import Configuring
from meterd.service.quota import QuotaServicer
from meterd.service.rollup import RollupServicer
from meterd.store.sqlite import open_store
from meterd_proto.v1 import admin_pb2_grpc, billing_pb2_grpc, quota_pb2_grpc, rollup_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meterd.adoption import Sweeper
    from meterd.clock import Clock
    from meterd.options import Address, Options
    from meterd.store.store import Store

_log = logging.getLogger("meterd")

DRAIN_S = 1.0
"""How long calls may go on after SIGTERM. A stream that is cut is resent from the watermark."""

SOCKETS_LOOKED_AT_S = 2.0

MESSAGE_BYTES_MAX = 16 << 20

SERVICES = tuple(
    f"meterd.v1.{name}"
    for name in ("UsageService", "QuotaService", "RollupService", "BillingService", "AdminService")
)

_SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    # Two daemons on one port would share its connections; the second must fail instead.
    ("grpc.so_reuseport", 0),
    # A producer that vanished without a word is noticed after about a minute.
    ("grpc.keepalive_time_ms", 40_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
)


async def run(options: Options, clock: Clock, version: str, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Args:
        ready: told one line, once everything can be reached.

    Raises:
        CannotStart: one sentence says why.
    """
    stop = _stop_signal()
    async with AsyncExitStack() as resources:
        store = await open_store(options.data, clock)
        resources.push_async_callback(store.close)
        listening = Listening(options)
        resources.callback(listening.close)
        daemon = _Daemon(options, clock, version, store, listening)
        await daemon.serve(stop, ready)


class _Daemon:
    """One daemon's parts, between the store's opening and its closing."""

    def __init__(
        self, options: Options, clock: Clock, version: str, store: Store, listening: Listening
    ) -> None:
        self._options = options
        self._store = store
        self._in_force = InForce()
        self._configuring = Configuring(store, self._in_force, clock)
        self._listening = listening
        self._announcements = Announcements()
        self._hooks = Hooks(
            options.data / "outbox", lambda: self._in_force.agency.on_threshold, self._announcements
        )
        self._quota = QuotaServicer(store, self._in_force, clock, self._hooks)
        self._usage = usage.UsageServicer(store, clock, version)
        self._rollup = RollupServicer(store, self._in_force, clock)
        self._billing = BillingServicer(
            store,
            self._in_force,
            clock,
            options.data / "letters",
            connected=lambda: self._usage.connected,
        )
        self._health = health.aio.HealthServicer()
        self._servers: list[grpc.aio.Server] = []
        self._clock = clock
        self._version = version

    async def serve(self, stop: asyncio.Event, ready: Callable[[str], None]) -> None:
        """Put the configuration in force, serve until `stop`, then drain."""
        await self._configuring.restore()
        if self._options.config is not None:
            await self._apply_at_start(self._options.config)
        await self._quota.start()
        self._make_spool_root()
        self._bind()
        for server in self._servers:
            await server.start()
        async with asyncio.TaskGroup() as tasks:
            work = (self._hooks.run(), self._sweep(), self._quota.run())
            running = [tasks.create_task(task) for task in work]
            keeping = tasks.create_task(self._keep_sockets())
            await self._say(health_pb2.HealthCheckResponse.SERVING)
            ready(self._where())
            await stop.wait()
            keeping.cancel()  # first: the sockets go now, and are not to be made anew
            await asyncio.wait([keeping])
            await self._say(health_pb2.HealthCheckResponse.NOT_SERVING)
            await asyncio.gather(*(server.stop(DRAIN_S) for server in self._servers))
            for task in running:
                task.cancel()

    async def _sweep(self) -> None:
        """Adopt what dead processes have left, from a moment after the start on.

        Importing the middleware takes 60 ms, which no app has to wait for.
        """
        adoption = await asyncio.to_thread(_imported_adoption)
        sweeper = adoption(self._store, self._clock, self._options.spool_roots, self._version)
        await sweeper.run()

    async def _apply_at_start(self, path: Path) -> None:
        toml: bytes | OSError
        try:
            toml = await asyncio.to_thread(path.read_bytes)
        except OSError as error:
            toml = error
        await self._configuring.apply_at_start(toml, str(path))

    def _make_spool_root(self) -> None:
        """Make the root that apps look for; without it they make their own, if they may."""
        root = self._options.spool_roots[0]
        try:
            self._listening.make_spool_root(root)
        except OSError as error:
            _log.warning("the spool root %s can't be made: %s", root, error.strerror or error)

    def _bind(self) -> None:
        """A server for unix sockets, guarded by their mode, and one for TCP, guarded by keys."""
        sockets = [address for address in self._options.listen if address.path]
        ports = [address for address in self._options.listen if not address.path]
        if sockets:
            server = grpc.aio.server(options=_SERVER_OPTIONS)
            for address in sockets:
                self._listening.bind_unix(server, address)
            self._servers.append(server)
        if ports:
            keys = AccessKeys(
                lambda: self._in_force.agency.access_keys,
                private_peers_only=self._options.tls_cert is None,
            )
            server = grpc.aio.server(interceptors=(keys,), options=_SERVER_OPTIONS)
            for address in ports:
                self._listening.bind_tcp(server, address)
            self._servers.append(server)
            if not self._in_force.agency.access_keys:
                _log.warning("nobody can use TCP yet: [access_keys] in meterd.toml has none")
        # Made only now: it says the ports that were really bound.
        self._admin = self._make_admin()
        for server in self._servers:
            self._register(server)

    async def _keep_sockets(self) -> None:
        """Make a socket that somebody removed anew: apps wait on disk until they find it."""
        troubles: dict[Address, str] = {}
        while True:
            await asyncio.sleep(SOCKETS_LOOKED_AT_S)
            for address in self._listening.lost():
                server = grpc.aio.server(options=_SERVER_OPTIONS)
                self._register(server)
                try:
                    self._listening.bind_again(server, address)
                except (CannotStart, OSError) as error:
                    if troubles.get(address) != str(error):
                        troubles[address] = str(error)
                        _log.error("%s was removed, and can't be made anew: %s", address, error)
                    continue
                self._servers.append(server)
                await server.start()
                troubles.pop(address, None)
                _log.warning("%s was removed by somebody; made anew", address)

    def _make_admin(self) -> AdminServicer:
        return AdminServicer(
            self._store,
            self._in_force,
            self._configuring,
            self._clock,
            Host(
                version=self._version,
                data=self._options.data,
                spool_roots=self._options.spool_roots,
                listening=tuple(self._listening.bound),
                started_at_unix_ns=self._clock.unix_ns(),
            ),
            self._announcements,
            granted=self._quota.granted,
            connected=lambda: self._usage.connected,
        )

    def _register(self, server: grpc.aio.Server) -> None:
        usage.add_to_server(self._usage, server)
        quota_pb2_grpc.add_QuotaServiceServicer_to_server(self._quota, server)
        rollup_pb2_grpc.add_RollupServiceServicer_to_server(self._rollup, server)
        billing_pb2_grpc.add_BillingServiceServicer_to_server(self._billing, server)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(self._admin, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        _enable_reflection(server)

    async def _say(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in ("", *SERVICES):
            await self._health.set(service, status)

    def _where(self) -> str:
        roots = ", ".join(str(root) for root in self._options.spool_roots)
        return (
            f"meterd {self._version} is ready on {', '.join(self._listening.bound)} "
            f"(ledger in {self._options.data}, sweeping {roots})"
        )


def _imported_adoption() -> type[Sweeper]:
    from meterd.adoption import Sweeper

    return Sweeper


def _enable_reflection(server: grpc.aio.Server) -> None:
    from grpc_reflection.v1alpha import reflection

    reflection.enable_server_reflection(
        (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )


def _stop_signal() -> asyncio.Event:
    """Set by SIGTERM or SIGINT; a second one finds the same end on its way."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
