"""The lease stream's state: what is asked for, what goes back, and what the answers change.

    ask ─▶ LeaseWanted ─▶ grant | denial ─▶ holding
    close ─▶ LeaseReduced (what calls in flight don't need) ─▶ last call ends ─▶ LeaseReleased

Sans-I/O: `requests` gives what is to be sent, `on_response` takes what came. What is lost with
a connection needs no acknowledgment of its own: the next hello says what is held, whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd_middleware.lease import Denied, Lease
from meterd_proto.v1 import quota_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from meterd_middleware.holding import Account, Holding, OnUnreachable

RENEWAL_NS = 30 * 10**9
"""How long a lease is meant to last: what is asked for is the use of so long."""
CALLS_PER_LEASE = 64
"""And at least so many calls like the one that asks: a renewal costs the daemon a commit, about
1 ms of CPU, so 1,000 calls a second of a thousand processes cost it some 2 % of a core."""
REFRESH_NS = 10**9
"""Between two questions in the background about a client that nothing limits."""
UNANSWERED_NS = 5 * 10**9
"""After so long without an answer a question is put again."""
_TOKENS_MAX = 2**62
_SECOND_NS = 10**9
_MS = 10**6


class LeaseStream:
    """One process's side of `QuotaService.Lease`."""

    def __init__(self) -> None:
        self.is_connected = False
        self.has_news = False
        """Something was asked or closed since this was last set to False: wake the shipper."""
        self.epoch = 1
        """Counts connections: what an earlier one denied is asked anew."""
        self.leases: dict[int, Lease] = {}
        """All that the daemon counts as lent to us, closed ones until their release is sent."""
        self._pending: dict[int, tuple[Holding, int]] = {}
        self._wanted: list[int] = []
        self._reduced: list[Lease] = []
        self._closed: list[Lease] = []
        self._returning: list[Lease] = []
        self._last_request = 0

    # ── what the decisions ask for ──

    def ask(self, holding: Holding, project: str, model: str, tokens: int, now: int) -> None:
        """Ask for at least `tokens` for a call like this, unless an answer is awaited already."""
        if holding.request:
            return
        self._last_request += 1
        holding.request = self._last_request
        holding.asked_project, holding.asked_model = project, model
        holding.needed = tokens
        self._pending[holding.request] = (holding, now)
        self._wanted.append(holding.request)
        self.has_news = True

    def ask_again(self, holding: Holding, now: int) -> None:
        """Put a question anew that has found no answer for long: it may have been lost."""
        _, asked_ns = self._pending.get(holding.request, (holding, now))
        if now - asked_ns >= UNANSWERED_NS:
            self._pending.pop(holding.request, None)
            self._wanted = [request for request in self._wanted if request != holding.request]
            holding.request = 0
            self.ask(holding, holding.asked_project, holding.asked_model, holding.needed, now)

    def close(self, holding: Holding) -> None:
        """Make no more reservations from what is held here, and return it."""
        for lease in holding.leases:
            self.close_lease(lease)
        holding.leases = ()

    def close_lease(self, lease: Lease) -> None:
        """Make no more reservations from this lease; the caller takes it out of its holding."""
        lease.is_closed = True
        self._closed.append(lease)
        self.has_news = True
        if lease.available > 0:
            self._reduced.append(lease)

    def gather_ended(self) -> None:
        """See what closed leases need no more; those without calls in flight are released.

        Apart from `requests`, so that the shipper can append in between what finalisers left
        it: then the last sequence of each lease is known.
        """
        if not self._closed:
            return
        closed, self._closed = self._closed, []
        for lease in closed:
            if lease.in_flight <= 0:
                self._returning.append(lease)
                continue
            self._closed.append(lease)
            if lease.settled + lease.reserved < lease.tokens and lease not in self._reduced:
                self._reduced.append(lease)

    # ── what is sent ──

    def requests(self, usual: Callable[[Holding], int], now: int) -> list[quota_pb2.LeaseRequest]:
        """All that waits to be sent, returns before questions, so that these find them."""
        if not self.is_connected:
            return []
        messages = [_reduced(lease) for lease in self._reduced]
        messages += [
            quota_pb2.LeaseRequest(
                released=quota_pb2.LeaseReleased(
                    lease_id=lease.lease_id, last_sequence=lease.last_sequence
                )
            )
            for lease in self._returning
        ]
        messages += [self._want(request, usual, now) for request in self._wanted]
        for lease in self._returning:
            self.leases.pop(lease.lease_id, None)
        self._reduced, self._returning, self._wanted = [], [], []
        return messages

    def _want(
        self, request: int, usual: Callable[[Holding], int], now: int
    ) -> quota_pb2.LeaseRequest:
        holding, _ = self._pending[request]
        self._pending[request] = (holding, now)  # its term runs from when the daemon is asked
        return quota_pb2.LeaseRequest(
            wanted=quota_pb2.LeaseWanted(
                request=request,
                client=holding.account.client,
                project=holding.asked_project,
                model=holding.asked_model,
                tokens=min(holding.needed, _TOKENS_MAX),
                usual_tokens=min(usual(holding), _TOKENS_MAX),
            )
        )

    def hello(self, hello: quota_pb2.LeaseHello, now: int) -> quota_pb2.LeaseRequest:
        """Complete a hello, whose `last_sequence` is set, by what is held, whole.

        Releases that were not sent yet are said by leaving the lease out.
        """
        for lease in self._returning:
            self.leases.pop(lease.lease_id, None)
        self._reduced, self._returning = [], []
        hello.held.extend(_held(lease, now) for lease in self.leases.values())
        return quota_pb2.LeaseRequest(hello=hello)

    def connected(self) -> None:
        """A stream is open. What an earlier one denied is asked anew; nothing is awaited."""
        self.epoch += 1
        self.is_connected = True

    def disconnected(self) -> None:
        """The stream has ended, and with it every question."""
        self.is_connected = False
        for holding, _ in self._pending.values():
            holding.request = 0
            holding.is_unanswered = False
        self._pending, self._wanted = {}, []

    # ── what came ──

    def on_grant(self, grant: quota_pb2.Lease) -> Holding | None:
        """Take a lease in; one that nobody waits for goes straight back."""
        holding, asked_ns = self._answered(grant.request)
        expires_ns = asked_ns + grant.expires_in_ms * _MS
        lease = _lease(grant, asked_ns, expires_ns) if grant.lease_id else None
        if lease is not None:
            self.leases[lease.lease_id] = lease
        if holding is None:
            if lease is not None:
                self.close_lease(lease)
            return None
        holding = self._in_scope(holding, grant, asked_ns)
        _note_terms(holding.account, grant)
        holding.epoch = self.epoch
        holding.is_unlimited = lease is None
        if lease is None:
            holding.denial = None
            holding.refresh_ns = expires_ns
            self.close(holding)
        else:
            self._take(holding, lease, asked_ns)
        return holding

    def on_denial(self, denial: quota_pb2.Denial, now: int) -> Holding | None:
        """Keep a denial for as long as it may be kept."""
        holding, asked_ns = self._answered(denial.request)
        if holding is None:
            return None
        holding = self._in_scope(holding, denial, asked_ns)
        _note_terms(holding.account, denial)
        holding.epoch = self.epoch
        holding.is_unlimited = False
        holding.denial = _denied(denial)
        holding.denied_until_ns = now + denial.valid_for_ms * _MS
        return holding

    def on_revocation(self, accounts: Iterable[Account], version: int) -> None:
        """Forget what was denied, return what was lent before `version`, ask anew."""
        for account in accounts:
            for holding in account.holdings():
                holding.denial = None
                holding.is_unanswered = False
                holding.refresh_ns = 0
                self._close_before(holding, version)

    def _close_before(self, holding: Holding, version: int) -> None:
        for lease in holding.leases:
            if lease.version < version:
                self.close_lease(lease)
        holding.leases = tuple(lease for lease in holding.leases if not lease.is_closed)

    def _answered(self, request: int) -> tuple[Holding | None, int]:
        holding, asked_ns = self._pending.pop(request, (None, 0))
        if holding is not None:
            holding.request = 0
            holding.is_unanswered = False
        return holding, asked_ns

    def _in_scope(
        self, holding: Holding, answer: quota_pb2.Lease | quota_pb2.Denial, now: int
    ) -> Holding:
        """The holding that the answer is for: quotas may go by project or model since."""
        account = holding.account
        if (account.by_project, account.by_model) != (answer.for_project, answer.for_model):
            for former in account.holdings():
                self.close(former)
            account.by_project, account.by_model = answer.for_project, answer.for_model
            account.whole = account.narrow = None
        return account.holding(holding.asked_project, holding.asked_model, now)

    def _take(self, holding: Holding, lease: Lease, now: int) -> None:
        """Add a lease; of more than two the one with least left goes back."""
        holding.leases = (*holding.leases, lease)
        holding.drawn, holding.drawn_since_ns = 0, now
        if len(holding.leases) > 2:
            least = min(holding.leases, key=lambda held: held.available)
            self.close_lease(least)
            holding.leases = tuple(held for held in holding.leases if held is not least)


