"""RollupService: a month's sums, as `meterctl rollup` prints them.

Costs are in US dollars, as prices are, unless the agency bills in another currency and has
recorded what a dollar is in it: then the exact cost is converted, unrounded.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from meterd.billing.contract import period_for_index
from meterd.billing.conversion import BOOK_CURRENCY, conversion_of
from meterd.errors import InvalidRequest
from meterd.money import exact, plain
from meterd.service.months import month_asked
from meterd.service.status import streams
from meterd.store.values import Grouping, PeriodIndex, RollupQuery, Sums
from meterd_proto.v1 import rollup_pb2, rollup_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from meterd.billing.period import Period
    from meterd.clock import Clock
    from meterd.config.agency import Agency
    from meterd.config.in_force import InForce
    from meterd.store.store import Store
    from meterd.store.values import RollupRow, Uncounted

MESSAGE_ROWS_MAX = 256
"""A row a message costs 75 µs on either side; ids of 128 characters keep it below 256 KiB."""

_GROUPINGS = {
    rollup_pb2.DIMENSION_CLIENT: Grouping.CLIENT,
    rollup_pb2.DIMENSION_PROJECT: Grouping.PROJECT,
    rollup_pb2.DIMENSION_MODEL: Grouping.MODEL,
    rollup_pb2.DIMENSION_DAY: Grouping.DAY,
}
_USAGE_FIELDS = Sums._fields[: Sums._fields.index("unpriced_tokens")]
"""Those that a message has; what follows is shown elsewhere."""


class RollupServicer(rollup_pb2_grpc.RollupServiceServicer):
    """Answers from the rollups alone: a month of a hundred million records costs milliseconds."""

    def __init__(self, store: Store, in_force: InForce, clock: Clock) -> None:
        self._store = store
        self._in_force = in_force
        self._clock = clock

    @streams
    async def Query(
        self, request: rollup_pb2.RollupRequest, context: object
    ) -> AsyncIterator[rollup_pb2.RollupResponse]:
        """A header, the rows, and their total."""
        agency = self._in_force.agency
        by = _groupings(request.by)
        period = self._period(agency, request)
        rows = await self._store.rollup(
            RollupQuery(period=PeriodIndex(period.index), by=by, client=request.client or None)
        )
        currency, factor = currency_of(agency, period)
        header = _header(agency, period, currency, by, await self._store.uncounted())
        yield rollup_pb2.RollupResponse(header=header)
        for start in range(0, len(rows), MESSAGE_ROWS_MAX):
            part = rows_of(rows[start : start + MESSAGE_ROWS_MAX], factor)
            yield rollup_pb2.RollupResponse(rows=part)
        total = rollup_pb2.RollupTotal(usage=total_of(rows, factor))
        yield rollup_pb2.RollupResponse(total=total)

    def _period(self, agency: Agency, request: rollup_pb2.RollupRequest) -> Period:
        index = month_asked(agency, request.period, self._clock.now(), request.client)
        return period_for_index(agency, request.client, index)


def currency_of(agency: Agency, period: Period) -> tuple[str, Decimal]:
    """The currency that costs of a period are shown in, and what a US dollar is in it."""
    conversion = conversion_of(agency, period)
    return (agency.currency, conversion.rate) if conversion else (BOOK_CURRENCY, Decimal(1))


def rows_of(rows: Sequence[RollupRow], factor: Decimal) -> rollup_pb2.RollupRows:
    """Rows as one message.

    Field by field, and only what isn't zero: a thousand rows take 2 ms so, 7 by keywords.
    """
    message = rollup_pb2.RollupRows()
    with exact():
        for row in rows:
            added = message.rows.add()
            added.client = row.client
            if row.project or row.model or row.day:
                added.project, added.model, added.day = row.project, row.model, row.day
            _set(added.usage, row.sums, row.cost * factor)
    return message


def total_of(rows: Sequence[RollupRow], factor: Decimal) -> rollup_pb2.Usage:
    """The sum of all rows."""
    columns = zip(*(row.sums for row in rows), strict=True)
    sums = Sums(*map(sum, columns)) if rows else Sums()
    usage = rollup_pb2.Usage()
    with exact():
        _set(usage, sums, sum((row.cost for row in rows), Decimal(0)) * factor)
    return usage


def _set(usage: rollup_pb2.Usage, sums: Sums, cost: Decimal) -> None:
    usage.tokens = sums.tokens
    usage.cost = plain(cost)
    for name, amount in zip(_USAGE_FIELDS, sums, strict=False):
        if amount:
            setattr(usage, name, amount)


def _groupings(by: Iterable[rollup_pb2.Dimension.ValueType]) -> tuple[Grouping, ...]:
    found = []
    for dimension in by:
        if dimension not in _GROUPINGS:
            raise InvalidRequest("a rollup is by client, project, model or day")
        found.append(_GROUPINGS[dimension])
    if len(set(found)) != len(found):
        raise InvalidRequest("a rollup can be by each of client, project, model and day once")
    return tuple(found) or (Grouping.CLIENT,)


def _header(
    agency: Agency,
    period: Period,
    currency: str,
    by: tuple[Grouping, ...],
    aside: Uncounted,
) -> rollup_pb2.RollupHeader:
    dimensions = {grouping: dimension for dimension, grouping in _GROUPINGS.items()}
    return rollup_pb2.RollupHeader(
        period=period.name,
        start=period.start.astimezone(agency.zone).isoformat(),
        end=period.end.astimezone(agency.zone).isoformat(),
        timezone=agency.timezone,
        currency=currency,
        by=[dimensions[grouping] for grouping in by],
        late_records=aside.late_records,
        quarantined_records=aside.quarantined_records,
        lost_records=aside.lost_records,
    )
