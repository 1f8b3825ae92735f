"""`meterctl verify`: prove that ledger, rollups, watermarks and invoices agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.cli.client import connected
from meterd.cli.console import DONE, FAILED, DaemonUnavailable
from meterd.cli.figures import count, counted
from meterd.cli.options import add_connection, add_format, month
from meterd.cli.output import write_csv, write_json
from meterd.cli.progress import Progress
from meterd.cli.table import printable
from meterd_proto.v1 import admin_pb2, admin_pb2_grpc, billing_pb2, billing_pb2_grpc

if TYPE_CHECKING:
    import argparse

    from meterd.cli.client import Daemon
    from meterd.cli.console import Console

EXAMPLE = "meterctl verify"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `meterctl verify`."""
    parser.add_argument(
        "month", nargs="?", type=month, metavar="MONTH",
        help="the period that begins in it alone (default: the whole ledger)",
    )  # fmt: skip
    add_format(parser)
    add_connection(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """Follow the proof to its end; exit code 1 where anything differs."""
    with (
        connected(options.target, console) as daemon,
        Progress(console, "verifying") as progress,
    ):
        proof = prove(daemon, options.month or "", progress)
        invoices = prove_invoices(daemon, options.month or "", progress)
    differences = [*proof.differences, *invoices.differences]
    if options.format == "json":
        document = {
            "schema": "meterd.verify/1",
            "period": options.month or None,
            "checked": proof.checked,
            "documents": invoices.total,
            "agrees": not differences,
            "differences": differences,
        }
        write_json(console.out, document)
    elif options.format == "csv":
        write_csv(console.out, ["difference"], ({"difference": text} for text in differences))
    else:
        _print(proof, invoices, differences, console)
    return FAILED if differences else DONE


def prove(
    daemon: Daemon, period: str, progress: Progress, timeout_s: float | None = None
) -> admin_pb2.VerifyProgress:
    """The finished proof, with every difference that was found on the way.

    Raises:
        DaemonUnavailable: the stream ended before the proof did: nothing is proved.
    """
    stub = admin_pb2_grpc.AdminServiceStub(daemon.channel)
    proof = admin_pb2.VerifyProgress()
    progress.at(lambda: _how_far(proof))
    request = admin_pb2.VerifyRequest(period=period)
    for step in daemon.follow(stub.Verify, request, timeout_s):
        proof.checked, proof.total, proof.is_done = step.checked, step.total, step.is_done
        known = set(proof.differences)
        proof.differences.extend(text for text in step.differences if text not in known)
    if not proof.is_done:
        raise DaemonUnavailable(f"the daemon at {daemon.target} stopped in the middle of the proof")
    return proof


def prove_invoices(
    daemon: Daemon, period: str, progress: Progress
) -> billing_pb2.VerifyInvoicesProgress:
    """The finished proof of the chain of invoices, and of each from the ledger.

    Raises:
        DaemonUnavailable: the stream ended before the proof did: nothing is proved.
    """
    stub = billing_pb2_grpc.BillingServiceStub(daemon.channel)
    proof = billing_pb2.VerifyInvoicesProgress()
    progress.at(lambda: f"{count(proof.checked)} of {counted(proof.total, 'document')}")
    request = billing_pb2.VerifyInvoicesRequest(period=period)
    for step in daemon.follow(stub.VerifyInvoices, request):
        proof.checked, proof.total, proof.is_done = step.checked, step.total, step.is_done
        proof.differences.extend(step.differences)
    if not proof.is_done:
        raise DaemonUnavailable(f"the daemon at {daemon.target} stopped in the middle of the proof")
    return proof


def _how_far(proof: admin_pb2.VerifyProgress) -> str:
    if not proof.total:
        return ""
    percent = proof.checked * 100 // proof.total
    return f"{count(proof.checked)} of {counted(proof.total, 'record')} ({percent} %)"


def _print(
    proof: admin_pb2.VerifyProgress,
    invoices: billing_pb2.VerifyInvoicesProgress,
    differences: list[str],
    console: Console,
) -> None:
    if not differences:
        console.print(f"Ledger and rollups agree: {counted(proof.checked, 'record')} checked.")
        if invoices.total:
            documents = counted(invoices.total, "document")
            console.print(f"Invoices agree with the ledger: {documents} in one unbroken chain.")
        return
    for difference in differences:
        console.print(printable(difference))
    console.remark(
        f"meterctl verify: {counted(len(differences), 'difference')} among "
        f"{counted(proof.checked, 'record')}: the ledger is the truth; keep a `meterctl backup` "
        "and report it"
    )
