"""What the ledger says is used of quotas, read once for each of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from meterd.quota.scopes import used_of
from meterd.store.values import PeriodIndex

if TYPE_CHECKING:
    from collections.abc import Collection

    from meterd.quota.scopes import Quota
    from meterd.store.store import Store


async def used_tokens(store: Store, quotas: Collection[Quota]) -> dict[Quota, int]:
    """Tokens used of each quota in its period."""
    figures = await asyncio.gather(*(_used(store, quota) for quota in quotas))
    return dict(zip(quotas, figures, strict=True))


async def _used(store: Store, quota: Quota) -> int:
    rule, period = quota.rule, PeriodIndex(quota.period)
    if not rule.model:
        return await store.used_tokens(rule.client, period, project=rule.project)
    usage = await store.used_by(rule.client, period)
    return used_of(quota, usage)[0]
