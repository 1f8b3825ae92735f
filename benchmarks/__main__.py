"""Run every benchmark in turn and print one table: `make bench`, or `make bench QUICK=1`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

NAMES = (
    "call",
    "stream",
    "block",
    "asgi",
    "quota",
    "spool",
    "ingest",
    "pricing",
    "rollup",
    "billing",
    "memory",
)


def main() -> int:
    failed = []
    results: dict[str, dict[str, object]] = {}
    for name in NAMES:
        if not (Path(__file__).parent / f"{name}.py").exists():
            continue
        command = [sys.executable, "-m", f"benchmarks.{name}", "--json", *sys.argv[1:]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        sys.stderr.write(done.stderr)
        lines = done.stdout.rstrip().splitlines()
        print("\n".join(lines[:-1]), flush=True)
        if done.returncode or not lines:
            failed.append(name)
        else:
            results[name] = json.loads(lines[-1])
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
