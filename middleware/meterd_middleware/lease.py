"""A lease as its producer sees it: reserve, settle, release; figures alone, no lock, no I/O.

    tokens lent = available + reserved by calls in flight + settled by finished ones

A `Reservation` only puts itself on a deque when it ends; whoever holds the lock of `leases.py`
next takes it off and moves the figures. So a call may end anywhere, in a finaliser or signal
handler too, and one that is dropped without a word gives its tokens back when it is collected.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections import deque

REPLIES_KEPT = 64
"""Replies of one client and model that `reserve = "usual"` looks back on."""
REPLIES_MIN = 8
"""Below these the 95th percentile would be one reply's accident."""
REPLY_TOKENS_BEFORE = 1_024
"""What a reply is taken for until there are replies to look back on."""
_PERCENTILE = 95
_REPLY_TOKENS_MAX = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Denied:
    """Why a call may not start: the tightest quota it does not fit, and that quota's figures.

    `reason` is "unreachable" where nobody could say, and the plan (or, before it is known, the
    `Meter`) rejects then; the figures are zeros in that case.
    """

    client: str
    project: str
    model: str
    rule: str
    """The quota that refuses, as "client acme-corp"."""
    plan: str
    limit: int
    used: int
    leased: int
    remaining: int
    requested: int
    """What the call wanted to reserve."""
    period_start_unix_ns: int
    period_end_unix_ns: int
    quota_version: int
    holders: str
    """Who holds what is lent, where that is the reason; empty otherwise."""
    reason: Literal["quota", "unreachable"]


class Lease:
    """One lease. Changed under the lock of `Leases` alone; `Holdings.decide` reserves."""

    __slots__ = (
        "available",
        "client",
        "expires_ns",
        "in_flight",
        "is_closed",
        "last_sequence",
        "lease_id",
        "model",
        "period_end_unix_ns",
        "period_start_unix_ns",
        "project",
        "renew_after_ns",
        "renew_below",
        "reserved",
        "settled",
        "tokens",
        "version",
    )

    def __init__(
        self, lease_id: int, tokens: int, *, asked_ns: int, expires_ns: int, version: int
    ) -> None:
        self.lease_id = lease_id
        self.tokens = tokens
        self.available = tokens
        self.reserved = 0
        self.settled = 0
        self.in_flight = 0
        self.last_sequence = 0
        self.expires_ns = expires_ns
        self.renew_below = tokens // 4
        self.renew_after_ns = expires_ns - (expires_ns - asked_ns) // 5
        self.version = version
        self.is_closed = False
        self.client = self.project = self.model = ""
        self.period_start_unix_ns = self.period_end_unix_ns = 0


class Replies:
    """The last replies of one client and model, and the size that a reply usually has."""

    __slots__ = ("_oldest", "_ordered", "_recent", "usual")

    def __init__(self) -> None:
        self.usual = REPLY_TOKENS_BEFORE
        self._recent = array("I")  # in order of arrival, once round
        self._ordered = array("I")  # the same ones by size
        self._oldest = 0

    @property
    def largest(self) -> int:
        """The largest of those kept; 0 without any."""
        return self._ordered[-1] if self._ordered else 0

    def add(self, output_tokens: int) -> None:
        """Take in one more reply; the oldest goes once there are `REPLIES_KEPT`."""
        tokens = min(output_tokens, _REPLY_TOKENS_MAX)
        ordered = self._ordered
        if len(ordered) < REPLIES_KEPT:
            self._recent.append(tokens)
        else:
            del ordered[bisect_left(ordered, self._recent[self._oldest])]
            self._recent[self._oldest] = tokens
            self._oldest = (self._oldest + 1) % REPLIES_KEPT
        insort(ordered, tokens)
        if len(ordered) >= REPLIES_MIN:
            self.usual = ordered[-(-len(ordered) * _PERCENTILE // 100) - 1]  # nearest rank


class Reservation:
    """The tokens held for one call. End it by `settle` or `release`; the first one counts.

    Neither takes a lock, waits or raises, so both may be called from finalisers and signal
    handlers. This class holds nothing (`lease_id` 0): nothing limits the call, or nobody could
    be asked; `LeasedReservation` draws on a lease.
    """

    __slots__ = ("lease_id", "tokens")

    def __init__(self, lease_id: int, tokens: int) -> None:
        self.lease_id = lease_id
        self.tokens = tokens

    def settle(self, input_tokens: int, output_tokens: int) -> None:
        """Replace the estimate by the count.

        Called after the record was appended (or handed to `append_later`), so that a lease is
        never released before the sequence of its last record is known.
        """

    def release(self) -> None:
        """Give everything back: the call was not sent, or cost nothing."""


class LeasedReservation(Reservation):
    """A reservation that draws on a lease, from when `lease` is set."""

    __slots__ = ("_ended", "_replies", "_used", "lease")

    def __init__(self, tokens: int, replies: Replies, ended: deque[LeasedReservation]) -> None:
        # The base's two fields are set here: a call of its __init__ costs as much as the rest.
        self.lease_id = 0
        self.tokens = tokens
        self.lease: Lease | None = None
        self._replies = replies
        self._ended = ended
        self._used: tuple[int, int] | None = None

    def settle(self, input_tokens: int, output_tokens: int) -> None:
        """As `Reservation.settle`: noted here, moved into the lease by the next decision."""
        if self._used is None:
            self._used = (input_tokens, output_tokens)
            self._ended.append(self)

    def release(self) -> None:
        """As `Reservation.release`."""
        self.settle(0, 0)

    def __del__(self) -> None:
        try:
            if self.lease is not None:
                self.settle(0, 0)
        except AttributeError:  # an exception struck inside __init__; nothing was drawn yet
            pass

    def move(self) -> None:
        """Move the figures of the lease, once, under the lock of `Leases`.

        Two threads may both have put this reservation on the deque; the second finds no lease.
        """
        lease, counted = self.lease, self._used
        if lease is None or counted is None:
            return
        input_tokens, output_tokens = counted
        used = max(0, input_tokens) + max(0, output_tokens)
        # No call stands between these lines, as where the tokens were drawn (`holdings.py`).
        lease.available += self.tokens - used  # may fall below zero
        lease.reserved -= self.tokens
        lease.settled += used
        lease.in_flight -= 1
        self.lease = None
        if used:  # a call that failed has no reply to learn from
            self._replies.add(max(0, output_tokens))
