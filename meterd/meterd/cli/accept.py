"""`meterctl accept`: count the records of a client that came more than 35 days late."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.cli.answers import write_answer
from meterd.cli.client import connected
from meterd.cli.console import DONE
from meterd.cli.figures import counted, short_tokens
from meterd.cli.options import add_connection, add_format, identifier
from meterd.cli.progress import Progress
from meterd_proto.v1 import admin_pb2, admin_pb2_grpc

if TYPE_CHECKING:
    import argparse

    from meterd.cli.console import Console

EXAMPLE = "meterctl accept --late acme-corp"

_TIMEOUT_S = 600.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `meterctl accept`."""
    parser.add_argument(
        "--late", type=identifier("--late"), required=True, metavar="CLIENT",
        help="whose late records to count, each in the period it belongs to or the next open one",
    )  # fmt: skip
    add_format(parser)
    add_connection(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """Have the daemon roll up what waits."""
    with connected(options.target, console) as daemon, Progress(console, "counting"):
        stub = admin_pb2_grpc.AdminServiceStub(daemon.channel)
        request = admin_pb2.AcceptLateRequest(client=options.late)
        answer = daemon.ask(stub.AcceptLate, request, _TIMEOUT_S)
    facts: dict[str, object] = {
        "client": options.late,
        "records": answer.records,
        "tokens": answer.tokens,
    }
    sentence = (
        f"{counted(answer.records, 'late record')} of {options.late} counted: "
        f"{short_tokens(answer.tokens)} tokens."
        if answer.records
        else f"No late record of {options.late} waits."
    )
    write_answer(console, options.format, "meterd.accept/1", facts, sentence)
    return DONE
