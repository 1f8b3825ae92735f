"""`meterctl backup`: copy the ledger of a running daemon, whole or not at all."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from meterd.cli.client import connected
from meterd.cli.console import DONE, DaemonUnavailable, WrongUsage, WrongValue
from meterd.cli.figures import size
from meterd.cli.options import add_connection, add_format
from meterd.cli.output import write_csv, write_json
from meterd.cli.progress import Progress
from meterd_proto.v1 import admin_pb2, admin_pb2_grpc

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from meterd.cli.console import Console

EXAMPLE = "meterctl backup /backup/meterd-$(date +%F).db"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `meterctl backup`."""
    parser.add_argument(
        "file", metavar="FILE",
        help="where to write the copy; replaced only when the copy is complete; - is stdout",
    )  # fmt: skip
    add_format(parser)
    add_connection(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """Write the copy under a temporary name beside FILE, then put it in FILE's place."""
    to_stdout = options.file == "-"
    if to_stdout and console.is_terminal:
        raise WrongUsage("FILE is -, and a terminal can't show a database; redirect the output")
    if to_stdout and options.format != "table":
        raise WrongUsage("FILE is -, stdout carries the copy: leave --format out")
    with (
        connected(options.target, console) as daemon,
        Progress(console, "copying") as progress,
    ):
        stub = admin_pb2_grpc.AdminServiceStub(daemon.channel)
        chunks = daemon.follow(stub.Backup, admin_pb2.BackupRequest())
        copied = (
            _copy(chunks, sys.stdout.buffer, progress)
            if to_stdout
            else _copy_to_file(chunks, Path(options.file), progress)
        )
    document = {"file": options.file, "bytes": copied}
    if options.format == "json":
        write_json(console.out, {"schema": "meterd.backup/1", **document})
    elif options.format == "csv":
        write_csv(console.out, list(document), [document])
    elif not to_stdout:
        console.print(f"{options.file}: {size(copied)}, complete.")
    return DONE


def _copy_to_file(chunks: Iterator[admin_pb2.BackupChunk], target: Path, progress: Progress) -> int:
    """Copy so that FILE is the old one or the whole new one, also after a power cut."""
    if target.is_dir() or not target.parent.is_dir():
        raise WrongValue("FILE", str(target), "a file in a directory that exists")
    # mkstemp makes it readable for us alone: a ledger names an agency's clients.
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            copied = _copy(chunks, file, progress)
            os.fsync(file.fileno())
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_directory(target.parent)
    return copied


def _copy(chunks: Iterator[admin_pb2.BackupChunk], file: BinaryIO, progress: Progress) -> int:
    copied = total = 0

    def how_far() -> str:
        return f"{size(copied)} of {size(total)}" if total else size(copied)

    progress.at(how_far)
    for chunk in chunks:
        total = chunk.total_bytes or total
        copied += file.write(chunk.data)
    file.flush()
    if not copied or (total and copied != total):
        raise DaemonUnavailable(f"the copy ended after {copied} of {total} bytes; try again")
    return copied


def _sync_directory(directory: Path) -> None:
    """Make the new name durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