def usual_tokens(holding: Holding, now: int) -> int:
    """What a holding uses in `RENEWAL_NS`, by its use since the last grant."""
    elapsed = max(now - holding.drawn_since_ns, _SECOND_NS)
    recent = (holding.drawn + holding.waiting_tokens) * RENEWAL_NS // elapsed
    return max(recent, CALLS_PER_LEASE * holding.needed, holding.waiting_tokens)


def _note_terms(account: Account, answer: quota_pb2.Lease | quota_pb2.Denial) -> None:
    account.is_ceiling = answer.reserve == quota_pb2.RESERVE_MODE_CEILING
    account.on_unreachable = _ON_UNREACHABLE.get(answer.on_unreachable)


_ON_UNREACHABLE: dict[int, OnUnreachable] = {
    quota_pb2.ON_UNREACHABLE_ALLOW: "allow",
    quota_pb2.ON_UNREACHABLE_REJECT: "reject",
}


def _lease(grant: quota_pb2.Lease, asked_ns: int, expires_ns: int) -> Lease:
    lease = Lease(
        grant.lease_id,
        grant.tokens,
        asked_ns=asked_ns,
        expires_ns=expires_ns,
        version=grant.quota_version,
    )
    lease.client, lease.project, lease.model = grant.client, grant.project, grant.model
    lease.period_start_unix_ns = grant.period_start_unix_ns
    lease.period_end_unix_ns = grant.period_end_unix_ns
    return lease


