"""The command `meterd`: options in, a daemon out; exit 0 when told to end, 1 if it can't start.

What costs time to import comes after the options are read, so that `--help` and a wrong
option answer at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from meterd.clock import SystemClock
from meterd.errors import CannotStart, InvalidSetting
from meterd.options import Options, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

DONE, FAILED, WRONG_USAGE = 0, 1, 2
FILES_MAX = 65_536


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon until it is told to end; returns its exit code."""
    _hold_standard_files()
    _quieten_grpc()
    _log_to_stderr()
    name = _version()
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments, os.environ, name)
    except InvalidSetting as error:
        print(f"meterd: {error}", file=sys.stderr)
        return WRONG_USAGE
    _allow_many_files()
    # Nobody else's: the ledger and sockets are made with the modes that are meant.
    os.umask(0o007 if options.group else 0o077)
    try:
        return _run(options, name)
    except CannotStart as error:
        print(f"meterd: {error}", file=sys.stderr)
        return FAILED


def _run(options: Options, name: str) -> int:
    from meterd.daemon import run

    with asyncio.Runner(loop_factory=_loop) as runner:
        runner.run(run(options, SystemClock(), name, _say_ready))
    return DONE


def _loop() -> asyncio.AbstractEventLoop:
    """uvloop where it is installed; Windows has none."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _say_ready(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _version() -> str:
    try:
        return version("meterd")
    except PackageNotFoundError:
        return "0"


def _allow_many_files() -> None:
    """A connection is a file, and a thousand producers are more than the usual soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _hold_standard_files() -> None:
    """What the starter has closed becomes the null device: a socket would else get its number,
    and whatever a library prints would go to an app."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def _log_to_stderr() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="meterd: %(message)s")


def _quieten_grpc() -> None:
    """grpc's own log says nothing that we don't; hooks fork while its threads run."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


if __name__ == "__main__":
    sys.exit(main())
