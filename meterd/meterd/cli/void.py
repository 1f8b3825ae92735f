"""`meterctl void`: declare an invoice void; it stays in the books, with its number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.cli.answers import write_answer
from meterd.cli.client import connected
from meterd.cli.console import DONE
from meterd.cli.options import add_connection, add_format, identifier
from meterd.cli.reasons import add_reason, this_user
from meterd_proto.v1 import billing_pb2, billing_pb2_grpc

if TYPE_CHECKING:
    import argparse

    from meterd.cli.console import Console

EXAMPLE = 'meterctl void INV-000042 --why "sent to the wrong client"'


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `meterctl void`."""
    parser.add_argument("number", type=identifier("NUMBER"), metavar="NUMBER", help="which invoice")
    add_reason(parser)
    add_format(parser)
    add_connection(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """Void the invoice; what it charged is not billed again."""
    request = billing_pb2.VoidRequest(
        number=options.number, why=options.why, who=options.who or this_user()
    )
    with connected(options.target, console) as daemon:
        stub = billing_pb2_grpc.BillingServiceStub(daemon.channel)
        invoice = daemon.ask(stub.Void, request)
    facts: dict[str, object] = {
        "number": invoice.number,
        "client": invoice.client,
        "period": invoice.period,
        "status": invoice.status,
        "who": request.who,
        "why": request.why,
    }
    sentence = f"{invoice.number} of {invoice.client}, {invoice.period}, is void."
    write_answer(console, options.format, "meterd.void/1", facts, sentence)
    return DONE
