"""Every decision about a call: may it start, and which lease does it draw on?

    decide ──▶ a lease covers it ──▶ LeasedReservation            (and renew in the background)
           ├─▶ a denial holds ─────▶ Denied
           ├─▶ nobody to ask ──────▶ the plan's on_unreachable: Reservation | Denied
           └─▶ Holding: asked; wait for the answer and decide again

Neither lock, clock nor I/O: `leases.py` calls this under its lock and says what time it is.
Leases are closed (no new reservation) when they expire, are revoked, lie idle or can't cover
a call; what their calls in flight don't need returns at once, so that the question that
follows finds it, and a client's last tokens can be used to the last one.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from operator import length_hint
from typing import TYPE_CHECKING

from meterd_middleware.holding import Account, Holding
from meterd_middleware.lease import (
    REPLY_TOKENS_BEFORE,
    Denied,
    LeasedReservation,
    Reservation,
)
from meterd_middleware.lease_stream import REFRESH_NS, LeaseStream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd_middleware.holding import OnUnreachable
    from meterd_middleware.lease import Replies

ACCOUNTS_MAX = 20_000
"""Clients kept in mind; beyond these those least lately seen are asked for anew."""
IDLE_NS = 600 * 10**9
"""Without a call for so long, a client's leases are returned."""
FORGET_NS = 3_600 * 10**9
"""Without a call for so long, a client is forgotten."""
SWEEP_NS = 10**9
SWEPT_AT_ONCE = 256
"""Accounts looked at in each `SWEEP_NS`, so that a sweep never holds the lock for long."""
CEILING_UNSTATED = 4 * REPLY_TOKENS_BEFORE
"""What `reserve = "ceiling"` takes for the ceiling of a call that states none."""


