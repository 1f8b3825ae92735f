"""`meterctl profit`: who makes and who loses money in a month, and what to do about it."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING

from meterd.cli.client import connected
from meterd.cli.console import DONE, WrongValue
from meterd.cli.figures import count, counted, money, short_tokens
from meterd.cli.options import add_connection, add_format, identifier, month
from meterd.cli.output import write_csv, write_json
from meterd.cli.progress import Progress
from meterd.cli.table import Column, printable, render
from meterd_proto.v1 import billing_pb2, billing_pb2_grpc

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from meterd.cli.console import Console

EXAMPLE = "meterctl profit 2026-11 --by project"

_FIELDS = (
    "client", "project", "plan", "currency", "revenue", "ai_cost", "service_cost", "profit",
    "margin", "requests", "tokens", "estimated_tokens", "unpriced_requests", "mean_input_tokens",
    "p95_input_tokens", "output_ratio", "cache_read_share", "history_share",
)  # fmt: skip
_DECIMALS = ("revenue", "ai_cost", "service_cost", "profit", "margin", "output_ratio",
             "cache_read_share", "history_share")  # fmt: skip
_REMEDY = ("kind", "summary", "revenue", "profit", "letter")
_KINDS = {
    "optimise": "Use less",
    "raise_tier": "Raise the tier",
    "cost_plus": "Switch to cost-plus",
}
_FLAGS = {"loss": "loses money", "margin": "margin too low", "unpriced": "a bound: usage unpriced"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `meterctl profit`."""
    parser.add_argument(
        "month", nargs="?", type=month, metavar="MONTH",
        help="as 2026-11, or last-month: the period that begins in it (default: the running one)",
    )  # fmt: skip
    parser.add_argument(
        "--by", type=_by, default="client", metavar="client|project", help="a row for each"
    )
    parser.add_argument(
        "--client", type=identifier("--client"), metavar="CLIENT",
        help="this client alone, with the sizes of its requests",
    )  # fmt: skip
    parser.add_argument(
        "--input", type=_change, metavar="-67%",
        help="what if requests had so much less input (default: -67%%)",
    )  # fmt: skip
    # argparse takes what begins with a minus for an option, unless it is a number.
    parser._negative_number_matcher = re.compile(r"-[0-9.]+%?$")
    add_format(parser)
    add_connection(parser)


def _by(text: str) -> str:
    if text not in ("client", "project"):
        raise WrongValue("--by", text, "client or project")
    return text


def _change(text: str) -> str:
    if not re.fullmatch(r"[-−][0-9]{1,2}(\.[0-9]{1,3})?%", text):
        raise WrongValue("--input", text, "a reduction as -67%")
    return text


def run(options: argparse.Namespace, console: Console) -> int:
    """Ask for the rows and write them."""
    request = billing_pb2.ProfitRequest(
        period=options.month or "",
        client=options.client or "",
        by=options.by,
        what_if_input=options.input or "",
    )
    with (
        connected(options.target, console) as daemon,
        Progress(console, "computing"),
    ):
        stub = billing_pb2_grpc.BillingServiceStub(daemon.channel)
        rows = list(daemon.follow(stub.Profit, request))
    parts = [row for row in rows if not row.is_total]
    if options.format == "json":
        write_json(console.out, _document(parts, rows[-1]))
    elif options.format == "csv":
        write_csv(console.out, (*_FIELDS, "flags"), map(_csv_row, parts), _DECIMALS)
    else:
        for line in _table(parts, rows[-1], options, console.width):
            console.print(line)
    return DONE


def _document(
    rows: Sequence[billing_pb2.ProfitRow], total: billing_pb2.ProfitRow
) -> dict[str, object]:
    return {
        "schema": "meterd.profit/1",
        "period": total.period,
        "currency": total.currency,
        "rows": [_row(row) for row in rows],
        "total": {name: getattr(total, name) for name in ("revenue", "ai_cost", "service_cost",
                  "profit", "margin", "requests", "tokens", "estimated_tokens")},
    }  # fmt: skip


def _row(row: billing_pb2.ProfitRow) -> dict[str, object]:
    return {
        **{name: getattr(row, name) for name in _FIELDS},
        "flags": list(row.flags),
        "trend": [
            {
                "period": point.period,
                "requests": point.requests,
                "mean_input_tokens": point.mean_input_tokens,
                "p95_input_tokens": point.p95_input_tokens,
            }
            for point in row.trend
        ],
        "remedies": [
            {name: getattr(one, name) for name in _REMEDY}
            for one in row.remedies
        ],
    }  # fmt: skip


def _csv_row(row: billing_pb2.ProfitRow) -> dict[str, object]:
    return {**{name: getattr(row, name) for name in _FIELDS}, "flags": " ".join(row.flags)}


def _table(
    rows: Sequence[billing_pb2.ProfitRow],
    total: billing_pb2.ProfitRow,
    options: argparse.Namespace,
    width: int | None,
) -> Iterator[str]:
    figures = ("REVENUE", "AI COST", "SERVICE", "PROFIT", "MARGIN")
    columns = [Column("CLIENT"), *(Column(name, is_figure=True) for name in figures)]
    if options.by == "project":
        columns.insert(1, Column("PROJECT"))
    columns.append(Column(""))
    lines = [_cells(row, row.client, options) for row in rows]
    lines.append(_cells(total, "TOTAL", options))
    yield from render(columns, lines, width)
    for row in rows:
        if row.trend or row.remedies:
            yield ""
            yield from map(printable, _advice(row))


def _cells(row: billing_pb2.ProfitRow, name: str, options: argparse.Namespace) -> list[str]:
    amounts = (row.revenue, row.ai_cost, row.service_cost, row.profit)
    shown = [money(Decimal(amount), row.currency) for amount in amounts]
    cells = [name, *shown, f"{row.margin} %" if row.margin else "n/a"]
    if options.by == "project":
        cells.insert(1, row.project or "")
    return [*cells, ", ".join(_FLAGS.get(flag, flag) for flag in row.flags)]


def _advice(row: billing_pb2.ProfitRow) -> Iterator[str]:
    """What is known of a client's requests, and each way out."""
    yield f"{row.client}: {counted(row.requests, 'request')}, {_requests(row)}"
    if len(row.trend) > 1:
        months = ", ".join(f"{one.period} {count(one.mean_input_tokens)}" for one in row.trend)
        yield f"  input tokens a request by month: {months}"
    for one in row.remedies:
        yield f"  {_KINDS.get(one.kind, one.kind)}: {one.summary}."
        for line in one.letter.splitlines():
            yield f"    | {line}"


def _requests(row: billing_pb2.ProfitRow) -> str:
    parts = [f"{count(row.mean_input_tokens)} input tokens each"]
    if row.estimated_tokens:
        parts.append(
            f"{short_tokens(row.estimated_tokens)} of {short_tokens(row.tokens)} estimated"
        )
    if row.p95_input_tokens:
        parts.append(f"p95 {count(row.p95_input_tokens)}")
    if row.output_ratio:
        parts.append(f"output : input {row.output_ratio}")
    if row.cache_read_share:
        parts.append(f"{row.cache_read_share} % from the cache")
    if row.history_share:
        parts.append(f"{row.history_share} % older turns")
    return ", ".join(parts)
