"""`meterctl ship`: send what dead processes left in a spool, where no daemon sweeps it."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from meterd.cli.console import DONE, FAILED, DaemonUnavailable, WrongUsage, WrongValue
from meterd.cli.figures import NS_PER_S, counted
from meterd.cli.options import add_connection, add_format
from meterd.cli.output import csv_line, json_line, write_json_rows
from meterd.cli.progress import Progress
from meterd.cli.spools import settings_of
from meterd.cli.table import printable
from meterd.cli.targets import choose
from meterd_middleware.adoption import sweep
from meterd_middleware.channel import Channel
from meterd_middleware.disk import OsDisk
from meterd_middleware.shipping import Shipped, ship_root

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from meterd.cli.console import Console

EXAMPLE = "meterctl ship /var/spool/meterd --watch"

_PAUSE_S = 2.0  # as often as meterd sweeps its own
_FIELDS = (
    "directory",
    "producer",
    "records",
    "interrupted_calls",
    "torn_bytes",
    "finished",
    "fault",
)
_NOBODY_THERE = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "no answer")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `meterctl ship`."""
    parser.add_argument("root", metavar="SPOOL_ROOT", help="the directory that METERD_SPOOL names")
    parser.add_argument(
        "--watch", action="store_true", help="go on for ever, until SIGTERM or Ctrl-C"
    )
    parser.add_argument(
        "--again", action="store_true",
        help="also what was shipped before, for a ledger restored from a backup",
    )  # fmt: skip
    add_format(parser)
    add_connection(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """Ship every dead producer's directory to its end, once or for ever."""
    root = Path(options.root)
    if not options.watch and not root.is_dir():
        raise WrongValue("SPOOL_ROOT", options.root, "a directory")
    if options.watch and options.again:
        raise WrongUsage("--again sends everything once more, leave --watch out")
    if options.watch:
        return _watch(root, options, console)
    done: list[Shipped] = []
    with Progress(console, "shipping") as progress:
        progress.at(lambda: counted(sum(one.records for one in done), "record"))
        _ship(root, options, console, done.append, lambda: False)
    if options.format == "json":
        write_json_rows(console.out, {"schema": "meterd.ship/1"}, map(_document, done))
    elif options.format == "csv":
        console.print(csv_line(_FIELDS))
    if options.format != "json":
        for one in done:
            console.print(_line(one, options.format))
    if options.format == "table" and not done:
        console.print(f"Nothing waits in {printable(str(root))}.")
    return _verdict(done)


def _verdict(done: list[Shipped]) -> int:
    """0 where all is in the ledger; a daemon that went away meanwhile is not a refusal."""
    left = [one for one in done if not one.is_finished]
    if any(one.fault.startswith(_NOBODY_THERE) for one in left):
        raise DaemonUnavailable(
            f"{left[0].path} is not shipped to its end: {left[0].fault}; nothing is lost"
        )
    return FAILED if left else DONE


def _watch(root: Path, options: argparse.Namespace, console: Console) -> int:
    """Ship whatever comes, and wait for a daemon that is away."""
    stops: list[int] = []
    # A container's first process gets no SIGTERM that it doesn't handle.
    before = signal.signal(signal.SIGTERM, lambda number, _: stops.append(number))
    try:
        return _watch_until(stops, root, options, console)
    finally:
        signal.signal(signal.SIGTERM, before)


def _watch_until(
    stops: list[int], root: Path, options: argparse.Namespace, console: Console
) -> int:
    def tell(shipped: Shipped) -> None:
        console.print(_line(shipped, options.format))
        console.out.flush()

    if options.format == "csv":
        console.print(csv_line(_FIELDS))
    trouble = ""
    while not stops:
        try:
            _ship(root, options, console, tell, lambda: bool(stops))
            trouble = ""
        except (DaemonUnavailable, OSError) as error:
            # Told when it begins and when it changes, not every two seconds.
            if str(error) != trouble:
                console.remark(f"meterctl ship: {error}; trying again every {_PAUSE_S:.0f} s")
            trouble = str(error)
        if not stops:
            console.wait(_PAUSE_S)
    return DONE


def _ship(
    root: Path,
    options: argparse.Namespace,
    console: Console,
    tell: Callable[[Shipped], object],
    is_stopped: Callable[[], bool],
) -> None:
    """One round: what is there now; what was kept long enough is removed."""
    settings, disk = settings_of(console.environ), OsDisk()
    target = choose(console.environ, options.target)
    channel = Channel(str(target), access_key=settings.access_key, tls_ca=settings.tls_ca)
    try:
        ship_root(
            disk,
            str(root),
            channel,
            # Spreads the waits of many shippers; nothing else rests on it.
            random=random.Random(os.getpid()),
            again=options.again,
            is_stopped=is_stopped,
            tell=tell,
        )
    finally:
        channel.close()
    sweep(
        disk,
        str(root),
        own="",
        now_unix_ns=console.now_unix_ns(),
        keep_ns=settings.acknowledged_keep_s * NS_PER_S,
        keep_bytes=settings.acknowledged_keep_bytes,
    )


def _line(shipped: Shipped, output_format: str) -> str:
    if output_format == "json":
        return json_line({"schema": "meterd.ship/1", **_document(shipped)})
    if output_format == "csv":
        document = _document(shipped)
        return csv_line([str(document[name]) for name in _FIELDS])
    parts = [counted(shipped.records, "record")]
    if shipped.interrupted_calls:
        parts.append(f"{counted(shipped.interrupted_calls, 'interrupted call')} among them")
    if shipped.torn_bytes:
        parts.append(f"{counted(shipped.torn_bytes, 'torn byte')} cut")
    parts.append("finished" if shipped.is_finished else f"not finished: {shipped.fault}")
    return printable(f"{shipped.producer}  {', '.join(parts)}  ({shipped.path})")


def _document(shipped: Shipped) -> dict[str, object]:
    return {
        "directory": shipped.path,
        "producer": shipped.producer,
        "records": shipped.records,
        "interrupted_calls": shipped.interrupted_calls,
        "torn_bytes": shipped.torn_bytes,
        "finished": shipped.is_finished,
        "fault": shipped.fault,
    }
