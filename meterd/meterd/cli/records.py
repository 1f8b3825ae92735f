"""`meterctl records`: the ledger's rows behind a client's figures, each with its charge."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING

from meterd.cli.client import connected
from meterd.cli.console import DONE, WrongUsage
from meterd.cli.figures import count, counted, moment, money, timestamp
from meterd.cli.options import add_connection, add_format, day, identifier
from meterd.cli.output import write_csv, write_json_rows
from meterd.cli.progress import Progress
from meterd.cli.statuses import status_name
from meterd.cli.table import Column, render
from meterd_proto.v1 import admin_pb2, admin_pb2_grpc, usage_pb2

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from meterd.cli.console import Console

EXAMPLE = "meterctl records --client acme-corp --from 2026-11-03 --to 2026-11-03"

_TOKEN_FIELDS = (
    *("input_tokens", "cache_read_tokens", "cache_write_tokens", "cache_write_long_tokens"),
    *("output_tokens", "reasoning_tokens", "audio_input_tokens", "audio_output_tokens"),
)
_COLUMNS = (
    *("ledger_row", "billed_at", "occurred_at", "client", "project", "provider", "operation"),
    *("request_model", "response_model", "status", "http_status", *_TOKEN_FIELDS),
    *("is_input_estimated", "is_output_estimated", "cost", "currency", "rate", "service_tier"),
    *("speed", "processing", "inference_geo", "tool_calls", "provider_cost", "account"),
    *("server_address", "input_bytes", "history_bytes", "duration_ms", "is_stream", "attempt"),
    *("is_continuation", "producer", "sequence", "note"),
)
_FURTHER_DECIMALS = 6
_INPUT_ESTIMATED, _OUTPUT_ESTIMATED = 1, 2


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `meterctl records`."""
    parser.add_argument(
        "--client", type=identifier("--client"), required=True, metavar="CLIENT", help="whose"
    )
    parser.add_argument(
        "--project", type=identifier("--project"), metavar="PROJECT", help="this project alone"
    )
    parser.add_argument(
        "--from", dest="from_day", type=day("--from"), required=True, metavar="DAY",
        help="first day, as 2026-11-03, in the billing time zone",
    )  # fmt: skip
    parser.add_argument(
        "--to", dest="to_day", type=day("--to"), metavar="DAY",
        help="last day, counted in (default: the first)",
    )  # fmt: skip
    add_format(parser)
    add_connection(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """Ask for the rows and write them as they come; a table when all are there."""
    to_day = options.to_day or options.from_day
    if to_day < options.from_day:
        raise WrongUsage(f"--to is {to_day}, before --from, {options.from_day}")
    request = admin_pb2.RecordsRequest(
        client=options.client,
        project=options.project or "",
        from_day=options.from_day,
        to_day=to_day,
    )
    is_streamed = options.format != "table"
    with (
        connected(options.target, console) as daemon,
        Progress(console, "reading", is_streamed and console.is_terminal) as progress,
    ):
        stub = admin_pb2_grpc.AdminServiceStub(daemon.channel)
        rows = daemon.follow(stub.Records, request)
        if options.format == "csv":
            figures = ("cost", "provider_cost")
            write_csv(console.out, _COLUMNS, map(_document, rows), figures)
        elif options.format == "json":
            head = {"schema": "meterd.records/1", **_asked(request)}
            write_json_rows(console.out, head, map(_document, rows))
        else:
            table = _Table()
            progress.at(lambda: counted(len(table.rows), "row"))
            table.read(rows)
    if options.format == "table":
        for line in table.lines(request, console.width):
            console.print(line)
    return DONE


def _asked(request: admin_pb2.RecordsRequest) -> dict[str, object]:
    return {
        "client": request.client,
        "project": request.project,
        "from": request.from_day,
        "to": request.to_day,
    }


_TABLE = [
    Column("TIME"),
    Column("PROJECT"),
    Column("MODEL"),
    Column("STATUS"),
    Column("INPUT", is_figure=True),
    Column("CACHED", is_figure=True),
    Column("OUTPUT", is_figure=True),
    Column("COST", is_figure=True),
]


@dataclass(slots=True)
class _Sums:
    input: int = 0
    cached: int = 0
    output: int = 0
    cost: Decimal = Decimal(0)


class _Table:
    """The rows' cells and their sums; cells, not messages: a tenth of the memory."""

    def __init__(self) -> None:
        self.rows: list[list[str]] = []
        self._sums = _Sums()
        self._currency = ""
        self._unpriced = 0

    def read(self, rows: Iterator[admin_pb2.RecordRow]) -> None:
        with localcontext() as context:
            context.prec = 60
            for row in rows:
                self._add(row)

    def _add(self, row: admin_pb2.RecordRow) -> None:
        record, sums = row.record, self._sums
        self._currency = row.currency or self._currency
        has_no_price = not row.cost
        self._unpriced += has_no_price
        sums.input += record.input_tokens
        sums.cached += record.cache_read_tokens
        sums.output += record.output_tokens
        sums.cost += Decimal(row.cost or 0)
        status = status_name(record.status)
        self.rows.append(
            [
                moment(row.billed_at_unix_ns),
                record.project or "-",
                record.response_model or record.request_model or "-",
                status + (" ~" if record.estimated else ""),
                count(record.input_tokens),
                count(record.cache_read_tokens),
                count(record.output_tokens),
                "unpriced" if has_no_price else self._money(Decimal(row.cost)),
            ]
        )

    def _money(self, cost: Decimal) -> str:
        return money(cost, self._currency, _FURTHER_DECIMALS)

    def lines(self, request: admin_pb2.RecordsRequest, width: int | None) -> list[str]:
        if not self.rows:
            days = request.from_day
            days += f" to {request.to_day}" if request.to_day != request.from_day else ""
            return [f"No records of {request.client} on {days}."]
        sums = self._sums
        figures = [count(sums.input), count(sums.cached), count(sums.output)]
        total = ["TOTAL", counted(len(self.rows), "record"), "", "", *figures]
        lines = render(_TABLE, [*self.rows, [*total, self._money(sums.cost)]], width)
        if any(cells[3].endswith("~") for cells in self.rows):
            lines += ["", "~ estimated by meterd: the provider's count never came."]
        if self._unpriced:
            lines += ["", f"{counted(self._unpriced, 'record')} without a price, not in COST."]
        return lines


def _document(row: admin_pb2.RecordRow) -> dict[str, object]:
    record = row.record
    return {
        "ledger_row": row.ledger_row,
        "billed_at": timestamp(row.billed_at_unix_ns),
        "occurred_at": timestamp(record.occurred_at_unix_ns),
        "client": record.client,
        "project": record.project,
        "provider": record.provider,
        "operation": record.operation,
        "request_model": record.request_model,
        "response_model": record.response_model,
        "status": status_name(record.status),
        "http_status": record.http_status,
        **{name: getattr(record, name) for name in _TOKEN_FIELDS},
        "is_input_estimated": bool(record.estimated & _INPUT_ESTIMATED),
        "is_output_estimated": bool(record.estimated & _OUTPUT_ESTIMATED),
        "cost": row.cost or None,
        "currency": row.currency,
        "rate": row.rate,
        **_price_context(record.price_context),
        "tool_calls": dict(record.tool_calls) or None,
        "provider_cost": record.provider_cost or None,
        "account": record.account,
        "server_address": record.server_address,
        "input_bytes": record.input_bytes,
        "history_bytes": record.history_bytes if record.HasField("history_bytes") else None,
        "duration_ms": record.duration_ms,
        "is_stream": record.is_stream,
        "attempt": record.attempt,
        "is_continuation": record.is_continuation,
        "producer": row.producer,
        "sequence": row.sequence,
        "note": record.note,
    }


def _price_context(context: usage_pb2.PriceContext) -> dict[str, object]:
    return {
        "service_tier": context.service_tier,
        "speed": context.speed,
        "processing": context.processing,
        "inference_geo": context.inference_geo,
    }
