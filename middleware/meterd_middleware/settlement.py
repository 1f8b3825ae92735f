"""Settlement: from what was sent and what was read to the usage records of one call (pure).

    Sent + Answer + Reading ──records_of()──▶ UsageRecord, and one more for each further model

What the provider reported is taken as it is. A side it did not report is estimated from the
sizes of the request and of what passed, and marked so; nothing is estimated where nothing
can have been used: a request that never left, an answer that is an error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from meterd_middleware import estimate
from meterd_middleware.readers import Reading
from meterd_middleware.usage import Estimated, Status, TokenCounts, UsageRecord

if TYPE_CHECKING:
    from meterd_middleware.readers import ModelUsage
    from meterd_middleware.request import ProviderCall
    from meterd_middleware.tags import Tags

NOTE_CHARACTERS_MAX = 200


class Ending(StrEnum):
    """How the bytes of a call ended."""

    TERMINAL = "terminal"
    """The reader saw the event after which nothing more is counted."""
    END_OF_FILE = "end_of_file"
    LEFT = "left"
    """The app closed, dropped or cancelled it."""
    CUT = "cut"
    TIMED_OUT = "timed_out"
    NOT_SENT = "not_sent"
    """The connection failed before the request was with the provider: nothing was used."""
    NOT_SENT_IN_TIME = "not_sent_in_time"


@dataclass(slots=True)
class Sent:
    """One call as it was sent: what its record says whatever the answer is."""

    call: ProviderCall
    tags: Tags
    occurred_at_unix_ns: int
    note: str = ""
    account: str = ""
    attempt: int = 0
    reserved_input_tokens: int = 0
    """What the input is taken for before it is sent: by size alone for small bodies."""
    chain_tokens: int = 0
    """What the provider's side of the conversation last took in, which the body lacks."""
    body: bytes | None = None
    """Kept while the call is under way: an estimate, should one be needed, is made from it."""
    history_bytes: int | None = None
    lease_id: int = 0

    def estimated_input_tokens(self) -> int:
        """The input as we count it, for a record whose provider reported none."""
        if self.body is None:
            return self.reserved_input_tokens
        return estimate.input_tokens(self.call, self.body) + self.chain_tokens


NOTHING_READ = Reading()


def records_of(
    sent: Sent, ending: Ending, http_status: int, reading: Reading, duration_ms: int
) -> list[UsageRecord]:
    """The records of one call: one, and a further one for each further model that ran.

    Args:
        http_status: 0 where no answer came.
        reading: what the reader saw; `NOTHING_READ` where none was needed.
    """
    status = _status(ending, http_status, reading)
    usages = reading.usages
    if not usages:
        counts, estimated = _counted_by_us(sent, ending, status, http_status, reading)
        return [_record(sent, status, http_status, reading, duration_ms, counts, estimated)]
    records = []
    for index, usage in enumerate(usages):
        counts, estimated = _counted(sent, usage, reading, is_first=index == 0)
        record = _record(
            sent,
            status,
            http_status,
            reading if index == 0 else Reading(response_id=reading.response_id),
            duration_ms,
            counts,
            estimated,
            response_model=usage.response_model,
            is_continuation=index > 0,
        )
        records.append(record)
    return records


def polled(records: list[UsageRecord], poll_id: str, reading: Reading) -> list[UsageRecord]:
    """The records of a background response: whoever counts it first, it is counted once.

    A poll doesn't count as a request: the call that started it did.
    """
    if reading.pending_id or not reading.usages:
        return records
    key = poll_id or reading.response_id
    return [
        replace(
            record,
            dedupe_id=f"{key}#{index}" if index else key,
            is_continuation=record.is_continuation or bool(poll_id),
        )
        for index, record in enumerate(records)
    ]


def refused_record(sent: Sent, http_status: int, reason: str) -> UsageRecord:
    """The record of a call that meterd turned away: no tokens, and why where it isn't quota."""
    call = sent.call
    return UsageRecord(
        client=sent.tags.client,
        project=sent.tags.project,
        provider=call.provider,
        operation=call.operation,
        request_model=call.request_model,
        status=Status.REFUSED,
        http_status=http_status,
        occurred_at_unix_ns=sent.occurred_at_unix_ns,
        account=sent.account,
        server_address=call.host,
        input_bytes=call.input_bytes,
        attempt=sent.attempt,
        is_stream=call.is_stream,
        note=sent.note or ("" if reason == "quota" else reason),
    )


def _status(ending: Ending, http_status: int, reading: Reading) -> Status:
    if http_status and not 200 <= http_status < 300:
        return Status.FAILED
    if reading.error:
        return Status.FAILED
    if reading.is_complete and http_status:
        return Status.COMPLETE
    return _STATUS_OF_ENDING[ending]


