"""All calls of one Meter: recognised, decided on and opened; and at their end, recorded.

    begin ─▶ read_request ─▶ who pays ─▶ reserve in the lease ─▶ `open` frame ─▶ Exchange
    Exchange ─▶ settle ─▶ records, the first of which closes the open frame ─▶ lease ─▶ on_record

Like `exchange.py` it lets none of our own faults through.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from meterd_middleware import exact, refusal
from meterd_middleware.exchange import Exchange
from meterd_middleware.faults import Faults
from meterd_middleware.intake import Intake
from meterd_middleware.lease import Denied
from meterd_middleware.pending import Memory
from meterd_middleware.request import read_request
from meterd_middleware.settlement import (
    Ending,
    Sent,
    is_uncounted,
    polled,
    records_of,
    refused_record,
)
from meterd_middleware.spool import OpenCall
from meterd_middleware.usage import Estimated, UsageRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from meterd_middleware.lease import Reservation
    from meterd_middleware.ports import Quota, Sink
    from meterd_middleware.readers import Reading
    from meterd_middleware.refusal import QuotaExceeded
    from meterd_middleware.request import ProviderCall
    from meterd_middleware.settings import Settings
    from meterd_middleware.tags import Payer

REPEAT_WITHIN_S = 1
"""cohere repeats a refused call twice, Gemini's interactions four times, within this time."""


