"""What `meterctl quota` shows: limit, used, leased, remaining of each quota, and who holds it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from meterd.config.agency import LimitMode, QuotaRule
from meterd.quota.scopes import Quota, used_of
from meterd.service.lease_answers import FIGURE_MAX, MODES
from meterd.service.rulings import NS_PER_MS
from meterd.store.values import PeriodIndex
from meterd_proto.v1 import quota_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meterd.config.agency import Agency
    from meterd.service.lender import Lender
    from meterd.service.rulings import Ruling, Rulings
    from meterd.store.store import Store
    from meterd.store.values import Grant


async def quota_status(
    store: Store,
    rulings: Rulings,
    lender: Lender,
    agency: Agency,
    client: str,
) -> list[quota_pb2.QuotaStatus]:
    """The quotas of one client, whether it has one or not; of all that have one, if "" is asked.

    The agency's own quotas come first, and only where all are asked for.
    """
    if client:
        ruling = await rulings.of(client)
        return await _of_client(store, lender, agency, ruling, is_named=True)
    every = [await rulings.of(listed) for listed in sorted(agency.clients)]
    rows = await _of_agency(store, lender, agency, await rulings.of(""))
    for found in await asyncio.gather(
        *(_of_client(store, lender, agency, ruling, is_named=False) for ruling in every)
    ):
        rows += found
    return rows


async def _of_agency(
    store: Store, lender: Lender, agency: Agency, ruling: Ruling
) -> list[quota_pb2.QuotaStatus]:
    quotas = [quota for quota in ruling.quotas if quota.rule in agency.quotas]
    return await _rows(store, lender, agency, ruling, quotas)


async def _of_client(
    store: Store, lender: Lender, agency: Agency, ruling: Ruling, *, is_named: bool
) -> list[quota_pb2.QuotaStatus]:
    quotas = [quota for quota in ruling.quotas if quota.rule.client]
    if not quotas and is_named:
        rule = QuotaRule(tokens=0, mode=LimitMode.NONE, client=ruling.client)
        quotas = [Quota(rule, ruling.period.index)]
    return await _rows(store, lender, agency, ruling, quotas)


async def _rows(
    store: Store, lender: Lender, agency: Agency, ruling: Ruling, quotas: Sequence[Quota]
) -> list[quota_pb2.QuotaStatus]:
    if not quotas:
        return []
    period = PeriodIndex(ruling.period.index)
    usage = await store.used_by(quotas[0].rule.client, period)
    rows = [_row(lender, agency, ruling, quota, usage) for quota in quotas]
    if ruling.granted:
        grants = await store.grants(ruling.client, period)
        for quota, row in zip(quotas, rows, strict=True):
            if quota.is_own:
                row.granted.extend(_granted(grant) for grant in grants)
    return rows


def _row(
    lender: Lender,
    agency: Agency,
    ruling: Ruling,
    quota: Quota,
    usage: Mapping[tuple[str, str], tuple[int, int]],
) -> quota_pb2.QuotaStatus:
    used, estimated = used_of(quota, usage)
    leased = lender.register.outstanding.leased(quota)
    return quota_pb2.QuotaStatus(
        client=quota.rule.client,
        period=ruling.period.name,
        limit=quota.tokens,
        used=min(used, FIGURE_MAX),
        leased=min(leased, FIGURE_MAX),
        remaining=max(0, quota.tokens - used - leased),
        mode=MODES[quota.rule.mode],
        plan=ruling.terms.plan_name,
        period_start_unix_ns=ruling.period.start_unix_ns,
        period_end_unix_ns=ruling.period.end_unix_ns,
        estimated_tokens=estimated,
        holders=_holders(lender, quota),
        scope=quota.rule.scope,
        project=quota.rule.project,
        model=quota.rule.model,
        timezone=agency.timezone,
        is_unlimited=quota.rule.mode is LimitMode.NONE,
        cap=quota.cap or 0,
    )


def _granted(grant: Grant) -> quota_pb2.Granted:
    return quota_pb2.Granted(
        tokens=grant.tokens, why=grant.why, who=grant.who, at_unix_ns=grant.at_ms * NS_PER_MS
    )


def _holders(lender: Lender, quota: Quota) -> list[quota_pb2.Holder]:
    found = []
    for producer, (tokens, until_ms) in lender.register.holders(quota).items():
        name, pid = lender.register.name_of(producer)
        is_gone = producer not in lender.desks
        if is_gone:
            until_ms = lender.register.held_until_ms(producer, until_ms)
        until_unix_ns = until_ms * NS_PER_MS
        found.append(
            quota_pb2.Holder(
                producer=name,
                tokens=min(tokens, FIGURE_MAX),
                until_unix_ns=until_unix_ns,
                pid=pid,
                is_gone=is_gone,
            )
        )
    return sorted(found, key=lambda holder: -holder.tokens)
