"""AdminService: what an operator asks of the daemon beside figures."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from meterd.billing.contract import period_for, quota_terms_at
from meterd.billing.period import day_named, day_start
from meterd.clock import unix_ns_of
from meterd.errors import InvalidRequest, NotPossibleNow
from meterd.service.drafting import Drafting
from meterd.service.records import Shown, Tail, record_row
from meterd.service.rollup import currency_of
from meterd.service.status import answers, streams
from meterd.store.values import Grant, PeriodIndex, RecordsQuery
from meterd_proto.v1 import admin_pb2, admin_pb2_grpc, usage_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable
    from datetime import date

    from meterd.clock import Clock
    from meterd.config.in_force import InForce
    from meterd.errors import Mistake
    from meterd.hooks import Announcements
    from meterd.ids import ProducerId
    from meterd.service.configuring import Configuring
    from meterd.store.store import Store
    from meterd.store.values import ProducerStatus, StatusFigures

BACKUP_CHUNK_BYTES = 1 << 20
GRANT_TOKENS_MAX = 10**15
TEXT_CHARACTERS_MAX = 2_000
REFUSED_SEGMENTS_SHOWN = 100

_NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Host:
    """What the daemon knows of itself: where it runs and since when."""

    version: str
    data: Path
    spool_roots: tuple[Path, ...]
    listening: tuple[str, ...]
    started_at_unix_ns: int


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    """Thin over the store: checks what was asked, and says what was answered."""

    def __init__(
        self,
        store: Store,
        in_force: InForce,
        configuring: Configuring,
        clock: Clock,
        host: Host,
        announcements: Announcements,
        granted: Callable[[str], None] = lambda client: None,
        connected: Callable[[], Collection[ProducerId]] = frozenset,
    ) -> None:
        self._store = store
        self._in_force = in_force
        self._configuring = configuring
        self._clock = clock
        self._host = host
        self._announcements = announcements
        self._granted = granted
        self._connected = connected

    @answers
    async def Status(
        self, request: admin_pb2.StatusRequest, context: object
    ) -> admin_pb2.StatusResponse:
        """How the daemon is, and everything that isn't as it should be."""
        agency = self._in_force.agency
        period = period_for(agency, "", self._clock.now())
        figures = await self._store.status()
        unpriced = await self._store.unpriced(PeriodIndex(period.index))
        refused = await asyncio.to_thread(_refused_segments, self._host.spool_roots)
        now_unix_ns = self._clock.unix_ns()
        response = admin_pb2.StatusResponse(
            version=self._host.version,
            ledger_id=self._store.ledger_id,
            data_directory=str(self._host.data),
            spool_roots=", ".join(str(root) for root in self._host.spool_roots),
            listening=self._host.listening,
            started_at_unix_ns=self._host.started_at_unix_ns,
            now_unix_ns=now_unix_ns,
            config_source=self._in_force.source,
            config_version=self._in_force.version,
            config_from_unix_ns=self._in_force.applied_at_unix_ns,
            config_refused=_mistakes(self._in_force.refused),
            agency=agency.name,
            timezone=agency.timezone,
            currency=agency.currency,
            period=period.name,
            unpriced_requests=sum(model.requests for model in unpriced),
            unpriced_models=[
                admin_pb2.UnpricedModel(
                    provider=model.provider,
                    model=model.model,
                    requests=model.requests,
                    tokens=model.tokens,
                )
                for model in unpriced
            ],
            refused_segments=refused,
            storage_fault=self._store.storage_fault,
        )
        _fill(response, figures, self._connected())
        return response

    @answers
    async def Apply(
        self, request: admin_pb2.ApplyRequest, context: object
    ) -> admin_pb2.ApplyResponse:
        """Apply a configuration, or say what it would change; mistakes are an answer."""
        applied = await self._configuring.apply(
            request.toml, request.source or "meterd.toml", dry_run=request.dry_run
        )
        return admin_pb2.ApplyResponse(
            applied=applied.is_applied,
            config_version=applied.version,
            mistakes=_mistakes(applied.mistakes),
            warnings=_mistakes(applied.warnings),
            differences=[
                admin_pb2.Difference(
                    field=one.field,
                    before=one.before,
                    after=one.after,
                    **{"from": one.from_day},
                )
                for one in applied.differences
            ],
        )

    @streams
    async def Tail(
        self, request: admin_pb2.TailRequest, context: object
    ) -> AsyncIterator[admin_pb2.TailEvent]:
        """Records as they are committed, and what the daemon has to say."""
        with Tail(self._store, self._announcements, request.client) as tail:
            async for event in tail.events(self._shown()):
                yield event

    @streams
    async def Records(
        self, request: admin_pb2.RecordsRequest, context: object
    ) -> AsyncIterator[admin_pb2.RecordRow]:
        """The ledger rows behind a client's figures."""
        if not request.client:
            raise InvalidRequest("name the client whose records you want")
        first, last = day_named(request.from_day), day_named(request.to_day)
        if last < first:
            raise InvalidRequest(f"{request.to_day} lies before {request.from_day}")
        query = RecordsQuery(
            client=request.client,
            project=request.project or None,
            from_ms=self._start_ms(first),
            to_ms=self._start_ms(last + timedelta(days=1)),
        )
        shown = self._shown()
        async for rows in self._store.records(query):
            for found in rows:
                yield record_row(found, shown)

    @streams
    async def Verify(
        self, request: admin_pb2.VerifyRequest, context: object
    ) -> AsyncIterator[admin_pb2.VerifyProgress]:
        """Ledger = rollups = watermarks = leases, recomputed."""
        async for step in self._store.verify():
            yield admin_pb2.VerifyProgress(
                checked=step.checked,
                total=step.total,
                differences=step.differences,
                is_done=step.is_done,
            )

    @streams
    async def Backup(
        self, request: admin_pb2.BackupRequest, context: object
    ) -> AsyncIterator[admin_pb2.BackupChunk]:
        """A consistent copy of the whole ledger, in pieces."""
        with tempfile.TemporaryDirectory(prefix="backup-", dir=self._host.data) as directory:
            target = Path(directory) / "ledger.db"
            await self._store.backup(target)
            total = target.stat().st_size
            with await asyncio.to_thread(target.open, "rb") as copy:
                while data := await asyncio.to_thread(copy.read, BACKUP_CHUNK_BYTES):
                    yield admin_pb2.BackupChunk(data=data, total_bytes=total)

    @answers
    async def Grant(
        self, request: admin_pb2.GrantRequest, context: object
    ) -> admin_pb2.GrantResponse:
        """Add tokens to a client's quota of the running period, with who and why."""
        _check_grant(request)
        agency, now = self._in_force.agency, self._clock.now()
        rule = quota_terms_at(agency, request.client, now).own_rule
        if rule is None:
            raise NotPossibleNow(f"{request.client} has no quota that tokens could be added to")
        period = period_for(agency, request.client, now)
        await self._store.grant(
            Grant(
                client=request.client,
                period=PeriodIndex(period.index),
                tokens=request.tokens,
                why=request.why,
                who=request.who,
                at_ms=unix_ns_of(now) // _NS_PER_MS,
            )
        )
        self._granted(request.client)
        grants = await self._store.grants(request.client, PeriodIndex(period.index))
        limit = rule.tokens + sum(grant.tokens for grant in grants)
        drafting = Drafting(self._store, self._in_force)
        limit += await drafting.rolled_over(request.client, PeriodIndex(period.index))
        return admin_pb2.GrantResponse(limit=limit, period=period.name)

    @answers
    async def AcceptLate(
        self, request: admin_pb2.AcceptLateRequest, context: object
    ) -> admin_pb2.AcceptLateResponse:
        """Roll up what of a client waits because it came more than 35 days late."""
        if not request.client:
            raise InvalidRequest("name the client whose late records you accept")
        at_ms = self._clock.unix_ns() // _NS_PER_MS
        accepted = await self._store.accept_late(request.client, at_ms)
        return admin_pb2.AcceptLateResponse(records=accepted.records, tokens=accepted.tokens)

    @answers
    async def Forget(
        self, request: admin_pb2.ForgetRequest, context: object
    ) -> admin_pb2.ForgetResponse:
        """Replace a client's name, and its projects', by one that says nothing."""
        if not request.client:
            raise InvalidRequest("name the client to forget")
        if request.client in self._in_force.agency.clients:
            raise NotPossibleNow(
                f"{request.client} is in the configuration in force; take it out and apply first"
            )
        return admin_pb2.ForgetResponse(replaced_by=await self._store.forget(request.client))

    def _shown(self) -> Shown:
        agency = self._in_force.agency
        return Shown(*currency_of(agency, period_for(agency, "", self._clock.now())))

    def _start_ms(self, day: date) -> int:
        return unix_ns_of(day_start(day, self._in_force.agency.zone)) // _NS_PER_MS


