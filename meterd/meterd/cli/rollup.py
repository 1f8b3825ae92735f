"""`meterctl rollup`: who used what in a month, and what it cost."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from meterd.cli.bill import NOT_SEEN, BillShares, share_bill
from meterd.cli.client import connected
from meterd.cli.console import DONE, FORMATS, CommandRefused, WrongUsage, WrongValue
from meterd.cli.figures import counted, decimals, rounded
from meterd.cli.options import add_connection, amount, identifier, month
from meterd.cli.output import write_csv, write_json_rows
from meterd.cli.output_file import check_place, whole_file
from meterd.cli.progress import Progress
from meterd.cli.rollup_parquet import write_parquet
from meterd.cli.rollup_table import table_lines
from meterd_proto.v1 import rollup_pb2, rollup_pb2_grpc

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from meterd.cli.client import Daemon
    from meterd.cli.console import Console

EXAMPLE = "meterctl rollup 2026-11 --by client,project --format csv > november.csv"

DIMENSIONS = {
    "client": rollup_pb2.DIMENSION_CLIENT,
    "project": rollup_pb2.DIMENSION_PROJECT,
    "model": rollup_pb2.DIMENSION_MODEL,
    "day": rollup_pb2.DIMENSION_DAY,
}
PARQUET = "parquet"
FILE_FORMATS = ("csv", "json", PARQUET)
USAGE_FIELDS = tuple(field.name for field in rollup_pb2.Usage.DESCRIPTOR.fields)


@dataclass(slots=True)
class Rollup:
    """The answer as it streams in: its head first, rows one by one, the total at the end."""

    head: rollup_pb2.RollupHeader
    rows: Iterator[rollup_pb2.RollupRow]
    total: rollup_pb2.Usage = field(default_factory=rollup_pb2.Usage)
    shares: BillShares | None = None
    count: int = 0


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `meterctl rollup`."""
    parser.add_argument(
        "month", nargs="?", type=month, metavar="MONTH",
        help="as 2026-11, or last-month: the period that begins in it (default: the running one)",
    )  # fmt: skip
    parser.add_argument(
        "--by", type=_dimensions, default=["client"], metavar="client,project,model,day",
        help="what a row stands for, separated by commas (default: client)",
    )  # fmt: skip
    parser.add_argument(
        "--client", type=identifier("--client"), metavar="CLIENT",
        help="this client alone",
    )  # fmt: skip
    parser.add_argument(
        "--bill", type=amount("--bill"), metavar="AMOUNT",
        help="a provider's bill, as 847.00: say which part is whose and what meterd didn't see",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, metavar="FILE",
        help="write it as a file: .csv, .json, or .parquet for analysts",
    )  # fmt: skip
    parser.add_argument(
        "--format", type=_format, metavar="|".join((*FORMATS, PARQUET)),
        help="a table for eyes (default), csv, json or parquet with exact figures",
    )  # fmt: skip
    add_connection(parser)


def _format(text: str) -> str:
    if text not in (*FORMATS, PARQUET):
        raise WrongValue("--format", text, "table, csv, json or parquet")
    return text


def _dimensions(text: str) -> list[str]:
    names = text.split(",")
    if not set(names) <= DIMENSIONS.keys() or len(set(names)) < len(names):
        raise WrongValue("--by", text, "client, project, model or day, each once, by commas")
    return names


def run(options: argparse.Namespace, console: Console) -> int:
    """Ask for the rollup and write it."""
    form = _form(options)
    if options.bill is not None and options.client:
        raise WrongUsage("--bill is about all clients, leave --client out")
    if options.bill is not None and form == PARQUET:
        raise WrongUsage("--bill goes with table, csv and json")
    by: list[str] = options.by
    request = rollup_pb2.RollupRequest(
        period=options.month or "",
        by=[DIMENSIONS[name] for name in by],
        client=options.client or "",
    )
    is_streamed = form != "table" and options.bill is None
    is_watched = options.output is not None or console.is_terminal
    with (
        connected(options.target, console) as daemon,
        Progress(console, "reading", is_streamed and is_watched) as progress,
    ):
        rollup = _ask(daemon, request)
        if not is_streamed:
            _gather(rollup, options.bill, progress)
        if options.output is not None:
            _write_file(options.output, form, rollup, by)
        elif form != "table":
            _write_text(console.out, form, rollup, by)
    if form == "table":
        for line in table_lines(rollup, by, options, console.width):
            console.print(line)
    elif options.output is not None:
        rows = counted(rollup.count, "row")
        console.print(f"{rows} of {rollup.head.period} written to {options.output}.")
    return DONE


