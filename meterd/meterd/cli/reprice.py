"""`meterctl reprice`: price what had no price, or what prices in force say otherwise."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from meterd.cli.client import connected
from meterd.cli.console import DONE, DaemonUnavailable, WrongUsage
from meterd.cli.figures import count, counted, money
from meterd.cli.options import add_connection, add_format, identifier
from meterd.cli.output import write_csv, write_json
from meterd.cli.progress import Progress
from meterd.cli.reasons import add_reason, this_user
from meterd.cli.table import Column, render
from meterd_proto.v1 import billing_pb2, billing_pb2_grpc

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from meterd.cli.console import Console

EXAMPLE = 'meterctl reprice --why "the book knows gpt-6 now"'

_FIELDS = (
    "client", "period", "provider", "model", "records", "requests_priced", "before", "after",
    "difference", "currency", "is_closed_period",
)  # fmt: skip
_DECIMALS = ("before", "after", "difference")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `meterctl reprice`."""
    parser.add_argument("--dry-run", action="store_true", help="show what changes, change nothing")
    parser.add_argument(
        "--client", type=identifier("--client"), metavar="CLIENT", help="this client alone"
    )
    parser.add_argument(
        "--all", action="store_true",
        help="also what has a price, where the prices in force say otherwise",
    )  # fmt: skip
    add_reason(parser, is_required=False)
    add_format(parser)
    add_connection(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """Show what changes, and change it unless it is a dry run."""
    if not options.dry_run and not options.why:
        raise WrongUsage('--why is missing: say why, as in --why "the book knows gpt-6 now"')
    request = billing_pb2.RepriceRequest(
        dry_run=options.dry_run,
        client=options.client or "",
        why=options.why or "",
        who=options.who or this_user(),
        all=options.all,
    )
    rows: list[billing_pb2.RepriceRow] = []
    last = billing_pb2.RepriceRow()
    with (
        connected(options.target, console) as daemon,
        Progress(console, "pricing") as progress,
    ):
        progress.at(lambda: f"{count(last.checked)} of {counted(last.total, 'record')}")
        stub = billing_pb2_grpc.BillingServiceStub(daemon.channel)
        for row in daemon.follow(stub.Reprice, request):
            if row.client:
                rows.append(row)
            else:
                last = row
    if not last.is_done:
        raise DaemonUnavailable("the daemon stopped in the middle; repricing again is safe")
    _write(rows, options, console)
    return DONE


def _write(
    rows: Sequence[billing_pb2.RepriceRow], options: argparse.Namespace, console: Console
) -> None:
    documents = [{name: getattr(row, name) for name in _FIELDS} for row in rows]
    if options.format == "json":
        document = {"schema": "meterd.reprice/1", "dry_run": options.dry_run, "rows": documents}
        write_json(console.out, document)
    elif options.format == "csv":
        write_csv(console.out, _FIELDS, documents, _DECIMALS)
    elif not rows:
        console.print("Nothing to price: what is unpriced has no price yet.")
    else:
        for line in _table(rows, console.width):
            console.print(line)
        console.print()
        console.print(_sentence(rows, is_dry_run=options.dry_run))


def _table(rows: Sequence[billing_pb2.RepriceRow], width: int | None) -> list[str]:
    columns = [
        Column("CLIENT"), Column("PERIOD"), Column("MODEL"), Column("RECORDS", is_figure=True),
        Column("BEFORE", is_figure=True), Column("AFTER", is_figure=True),
        Column("DIFFERENCE", is_figure=True), Column(""),
    ]  # fmt: skip
    cells = [
        [
            row.client,
            row.period,
            row.model,
            count(row.records),
            *(money(Decimal(amount), row.currency) for amount in
              (row.before, row.after, row.difference)),
            "closed: adjusts the next invoice" if row.is_closed_period else "",
        ]
        for row in rows
    ]  # fmt: skip
    return render(columns, cells, width)


def _sentence(rows: Sequence[billing_pb2.RepriceRow], *, is_dry_run: bool) -> str:
    records = counted(sum(row.records for row in rows), "record")
    if is_dry_run:
        return f"{records} would take other prices. This was a dry run."
    return f"{records} took the prices in force; the ledger is as it was."
