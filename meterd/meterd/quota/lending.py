"""How much is lent: remaining = quota − ledger − Σ outstanding leases; never more than that.

A producer is lent what it uses between two renewals, but at most its part of half of what is
left: pieces grow small towards the end of a quota, so that nobody sits on what another needs.
The tightest quota decides, and is the one that a refusal names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meterd.quota.scopes import Standing

LEASE_TERM_MS = 60 * 60_000
"""After so long a producer asks anew; ends with the period, or before a new contract."""
DENIAL_TERM_MS = 60 * 60_000
"""How long a refusal may be kept where only a change (which is pushed) can lift it."""
CONTESTED_TERM_MS = 1_000
"""And where tokens that others hold may come back."""
UNLIMITED_TERM_MS = 60 * 60_000


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing is lent: the tightest quota that the call does not fit."""

    standing: Standing
    is_contested: bool
    """Some of it is lent out: what returns may be enough."""


def tokens_to_lend(
    standings: Sequence[Standing], needed: int, usual: int, holders: int
) -> int | Refusal:
    """Decide one question for tokens.

    Args:
        standings: every quota with a ceiling that the call counts against; not empty.
        needed: what the call that waits has to reserve; at least one token is lent.
        usual: what the producer uses between two renewals.
        holders: producers that hold leases of the tightest quota, the asking one included.
    """
    tightest = min(standings, key=lambda standing: standing.remaining)
    needed = max(1, needed)
    if needed > tightest.remaining:
        return Refusal(tightest, tightest.leased > 0)
    part = tightest.remaining // (2 * max(1, holders))
    return max(needed, min(usual, part))


def term_ms(full_ms: int, now_ms: int, ends_ms: int) -> int:
    """How long an answer may be kept: its full term, but not beyond the moment `ends_ms`."""
    return max(0, min(full_ms, ends_ms - now_ms))
