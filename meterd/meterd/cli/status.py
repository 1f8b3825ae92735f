"""`meterctl status`: the daemon, its ledger, its configuration and its producers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.cli.client import connected
from meterd.cli.console import DONE
from meterd.cli.figures import count, counted, duration, moment, short_tokens, size
from meterd.cli.options import add_connection, add_format
from meterd.cli.output import write_csv, write_json
from meterd.cli.progress import Progress
from meterd.cli.status_document import producer_document, status_document
from meterd.cli.table import Column, printable, render
from meterd_proto.v1 import admin_pb2, admin_pb2_grpc

if TYPE_CHECKING:
    import argparse

    from meterd.cli.client import Daemon
    from meterd.cli.console import Console

EXAMPLE = "meterctl status --format json"

_PRODUCER_COLUMNS = (
    *("name", "pid", "producer", "is_connected", "is_finished", "watermark"),
    *("highest_appended_sequence", "waiting", "open_calls", "last_seen", "skew_ms"),
    *("refused_records", "refused_tokens", "spool_bytes", "spool_directory"),
)
_FINISHED_SHOWN_MAX = 5


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `meterctl status`."""
    parser.add_argument("--all", action="store_true", help="list every producer that finished, too")
    add_format(parser)
    add_connection(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """Ask for the status and write it; csv has a line a producer."""
    with connected(options.target, console) as daemon:
        status = ask_status(daemon, console)
    if options.format == "json":
        write_json(console.out, status_document(status))
    elif options.format == "csv":
        write_csv(console.out, _PRODUCER_COLUMNS, map(producer_document, status.producers))
    else:
        for line in _lines(status, options.all, console.width):
            console.print(line)
    return DONE


def ask_status(daemon: Daemon, console: Console) -> admin_pb2.StatusResponse:
    """The daemon's status."""
    stub = admin_pb2_grpc.AdminServiceStub(daemon.channel)
    with Progress(console, "reading"):
        return daemon.ask(stub.Status, admin_pb2.StatusRequest())


def _lines(status: admin_pb2.StatusResponse, is_all: bool, width: int | None) -> list[str]:
    lines = [*_facts(status)]
    shown = _shown_producers(status, is_all)
    if shown:
        rows = [_producer(producer, status.now_unix_ns) for producer in shown]
        lines += ["", *render(_COLUMNS, rows, width)]
    hidden = len(status.producers) - len(shown)
    if hidden:
        lines += ["", f"{counted(hidden, 'producer')} more that finished: `meterctl status --all`."]
    lines += _section("Models without a price", _unpriced(status), width)
    lines += _section("Lost", _losses(status), width)
    lines += _section("Quarantine", _quarantine(status), width)
    lines += _section("Late", _late(status), width)
    return lines


def _facts(status: admin_pb2.StatusResponse) -> list[str]:
    up = duration(status.now_unix_ns - status.started_at_unix_ns)
    facts = [
        ("meterd", f"{status.version}, up {up}"),
        ("listening", ", ".join(status.listening)),
        ("data", status.data_directory),
        ("ledger", f"{counted(status.records, 'record')}, {size(status.database_bytes)}, "
                   f"id {status.ledger_id.hex()}"),
        ("spool roots", status.spool_roots),
        ("configuration", _configuration(status)),
        ("agency", f"{status.agency or '-'}, {status.currency}, {status.timezone}"),
        ("period", status.period),
        ("unpriced", counted(status.unpriced_requests, "request") + " in this period"),
        ("late", f"{counted(status.late_records, 'record')} waiting"),
        ("quarantine", counted(status.quarantined_records, "record")),
        ("lost", counted(status.lost_records, "record")),
    ]  # fmt: skip
    if status.storage_fault:
        facts.insert(1, ("NOT STORING", status.storage_fault))
    name_width = max(len(name) for name, _ in facts) + 3
    lines = [f"{name:<{name_width}}{printable(value)}" for name, value in facts if value]
    lines += [f"{'refused file':<{name_width}}{printable(_mistake(m))}"
              for m in status.config_refused]  # fmt: skip
    lines += [f"{'set aside':<{name_width}}{printable(name)}" for name in status.refused_segments]
    return lines


def _configuration(status: admin_pb2.StatusResponse) -> str:
    if not status.config_version:
        return "none: every client is metered, nobody is limited"
    since = moment(status.config_from_unix_ns)
    return f"version {status.config_version} from {status.config_source}, since {since}"


def _mistake(mistake: admin_pb2.Mistake) -> str:
    line = f"line {mistake.line}: " if mistake.line else ""
    field = f"{mistake.field}: " if mistake.field else ""
    return f"{line}{field}{mistake.message}"


_COLUMNS = [
    Column("PRODUCER"),
    Column("PID", is_figure=True),
    Column("STATE"),
    Column("RECORDS", is_figure=True),
    Column("WAITING", is_figure=True),
    Column("OPEN CALLS", is_figure=True),
    Column("SEEN", is_figure=True),
]


def _shown_producers(
    status: admin_pb2.StatusResponse, is_all: bool
) -> list[admin_pb2.ProducerStatus]:
    """Those that live or have something left; of those that finished the newest few."""
    newest = sorted(status.producers, key=lambda producer: -producer.last_seen_unix_ns)
    if is_all:
        return newest
    living = [producer for producer in newest if not producer.is_finished]
    return living + [producer for producer in newest if producer.is_finished][:_FINISHED_SHOWN_MAX]


def _producer(producer: admin_pb2.ProducerStatus, now: int) -> list[str]:
    waiting = max(0, producer.highest_appended_sequence - producer.watermark)
    state = "connected" if producer.is_connected else "away"
    return [
        producer.name,
        str(producer.pid),
        "finished" if producer.is_finished else state,
        count(producer.watermark),
        count(waiting),
        count(producer.open_calls),
        duration(now - producer.last_seen_unix_ns) + " ago" if producer.last_seen_unix_ns else "-",
    ]


def _section(
    title: str, table: tuple[list[Column], list[list[str]]], width: int | None
) -> list[str]:
    columns, rows = table
    return ["", f"{title}:", *render(columns, rows, width)] if rows else []


def _unpriced(status: admin_pb2.StatusResponse) -> tuple[list[Column], list[list[str]]]:
    columns = [
        Column("PROVIDER"),
        Column("MODEL"),
        Column("REQUESTS", True),
        Column("TOKENS", True),
    ]
    return columns, [
        [
            model.provider or "-",
            model.model or "-",
            count(model.requests),
            short_tokens(model.tokens),
        ]
        for model in status.unpriced_models
    ]


def _losses(status: admin_pb2.StatusResponse) -> tuple[list[Column], list[list[str]]]:
    columns = [Column("PRODUCER"), Column("SEQUENCES", True), Column("DECLARED"), Column("REASON")]
    return columns, [
        [
            loss.producer,
            f"{loss.first_sequence}-{loss.last_sequence}",
            moment(loss.declared_at_unix_ns),
            loss.reason,
        ]
        for loss in status.losses
    ]


def _quarantine(status: admin_pb2.StatusResponse) -> tuple[list[Column], list[list[str]]]:
    columns = [Column("PRODUCER"), Column("SEQUENCE", True), Column("RECEIVED"), Column("REASON")]
    return columns, [
        [row.producer, str(row.sequence), moment(row.received_at_unix_ns), row.reason]
        for row in status.quarantine
    ]


def _late(status: admin_pb2.StatusResponse) -> tuple[list[Column], list[list[str]]]:
    columns = [Column("CLIENT"), Column("RECORDS", True), Column("TOKENS", True)]
    return columns, [
        [late.client, count(late.records), short_tokens(late.tokens)]
        for late in status.late_clients
    ]
