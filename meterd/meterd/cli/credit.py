"""`meterctl credit`: take an invoice back, whole or in part, by a credit note."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from meterd.cli.answers import write_answer
from meterd.cli.client import connected
from meterd.cli.console import DONE
from meterd.cli.figures import money
from meterd.cli.options import add_connection, add_format, amount, identifier
from meterd.cli.reasons import add_reason, this_user
from meterd_proto.v1 import billing_pb2, billing_pb2_grpc

if TYPE_CHECKING:
    import argparse

    from meterd.cli.console import Console

EXAMPLE = 'meterctl credit INV-000042 --amount 12.50 --why "outage on the 3rd, agreed with Ann"'


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `meterctl credit`."""
    parser.add_argument("number", type=identifier("NUMBER"), metavar="NUMBER", help="which invoice")
    parser.add_argument(
        "--amount", type=amount("--amount"), metavar="AMOUNT",
        help="how much of it, tax included (default: all that is left)",
    )  # fmt: skip
    add_reason(parser)
    add_format(parser)
    add_connection(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """Have the credit note made."""
    request = billing_pb2.CreditRequest(
        number=options.number,
        amount=f"{options.amount:f}" if options.amount is not None else "",
        why=options.why,
        who=options.who or this_user(),
    )
    with connected(options.target, console) as daemon:
        stub = billing_pb2_grpc.BillingServiceStub(daemon.channel)
        note = daemon.ask(stub.Credit, request)
    facts: dict[str, object] = {
        "number": note.number,
        "credits": note.credits,
        "client": note.client,
        "total": note.total,
        "currency": note.currency,
        "why": request.why,
    }
    taken = money(-Decimal(note.total), note.currency)
    sentence = f"{note.number} takes {taken} of {note.credits} back."
    write_answer(console, options.format, "meterd.credit/1", facts, sentence)
    return DONE
