"""`python -m tests.support.provider --port 0`: prints its URL and serves until terminated."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import threading

from tests.support.provider.server import Provider


def main() -> None:
    """Read the options and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.provider")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--do", default="", help="wishes for every request, as cut=2,no_done")
    parser.add_argument(
        "--while-stdin-open", action="store_true", help="end when standard input is closed"
    )
    options = parser.parse_args()
    if options.while_stdin_open:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(Provider(do=options.do, port=options.port).serve(announce=True))


def _end_with_stdin() -> None:
    """So that a starter that was killed leaves no process behind."""
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
