"""`meterctl tail`: calls as they are recorded, and what the daemon has to say meanwhile."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from meterd.cli.client import connected
from meterd.cli.console import DaemonUnavailable
from meterd.cli.figures import NS_PER_S, count, counted, money, timestamp
from meterd.cli.options import add_connection, add_format, identifier
from meterd.cli.output import csv_line, json_line
from meterd.cli.statuses import status_name
from meterd.cli.table import printable
from meterd_proto.v1 import admin_pb2, admin_pb2_grpc

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from meterd.cli.console import Console

EXAMPLE = "meterctl tail --client acme-corp"

_COLUMNS = (
    *("billed_at", "client", "project", "provider", "operation", "model", "status"),
    *("http_status", "input_tokens", "output_tokens", "cost", "currency", "is_estimated"),
    *("producer", "note", "event", "skipped"),
)
_COST = frozenset({_COLUMNS.index("cost")})
_FURTHER_DECIMALS = 4  # a call costs fractions of a cent


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `meterctl tail`."""
    parser.add_argument(
        "--client", type=identifier("--client"), metavar="CLIENT", help="this client alone"
    )
    add_format(parser)
    add_connection(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """Write a line a call until interrupted or the daemon ends the stream."""
    if options.format == "csv":
        console.print(csv_line(_COLUMNS))
        console.out.flush()
    with connected(options.target, console) as daemon:
        stub = admin_pb2_grpc.AdminServiceStub(daemon.channel)
        request = admin_pb2.TailRequest(client=options.client or "")
        for event in daemon.follow(stub.Tail, request):
            for line in _lines(event, options.format):
                console.print(line)
            # At once: a pipe's reader waits for this call, not for the next eight kilobytes.
            console.out.flush()
    raise DaemonUnavailable(f"the daemon at {daemon.target} ended the stream: it is stopping")


def _lines(event: admin_pb2.TailEvent, output_format: str) -> Iterator[str]:
    if output_format == "json":
        yield json_line({"schema": "meterd.tail/1", **_document(event)})
    elif output_format == "csv":
        document = _document(event)
        yield csv_line([_cell(document[name]) for name in _COLUMNS], _COST)
    else:
        yield from _table_lines(event)


def _cell(value: object) -> str | int:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, int) else str(value)


def _table_lines(event: admin_pb2.TailEvent) -> Iterator[str]:
    if event.skipped:
        yield f"… {counted(event.skipped, 'call')} not shown: they came faster than this reader"
    if event.event:
        yield f"* {printable(event.event)}"
    if event.client:
        yield printable(_call(event))


def _call(event: admin_pb2.TailEvent) -> str:
    """One call on one line; the columns keep their place as long as names are usual."""
    at = datetime.fromtimestamp(event.billed_at_unix_ns // NS_PER_S, tz=UTC).astimezone()
    whose = f"{event.client}/{event.project}" if event.project else event.client
    cost = money(Decimal(event.cost), event.currency, _FURTHER_DECIMALS) if event.cost else ""
    line = (
        f"{at:%H:%M:%S}  {whose:<28}  {event.model:<24}  "
        f"{count(event.input_tokens):>9} in  {count(event.output_tokens):>7} out  "
        f"{cost or 'unpriced':>9}"
    )
    status = status_name(event.status)
    remarks = [] if status == "complete" else [_how_it_ended(status, event.http_status)]
    remarks += ["estimated"] if event.is_estimated else []
    remarks += [event.note] if event.note else []
    return line + (f"  {', '.join(remarks)}" if remarks else "")


def _how_it_ended(status: str, http_status: int) -> str:
    return f"{status} {http_status}" if http_status else status


def _document(event: admin_pb2.TailEvent) -> dict[str, object]:
    return {
        "billed_at": timestamp(event.billed_at_unix_ns),
        "client": event.client,
        "project": event.project,
        "provider": event.provider,
        "operation": event.operation,
        "model": event.model,
        "status": status_name(event.status) if event.client else "",
        "http_status": event.http_status,
        "input_tokens": event.input_tokens,
        "output_tokens": event.output_tokens,
        "cost": event.cost,
        "currency": event.currency,
        "is_estimated": event.is_estimated,
        "producer": event.producer,
        "note": event.note,
        "event": event.event,
        "skipped": event.skipped,
    }
