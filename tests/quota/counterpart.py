"""The other end of a lease stream, for tests of the middleware alone: answers by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

from meterd_middleware.lease import Denied, Reservation
from meterd_middleware.leases import Leases
from meterd_proto.v1 import quota_pb2

SECOND = 10**9
MINUTE = 60 * SECOND


@dataclass
class Clock:
    """Wall and monotonic time, moved together unless said otherwise."""

    wall_ns: int = 1_700_000_000 * SECOND
    monotonic: int = 1_000 * SECOND

    def now_ns(self) -> int:
        return self.wall_ns

    def monotonic_ns(self) -> int:
        return self.monotonic

    def advance(self, ns: int) -> None:
        self.wall_ns += ns
        self.monotonic += ns


@dataclass
class Given:
    """What of the settings decides about leases."""

    on_unreachable: str = "allow"
    lease_timeout_ms: int = 50


@dataclass
class Counterpart:
    """Lends what it is told to, and keeps what it was sent."""

    tokens: int = 10_000
    hard: bool = True
    ceiling: bool = False
    on_unreachable: int = quota_pb2.ON_UNREACHABLE_ALLOW
    term_ms: int = 30 * 60_000
    given: Given = field(default_factory=Given)
    clock: Clock = field(default_factory=Clock)
    woken: int = 0
    received: list[quota_pb2.LeaseRequest] = field(default_factory=list)
    is_answering: bool = True
    denies: bool = False
    denial: quota_pb2.Denial = field(default_factory=lambda: quota_pb2.Denial(valid_for_ms=60_000))
    for_project: bool = False
    for_model: bool = False
    last_lease: int = 0

    def __post_init__(self) -> None:
        self.leases = Leases(
            self.given,  # type: ignore[arg-type]  # a str where Settings has a Literal
            now_ns=self.clock.now_ns,
            monotonic_ns=self.clock.monotonic_ns,
            wake=self.wake,
        )
        self.leases.connected()

    def wake(self) -> None:
        """Pump at once, as a shipper thread does that has nothing else to do."""
        self.woken += 1
        if self.is_answering:
            self.pump()

    def pump(self) -> list[quota_pb2.LeaseRequest]:
        """One round of the shipper: tick, take, answer."""
        self.leases.tick()
        requests = self.leases.take_requests()
        self.received += requests
        for request in requests:
            if request.WhichOneof("message") == "wanted" and self.is_answering:
                self.leases.on_response(self.answer(request.wanted))
        return requests

    def answer(self, wanted: quota_pb2.LeaseWanted) -> quota_pb2.LeaseResponse:
        """A grant of `tokens`, or the denial set."""
        if self.denies:
            denial = quota_pb2.Denial()
            denial.CopyFrom(self.denial)
            denial.request, denial.client = wanted.request, wanted.client
            denial.on_unreachable = self.on_unreachable  # type: ignore[assignment]  # an int here
            return quota_pb2.LeaseResponse(denial=denial)
        self.last_lease += 1
        grant = quota_pb2.Lease(
            request=wanted.request,
            lease_id=self.last_lease if self.hard else 0,
            client=wanted.client,
            tokens=self.tokens,
            expires_in_ms=self.term_ms,
            reserve=quota_pb2.RESERVE_MODE_CEILING
            if self.ceiling
            else quota_pb2.RESERVE_MODE_USUAL,
            on_unreachable=self.on_unreachable,  # type: ignore[arg-type]  # an int here
            quota_version=1,
            for_project=self.for_project,
            for_model=self.for_model,
            project=wanted.project if self.for_project else "",
            model=wanted.model if self.for_model else "",
        )
        return quota_pb2.LeaseResponse(grant=grant)

    def call(
        self,
        input_tokens: int = 100,
        max_output_tokens: int | None = 400,
        client: str = "acme",
        model: str = "gpt-4o",
        project: str = "",
    ) -> Reservation:
        """A call that is let through."""
        outcome = self.try_call(input_tokens, max_output_tokens, client, model, project)
        assert isinstance(outcome, Reservation), outcome
        return outcome

    def try_call(
        self,
        input_tokens: int = 100,
        max_output_tokens: int | None = 400,
        client: str = "acme",
        model: str = "gpt-4o",
        project: str = "",
    ) -> Reservation | Denied:
        """A call's decision."""
        return self.leases.reserve(client, project, model, input_tokens, max_output_tokens)

    def sent(self, kind: str) -> list[quota_pb2.LeaseRequest]:
        """What was received of one kind."""
        return [request for request in self.received if request.WhichOneof("message") == kind]

    def revoke(self, client: str = "", version: int = 2) -> None:
        """Say that what was told before holds no longer."""
        self.leases.on_response(
            quota_pb2.LeaseResponse(
                revocation=quota_pb2.Revocation(client=client, quota_version=version)
            )
        )