def _reduced(lease: Lease) -> quota_pb2.LeaseRequest:
    """Say what a closed lease may still need, and remember what was said."""
    lease.tokens = lease.settled + lease.reserved
    return quota_pb2.LeaseRequest(
        reduced=quota_pb2.LeaseReduced(lease_id=lease.lease_id, tokens=lease.tokens)
    )


def _held(lease: Lease, now: int) -> quota_pb2.HeldLease:
    left_ms = 0 if lease.is_closed else max(0, lease.expires_ns - now) // _MS
    used = lease.settled + lease.reserved
    return quota_pb2.HeldLease(
        lease_id=lease.lease_id,
        client=lease.client,
        project=lease.project,
        model=lease.model,
        tokens=used if lease.is_closed else used + max(0, lease.available),
        period_start_unix_ns=lease.period_start_unix_ns,
        period_end_unix_ns=lease.period_end_unix_ns,
        expires_in_ms=left_ms,
        quota_version=lease.version,
    )


def _denied(denial: quota_pb2.Denial) -> Denied:
    """The answer as a refusal; project, model and `requested` are filled in call by call."""
    return Denied(
        client=denial.client,
        project=denial.project,
        model=denial.model,
        rule=denial.rule,
        plan=denial.plan,
        limit=denial.limit,
        used=denial.used,
        leased=denial.leased,
        remaining=denial.remaining,
        requested=0,
        period_start_unix_ns=denial.period_start_unix_ns,
        period_end_unix_ns=denial.period_end_unix_ns,
        quota_version=denial.quota_version,
        holders=denial.holders,
        reason="quota",
    )
