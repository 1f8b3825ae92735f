"""A thousand clients, a year: every cent billed, and every cent computed from the ledger alone.

    python -m tests.billing.money_check [--clients 1000] [--months 12] [--records 40000] [--seed 7]

Minutes, so not among the tests; `make money-check`. docs/billing.md has what came out last.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from tests.billing.other_route import year_of


def main() -> int:
    """Run it; 1 where a cent differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("clients", 1_000), ("months", 12), ("records", 40_000), ("seed", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    began = time.monotonic()
    found = asyncio.run(
        year_of(
            options.seed,
            clients=options.clients,
            months=options.months,
            records=options.records,
            told=lambda text: print(text, file=sys.stderr, flush=True),
        )
    )
    wrong = [name for name, cents in found.expected.items() if found.billed[name] != cents]
    billed, expected = sum(found.billed.values()), sum(found.expected.values())
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(found.by_kind.items()))
    print(f"{found.rows:,} ledger rows, {found.invoices:,} invoices with lines: {kinds}")
    print(f"billed {billed:,} cents, computed from the ledger {expected:,} cents")
    print(f"clients that differ: {len(wrong)}; differences found by verify: "
          f"{len(found.differences)}; {time.monotonic() - began:.0f} s")  # fmt: skip
    for name in wrong[:10]:
        print(f"  {name}: billed {found.billed[name]}, computed {found.expected[name]} cents")
    return 1 if wrong or found.differences else 0


if __name__ == "__main__":
    sys.exit(main())