class Exchanges:
    """All calls of one Meter: what they share, and every entry into our code."""

    def __init__(
        self,
        settings: Settings,
        sink: Sink,
        quota: Quota,
        *,
        on_record: Callable[[UsageRecord], object] | None = None,
        now_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._refuses_untagged = settings.on_untagged == "refuse"
        self._sink = sink
        self._quota = quota
        self._on_record = on_record
        self.now_ns = now_ns
        self._monotonic_ns = monotonic_ns
        self.intake = Intake(settings, sink)
        self.faults = Faults(sink)
        self._refused: Memory[bool] = Memory(REPEAT_WITHIN_S)
        self._late: deque[UsageRecord] = deque()
        self._counts_exactly = False

    def count_exactly(self) -> None:
        """Count what would be estimated, on a thread of its own, where the extra is installed."""
        self._counts_exactly = exact.is_installed()
        if self._counts_exactly:
            exact.prepare()

    # Entries. None of them raises.

    def begin(
        self,
        method: str,
        host: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        body: bytes | None,
        account: str = "",
    ) -> Exchange | None:
        """Begin a call: decide, reserve, write its open frame; None: not an LLM call."""
        exchange = self._prepare(method, host, path, query, headers, body, account)
        return self._start(exchange) if exchange is not None else None

    async def abegin(
        self,
        method: str,
        host: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        body: bytes | None,
        account: str = "",
    ) -> Exchange | None:
        """The same, awaiting the first lease of a client."""
        exchange = self._prepare(method, host, path, query, headers, body, account)
        return await self._astart(exchange) if exchange is not None else None

    def begin_manual(
        self, call: ProviderCall, payer: Payer, input_tokens: int, account: str
    ) -> Exchange | None:
        """Begin a call that no transport sees."""
        exchange = self._prepare_manual(call, payer, input_tokens, account)
        return self._start(exchange) if exchange is not None else None

    async def abegin_manual(
        self, call: ProviderCall, payer: Payer, input_tokens: int, account: str
    ) -> Exchange | None:
        """The same, awaiting the first lease of a client."""
        exchange = self._prepare_manual(call, payer, input_tokens, account)
        return await self._astart(exchange) if exchange is not None else None

    def append(self, record: UsageRecord) -> None:
        """A record that the app gave by hand."""
        try:
            self._sink.append(record)
        except Exception as error:
            self.faults.note("append", error)
        self._tell(record)

    def catch_up(self) -> None:
        """Do what finalisers left: hand their records to `on_record`, report their faults."""
        self.faults.catch_up()
        while self._late:
            try:
                record = self._late.popleft()
            except IndexError:  # another thread took the last one
                break
            self._tell(record)

    def drain(self, timeout: float) -> bool:
        """Wait until what is being counted is recorded."""
        return not self._counts_exactly or exact.COUNTING.drain(timeout)

    def _tell(self, record: UsageRecord) -> None:
        """Give a finished record to `on_record`, whose exceptions are its own."""
        if self._on_record is None:
            return
        try:
            self._on_record(record)
        except Exception as error:
            self.faults.note("on_record", error)

    # From begin to the open frame.

    def _prepare(
        self,
        method: str,
        host: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        body: bytes | None,
        account: str,
    ) -> Exchange | None:
        """Recognise the call and find out who pays; nothing is decided or written yet."""
        try:
            call = read_request(method, host, path, query, headers, body)
            if call is None:
                return None
            if self._late or self.faults.has_late:
                self.catch_up()
            started_ns = self._monotonic_ns()
            payer = self.intake.payer(call, headers, started_ns)
            sent = Sent(call, payer.tags, self.now_ns(), payer.note, account)
            retries = headers.get("x-stainless-retry-count", "")
            if retries.isdecimal():
                sent.attempt = int(retries[:3])
            exchange = Exchange(self, sent, started_ns)
            if call.poll_id:
                return exchange
        except Exception as error:
            self.faults.note("begin", error)
            return None
        if self._refuses_untagged and not payer.is_named:
            self._refuse(exchange, refusal.untagged())
            return exchange
        try:
            self.intake.measure(sent, body, started_ns)
            exchange.new_body = self.intake.body_that_asks(call, body)
        except Exception as error:
            self._note_unsent(exchange, "measure", error)
        return exchange

    def _prepare_manual(
        self, call: ProviderCall, payer: Payer, input_tokens: int, account: str
    ) -> Exchange | None:
        try:
            if not payer.is_named:
                self.intake.note_untagged()
            sent = Sent(call, payer.tags, self.now_ns(), payer.note, account)
            sent.reserved_input_tokens = input_tokens
            exchange = Exchange(self, sent, self._monotonic_ns())
        except Exception as error:
            self.faults.note("begin", error)
            return None
        if self._refuses_untagged and not payer.is_named:
            self._refuse(exchange, refusal.untagged())
        return exchange

    def _start(self, exchange: Exchange) -> Exchange:
        """Reserve and open, unless the call is refused already or only asks for a result."""
        sent = exchange.sent
        call = sent.call
        if exchange.refused is None and not call.poll_id:
            try:
                outcome = self._quota.reserve(
                    sent.tags.client,
                    sent.tags.project,
                    call.request_model,
                    sent.reserved_input_tokens,
                    call.max_output_tokens,
                )
                if isinstance(outcome, Denied):
                    self._refuse(exchange, refusal.QuotaExceeded(outcome))
                    return exchange
                exchange.reservation = outcome
                sent.lease_id = outcome.lease_id
            except Exception as error:
                self._note_unsent(exchange, "reserve", error)
            except BaseException:  # the app gave up while it waited for a lease
                exchange.drop()
                raise
            self._open(exchange)
        return exchange

    async def _astart(self, exchange: Exchange) -> Exchange:
        """`_start`, awaiting the decision."""
        sent = exchange.sent
        call = sent.call
        if exchange.refused is None and not call.poll_id:
            try:
                outcome = await self._quota.areserve(
                    sent.tags.client,
                    sent.tags.project,
                    call.request_model,
                    sent.reserved_input_tokens,
                    call.max_output_tokens,
                )
                if isinstance(outcome, Denied):
                    self._refuse(exchange, refusal.QuotaExceeded(outcome))
                    return exchange
                exchange.reservation = outcome
                sent.lease_id = outcome.lease_id
            except Exception as error:
                self._note_unsent(exchange, "reserve", error)
            except BaseException:  # the app gave up while it waited for a lease
                exchange.drop()
                raise
            self._open(exchange)
        return exchange

    def _refuse(self, exchange: Exchange, refused: QuotaExceeded) -> None:
        """Turn the call away, with a record of it: once, however often the SDK repeats it."""
        exchange.refuse(refused)
        try:
            sent, now_ns = exchange.sent, self._monotonic_ns()
            if sent.call.refusal_shape in _REPEATED:
                key = f"{_who_calls()} {sent.tags} {sent.call}"
                if self._refused.get(key, now_ns):
                    return
                self._refused.put(key, True, now_ns)
            self.append(refused_record(sent, refusal.STATUS, refused.reason))
        except Exception as error:
            self.faults.note("refuse", error)

    def _open(self, exchange: Exchange) -> None:
        """Write the open frame: a process that dies from here on has cost money."""
        if exchange.refused is not None:
            return
        sent, held = exchange.sent, exchange.reservation
        call, tags = sent.call, sent.tags
        try:
            if self._counts_exactly and exact.takes(call):
                exact.COUNTING.start()
            exchange.call_number = self._sink.open_call(
                OpenCall(  # in the order of its fields: by name it takes three times as long
                    tags.client,
                    tags.project,
                    call.provider,
                    call.operation,
                    call.request_model,
                    sent.occurred_at_unix_ns,
                    sent.reserved_input_tokens,
                    held.tokens if held is not None else 0,
                    sent.lease_id,
                    sent.account,
                    call.host,
                    call.input_bytes,
                    sent.attempt,
                    call.is_stream,
                )
            )
        except Exception as error:
            self._note_unsent(exchange, "open", error)

    def _note_unsent(self, exchange: Exchange, kind: str, error: Exception) -> None:
        """Note a fault before the call is sent; if the app's own signal ends it, it never is."""
        try:
            self.faults.note(kind, error)
        except BaseException:
            exchange.end(Ending.NOT_SENT)
            raise

    # The end.

    def settle(self, exchange: Exchange, ending: Ending, reading: Reading, *, late: bool) -> None:
        """Write the records of a call that is over, then settle its lease."""
        sent, now_ns = exchange.sent, self._monotonic_ns()
        duration_ms = (now_ns - exchange.started_ns) // 1_000_000
        if sent.call.poll_id and not self.intake.is_first_sight(sent, reading, now_ns):
            return
        held = exchange.reservation
        if self._counts_exactly and is_uncounted(sent, exchange.http_status, reading):
            job = partial(self._record_counted, exchange, ending, reading, duration_ms, held)
            if exact.takes(sent.call) and exact.COUNTING.later(job):
                exchange.reservation = None  # the job settles it
                return
        records = records_of(sent, ending, exchange.http_status, reading, duration_ms)
        self._record(exchange, reading, records, held, late=late)

    def _record_counted(
        self,
        exchange: Exchange,
        ending: Ending,
        reading: Reading,
        duration_ms: int,
        held: Reservation | None,
    ) -> None:
        """The rest of `settle` where there is time to count: on the thread of exact.py."""
        try:
            status = exchange.http_status
            records = exact.COUNTING.noted(
                lambda: records_of(exchange.sent, ending, status, reading, duration_ms)
            )
            self._record(exchange, reading, records, held, late=False)
        except Exception as error:
            self.faults.note("settle", error)
            self.salvage(exchange, late=False)
        finally:
            if held is not None:
                held.release()  # does nothing where it was settled

    def _record(
        self,
        exchange: Exchange,
        reading: Reading,
        records: list[UsageRecord],
        held: Reservation | None,
        *,
        late: bool,
    ) -> None:
        sent, now_ns = exchange.sent, self._monotonic_ns()
        if sent.call.poll_id or reading.is_background:
            records = polled(records, sent.call.poll_id, reading)
        closes = exchange.call_number
        input_tokens = output_tokens = 0
        for record in records:
            if late:
                self._sink.append_later(record, closes)
            else:
                self._sink.append(record, closes)
            exchange.is_recorded = True
            closes = 0
            input_tokens += record.input_tokens
            output_tokens += record.output_tokens
        if held is not None:
            held.settle(input_tokens, output_tokens)
        self.intake.remember(sent, reading, input_tokens + output_tokens, now_ns)
        if self._on_record is not None:
            for record in records:
                if late:
                    self._late.append(record)
                else:
                    self._tell(record)

    def salvage(self, exchange: Exchange, *, late: bool) -> None:
        """A record that could not be made right is still made: estimated, and said to be."""
        if exchange.is_recorded:
            return
        sent = exchange.sent
        try:
            record = UsageRecord(
                client=sent.tags.client,
                project=sent.tags.project,
                provider=sent.call.provider,
                request_model=sent.call.request_model,
                http_status=exchange.http_status,
                occurred_at_unix_ns=sent.occurred_at_unix_ns,
                input_tokens=sent.reserved_input_tokens,
                estimated=Estimated.INPUT | Estimated.OUTPUT,
                lease_id=sent.lease_id,
                note="the answer could not be read",
            )
            append = self._sink.append_later if late else self._sink.append
            append(record, exchange.call_number)
        except Exception as error:
            self.faults.note("salvage", error, late=late)


_REPEATED = frozenset({"cohere", "interactions", "gemini", "mistral"})


def _who_calls() -> int:
    """The thread or task that makes a call: an SDK repeats it from the same one."""
    asyncio = sys.modules.get("asyncio")
    try:
        task = asyncio.current_task() if asyncio is not None else None
    except RuntimeError:  # no loop is running in this thread
        task = None
    return id(task) if task is not None else threading.get_ident()
