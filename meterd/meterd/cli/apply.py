"""`meterctl apply`: put a meterd.toml in force, after showing what differs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from meterd.cli.client import connected
from meterd.cli.console import DONE, FAILED, WrongValue
from meterd.cli.figures import counted
from meterd.cli.options import add_connection, add_format
from meterd.cli.output import write_csv, write_json
from meterd.cli.progress import Progress
from meterd.cli.table import Column, printable, render
from meterd_proto.v1 import admin_pb2, admin_pb2_grpc

if TYPE_CHECKING:
    import argparse

    from meterd.cli.client import Daemon
    from meterd.cli.console import Console

EXAMPLE = "meterctl apply meterd.toml --dry-run"

_BYTES_MAX = 3 << 20  # below what a gRPC message may hold; a thousand clients need a tenth
_TIMEOUT_S = 600.0  # the first apply may rebuild the rollups from the ledger
_FIELDS = ("field", "before", "after", "from")
_MISTAKE_FIELDS = ("line", "field", "message")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `meterctl apply`."""
    parser.add_argument("file", metavar="FILE", help="a meterd.toml, or - to read it from stdin")
    parser.add_argument("--dry-run", action="store_true", help="show what differs, change nothing")
    add_format(parser)
    add_connection(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """Show what differs from the version in force, then put the file in force.

    The daemon is asked twice: what is shown first is what then happens, and a mistake is
    told before anything changed.
    """
    toml, source = _read(options.file)
    with connected(options.target, console) as daemon:
        trial = _ask(daemon, toml, source, console, is_trial=True)
        if trial.mistakes:
            return _refused(trial, options, console)
        is_table = options.format == "table"
        if is_table:
            _show(trial, console)
            console.out.flush()
        if options.dry_run:
            return _finished(trial, options, console)
        answer = _ask(daemon, toml, source, console, is_trial=False)
    if answer.mistakes:
        return _refused(answer, options, console)
    if is_table and list(answer.differences) != list(trial.differences):
        console.print("Another version came in between; what changed is:")
        _show(answer, console)
    return _finished(answer, options, console)


def _read(name: str) -> tuple[bytes, str]:
    """The file's bytes, and what `status` will call it."""
    try:
        toml = sys.stdin.buffer.read(_BYTES_MAX + 1) if name == "-" else _head(Path(name))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise WrongValue("FILE", name, f"a file that can be read ({reason})") from None
    if len(toml) > _BYTES_MAX:
        raise WrongValue("FILE", name, f"a meterd.toml of at most {_BYTES_MAX >> 20} MiB")
    return toml, "stdin" if name == "-" else str(Path(name).absolute())


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_BYTES_MAX + 1)


def _ask(
    daemon: Daemon, toml: bytes, source: str, console: Console, is_trial: bool
) -> admin_pb2.ApplyResponse:
    stub = admin_pb2_grpc.AdminServiceStub(daemon.channel)
    request = admin_pb2.ApplyRequest(toml=toml, source=source, dry_run=is_trial)
    with Progress(console, "checking" if is_trial else "applying"):
        return daemon.ask(stub.Apply, request, _TIMEOUT_S)


def _show(answer: admin_pb2.ApplyResponse, console: Console) -> None:
    if not answer.differences:
        console.print("Nothing differs from the version in force.")
        return
    columns = [Column(title) for title in ("FIELD", "BEFORE", "AFTER", "FROM")]
    rows = [
        [change.field, change.before or "-", change.after or "-", getattr(change, "from")]
        for change in answer.differences
    ]
    # As wide as it is: what changes must be read in full.
    for line in render(columns, rows):
        console.print(line)


def _warn(answer: admin_pb2.ApplyResponse, name: str, console: Console) -> None:
    for found in answer.warnings:
        console.remark(printable(f"{_place(name, found)}: warning: {_said(found)}"))


def _place(name: str, found: admin_pb2.Mistake) -> str:
    """FILE:LINE, so that an editor jumps there."""
    return f"{name}:{found.line}" if found.line else name


def _said(found: admin_pb2.Mistake) -> str:
    return f"{found.field}: {found.message}" if found.field else found.message


def _finished(
    answer: admin_pb2.ApplyResponse, options: argparse.Namespace, console: Console
) -> int:
    changes = [_difference(change) for change in answer.differences]
    _warn(answer, _name(options), console)
    if options.format == "csv":
        write_csv(console.out, _FIELDS, changes)
    elif options.format == "json":
        write_json(console.out, {**_head_of(answer), "differences": changes, "mistakes": []})
    elif options.dry_run:
        console.print("Nothing was applied: this was a dry run.")
    elif answer.applied:
        console.print(f"Version {answer.config_version} is in force.")
    return DONE


def _refused(answer: admin_pb2.ApplyResponse, options: argparse.Namespace, console: Console) -> int:
    """Tell every mistake at once."""
    mistakes = [_mistake(found) for found in answer.mistakes]
    if options.format == "csv":
        write_csv(console.out, _MISTAKE_FIELDS, mistakes)
    elif options.format == "json":
        write_json(console.out, {**_head_of(answer), "differences": [], "mistakes": mistakes})
    name = _name(options)
    for found in answer.mistakes:
        console.remark(printable(f"{_place(name, found)}: {_said(found)}"))
    _warn(answer, name, console)
    console.remark(
        f"meterctl apply: {counted(len(mistakes), 'mistake')} in {name}, nothing of it was applied"
    )
    return FAILED


def _head_of(answer: admin_pb2.ApplyResponse) -> dict[str, object]:
    return {
        "schema": "meterd.apply/1",
        "applied": answer.applied,
        "config_version": answer.config_version,
        "warnings": [_mistake(found) for found in answer.warnings],
    }


def _name(options: argparse.Namespace) -> str:
    return "stdin" if options.file == "-" else str(options.file)


def _mistake(found: admin_pb2.Mistake) -> dict[str, object]:
    return {"line": found.line, "field": found.field, "message": found.message}


def _difference(change: admin_pb2.Difference) -> dict[str, object]:
    return {name: getattr(change, name) for name in _FIELDS}