def _form(options: argparse.Namespace) -> str:
    """What to write: what `--format` says, else what the file's name ends in, else a table."""
    output: Path | None = options.output
    form: str | None = options.format
    if output is None:
        if form == PARQUET:
            raise WrongUsage("Parquet is no text: name its file with --output FILE.parquet")
        return form or "table"
    form = form or output.suffix.removeprefix(".").lower()
    if form not in FILE_FORMATS:
        raise WrongValue("--output", str(output), "a file that ends in .csv, .json or .parquet")
    check_place(output)
    return form


def _write_file(path: Path, form: str, rollup: Rollup, by: list[str]) -> None:
    with whole_file(path) as file:
        if form == PARQUET:
            write_parquet(file, rollup.head, by, rollup.rows)
            return
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        _write_text(text, form, rollup, by)
        text.flush()
        text.detach()  # the file is closed by who opened it


def _write_text(out: TextIO, form: str, rollup: Rollup, by: list[str]) -> None:
    if form == "json":
        _write_json(out, rollup, by)
    else:
        _write_csv(out, rollup, by)


def _ask(daemon: Daemon, request: rollup_pb2.RollupRequest) -> Rollup:
    stub = rollup_pb2_grpc.RollupServiceStub(daemon.channel)
    answers = daemon.follow(stub.Query, request)
    first = next(answers, None)
    if first is None or not first.HasField("header"):
        raise CommandRefused(f"the daemon at {daemon.target} answered without a header: upgrade it")
    rollup = Rollup(first.header, iter(()))
    rollup.rows = _rows(rollup, answers)
    return rollup


def _rows(
    rollup: Rollup, answers: Iterator[rollup_pb2.RollupResponse]
) -> Iterator[rollup_pb2.RollupRow]:
    for answer in answers:
        if answer.HasField("rows"):
            rollup.count += len(answer.rows.rows)
            yield from answer.rows.rows
        elif answer.HasField("total"):
            rollup.total = answer.total.usage


def _gather(rollup: Rollup, bill: Decimal | None, progress: Progress) -> None:
    """Read every row: a table needs its widths, a bill the costs, before the first is written."""
    rows: list[rollup_pb2.RollupRow] = []
    progress.at(lambda: f"{len(rows):,} rows")
    rows.extend(rollup.rows)
    rollup.rows = iter(rows)
    if bill is None:
        return
    currency = rollup.head.currency
    if rounded(bill, currency) != bill:
        places = decimals(currency)
        raise WrongValue("--bill", str(bill), f"an amount in {currency}, at most {places} decimals")
    costs = [Decimal(row.usage.cost or 0) for row in rows]
    rollup.shares = share_bill(rounded(bill, currency), costs, currency)


def _write_json(out: TextIO, rollup: Rollup, by: list[str]) -> None:
    head = rollup.head
    late = {"late_records": head.late_records, "quarantined_records": head.quarantined_records}
    write_json_rows(
        out,
        {
            "schema": "meterd.rollup/1",
            "period": head.period,
            "start": head.start,
            "end": head.end,
            "timezone": head.timezone,
            "currency": head.currency,
            "by": by,
        },
        _documents(rollup, by),
        lambda: {
            "total": _usage(rollup.total),
            **_bill(rollup.shares),
            **late,
            "lost_records": head.lost_records,
        },
    )


def _write_csv(out: TextIO, rollup: Rollup, by: list[str]) -> None:
    columns = [*by, *USAGE_FIELDS, "currency", "period"]
    rows = _documents(rollup, by)
    if rollup.shares is not None:
        columns.append("bill_share")
        rows = _with_rest(rows, by, rollup)
    fixed = {"currency": rollup.head.currency, "period": rollup.head.period}
    write_csv(out, columns, ({**row, **fixed} for row in rows), ("cost", "bill_share"))


def _documents(rollup: Rollup, by: list[str]) -> Iterator[dict[str, object]]:
    for index, row in enumerate(rollup.rows):
        document: dict[str, object] = {name: getattr(row, name) for name in by}
        document.update(_usage(row.usage))
        if rollup.shares is not None:
            document["bill_share"] = f"{rollup.shares.shares[index]:f}"
        yield document


def _with_rest(
    rows: Iterator[dict[str, object]], by: list[str], rollup: Rollup
) -> Iterator[dict[str, object]]:
    yield from rows
    assert rollup.shares is not None
    yield {by[0]: NOT_SEEN, "bill_share": f"{rollup.shares.not_seen:f}"}


def _usage(usage: rollup_pb2.Usage) -> dict[str, object]:
    """The fields of a row or total; a cost that isn't there is exactly zero."""
    found: dict[str, object] = {name: getattr(usage, name) for name in USAGE_FIELDS}
    return {**found, "cost": usage.cost or "0"}


def _bill(shares: BillShares | None) -> dict[str, object]:
    if shares is None:
        return {}
    return {
        "bill": {
            "amount": f"{shares.bill:f}",
            "metered": f"{shares.metered:f}",
            "not_seen": f"{shares.not_seen:f}",
        }
    }
