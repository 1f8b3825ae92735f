"""`meterctl close`: make a month's invoices final, all of them or none."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from meterd.cli.client import connected
from meterd.cli.console import DONE, FAILED, DaemonUnavailable, WrongValue
from meterd.cli.figures import counted, money
from meterd.cli.invoice import list_table
from meterd.cli.invoice_document import COLUMNS, document_of, rows_of
from meterd.cli.options import add_connection, add_format, month
from meterd.cli.output import write_csv, write_json
from meterd.cli.progress import Progress
from meterd.cli.table import printable
from meterd_proto.v1 import billing_pb2, billing_pb2_grpc

if TYPE_CHECKING:
    import argparse

    from meterd.cli.client import Daemon
    from meterd.cli.console import Console

EXAMPLE = "meterctl close 2026-11 --dry-run"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `meterctl close`."""
    parser.add_argument(
        "month", type=month, metavar="MONTH",
        help="as 2026-11, or last-month: the period that begins in it",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true",
        help="show the invoices and what stands in the way, close nothing",
    )  # fmt: skip
    parser.add_argument(
        "--without", type=_producer, action="append", default=[], metavar="SERVICE@HOST",
        help="don't wait for this producer; what it still has becomes an adjustment",
    )  # fmt: skip
    parser.add_argument(
        "--allow-unpriced", action="store_true",
        help="close though some usage has no price; the invoice names it",
    )  # fmt: skip
    add_format(parser)
    add_connection(parser)


def _producer(text: str) -> str:
    service, at, host = text.rpartition("@")
    if not service or not at or not host or not text.isprintable():
        raise WrongValue("--without", text, "a producer as service@host, as `status` names it")
    return text


def run(options: argparse.Namespace, console: Console) -> int:
    """Close the month; exit code 1 where something stands in the way."""
    request = billing_pb2.CloseRequest(
        period=options.month,
        dry_run=options.dry_run,
        without=options.without,
        allow_unpriced=options.allow_unpriced,
    )
    with (
        connected(options.target, console) as daemon,
        Progress(console, "looking" if options.dry_run else "closing") as progress,
    ):
        result = _follow(daemon, request, progress)
    _write(result, options, console)
    return FAILED if result.obstacles else DONE


def _follow(
    daemon: Daemon, request: billing_pb2.CloseRequest, progress: Progress
) -> billing_pb2.CloseProgress:
    """Everything that came, in one message.

    Raises:
        DaemonUnavailable: the stream ended before it was done: asking again is safe.
    """
    stub = billing_pb2_grpc.BillingServiceStub(daemon.channel)
    result = billing_pb2.CloseProgress()
    progress.at(lambda: f"{result.done} of {counted(result.total, 'client')}")
    for step in daemon.follow(stub.Close, request):
        result.MergeFrom(step)
        result.done, result.total = step.done, step.total
    if not result.is_done:
        raise DaemonUnavailable(
            f"the daemon at {daemon.target} stopped in the middle; closing again is safe"
        )
    return result


def _write(
    result: billing_pb2.CloseProgress, options: argparse.Namespace, console: Console
) -> None:
    invoices = list(result.invoices)
    if options.format == "json":
        document = {
            "schema": "meterd.close/1",
            "period": result.period or options.month,
            "is_closed": result.is_closed,
            "obstacles": list(result.obstacles),
            "remarks": list(result.remarks),
            "invoices": [document_of(one) for one in invoices],
        }
        write_json(console.out, document)
    elif options.format == "csv":
        write_csv(console.out, COLUMNS, (row for one in invoices for row in rows_of(one)),
                  ("amount",))  # fmt: skip
    else:
        _print(result, options, console)
    if options.format == "csv" or (options.format == "table" and not options.dry_run):
        for obstacle in result.obstacles:
            console.remark(f"meterctl close: {printable(obstacle)}")


def _print(
    result: billing_pb2.CloseProgress, options: argparse.Namespace, console: Console
) -> None:
    invoices = list(result.invoices)
    if invoices:
        for line in list_table(invoices, console.width):
            console.print(line)
        console.print()
    for remark in result.remarks:
        console.print(f"Note: {printable(remark)}.")
    if options.dry_run:
        for obstacle in result.obstacles:
            console.print(f"In the way: {printable(obstacle)}.")
    console.print(_sentence(result, options))


def _sentence(result: billing_pb2.CloseProgress, options: argparse.Namespace) -> str:
    invoices, month = list(result.invoices), result.period or options.month
    many = counted(len(invoices), "invoice")
    if result.is_closed:
        return f"{month} is closed: {many}{_sum(invoices)}."
    if options.dry_run and not result.obstacles:
        return f"Nothing is in the way; {many}{_sum(invoices)} would be final. This was a dry run."
    return f"{month} was not closed."


def _sum(invoices: list[billing_pb2.Invoice]) -> str:
    if not invoices:
        return ""
    owed = (Decimal(one.total) for one in invoices if one.status != "void")
    total = sum(owed, Decimal(0))
    return f", {money(total, invoices[0].currency)} in all"
