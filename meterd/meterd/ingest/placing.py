"""Placing: when a record counts as used, whatever its producer's clock says. Pure.

    skew = received − sent, of the batch:  within 5 min ─▶ billed_at = occurred_at
                                           beyond       ─▶ billed_at = occurred_at + skew, flagged
    never after receipt;  more than 35 days before receipt ─▶ late: waits to be accepted

One clock sent a batch and stamped its records, so one correction holds for all of them. The
limits are those of Stripe's meter events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

SKEW_MAX_MS = 5 * 60_000
LATE_AFTER_MS = 35 * 86_400_000


class Placed(NamedTuple):
    """Where a batch's records count."""

    billed_at_ms: Sequence[int]
    skew_ms: int
    moved: frozenset[int]
    """Positions whose `billed_at` isn't what their producer's clock said."""
    late: frozenset[int]
    """Positions too old to be counted without a word from the operator."""


def place(occurred_at_ms: Sequence[int], sent_at_ms: int, received_at_ms: int) -> Placed:
    """Say when each record of a batch counts as used.

    Args:
        sent_at_ms: by the producer's clock; 0 where it didn't say: then it is believed.
        received_at_ms: by ours.
    """
    skew = received_at_ms - sent_at_ms if sent_at_ms else 0
    correction = skew if abs(skew) > SKEW_MAX_MS else 0
    if not occurred_at_ms:
        return Placed((), skew, frozenset(), frozenset())
    least, greatest = min(occurred_at_ms) + correction, max(occurred_at_ms) + correction
    is_plain = not correction and greatest <= received_at_ms
    billed: Sequence[int] = (
        occurred_at_ms
        if is_plain
        else [min(moment + correction, received_at_ms) for moment in occurred_at_ms]
    )
    moved = (
        frozenset[int]()
        if is_plain
        else frozenset(
            at
            for at, (said, counts) in enumerate(zip(occurred_at_ms, billed, strict=True))
            if said != counts
        )
    )
    oldest = received_at_ms - LATE_AFTER_MS
    late = (
        frozenset[int]()
        if least >= oldest
        else frozenset(at for at, moment in enumerate(billed) if moment < oldest)
    )
    return Placed(billed, skew, moved, late)
