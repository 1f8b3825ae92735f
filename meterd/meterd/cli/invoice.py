"""`meterctl invoice`: a client's invoice, as a draft until its month is closed."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from meterd.cli.client import connected
from meterd.cli.console import DONE, FAILED, CommandRefused, WrongUsage, WrongValue
from meterd.cli.figures import count, money, short_tokens
from meterd.cli.invoice_document import COLUMNS, document_of, rows_of
from meterd.cli.options import add_connection, add_format, identifier, month
from meterd.cli.output import write_csv, write_json
from meterd.cli.output_file import whole_file
from meterd.cli.progress import Progress
from meterd.cli.table import Column, printable, render
from meterd_proto.v1 import billing_pb2, billing_pb2_grpc

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from meterd.cli.client import Daemon
    from meterd.cli.console import Console

EXAMPLE = "meterctl invoice acme-corp 2026-11 --output acme-november.pdf"

FILE_FORMATS = ("pdf", "html", "csv", "json")
_TIMEOUT_S = 60.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `meterctl invoice`."""
    parser.add_argument(
        "client", nargs="?", type=identifier("CLIENT"), metavar="CLIENT", help="whose invoice"
    )
    parser.add_argument(
        "month", nargs="?", type=month, metavar="MONTH",
        help="as 2026-11, or last-month: the period that begins in it (default: the running one)",
    )  # fmt: skip
    parser.add_argument(
        "--number", type=identifier("--number"), metavar="NUMBER",
        help="the invoice or credit note with this number, instead of CLIENT and MONTH",
    )  # fmt: skip
    parser.add_argument(
        "--all", type=month, metavar="MONTH",
        help="every invoice of a closed month; with --output DIR a file each",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, metavar="FILE",
        help="write it as a file: .pdf, .html, .csv or .json; with --all a directory of PDFs",
    )  # fmt: skip
    add_format(parser)
    add_connection(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """Show the invoice, or write it as a file."""
    named = [bool(options.client), bool(options.number), bool(options.all)]
    if sum(named) != 1:
        raise WrongUsage("name a CLIENT, or a --number, or --all MONTH")
    with connected(options.target, console) as daemon:
        if options.all:
            return _all(daemon, options, console)
        if options.output is not None:
            form = _format_of(options.output)
            name = _write(daemon, _wanted(options), form, options.output)
            console.print(f"{name} written to {options.output}.")
            return DONE
        stub = billing_pb2_grpc.BillingServiceStub(daemon.channel)
        request = billing_pb2.InvoiceRequest(
            client=options.client or "", period=options.month or "", number=options.number or ""
        )
        invoice = daemon.ask(stub.GetInvoice, request)
    _show(invoice, options.format, console)
    return DONE


def _wanted(options: argparse.Namespace) -> billing_pb2.DocumentRequest:
    return billing_pb2.DocumentRequest(
        client=options.client or "", period=options.month or "", number=options.number or ""
    )


def _format_of(path: Path) -> str:
    form = path.suffix.removeprefix(".").lower()
    if form not in FILE_FORMATS:
        raise WrongValue("--output", str(path), "a file that ends in .pdf, .html, .csv or .json")
    return form


def _write(daemon: Daemon, wanted: billing_pb2.DocumentRequest, form: str, path: Path) -> str:
    """Write the document whole or not at all; returns the name that the daemon gave it."""
    stub = billing_pb2_grpc.BillingServiceStub(daemon.channel)
    wanted.format = form
    name = ""
    with whole_file(path) as file:
        for chunk in daemon.follow(stub.Document, wanted, _TIMEOUT_S):
            name = name or chunk.file_name
            file.write(chunk.data)
    return name


def _all(daemon: Daemon, options: argparse.Namespace, console: Console) -> int:
    """Every document of a closed month."""
    stub = billing_pb2_grpc.BillingServiceStub(daemon.channel)
    request = billing_pb2.ListInvoicesRequest(period=options.all)
    invoices = list(daemon.follow(stub.ListInvoices, request))
    if not invoices:
        raise CommandRefused(f"{options.all} has no invoices: it isn't closed, or nothing was owed")
    if options.output is not None:
        return _write_all(daemon, invoices, options.output, console)
    if options.format == "json":
        documents = [document_of(invoice) for invoice in invoices]
        write_json(console.out, {"schema": "meterd.invoices/1", "invoices": documents})
    elif options.format == "csv":
        write_csv(console.out, COLUMNS, (row for one in invoices for row in rows_of(one)),
                  ("amount",))  # fmt: skip
    else:
        for line in list_table(invoices, console.width):
            console.print(line)
    return DONE


def _write_all(
    daemon: Daemon, invoices: list[billing_pb2.Invoice], directory: Path, console: Console
) -> int:
    """A PDF each; HTML for what no font can draw, so that no other goes without."""
    undrawn = []
    if not directory.is_dir():
        raise WrongValue("--output", str(directory), "a directory that exists")
    with Progress(console, "drawing") as progress:
        done = 0
        progress.at(lambda: f"{done} of {len(invoices)}")
        for done, invoice in enumerate(invoices, 1):  # noqa: B007 - the progress reads it
            wanted = billing_pb2.DocumentRequest(number=invoice.number)
            try:
                _write(daemon, wanted, "pdf", directory / f"{invoice.number}.pdf")
            except CommandRefused as error:
                _write(daemon, wanted, "html", directory / f"{invoice.number}.html")
                undrawn.append(f"{invoice.number} of {printable(invoice.client)} is HTML: {error}")
    for remark in undrawn:
        console.remark(remark)
    console.print(f"{len(invoices)} files written to {directory}.")
    return FAILED if undrawn else DONE


def list_table(invoices: list[billing_pb2.Invoice], width: int | None) -> list[str]:
    """Documents, a line each."""
    has_estimated = any(one.estimated_tokens for one in invoices)
    columns = [
        Column("NUMBER"), Column("CLIENT"), Column("PERIOD"), Column("STATUS"),
        Column("TOKENS", is_figure=True),
        *([Column("ESTIMATED", is_figure=True)] if has_estimated else []),
        Column("TOTAL", is_figure=True),
    ]  # fmt: skip
    rows = [
        [
            one.number or "-",
            one.client,
            one.period,
            one.status if one.kind == "invoice" else "credit note",
            short_tokens(one.tokens),
            *([short_tokens(one.estimated_tokens)] if has_estimated else []),
            money(Decimal(one.total), one.currency),
        ]
        for one in invoices
    ]
    return render(columns, rows, width)


def _show(invoice: billing_pb2.Invoice, form: str, console: Console) -> None:
    if form == "json":
        write_json(console.out, document_of(invoice))
    elif form == "csv":
        write_csv(console.out, COLUMNS, rows_of(invoice), ("amount",))
    else:
        for line in _table(invoice, console.width):
            console.print(line)


def _table(invoice: billing_pb2.Invoice, width: int | None) -> Iterator[str]:
    yield printable(_title(invoice))
    yield printable(f"{invoice.client_name or invoice.client}, {invoice.period}: {_days(invoice)}")
    yield ""
    columns = [Column("LINE"), Column("AMOUNT", is_figure=True)]
    rows = [
        [_described(line), money(Decimal(line.amount), invoice.currency)] for line in invoice.lines
    ]
    rows.append(["TOTAL", money(Decimal(invoice.total), invoice.currency)])
    yield from render(columns, rows, width)
    if invoice.projects:
        yield ""
        yield from _projects(invoice, width)
    remarks = list(_remarks(invoice))
    if remarks:
        yield ""
        yield from map(printable, remarks)


def _title(invoice: billing_pb2.Invoice) -> str:
    if not invoice.number:
        return "Draft invoice, not yet final"
    kind = "Credit note" if invoice.kind == "credit_note" else "Invoice"
    state = "" if invoice.status == "final" else f", {invoice.status}"
    return f"{kind} {invoice.number}{state}"


def _days(invoice: billing_pb2.Invoice) -> str:
    return f"{invoice.start[:10]} until before {invoice.end[:10]}, {invoice.timezone}"


def _described(line: billing_pb2.InvoiceLine) -> str:
    return f"{line.description} ({line.period})" if line.period else line.description


def _projects(invoice: billing_pb2.Invoice, width: int | None) -> list[str]:
    columns = [
        Column("PROJECT"), Column("REQUESTS", is_figure=True), Column("TOKENS", is_figure=True),
        Column("AI USAGE", is_figure=True),
    ]  # fmt: skip
    rows = [
        [
            one.project or "no project",
            count(one.requests),
            short_tokens(one.tokens),
            money(Decimal(one.amount), invoice.currency),
        ]
        for one in invoice.projects
    ]
    return render(columns, rows, width)


def _remarks(invoice: billing_pb2.Invoice) -> Iterator[str]:
    if invoice.credits:
        yield f"Takes back {invoice.credits}: {invoice.why}"
    if invoice.credited:
        yield f"Credited so far: {money(Decimal(invoice.credited), invoice.currency)}."
    rate = invoice.exchange_rate
    if rate.rate:
        source = f" ({rate.source})" if rate.source else ""
        yield f"1 {getattr(rate, 'from')} = {rate.rate} {rate.to} on {rate.date}{source}."
    yield from invoice.notes
    if not invoice.lines:
        yield "Nothing is owed: the client has no plan, or one that bills nothing."
