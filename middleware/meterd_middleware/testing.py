"""For the agency's own tests: a meter that keeps its records in a list.

    def test_the_report_is_billed_to_acme(recorded_usage):
        instrument(client, meter=recorded_usage)
        make_report()
        assert recorded_usage.records[0].client == "acme-corp"

Everything else is the real thing: recognition, reading, who pays, refusals. No disk, no
thread, no grpc. `recorded_usage` is a pytest fixture that installing the package registers.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from meterd_middleware.lease import Denied, Reservation
from meterd_middleware.meter import Meter
from meterd_middleware.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meterd_middleware.spool import OpenCall
    from meterd_middleware.usage import UsageRecord

PERIOD_S = 30 * 24 * 3600


class RecordingMeter(Meter):
    """A `Meter` for tests: `records` holds every finished record, in order.

    Args:
        client: whom calls are billed to that name no client.
        on_untagged: "record" calls without a client as `unattributed`, or "refuse" them.
        on_record: called with each finished record.
        include_usage: whether chat streams are made to report their usage.
        include_usage_hosts: further hosts that accept being asked.
    """

    def __init__(
        self,
        *,
        client: str | None = None,
        on_untagged: str | None = None,
        on_record: Callable[[UsageRecord], object] | None = None,
        include_usage: bool | None = None,
        include_usage_hosts: tuple[str, ...] | None = None,
    ) -> None:
        self.records: list[UsageRecord] = []
        self.untagged_places: list[str] = []
        self.faults: list[tuple[str, str]] = []
        self._refused: dict[str, int] = {}
        settings = Settings.load(
            client=client,
            on_untagged=on_untagged,
            include_usage=include_usage,
            include_usage_hosts=include_usage_hosts,
            environ={},
        )
        self._join(settings, _List(self), _Verdicts(self._refused), on_record)

    def refuse(self, client: str, *, limit: int = 0) -> None:
        """Refuse every call of `client` from now on, as a hard quota of `limit` tokens would."""
        self._refused[client] = limit

    def allow(self, client: str) -> None:
        """Take `refuse` back."""
        self._refused.pop(client, None)

    def tokens(self, client: str | None = None) -> int:
        """All tokens recorded so far, of one client or of all."""
        return sum(r.tokens for r in self.records if client in (None, r.client))

    def clear(self) -> None:
        """Forget the records so far."""
        self.records.clear()


class _List:
    """Takes records where the shipper would; an open call is no more than its number."""

    def __init__(self, meter: RecordingMeter) -> None:
        self._meter = meter
        self._calls = 0

    def open_call(self, call: OpenCall) -> int:
        self._calls += 1
        return self._calls

    def append(self, record: UsageRecord, closes: int = 0) -> int:
        self._meter.records.append(record)
        return len(self._meter.records)

    def append_later(self, record: UsageRecord, closes: int = 0) -> None:
        self._meter.records.append(record)

    def note_untagged(self, place: str) -> None:
        self._meter.untagged_places.append(place)

    def note_fault(self, kind: str, message: str) -> None:
        self._meter.faults.append((kind, message))

    def flush(self, timeout: float) -> bool:
        return True

    def close(self, timeout: float) -> None:
        pass


class _Verdicts:
    """Decides from a dictionary where the leases would."""

    def __init__(self, refused: dict[str, int]) -> None:
        self._refused = refused

    def reserve(
        self,
        client: str,
        project: str,
        model: str,
        input_tokens: int,
        max_output_tokens: int | None,
    ) -> Reservation | Denied:
        tokens = input_tokens + (max_output_tokens or 0)
        return self.check(client, project, model, tokens) or Reservation(0, tokens)

    async def areserve(
        self,
        client: str,
        project: str,
        model: str,
        input_tokens: int,
        max_output_tokens: int | None,
    ) -> Reservation | Denied:
        return self.reserve(client, project, model, input_tokens, max_output_tokens)

    def check(self, client: str, project: str, model: str, tokens: int) -> Denied | None:
        limit = self._refused.get(client)
        if limit is None:
            return None
        now_ns = time.time_ns()
        return Denied(
            client=client,
            project=project,
            model=model,
            rule=f"client {client}",
            plan="",
            limit=limit,
            used=limit,
            leased=0,
            remaining=0,
            requested=tokens,
            period_start_unix_ns=now_ns,
            period_end_unix_ns=now_ns + PERIOD_S * 10**9,
            quota_version=0,
            holders="",
            reason="quota",
        )

    async def acheck(self, client: str, project: str, model: str, tokens: int) -> Denied | None:
        return self.check(client, project, model, tokens)


try:
    import pytest
except ImportError:  # RecordingMeter needs no pytest; the fixture is for those who have it
    pass
else:

    @pytest.fixture
    def recorded_usage() -> Iterator[RecordingMeter]:
        """A `RecordingMeter` of this test's own."""
        with RecordingMeter() as meter:
            yield meter
