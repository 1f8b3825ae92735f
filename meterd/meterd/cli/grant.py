"""`meterctl grant`: give a client more tokens in the running period."""

from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING

from meterd.cli.answers import write_answer
from meterd.cli.client import connected
from meterd.cli.console import DONE, WrongValue
from meterd.cli.figures import count
from meterd.cli.options import add_connection, add_format, identifier, token_count
from meterd_proto.v1 import admin_pb2, admin_pb2_grpc

if TYPE_CHECKING:
    import argparse

    from meterd.cli.console import Console

EXAMPLE = 'meterctl grant acme-corp 500k --why "launch week, agreed with Ann"'

_WHY_CHARACTERS_MAX = 500


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `meterctl grant`."""
    parser.add_argument("client", type=identifier("CLIENT"), metavar="CLIENT", help="to whom")
    parser.add_argument("tokens", type=token_count, metavar="TOKENS", help="as 500000, 500k, 1.5M")
    parser.add_argument(
        "--why", type=_why, required=True, metavar="TEXT", help="the reason, kept with the grant"
    )
    parser.add_argument(
        "--who", type=_who, metavar="NAME", help="who grants it (default: this user@host)"
    )
    add_format(parser)
    add_connection(parser)


def _why(text: str) -> str:
    return _short("--why", text)


def _who(text: str) -> str:
    return _short("--who", text)


def _short(name: str, text: str) -> str:
    if not 0 < len(text.strip()) <= _WHY_CHARACTERS_MAX or not text.isprintable():
        raise WrongValue(name, text, f"1 to {_WHY_CHARACTERS_MAX} printable characters")
    return text.strip()


def run(options: argparse.Namespace, console: Console) -> int:
    """Record the grant; waiting processes of the client go on within seconds."""
    request = admin_pb2.GrantRequest(
        client=options.client,
        tokens=options.tokens,
        why=options.why,
        who=options.who or _this_user(),
    )
    with connected(options.target, console) as daemon:
        stub = admin_pb2_grpc.AdminServiceStub(daemon.channel)
        answer = daemon.ask(stub.Grant, request)
    facts: dict[str, object] = {
        "client": options.client,
        "granted": options.tokens,
        "limit": answer.limit,
        "period": answer.period,
        "who": request.who,
        "why": request.why,
    }
    sentence = (
        f"{options.client} has {count(options.tokens)} more tokens in {answer.period}: "
        f"its limit is now {count(answer.limit)}."
    )
    write_answer(console, options.format, "meterd.grant/1", facts, sentence)
    return DONE


def _this_user() -> str:
    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        # A container's user often has no name.
        name = f"uid {os.getuid()}"
    return f"{name}@{os.uname().nodename}"
