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
from meterd_middleware.readers import ModelUsage, Reading
from meterd_middleware.usage import Estimated, Status, UsageRecord, made_record

if TYPE_CHECKING:
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

# Looked up here once: a member of an enumeration costs 0.2 µs each time it is named.
_NOTHING, _COMPLETE, _FAILED = Estimated.NOTHING, Status.COMPLETE, Status.FAILED
_LEFT = Ending.LEFT


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
    if usages:
        usage, estimated = _counted(sent, usages[0], reading)
    else:
        usage, estimated = _counted_by_us(sent, ending, status, http_status, reading)
    records = [_record(sent, status, http_status, reading, duration_ms, usage, estimated)]
    for further in usages[1:]:
        records.append(_further(sent, status, http_status, reading, duration_ms, further))
    return records


def is_uncounted(sent: Sent, http_status: int, reading: Reading) -> bool:
    """Whether something of a call that may have cost tokens has to be counted by us."""
    if (http_status and not 200 <= http_status < 300) or reading.pending_id:
        return False
    usages = reading.usages
    if not usages or not reading.is_complete:
        return True
    return usages[0].input_tokens is None or usages[0].output_tokens is None


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
    if (http_status and not 200 <= http_status < 300) or reading.error:
        return _FAILED
    if reading.is_complete and http_status:
        return _COMPLETE
    if reading.is_counted and ending is _LEFT:
        return _COMPLETE  # an SDK stops reading once it has all of the reply
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
) -> tuple[ModelUsage, Estimated]:
    """Both sides estimated, where the call can have cost something and nothing was reported."""
    output_tokens = estimate.output_tokens(reading.seen, sent.call)
    is_free = (
        ending in _NOTHING_USED
        or (http_status and not 200 <= http_status < 300)
        or reading.pending_id  # its usage comes with a later GET
        or (status is _FAILED and not output_tokens)
    )
    if is_free:
        return _NO_USAGE, _NOTHING
    input_tokens = sent.estimated_input_tokens()
    usage = ModelUsage(input_tokens=input_tokens, output_tokens=output_tokens)
    return usage, Estimated.INPUT | Estimated.OUTPUT


_NO_USAGE = ModelUsage(input_tokens=0, output_tokens=0)


def _counted(sent: Sent, usage: ModelUsage, reading: Reading) -> tuple[ModelUsage, Estimated]:
    """What the request's model used, as reported; a side that was not reported is estimated."""
    input_tokens, output_tokens = usage.input_tokens, usage.output_tokens
    if input_tokens is not None and output_tokens is not None and _is_final(reading):
        return usage, _NOTHING
    estimated = _NOTHING
    if input_tokens is None:
        input_tokens = max(_parts_in(usage), sent.estimated_input_tokens())
        estimated |= Estimated.INPUT
    if output_tokens is None or not _is_final(reading):
        # An unfinished stream reports what was counted so far, or the 1 of Anthropic's
        # message_start: the text that passed is the floor of what is billed.
        seen = estimate.output_tokens(reading.seen, sent.call)
        output_tokens = max(output_tokens or 0, seen, _parts_out(usage))
        estimated |= Estimated.OUTPUT
    return usage._replace(input_tokens=input_tokens, output_tokens=output_tokens), estimated


def _is_final(reading: Reading) -> bool:
    return reading.is_complete or reading.is_counted


def _parts_in(usage: ModelUsage) -> int:
    """A whole that was not reported is at least its parts."""
    return max(usage.cache_read_tokens + usage.cache_write_tokens, usage.audio_input_tokens)


def _parts_out(usage: ModelUsage) -> int:
    return max(usage.reasoning_tokens, usage.audio_output_tokens)


def _further(
    sent: Sent,
    status: Status,
    http_status: int,
    reading: Reading,
    duration_ms: int,
    usage: ModelUsage,
) -> UsageRecord:
    """The record of a further model: its own tokens, and nothing that the first already has."""
    estimated = _NOTHING
    if usage.input_tokens is None:
        usage = usage._replace(input_tokens=_parts_in(usage))
        estimated |= Estimated.INPUT
    if usage.output_tokens is None:
        usage = usage._replace(output_tokens=_parts_out(usage))
        estimated |= Estimated.OUTPUT
    bare = Reading(response_id=reading.response_id)
    record = _record(sent, status, http_status, bare, duration_ms, usage, estimated)
    return replace(record, is_continuation=True, input_bytes=0, history_bytes=None)


def _record(
    sent: Sent,
    status: Status,
    http_status: int,
    reading: Reading,
    duration_ms: int,
    usage: ModelUsage,
    estimated: Estimated,
) -> UsageRecord:
    call, tags = sent.call, sent.tags
    return made_record(  # in the order of its parameters: by name it takes a third longer
        tags.client,
        tags.project,
        call.provider,
        call.operation,
        call.request_model,
        usage.response_model or reading.response_model,
        status,
        http_status,
        sent.occurred_at_unix_ns,
        duration_ms,
        usage.input_tokens or 0,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        usage.cache_write_long_tokens,
        usage.output_tokens or 0,
        usage.reasoning_tokens,
        usage.audio_input_tokens,
        usage.audio_output_tokens,
        estimated,
        reading.price_context,
        reading.tool_calls,
        reading.provider_cost,
        sent.account,
        call.host,
        call.input_bytes,
        sent.history_bytes,
        _note(sent.note, reading),
        sent.attempt,
        False,
        call.is_stream or reading.is_stream,
        sent.lease_id,
        reading.response_id,
    )


def _note(note: str, reading: Reading) -> str:
    if not (note or reading.note or reading.error):
        return ""
    parts = (note, reading.note, f"error: {reading.error}" if reading.error else "")
    return "; ".join(part for part in parts if part)[:NOTE_CHARACTERS_MAX]
