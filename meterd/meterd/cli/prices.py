"""`meterctl prices`: what usage was priced by, and putting a newer price book in force."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.cli.client import connected
from meterd.cli.console import DONE, WrongUsage, WrongValue
from meterd.cli.options import add_connection, add_format, identifier, month
from meterd.cli.output import write_csv, write_json
from meterd.cli.table import Column, render
from meterd_proto.v1 import billing_pb2, billing_pb2_grpc

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from meterd.cli.console import Console

EXAMPLE = "meterctl prices --month 2026-11 --model 'gpt-5*'"

_FIELDS = ("provider", "model", "kind", "price", "unit", "before", "source", "condition")
_DECIMALS = ("price", "before")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `meterctl prices`."""
    parser.add_argument(
        "action", nargs="?", type=_action, metavar="update",
        help="put the price book of the installed genai-prices in force from now on",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="with update: show what it changes")
    parser.add_argument(
        "--month", type=month, metavar="MONTH",
        help="as 2026-11, or last-month (default: the running period)",
    )  # fmt: skip
    parser.add_argument(
        "--model", type=identifier("--model"), metavar="MODEL", help="a model, or a pattern with *"
    )
    add_format(parser)
    add_connection(parser)


def _action(text: str) -> str:
    if text != "update":
        raise WrongValue("ACTION", text, "update, or nothing to list prices")
    return text


def run(options: argparse.Namespace, console: Console) -> int:
    """List prices, or update the book."""
    if options.dry_run and not options.action:
        raise WrongUsage("--dry-run goes with update")
    if options.action and (options.month or options.model):
        raise WrongUsage("update is about the whole book, leave --month and --model out")
    with connected(options.target, console) as daemon:
        stub = billing_pb2_grpc.BillingServiceStub(daemon.channel)
        if options.action:
            update = billing_pb2.UpdatePricesRequest(dry_run=options.dry_run)
            rows = list(daemon.follow(stub.UpdatePrices, update))
        else:
            request = billing_pb2.PricesRequest(
                model=options.model or "", period=options.month or ""
            )
            rows = list(daemon.follow(stub.Prices, request))
    _write(rows, options, console)
    return DONE


def _write(
    rows: Sequence[billing_pb2.PriceRow], options: argparse.Namespace, console: Console
) -> None:
    documents = [{name: getattr(row, name) for name in _FIELDS} for row in rows if row.model]
    if options.format == "json":
        schema = "meterd.prices_update/1" if options.action else "meterd.prices/1"
        said = [row.condition for row in rows if not row.model]
        document = {"schema": schema, "dry_run": options.dry_run, "rows": documents, "notes": said}
        write_json(console.out, document)
    elif options.format == "csv":
        write_csv(console.out, _FIELDS, documents, _DECIMALS)
    else:
        for line in _table(rows, options, console.width):
            console.print(line)


def _table(
    rows: Sequence[billing_pb2.PriceRow], options: argparse.Namespace, width: int | None
) -> list[str]:
    titles = ["PROVIDER", "MODEL", "KIND", "PRICE", "PER", "SOURCE", "CONDITION"]
    if options.action:
        titles.insert(3, "BEFORE")
    columns = [Column(title, is_figure=title in ("PRICE", "BEFORE")) for title in titles]
    lines = []
    for row in rows:
        if row.model:
            cells = [row.provider, row.model, row.kind, _dollars(row.price), row.unit,
                     row.source, row.condition]  # fmt: skip
            if options.action:
                cells.insert(3, _dollars(row.before))
            lines.append(cells)
    said = [row.condition for row in rows if not row.model]
    if not lines:
        return said or ["Nothing was used in that month."]
    return [*render(columns, lines, width), *([""] if said else []), *said]


def _dollars(price: str) -> str:
    return f"${price}" if price else "-"
