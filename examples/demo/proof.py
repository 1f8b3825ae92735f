"""The proof: what the provider says it served, beside what meterd counted, to the token."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx2

from examples.demo import screen
from examples.demo.stage import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from examples.demo.stage import Stage
    from examples.demo.traffic import Deed

FIELDS = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
)
_SHORT = ("REQUESTS", "INPUT", "CACHED", "WRITTEN", "OUTPUT", "REASONING")

Key = tuple[str, str]
Sums = dict[Key, Counter[str]]


def provider_says(stage: Stage, deeds: Mapping[str, Deed]) -> Sums:
    """The provider's ledger, by client and project: it knows ids of requests, the demo whose."""
    ledger: dict[str, Any] = httpx2.get(f"{stage.provider_url}/ledger", trust_env=False).json()
    sums: Sums = {}
    for call in ledger["served"]:
        if not call["ending"] or not any(call["counts"].values()):
            continue
        deed = deeds.get(call["request_id"])
        key = (deed.client, deed.project) if deed else ("(nobody's)", call["path"])
        line = sums.setdefault(key, Counter())
        line["requests"] += 1
        for field in FIELDS:
            line[field] += call["counts"][field]
    return sums


def meterd_counted(stage: Stage) -> Sums:
    """meterd's rollup, by client and project."""
    rollup = json.loads(stage.meterctl("rollup", "--by", "client,project", "--format", "json"))
    sums: Sums = {}
    for row in rollup["rows"]:
        line = Counter({field: int(row.get(field) or 0) for field in ("requests", *FIELDS)})
        if any(line.values()):
            sums[row["client"], row["project"]] = line
    return sums


def headers_that_leaked(stage: Stage) -> list[str]:
    """Headers of ours that the provider received; there must be none."""
    ledger = httpx2.get(f"{stage.provider_url}/ledger", trust_env=False).json()
    ours = ("x-client-id", "x-project-id")
    return [name for call in ledger["served"] for name in call["received_headers"] if name in ours]


def settled(stage: Stage, deeds: Mapping[str, Deed], within_s: float = 20) -> bool:
    """Wait until everything that was served is in meterd's ledger; False if it never is."""
    return wait_until(lambda: provider_says(stage, deeds) == meterd_counted(stage), within_s)


def show(stage: Stage, deeds: Mapping[str, Deed]) -> bool:
    """Print both sides line by line; True if they are equal in every figure."""
    said, counted = provider_says(stage, deeds), meterd_counted(stage)
    head = f"  {'':<32}" + "".join(f"{name:>11}" for name in _SHORT[:4])
    screen.say(screen.faint(head + "".join(f"{name:>10}" for name in _SHORT[4:])))
    are_equal = True
    for key in sorted({*said, *counted}):
        one, other = said.get(key, Counter()), counted.get(key, Counter())
        is_equal = one == other
        are_equal = are_equal and is_equal
        screen.say(_line(f"{key[0]} · {key[1]}", one, screen.good("=") if is_equal else " "))
        if not is_equal:
            screen.say(_line("    meterd counted", other, screen.bad("≠")))
    total: Counter[str] = Counter()
    for line in said.values():
        total.update(line)
    screen.say(screen.bold(_line("all", total, "")))
    return are_equal


def _line(name: str, sums: Counter[str], mark: str) -> str:
    first = "".join(f"{sums[field]:>11,}" for field in ("requests", *FIELDS[:3]))
    return f"  {name:<32}{first}" + "".join(f"{sums[f]:>10,}" for f in FIELDS[3:]) + f"  {mark}"
