"""`meterctl forget`: replace a client's name for ever; every sum stays."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from meterd.cli.answers import write_answer
from meterd.cli.client import connected
from meterd.cli.console import DONE, CommandRefused
from meterd.cli.options import add_connection, add_format, identifier
from meterd.cli.progress import Progress
from meterd_proto.v1 import admin_pb2, admin_pb2_grpc

if TYPE_CHECKING:
    import argparse

    from meterd.cli.console import Console

EXAMPLE = "meterctl forget acme-corp"

_TIMEOUT_S = 600.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `meterctl forget`."""
    parser.add_argument(
        "client", type=identifier("CLIENT"), metavar="CLIENT",
        help="whose name, and whose projects' names, are replaced by ones that say nothing",
    )  # fmt: skip
    parser.add_argument("--yes", action="store_true", help="don't ask a person at a terminal")
    add_format(parser)
    add_connection(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """Have the name replaced, after a question where somebody is there to answer it."""
    if not options.yes and console.is_terminal and sys.stdin is not None and sys.stdin.isatty():
        _ask_back(options.client, console)
    with connected(options.target, console) as daemon, Progress(console, "forgetting"):
        stub = admin_pb2_grpc.AdminServiceStub(daemon.channel)
        answer = daemon.ask(stub.Forget, admin_pb2.ForgetRequest(client=options.client), _TIMEOUT_S)
    facts: dict[str, object] = {"client": options.client, "replaced_by": answer.replaced_by}
    sentence = (
        f"{options.client} is now {answer.replaced_by}; every sum stayed. Backups made before "
        "still have the name."
    )
    write_answer(console, options.format, "meterd.forget/1", facts, sentence)
    return DONE


def _ask_back(client: str, console: Console) -> None:
    console.err.write(f"This can't be undone. Type {client} to go on: ")
    console.err.flush()
    if sys.stdin.readline().rstrip("\n") != client:
        raise CommandRefused("the name typed is another one; nothing was changed")
