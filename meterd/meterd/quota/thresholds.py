"""When a quota's thresholds are reached: each once per quota, period and size of the quota.

An event is keyed by what the quota includes, not by the version of the configuration: a
client that is given more hears again of 80 %, an unrelated change of `meterd.toml` says
nothing anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meterd.quota.scopes import Quota


@dataclass(frozen=True, slots=True)
class Mark:
    """One threshold of one quota, as a number of tokens; reached when used ≥ `tokens`."""

    quota: Quota
    share: Decimal
    of_cap: bool
    limit: int
    """What `share` is of: the quota, or its cap."""
    tokens: int

    @property
    def percent(self) -> str:
        """The share as people write it: "80", "99.5"."""
        return f"{(self.share * 100).normalize():f}"

    @property
    def name(self) -> str:
        """The quota, as an event names it."""
        return f"{self.quota.name} (cap)" if self.of_cap else self.quota.name

    @property
    def event(self) -> str:
        """What it is claimed under, once, with the period and `limit` as its version."""
        return f"{self.name} {self.percent}%"


def marks(quota: Quota, shares: Sequence[Decimal]) -> Iterator[Mark]:
    """Every threshold of a quota, of its cap too, in order of tokens within each."""
    for of_cap, limit in ((False, quota.tokens), (True, quota.cap)):
        if limit is None:
            continue
        for share in sorted(shares):
            at = int((share * limit).to_integral_value(ROUND_CEILING))
            yield Mark(quota, share, of_cap, limit, at)


def next_mark(quota: Quota, shares: Sequence[Decimal], used: int) -> int | None:
    """The tokens at which the next threshold is reached; None: all are."""
    return min((mark.tokens for mark in marks(quota, shares) if mark.tokens > used), default=None)


def reached(quota: Quota, shares: Sequence[Decimal], used: int) -> list[Mark]:
    """The thresholds that a use has reached. A quota of nothing has none: it refuses from the
    start, and says so to whom it refuses."""
    return [mark for mark in marks(quota, shares) if mark.limit > 0 and used >= mark.tokens]
