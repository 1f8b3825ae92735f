"""`python -m tests.quota.storm [--rounds 4] [--seed N]`: the long run, told as it goes."""

from __future__ import annotations

import argparse
import secrets
import signal
import sys
from typing import TYPE_CHECKING

from tests.quota.storm.run import SDKS, Force, storm

if TYPE_CHECKING:
    from tests.quota.storm.verdict import Round

_ROW = "{:<28} {:<8} {:>6} {:>10} {:>10} {:>8} {:>12} {:>6} {:>6} {:>6} {:>6}"


def main(arguments: list[str]) -> int:
    """Run it; 1 where anything is wrong."""
    force = Force()
    parser = argparse.ArgumentParser(prog="make quota-storm", description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--workers", type=int, default=force.workers)
    parser.add_argument("--concurrency", type=int, default=force.concurrency)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it ends what it began
    force = Force(workers=options.workers, concurrency=options.concurrency)
    print(
        f"seed {options.seed}: {force.workers} workers x {force.concurrency} calls at once "
        f"x {SDKS} SDKs"
    )
    print(
        _ROW.format(
            *("left", "reserve", "calls", "served", "counted", "over", "bound"),
            *("killed", "meterd", "struck", "s"),
        ),
        flush=True,
    )
    found = storm(options.rounds, options.seed, force, tell=_tell)
    wrong = [sentence for one in found for sentence in one.wrong]
    print("every quota held within its bound" if not wrong else "NOT within the bound")
    return 1 if wrong else 0


def _tell(one: Round) -> None:
    print(
        _ROW.format(
            one.scenario.name,
            one.scenario.reserve,
            *(f"{n:,}" for n in (one.calls, one.served, one.counted, one.over, one.bound)),
            *(one.worker_kills, one.daemon_kills, one.interrupted, f"{one.seconds:.0f}"),
        )
    )
    if one.refusal:
        print(f"    {one.refusal}")
    for sentence in one.wrong:
        print(f"WRONG  {one.client}: {sentence}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
