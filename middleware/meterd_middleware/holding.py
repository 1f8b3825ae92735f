"""What is known and lent of one client in this process: figures and answers, no rule.

Account (client) ── whole ─▶ Holding ── leases, the last denial, what is asked for
                └── narrow ▶ Holding for each project or model, where quotas go by these
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from meterd_middleware.lease import Replies

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd_middleware.lease import Denied, Lease

MODELS_MAX = 64
"""Models of a client whose replies are kept in mind."""
NARROW_MAX = 256
"""Projects or models of a client with a holding each; beyond, those with nothing lent go."""

OnUnreachable = Literal["allow", "reject"]


class Holding:
    """What is lent for one client, or one project or model of it."""

    __slots__ = (
        "account",
        "asked_model",
        "asked_project",
        "denial",
        "denied_until_ns",
        "drawn",
        "drawn_since_ns",
        "epoch",
        "is_unanswered",
        "is_unlimited",
        "leases",
        "needed",
        "refresh_ns",
        "request",
        "used_ns",
        "waiting_tokens",
    )

    def __init__(self, account: Account, now: int) -> None:
        self.account = account
        self.leases: tuple[Lease, ...] = ()
        """Open ones, the oldest first; at most two."""
        self.is_unlimited = False
        self.refresh_ns = 0
        """When what is known of an unlimited client is asked anew, in the background."""
        self.denial: Denied | None = None
        self.denied_until_ns = 0
        self.epoch = 0
        """The connection that the answer came over."""
        self.request = 0
        """The question that awaits its answer; 0: none."""
        self.asked_project = ""
        self.asked_model = ""
        self.is_unanswered = False
        """A call waited in vain: until an answer comes, the next ones don't wait."""
        self.needed = 0
        self.waiting_tokens = 0
        """Of the calls that wait for the answer now."""
        self.drawn = 0
        """Reserved since `drawn_since_ns`, the last grant."""
        self.drawn_since_ns = now
        self.used_ns = now

    @property
    def is_spare(self) -> bool:
        """Nothing is lent, asked or awaited here: it can be forgotten."""
        return not self.leases and not self.request and not self.waiting_tokens


class Account:
    """One client: its terms as far as the answers told them, its holdings, its replies."""

    __slots__ = ("by_model", "by_project", "client", "is_ceiling", "narrow", "on_unreachable",
                 "replies", "whole")  # fmt: skip

    def __init__(self, client: str) -> None:
        self.client = client
        self.whole: Holding | None = None
        self.narrow: dict[tuple[str, str], Holding] | None = None
        self.by_project = False
        self.by_model = False
        self.is_ceiling = False
        self.on_unreachable: OnUnreachable | None = None
        self.replies: dict[str, Replies] = {}

    def holdings(self) -> Iterator[Holding]:
        """All there are."""
        if self.whole is not None:
            yield self.whole
        if self.narrow is not None:
            yield from self.narrow.values()

    def holding(self, project: str, model: str, now: int) -> Holding:
        """The one that calls of this project and model draw on; made if there is none."""
        if not (self.by_project or self.by_model):
            if self.whole is None:
                self.whole = Holding(self, now)
            return self.whole
        key = (project if self.by_project else "", model if self.by_model else "")
        if self.narrow is None:
            self.narrow = {}
        found = self.narrow.get(key)
        if found is None:
            self._make_room(self.narrow)
            found = self.narrow[key] = Holding(self, now)
        return found

    @staticmethod
    def _make_room(narrow: dict[tuple[str, str], Holding]) -> None:
        if len(narrow) >= NARROW_MAX:
            for key in [key for key, holding in narrow.items() if holding.is_spare]:
                del narrow[key]

    def replies_of(self, model: str) -> Replies:
        """The replies of one model; the one met first makes room for one too many."""
        found = self.replies.get(model)
        if found is None:
            if len(self.replies) >= MODELS_MAX:
                del self.replies[next(iter(self.replies))]
            found = self.replies[model] = Replies()
        return found
