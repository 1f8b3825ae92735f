"""A gRPC server on a unix socket that answers with what a test gave it.

Real gRPC, real socket; only what is behind the servicers is fixed, so that the command line
is tested apart from the daemon. `test_end_to_end.py` has the daemon itself.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import grpc

from meterd_proto.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    billing_pb2,
    billing_pb2_grpc,
    quota_pb2,
    quota_pb2_grpc,
    rollup_pb2,
    rollup_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Answer = TypeVar("Answer")


@dataclass
class Answers:
    """What the server says, and what it was asked."""

    rollup: list[rollup_pb2.RollupResponse] = field(default_factory=list)
    quotas: list[quota_pb2.QuotaStatus] = field(default_factory=list)
    status: admin_pb2.StatusResponse = field(default_factory=admin_pb2.StatusResponse)
    apply: list[admin_pb2.ApplyResponse] = field(default_factory=list)
    tail: list[admin_pb2.TailEvent] = field(default_factory=list)
    records: list[admin_pb2.RecordRow] = field(default_factory=list)
    verify: list[admin_pb2.VerifyProgress] = field(default_factory=list)
    verify_invoices: list[billing_pb2.VerifyInvoicesProgress] = field(
        default_factory=lambda: [billing_pb2.VerifyInvoicesProgress(is_done=True)]
    )
    backup: list[admin_pb2.BackupChunk] = field(default_factory=list)
    grant: admin_pb2.GrantResponse = field(default_factory=admin_pb2.GrantResponse)
    accepted: admin_pb2.AcceptLateResponse = field(default_factory=admin_pb2.AcceptLateResponse)
    forgotten: admin_pb2.ForgetResponse = field(default_factory=admin_pb2.ForgetResponse)
    error: tuple[grpc.StatusCode, str] | None = None
    """What every call ends with, after its answers where it streams."""
    until: Callable[[], object] = lambda: None
    """Called before an answer: a test makes a call last until it lets go."""
    asked: list[object] = field(default_factory=list)
    metadata: list[dict[str, str | bytes]] = field(default_factory=list)

    def heard(self, request: object, context: grpc.ServicerContext) -> None:
        self.asked.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        self.until()

    def end(self, context: grpc.ServicerContext) -> None:
        if self.error is not None:
            context.abort(*self.error)


class _Rollup(rollup_pb2_grpc.RollupServiceServicer):
    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def Query(
        self, request: rollup_pb2.RollupRequest, context: grpc.ServicerContext
    ) -> Iterator[rollup_pb2.RollupResponse]:
        self._answers.heard(request, context)
        yield from self._answers.rollup
        self._answers.end(context)


class _Quota(quota_pb2_grpc.QuotaServiceServicer):
    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def Status(
        self, request: quota_pb2.QuotaStatusRequest, context: grpc.ServicerContext
    ) -> quota_pb2.QuotaStatusResponse:
        self._answers.heard(request, context)
        self._answers.end(context)
        return quota_pb2.QuotaStatusResponse(
            quotas=[quota for quota in self._answers.quotas if request.client in ("", quota.client)]
        )

    def Lease(
        self, request_iterator: object, context: grpc.ServicerContext
    ) -> Iterator[quota_pb2.LeaseResponse]:
        raise NotImplementedError("the command line never leases")


class _Admin(admin_pb2_grpc.AdminServiceServicer):
    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def Status(
        self, request: admin_pb2.StatusRequest, context: grpc.ServicerContext
    ) -> admin_pb2.StatusResponse:
        return self._one(request, context, self._answers.status)

    def Apply(
        self, request: admin_pb2.ApplyRequest, context: grpc.ServicerContext
    ) -> admin_pb2.ApplyResponse:
        return self._one(request, context, self._answers.apply.pop(0))

    def Grant(
        self, request: admin_pb2.GrantRequest, context: grpc.ServicerContext
    ) -> admin_pb2.GrantResponse:
        return self._one(request, context, self._answers.grant)

    def AcceptLate(
        self, request: admin_pb2.AcceptLateRequest, context: grpc.ServicerContext
    ) -> admin_pb2.AcceptLateResponse:
        return self._one(request, context, self._answers.accepted)

    def Forget(
        self, request: admin_pb2.ForgetRequest, context: grpc.ServicerContext
    ) -> admin_pb2.ForgetResponse:
        return self._one(request, context, self._answers.forgotten)

    def Tail(
        self, request: admin_pb2.TailRequest, context: grpc.ServicerContext
    ) -> Iterator[admin_pb2.TailEvent]:
        return self._many(request, context, self._answers.tail)

    def Records(
        self, request: admin_pb2.RecordsRequest, context: grpc.ServicerContext
    ) -> Iterator[admin_pb2.RecordRow]:
        return self._many(request, context, self._answers.records)

    def Verify(
        self, request: admin_pb2.VerifyRequest, context: grpc.ServicerContext
    ) -> Iterator[admin_pb2.VerifyProgress]:
        return self._many(request, context, self._answers.verify)

    def Backup(
        self, request: admin_pb2.BackupRequest, context: grpc.ServicerContext
    ) -> Iterator[admin_pb2.BackupChunk]:
        return self._many(request, context, self._answers.backup)

    def _one(self, request: object, context: grpc.ServicerContext, answer: Answer) -> Answer:
        self._answers.heard(request, context)
        self._answers.end(context)
        return answer

    def _many(
        self, request: object, context: grpc.ServicerContext, answers: list[Answer]
    ) -> Iterator[Answer]:
        self._answers.heard(request, context)
        yield from answers
        self._answers.end(context)


class _Billing(billing_pb2_grpc.BillingServiceServicer):
    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def VerifyInvoices(
        self, request: billing_pb2.VerifyInvoicesRequest, context: grpc.ServicerContext
    ) -> Iterator[billing_pb2.VerifyInvoicesProgress]:
        self._answers.heard(request, context)
        yield from self._answers.verify_invoices
        self._answers.end(context)


class _Usage(usage_pb2_grpc.UsageServiceServicer):
    """Acknowledges every batch, as a ledger that has none of it yet."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def Ship(
        self, request_iterator: Iterator[usage_pb2.ShipRequest], context: grpc.ServicerContext
    ) -> Iterator[usage_pb2.ShipResponse]:
        for request in request_iterator:
            self._answers.heard(request, context)
            self._answers.end(context)
            if request.HasField("hello"):
                yield usage_pb2.ShipResponse(welcome=usage_pb2.Welcome(ledger_id=b"l" * 16))
            elif request.HasField("batch"):
                last = request.batch.first_sequence + len(request.batch.dimension) - 1
                acknowledgment = usage_pb2.Acknowledgment(watermark=last)
                yield usage_pb2.ShipResponse(acknowledgment=acknowledgment)


def serve(answers: Answers, address: str) -> grpc.Server:
    """Start a server that answers so, at `address`."""
    server = _server(answers)
    server.add_insecure_port(address)
    server.start()
    return server


def serve_on_a_port(answers: Answers) -> tuple[grpc.Server, int]:
    """Start a server that answers so, at a free port of the loopback."""
    server = _server(answers)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def _server(answers: Answers) -> grpc.Server:
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    rollup_pb2_grpc.add_RollupServiceServicer_to_server(_Rollup(answers), server)
    quota_pb2_grpc.add_QuotaServiceServicer_to_server(_Quota(answers), server)
    admin_pb2_grpc.add_AdminServiceServicer_to_server(_Admin(answers), server)
    usage_pb2_grpc.add_UsageServiceServicer_to_server(_Usage(answers), server)
    billing = _Billing(answers)  # type: ignore[abstract]  # the rest answers "unimplemented"
    billing_pb2_grpc.add_BillingServiceServicer_to_server(billing, server)
    return server