class Holdings:
    """All that is lent to this process, and the decisions that rest on it."""

    def __init__(self, on_unreachable: OnUnreachable) -> None:
        self.accounts: dict[str, Account] = {}
        self.stream = LeaseStream()
        self.is_away = False
        """The daemon is known not to answer: nobody is asked, nobody waits."""
        self.ended: deque[LeasedReservation] = deque()
        self._on_unreachable = on_unreachable
        self._sweeping: Iterator[Account] = iter(())
        self._sweep_ns = 0

    def decide(
        self,
        client: str,
        project: str,
        model: str,
        input_tokens: int,
        max_output_tokens: int | None,
        now: int,
    ) -> Reservation | Denied | Holding:
        """Reserve a call's tokens, or say why not, or whose answer has to be awaited."""
        if self.ended:
            self.move_ended()
        account = self.accounts.get(client) or self._new_account(client, now)
        holding = (
            account.whole
            if account.narrow is None and account.whole is not None
            else account.holding(project, model, now)
        )
        holding.used_ns = now
        if holding.is_unlimited:
            self._refresh(holding, project, model, now)
            return Reservation(0, input_tokens + (max_output_tokens or 0))
        replies = account.replies.get(model) or account.replies_of(model)
        tokens = input_tokens + _reply_tokens(account, replies, max_output_tokens)
        for lease in holding.leases:
            if lease.available >= tokens and now < lease.expires_ns:
                reservation = LeasedReservation(tokens, replies, self.ended)
                # No call stands between these lines: an exception that a signal handler raises
                # (a soft time limit, control-C) strikes before or after them, and either way
                # what the lease counts as drawn is what the reservation gives back.
                lease.available -= tokens
                lease.reserved += tokens
                lease.in_flight += 1
                holding.drawn += tokens
                reservation.lease_id = lease.lease_id
                reservation.lease = lease
                if not holding.request and (
                    lease.available < lease.renew_below or now > lease.renew_after_ns
                ):
                    self._renew(holding, project, model, tokens, now)
                return reservation
        return self._uncovered(holding, client, project, model, tokens, now)

    def check(
        self, client: str, project: str, model: str, tokens: int, now: int
    ) -> Denied | Holding | None:
        """The decision alone for a call of `tokens`; None: it may start."""
        if self.ended:
            self.move_ended()
        account = self.accounts.get(client) or self._new_account(client, now)
        holding = account.holding(project, model, now)
        holding.used_ns = now
        if holding.is_unlimited:
            self._refresh(holding, project, model, now)
            return None
        if any(lease.available >= tokens and now < lease.expires_ns for lease in holding.leases):
            return None
        found = self._uncovered(holding, client, project, model, tokens, now)
        return None if isinstance(found, Reservation) else found

    def give_up(
        self, holding: Holding, client: str, project: str, model: str, tokens: int
    ) -> Reservation | Denied:
        """The decision where the answer did not come in time; the next calls don't wait for it."""
        holding.is_unanswered = bool(holding.request)
        return self._unreachable(holding, client, project, model, tokens)

    def revoke(self, client: str, version: int) -> None:
        """Forget what a client (the empty one: any) was denied or lent before `version`."""
        if client:
            account = self.accounts.get(client)
            self.stream.on_revocation([account] if account else [], version)
        else:
            self.stream.on_revocation(self.accounts.values(), version)

    def move_ended(self) -> None:
        """Move the figures of the leases whose calls have ended."""
        ended = self.ended
        while ended:
            # Taken off only once it is moved: an exception in between moves it again, in vain.
            ended[0].move()
            ended.popleft()

    # ── off the fast path ──

    def _uncovered(
        self, holding: Holding, client: str, project: str, model: str, tokens: int, now: int
    ) -> Reservation | Denied | Holding:
        denial = holding.denial
        if (
            denial is not None
            and tokens > denial.remaining
            and (now < holding.denied_until_ns and holding.epoch == self.stream.epoch)
        ):
            return _denied(denial, project, model, tokens)
        if self.is_away:
            return self._unreachable(holding, client, project, model, tokens)
        if holding.is_unanswered:
            self.stream.ask_again(holding, now)
            return self._unreachable(holding, client, project, model, tokens)
        self.stream.close(holding)
        self.stream.ask(holding, project, model, tokens, now)
        return holding

    def _unreachable(
        self, holding: Holding, client: str, project: str, model: str, tokens: int
    ) -> Reservation | Denied:
        if (holding.account.on_unreachable or self._on_unreachable) == "allow":
            return Reservation(0, tokens)
        return Denied(
            client, project, model, f"client {client}", "", 0, 0, 0, 0, tokens, 0, 0, 0, "",
            "unreachable",
        )  # fmt: skip

    def _renew(self, holding: Holding, project: str, model: str, tokens: int, now: int) -> None:
        """Ask for more before what is lent runs out; a denial is not asked again too soon."""
        left = sum(lease.available for lease in holding.leases if now < lease.renew_after_ns)
        newest = holding.leases[-1]
        if self.is_away or (left >= newest.renew_below and left >= tokens):
            return
        if holding.denial is not None and now < holding.denied_until_ns:
            return
        self.stream.ask(holding, project, model, tokens, now)

    def _refresh(self, holding: Holding, project: str, model: str, now: int) -> None:
        """Ask anew, in the background, whether nothing limits this client still."""
        if holding.epoch != self.stream.epoch:
            holding.refresh_ns, holding.epoch = 0, self.stream.epoch
        if now >= holding.refresh_ns and not self.is_away and not holding.request:
            holding.refresh_ns = now + REFRESH_NS
            self.stream.ask(holding, project, model, 0, now)

    def _new_account(self, client: str, now: int) -> Account:
        if len(self.accounts) >= ACCOUNTS_MAX:
            self._make_room(now)
        account = self.accounts[client] = Account(client)
        account.holding("", "", now)
        return account

    def _make_room(self, now: int) -> None:
        """Forget the tenth of all accounts that was not seen for longest."""
        by_use = sorted(self.accounts.values(), key=_used_ns)
        for account in by_use[: ACCOUNTS_MAX // 10]:
            self._forget(account)

    def _forget(self, account: Account) -> None:
        for holding in account.holdings():
            self.stream.close(holding)
        if all(holding.is_spare for holding in account.holdings()):
            del self.accounts[account.client]

    # ── from time to time ──

    def sweep(self, now: int) -> None:
        """Look at the next accounts: return what lies idle or has expired, forget who is gone."""
        if now < self._sweep_ns:
            return
        self._sweep_ns = now + SWEEP_NS
        if not length_hint(self._sweeping):
            self._sweeping = iter(list(self.accounts.values()))
        for account in islice(self._sweeping, SWEPT_AT_ONCE):
            self._sweep_account(account, now)

    def _sweep_account(self, account: Account, now: int) -> None:
        for holding in account.holdings():
            for lease in holding.leases:
                if now >= lease.expires_ns or now - holding.used_ns >= IDLE_NS:
                    self.stream.close_lease(lease)
            holding.leases = tuple(lease for lease in holding.leases if not lease.is_closed)
        if now - _used_ns(account) >= FORGET_NS and account.client in self.accounts:
            self._forget(account)

    def close_all(self) -> None:
        """Make no more reservations from anything lent so far."""
        for account in self.accounts.values():
            for holding in account.holdings():
                self.stream.close(holding)


def _used_ns(account: Account) -> int:
    return max((holding.used_ns for holding in account.holdings()), default=0)


def _reply_tokens(account: Account, replies: Replies, max_output_tokens: int | None) -> int:
    """What a call holds for its reply, by the plan's `reserve`."""
    if account.is_ceiling:
        if max_output_tokens is None:
            return max(CEILING_UNSTATED, replies.largest)
        return max_output_tokens
    usual = replies.usual
    if max_output_tokens is None or max_output_tokens > usual:
        return usual
    return max_output_tokens


def _denied(denial: Denied, project: str, model: str, tokens: int) -> Denied:
    return Denied(
        denial.client, project, model, denial.rule, denial.plan, denial.limit, denial.used,
        denial.leased, denial.remaining, tokens, denial.period_start_unix_ns,
        denial.period_end_unix_ns, denial.quota_version, denial.holders, denial.reason,
    )  # fmt: skip
