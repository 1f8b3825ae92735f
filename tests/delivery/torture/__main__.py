"""`python -m tests.delivery.torture [--rounds 200] [--seed N]`: the long run, told as it goes."""

from __future__ import annotations

import argparse
import secrets
import signal
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from tests.delivery.torture.run import torture

if TYPE_CHECKING:
    from tests.delivery.torture.scene import Kill


def main(arguments: list[str]) -> int:
    """Run it; 1 where anything is wrong."""
    parser = argparse.ArgumentParser(prog="make torture", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it ends what it began
    print(f"seed {options.seed}, {options.rounds} rounds", flush=True)
    began = time.monotonic()
    verdict = torture(options.rounds, options.seed, tell=_tell)
    for name, value in asdict(verdict).items():
        if name != "wrong":
            print(f"{name.replace('_', ' '):>26}  {value}")
    print(f"{'minutes':>26}  {(time.monotonic() - began) / 60:.1f}")
    for sentence in verdict.wrong:
        print(f"WRONG  {sentence}")
    print("every call has exactly one record" if not verdict.wrong else "NOT exactly once")
    return 1 if verdict.wrong else 0


def _tell(kill: Kill) -> None:
    when = "in mid-call" if kill.is_in_mid_call else "between calls"
    print(
        f"{kill.turn + 1:>4}  {kill.victim:<7} {when:<14} {len(kill.in_flight)} in flight",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