_STATUS_OF_ENDING = {
    Ending.TERMINAL: Status.COMPLETE,
    Ending.END_OF_FILE: Status.CUT,  # a clean end, but before the answer was whole
    Ending.LEFT: Status.ABANDONED,
    Ending.CUT: Status.CUT,
    Ending.TIMED_OUT: Status.TIMED_OUT,
    Ending.NOT_SENT: Status.CUT,
    Ending.NOT_SENT_IN_TIME: Status.TIMED_OUT,
}

_NOTHING_USED = frozenset({Ending.NOT_SENT, Ending.NOT_SENT_IN_TIME})


def _counted_by_us(
    sent: Sent, ending: Ending, status: Status, http_status: int, reading: Reading
) -> tuple[TokenCounts, Estimated]:
    """Both sides estimated, where the call can have cost something and nothing was reported."""
    output_tokens = estimate.output_tokens(reading.seen, sent.call)
    is_free = (
        ending in _NOTHING_USED
        or (http_status and not 200 <= http_status < 300)
        or reading.pending_id  # its usage comes with a later GET
        or (status is Status.FAILED and not output_tokens)
    )
    if is_free:
        return TokenCounts(), Estimated.NOTHING
    both = Estimated.INPUT | Estimated.OUTPUT
    input_tokens = sent.estimated_input_tokens()
    return TokenCounts(input_tokens=input_tokens, output_tokens=output_tokens), both


def _counted(
    sent: Sent, usage: ModelUsage, reading: Reading, *, is_first: bool
) -> tuple[TokenCounts, Estimated]:
    """What one model used as reported; a missing side is estimated, for the first model only."""
    estimated = Estimated.NOTHING
    input_tokens, output_tokens = usage.input_tokens, usage.output_tokens
    if input_tokens is None:
        input_tokens = _parts_in(usage)
        if is_first:
            input_tokens = max(input_tokens, sent.estimated_input_tokens())
        estimated |= Estimated.INPUT
    if output_tokens is None or (is_first and not reading.is_complete):
        # An unfinished stream reports what was counted so far, or the 1 of Anthropic's
        # message_start: the text that passed is the floor of what is billed.
        seen = estimate.output_tokens(reading.seen, sent.call) if is_first else 0
        output_tokens = max(output_tokens or 0, seen, usage.reasoning_tokens)
        estimated |= Estimated.OUTPUT
    counts = TokenCounts(
        input_tokens=input_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        cache_write_long_tokens=usage.cache_write_long_tokens,
        output_tokens=output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        audio_input_tokens=usage.audio_input_tokens,
        audio_output_tokens=usage.audio_output_tokens,
    )
    return counts, estimated


def _parts_in(usage: ModelUsage) -> int:
    """A whole that was not reported is at least its parts."""
    return max(usage.cache_read_tokens + usage.cache_write_tokens, usage.audio_input_tokens)


def _record(
    sent: Sent,
    status: Status,
    http_status: int,
    reading: Reading,
    duration_ms: int,
    counts: TokenCounts,
    estimated: Estimated,
    *,
    response_model: str = "",
    is_continuation: bool = False,
) -> UsageRecord:
    call = sent.call
    return UsageRecord(
        client=sent.tags.client,
        project=sent.tags.project,
        provider=call.provider,
        operation=call.operation,
        request_model=call.request_model,
        response_model=response_model or reading.response_model,
        status=status,
        http_status=http_status,
        occurred_at_unix_ns=sent.occurred_at_unix_ns,
        duration_ms=duration_ms,
        input_tokens=counts.input_tokens,
        cache_read_tokens=counts.cache_read_tokens,
        cache_write_tokens=counts.cache_write_tokens,
        cache_write_long_tokens=counts.cache_write_long_tokens,
        output_tokens=counts.output_tokens,
        reasoning_tokens=counts.reasoning_tokens,
        audio_input_tokens=counts.audio_input_tokens,
        audio_output_tokens=counts.audio_output_tokens,
        estimated=estimated,
        price_context=reading.price_context,
        tool_calls=reading.tool_calls,
        provider_cost=reading.provider_cost,
        account=sent.account,
        server_address=call.host,
        input_bytes=0 if is_continuation else call.input_bytes,
        history_bytes=None if is_continuation else sent.history_bytes,
        note=_note(sent.note, reading),
        attempt=sent.attempt,
        is_continuation=is_continuation,
        is_stream=call.is_stream,
        lease_id=sent.lease_id,
        response_id=reading.response_id,
    )


def _note(note: str, reading: Reading) -> str:
    if not (note or reading.note or reading.error):
        return ""
    parts = (note, reading.note, f"error: {reading.error}" if reading.error else "")
    return "; ".join(part for part in parts if part)[:NOTE_CHARACTERS_MAX]
