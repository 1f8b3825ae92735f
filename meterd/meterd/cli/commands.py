"""The commands of `meterctl`: for each its module, imported when it is called, and a line.

A module's import brings grpc with it, so only the one that is called is imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

if TYPE_CHECKING:
    import argparse

    from meterd.cli.console import Console


class Entry(NamedTuple):
    """Where a command lives and what it is for."""

    module: str
    summary: str


class Command(Protocol):
    """What a command's module offers."""

    EXAMPLE: str

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        ...

    def run(self, options: argparse.Namespace, console: Console) -> int:
        """Do what the command is for and return its exit code."""
        ...


COMMANDS = {
    "rollup": Entry("rollup", "who used what in a month, and what it cost"),
    "quota": Entry("quota", "what each client may use, has used, and has left"),
    "invoice": Entry("invoice", "a client's invoice: a draft until its month is closed"),
    "close": Entry("close", "make a month's invoices final, all of them or none"),
    "profit": Entry("profit", "who makes and who loses money, and what to do about it"),
    "void": Entry("void", "declare an invoice void; it keeps its number"),
    "credit": Entry("credit", "take an invoice back, whole or in part, by a credit note"),
    "reprice": Entry(
        "reprice", "price what had no price, recorded and without touching the ledger"
    ),
    "prices": Entry("prices", "what usage was priced by; put a newer price book in force"),
    "records": Entry("records", "the ledger's rows behind a client's figures"),
    "tail": Entry("tail", "calls as they are recorded"),
    "status": Entry("status", "the daemon: its ledger, configuration and producers"),
    "doctor": Entry("doctor", "why is nothing arriving? what is wrong, and what to do"),
    "apply": Entry("apply", "put a meterd.toml in force, after showing what differs"),
    "grant": Entry("grant", "give a client more tokens in the running period"),
    "accept": Entry("accept", "count records that came more than 35 days late"),
    "forget": Entry("forget", "replace a client's name for ever; every sum stays"),
    "verify": Entry("verify", "prove that ledger, rollups and invoices agree"),
    "backup": Entry("backup", "copy the ledger of a running daemon"),
    "ship": Entry("ship", "send what dead processes left in a spool"),
    "access-key": Entry("access_key", "make an access key for a process or a person"),
}


def load(name: str) -> Command:
    """Import the module of a command that exists."""
    return cast("Command", import_module(f"meterd.cli.{COMMANDS[name].module}"))