def _check_grant(request: admin_pb2.GrantRequest) -> None:
    if not request.client:
        raise InvalidRequest("name the client that the tokens are for")
    if not 0 < request.tokens <= GRANT_TOKENS_MAX:
        raise InvalidRequest(f"{request.tokens} tokens can't be granted; 1 to {GRANT_TOKENS_MAX}")
    if not request.why.strip():
        raise InvalidRequest('say why, as in --why "launch week"; it is recorded with the grant')
    if max(len(request.why), len(request.who)) > TEXT_CHARACTERS_MAX:
        raise InvalidRequest(f"who and why have at most {TEXT_CHARACTERS_MAX} characters")


def _mistakes(mistakes: Iterable[Mistake]) -> list[admin_pb2.Mistake]:
    return [
        admin_pb2.Mistake(line=one.line, field=one.field, message=one.message) for one in mistakes
    ]


def _fill(
    response: admin_pb2.StatusResponse, figures: StatusFigures, connected: Collection[ProducerId]
) -> None:
    """What the store counts and keeps, beside the daemon's own."""
    response.records = figures.records
    response.database_bytes = figures.database_bytes
    response.quarantined_records = figures.quarantined_records
    response.lost_records = figures.lost_records
    response.late_records = figures.late_records
    response.producers.extend(
        _producer(one, one.producer.id in connected) for one in figures.producers
    )
    response.losses.extend(
        admin_pb2.LossRow(
            producer=loss.producer_name,
            first_sequence=loss.first_sequence,
            last_sequence=loss.last_sequence,
            reason=loss.reason,
            declared_at_unix_ns=loss.declared_at_ms * _NS_PER_MS,
        )
        for loss in figures.losses
    )
    response.quarantine.extend(
        admin_pb2.QuarantineRow(
            producer=row.producer_name,
            sequence=row.sequence,
            reason=row.reason,
            received_at_unix_ns=row.received_at_ms * _NS_PER_MS,
        )
        for row in figures.quarantine
    )
    response.late_clients.extend(
        admin_pb2.LateClient(client=late.client, records=late.records, tokens=late.tokens)
        for late in figures.late
    )


def _producer(found: ProducerStatus, is_connected: bool) -> admin_pb2.ProducerStatus:
    return admin_pb2.ProducerStatus(
        name=found.producer.name,
        pid=found.producer.pid,
        producer=found.producer.id.hex(),
        watermark=found.watermark,
        highest_appended_sequence=found.highest_appended,
        is_connected=is_connected,
        last_seen_unix_ns=found.last_seen_ms * _NS_PER_MS,
        skew_ms=found.skew_ms,
        open_calls=found.open_calls,
        is_finished=found.is_finished,
        report=usage_pb2.Report.FromString(found.report),
    )


def _refused_segments(roots: Iterable[Path]) -> list[str]:
    """Segments that a producer set aside because a daemon would not take them."""
    found: list[str] = []
    for root in roots:
        try:
            found += sorted(str(path) for path in root.glob("*/*.refused"))
        except OSError:
            continue  # a root we may not read is `doctor`'s to name
    return found[:REFUSED_SEGMENTS_SHOWN]
