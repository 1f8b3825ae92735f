"""`meterctl`: find the command, run it, turn what it raised into a sentence and an exit code.

0 done · 1 refused or failed · 2 wrong usage · 3 daemon unavailable
130 interrupted by Ctrl-C · 141 whoever read the output has gone
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, TextIO

from meterd.cli.commands import COMMANDS, load
from meterd.cli.console import (
    DONE,
    FAILED,
    INTERRUPTED,
    PIPE_CLOSED,
    UNAVAILABLE,
    WRONG_USAGE,
    Console,
    WrongUsage,
)
from meterd.cli.options import Parser
from meterd.errors import MeterdError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

_DESCRIPTION = "Ask and steer a running meterd: who used what, what it cost, what is left."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command in this process and return its exit code."""
    code = run(sys.argv[1:] if arguments is None else arguments, Console.of_this_process())
    out: TextIO | None = sys.stdout  # None where the parent has closed it
    try:
        if out is not None:
            out.flush()
    except OSError:
        _forget_output()
    return code


def run(arguments: Sequence[str], console: Console) -> int:
    """Run one command on a console; every error becomes one sentence and an exit code."""
    before, name, rest = _split(arguments)
    program = f"meterctl {name}" if name in COMMANDS else "meterctl"
    try:
        code = _run(before, name, rest, console)
        console.out.flush()
    except BrokenPipeError:
        return PIPE_CLOSED
    except KeyboardInterrupt:
        return INTERRUPTED
    except WrongUsage as error:
        return _say(console, program, f"{error}; see `{program} --help`", WRONG_USAGE)
    except Unavailable as error:
        return _say(console, program, str(error), UNAVAILABLE)
    except MeterdError as error:
        return _say(console, program, str(error), FAILED)
    except OSError as error:
        return _say(console, program, _sentence(error), FAILED)
    return code


def _split(arguments: Sequence[str]) -> tuple[list[str], str, list[str]]:
    """What stands before the command, the command (empty: none), what stands after it.

    By hand: argparse takes an optional positional as absent as soon as an option comes first.
    """
    index = 0
    while index < len(arguments) and arguments[index].startswith("-"):
        index += 2 if arguments[index] == "--target" else 1
    name = arguments[index] if index < len(arguments) else ""
    return list(arguments[:index]), name, list(arguments[index + 1 :])


def _run(before: list[str], name: str, rest: list[str], console: Console) -> int:
    parser = _parser()
    options = parser.parse(before, console)
    if options is None:
        return DONE
    if options.version:
        from importlib.metadata import version

        console.print(f"meterctl {version('meterd')}")
        return DONE
    if not name:
        raise WrongUsage("COMMAND is missing, expected one of " + ", ".join(COMMANDS))
    if name not in COMMANDS:
        raise WrongUsage(_unknown(name))
    return _run_command(name, rest, options.target, console)


def _run_command(name: str, rest: list[str], target: str | None, console: Console) -> int:
    entry, command = COMMANDS[name], load(name)
    summary = entry.summary[0].upper() + entry.summary[1:] + "."
    parser = Parser(f"meterctl {name}", summary, f"example:\n  {command.EXAMPLE}")
    command.arguments(parser)
    options = parser.parse(rest, console)
    if options is None:
        return DONE
    if getattr(options, "target", "") is None:
        options.target = target
    return command.run(options, console)


def _parser() -> Parser:
    width = max(map(len, COMMANDS)) + 2
    listed = "\n".join(f"  {name:<{width}}{entry.summary}" for name, entry in COMMANDS.items())
    parser = Parser(
        "meterctl",
        f"{_DESCRIPTION}\n\ncommands:\n{listed}",
        "example:\n  meterctl rollup 2026-11\n\n`meterctl COMMAND --help` tells more of each.",
    )
    parser.usage = "meterctl [--target TARGET] COMMAND …"
    parser.add_argument("--target", metavar="TARGET", help="the daemon: unix:PATH or HOST:PORT")
    parser.add_argument("--version", action="store_true", help="say which version this is")
    return parser


def _unknown(name: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, COMMANDS, n=1)
    meant = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(COMMANDS)}"
    return f"COMMAND is {name!r}, {meant}"


def _sentence(error: OSError) -> str:
    """What the system said, without its number: `/data/x: Permission denied`."""
    if error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def _say(console: Console, program: str, sentence: str, code: int) -> int:
    """Write what was answered so far, then the sentence, and return the exit code."""
    try:
        console.out.flush()
    except OSError:
        pass  # The error to tell may be that very one.
    try:
        console.err.write(f"{program}: {sentence}\n")
        console.err.flush()
    except OSError:
        pass  # Nobody listens; the exit code still says it.
    return code


def _forget_output() -> None:
    """Point stdout elsewhere, so that the interpreter's last flush doesn't fail aloud."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


if __name__ == "__main__":
    sys.exit(main())
