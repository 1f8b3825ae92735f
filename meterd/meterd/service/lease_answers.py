"""The lender's answers as messages: grant, unlimited, denial, revocation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.config.agency import LimitMode, OnUnreachable, ReserveMode
from meterd.quota.lending import (
    CONTESTED_TERM_MS,
    DENIAL_TERM_MS,
    UNLIMITED_TERM_MS,
    term_ms,
)
from meterd_proto.v1 import quota_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meterd.quota.lending import Refusal
    from meterd.quota.outstanding import Lent
    from meterd.service.rulings import Ruling

HOLDERS_NAMED_MAX = 3
FIGURE_MAX = 2**63 - 1
"""What a message can carry. Many forged leases may come to more, and must stop nobody else."""

MODES = {
    LimitMode.NONE: quota_pb2.LIMIT_MODE_NONE,
    LimitMode.SOFT: quota_pb2.LIMIT_MODE_SOFT,
    LimitMode.HARD: quota_pb2.LIMIT_MODE_HARD,
}
_RESERVE = {
    ReserveMode.USUAL: quota_pb2.RESERVE_MODE_USUAL,
    ReserveMode.CEILING: quota_pb2.RESERVE_MODE_CEILING,
}
_ON_UNREACHABLE = {
    OnUnreachable.ALLOW: quota_pb2.ON_UNREACHABLE_ALLOW,
    OnUnreachable.REJECT: quota_pb2.ON_UNREACHABLE_REJECT,
}


def grant(
    wanted: quota_pb2.LeaseWanted, ruling: Ruling, lent: Lent, now_ms: int
) -> quota_pb2.LeaseResponse:
    """A lease, for the producer that asked."""
    return quota_pb2.LeaseResponse(
        grant=quota_pb2.Lease(
            request=wanted.request,
            lease_id=lent.id,
            client=lent.client,
            project=lent.project or "",
            model=lent.model or "",
            tokens=lent.tokens,
            expires_in_ms=max(0, lent.expires_at_ms - now_ms),
            mode=MODES[ruling.terms.mode],
            reserve=_RESERVE[ruling.terms.reserve],
            on_unreachable=_ON_UNREACHABLE[ruling.terms.on_unreachable],
            quota_version=lent.version,
            period_start_unix_ns=ruling.period.start_unix_ns,
            period_end_unix_ns=ruling.period.end_unix_ns,
            for_project=ruling.for_project,
            for_model=ruling.for_model,
        )
    )


def unlimited(
    wanted: quota_pb2.LeaseWanted, ruling: Ruling, now_ms: int, version: int
) -> quota_pb2.LeaseResponse:
    """Nothing refuses these calls, for now."""
    return quota_pb2.LeaseResponse(
        grant=quota_pb2.Lease(
            request=wanted.request,
            client=ruling.client,
            project=wanted.project if ruling.for_project else "",
            model=wanted.model if ruling.for_model else "",
            expires_in_ms=term_ms(UNLIMITED_TERM_MS, now_ms, ruling.ends_ms),
            mode=MODES[ruling.terms.mode],
            reserve=_RESERVE[ruling.terms.reserve],
            on_unreachable=_ON_UNREACHABLE[ruling.terms.on_unreachable],
            quota_version=version,
            period_start_unix_ns=ruling.period.start_unix_ns,
            period_end_unix_ns=ruling.period.end_unix_ns,
            for_project=ruling.for_project,
            for_model=ruling.for_model,
        )
    )


def denial(
    wanted: quota_pb2.LeaseWanted,
    ruling: Ruling,
    refusal: Refusal,
    *,
    holders: str,
    now_ms: int,
    version: int,
) -> quota_pb2.LeaseResponse:
    """The tightest quota, with the figures that a refusal tells its reader."""
    standing = refusal.standing
    term = CONTESTED_TERM_MS if refusal.is_contested else DENIAL_TERM_MS
    return quota_pb2.LeaseResponse(
        denial=quota_pb2.Denial(
            request=wanted.request,
            client=ruling.client,
            project=wanted.project,
            model=wanted.model,
            rule=standing.quota.name,
            plan=ruling.terms.plan_name,
            limit=standing.quota.ceiling or 0,
            used=min(standing.used, FIGURE_MAX),
            leased=min(standing.leased, FIGURE_MAX),
            remaining=standing.remaining,
            period_start_unix_ns=ruling.period.start_unix_ns,
            period_end_unix_ns=ruling.period.end_unix_ns,
            quota_version=version,
            holders=holders if refusal.is_contested else "",
            valid_for_ms=term_ms(term, now_ms, ruling.ends_ms),
            reserve=_RESERVE[ruling.terms.reserve],
            on_unreachable=_ON_UNREACHABLE[ruling.terms.on_unreachable],
            for_project=ruling.for_project,
            for_model=ruling.for_model,
        )
    )


def revocation(client: str, version: int) -> quota_pb2.LeaseResponse:
    """What was told and lent before `version` of a client, or of all, holds no longer."""
    return quota_pb2.LeaseResponse(
        revocation=quota_pb2.Revocation(client=client, quota_version=version)
    )


def holders_sentence(holders: Iterable[tuple[str, int, int, bool]]) -> str:
    """Who holds what is lent: "web@host-1 (pid 71) holds 12,000, worker@host-2 (pid 9, gone) …".

    Args:
        holders: name, process id, tokens, whether it is connected.
    """
    by_size = sorted(holders, key=lambda holder: -holder[2])
    named = [
        f"{name} (pid {pid}{'' if is_connected else ', not connected'}) holds {tokens:,}"
        for name, pid, tokens, is_connected in by_size[:HOLDERS_NAMED_MAX]
    ]
    others = by_size[HOLDERS_NAMED_MAX:]
    if others:
        named.append(f"{len(others)} more hold {sum(holder[2] for holder in others):,}")
    return ", ".join(named)
