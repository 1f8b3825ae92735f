"""What every benchmark shares: interleaved rounds, medians with their spread, one way to print.

A and B alternate within one run, at least seven rounds, so that a machine that drifts
drifts under both. A figure is a median over the rounds; its spread is the smallest and the
largest round. Absolute times are reported with the machine and judged as ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROUNDS_MIN = 7


@dataclass(frozen=True, slots=True)
class Series:
    """One figure over the rounds, in the unit of its name."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        return min(self.values), max(self.values)


@dataclass(frozen=True, slots=True)
class Pair:
    """The bare thing and ours, round by round."""

    bare: Series
    ours: Series

    @property
    def added(self) -> Series:
        """Ours minus bare, round by round."""
        return Series(tuple(b - a for a, b in zip(self.bare.values, self.ours.values, strict=True)))

    @property
    def ratio(self) -> Series:
        """Ours over bare, round by round."""
        return Series(tuple(b / a for a, b in zip(self.bare.values, self.ours.values, strict=True)))


@dataclass(slots=True)
class Report:
    """Lines for a reader, and one JSON object for a program."""

    name: str
    figures: dict[str, object] = field(default_factory=dict)
    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    def add(self, what: str, value: Series | float, unit: str, target: str = "") -> None:
        """Add one figure; `what` is also its key in the JSON object."""
        if isinstance(value, Series):
            low, high = value.spread
            self.figures[what] = {"median": value.median, "min": low, "max": high, "unit": unit}
            shown = f"{value.median:,.3g} {unit}  ({low:,.3g} – {high:,.3g})"
        else:
            self.figures[what] = {"median": value, "unit": unit}
            shown = f"{value:,.4g} {unit}"
        self.rows.append((self.name, what, shown, target))

    def print(self, as_json: bool) -> None:
        """Print the table, then, with --json, one object as the last line."""
        width = max((len(row[1]) for row in self.rows), default=0)
        print(f"{self.name}  ({machine()})")
        for _, what, shown, target in self.rows:
            print(f"  {what:<{width}}  {shown}" + (f"   target {target}" if target else ""))
        if as_json:
            print(json.dumps({"benchmark": self.name, "machine": machine(), **self.figures}))


def interleaved(
    bare: Callable[[], float], ours: Callable[[], float], rounds: int = ROUNDS_MIN
) -> Pair:
    """Measure `bare` and `ours` in turn; the one that goes first alternates by round."""
    bare_values: list[float] = []
    ours_values: list[float] = []
    for index in range(rounds):
        if index % 2 == 0:
            bare_values.append(bare())
            ours_values.append(ours())
        else:
            ours_values.append(ours())
            bare_values.append(bare())
    return Pair(Series(tuple(bare_values)), Series(tuple(ours_values)))


def alternated(*ways: Callable[[], float], rounds: int = ROUNDS_MIN) -> list[Series]:
    """Measure several ways in turn; each round begins with another of them."""
    values: list[list[float]] = [[] for _ in ways]
    for index in range(rounds):
        for step in range(len(ways)):
            at = (index + step) % len(ways)
            values[at].append(ways[at]())
    return [Series(tuple(taken)) for taken in values]


def arguments(description: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options every benchmark has: --quick (under 45 s) and --json."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="under 45 seconds")
    parser.add_argument("--json", action="store_true", help="a JSON object as the last line")
    return parser.parse_args(sys.argv[1:] if argv is None else argv)


def machine() -> str:
    """What the figures were measured on, in one clause, and who else used it."""
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    )


def pin(core: int) -> None:
    """Keep this process on one core where the system can; elsewhere leave it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core % (os.cpu_count() or 1)})
