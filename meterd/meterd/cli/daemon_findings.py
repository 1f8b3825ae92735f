"""What the daemon's own status tells about what doesn't arrive. Pure: values in, findings out."""

from __future__ import annotations

import shlex
from collections import Counter
from typing import TYPE_CHECKING, TypeVar

from meterd.cli.figures import NS_PER_S, counted, duration, moment, short_tokens
from meterd.cli.findings import Finding, ok, problem, warning

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meterd_proto.v1 import admin_pb2

Item = TypeVar("Item")

_HOUR_NS = 3600 * NS_PER_S
_RECENT_NS = 24 * _HOUR_NS
"""What a producer reported longer ago is history: its app may have been repaired since."""
_LOSS_RECENT_NS = 35 * _RECENT_NS
_SILENT_NS = 60 * NS_PER_S
"""Six heartbeats: a producer that lives has been heard of since."""
_SKEW_MS_MAX = 5 * 60 * 1000  # beyond it `billed_at` is corrected and flagged
_SHOWN_MAX = 10


def daemon_findings(status: admin_pb2.StatusResponse) -> Iterator[Finding]:
    """All that a status shows, the worst kind of fault first."""
    yield from _storage(status)
    yield from _configuration(status)
    yield from _producers(status)
    yield from _uncounted(status)
    yield from _unbilled(status)
    yield from _reports(status)


def _storage(status: admin_pb2.StatusResponse) -> Iterator[Finding]:
    if status.storage_fault:
        yield problem(
            "storage",
            f"meterd can't store anything now: {status.storage_fault}",
            f"make {status.data_directory} writable with room to spare; apps keep their records "
            "meanwhile, and meterd goes on by itself",
        )
    else:
        held = counted(status.records, "record")
        yield ok("storage", f"the ledger in {status.data_directory} takes records, it has {held}")


def _configuration(status: admin_pb2.StatusResponse) -> Iterator[Finding]:
    for mistake in status.config_refused:
        line = f"line {mistake.line}: " if mistake.line else ""
        field = f"{mistake.field}: " if mistake.field else ""
        yield problem(
            "configuration",
            f"the configuration given at start was refused, the old one is in force: {line}"
            f"{field}{mistake.message}",
            "correct it, then `meterctl apply FILE`",
        )
    if not status.config_version:
        yield warning(
            "configuration",
            "no configuration is in force: every client is metered, nobody is limited or billed",
            "write a meterd.toml, then `meterctl apply meterd.toml`",
        )


def _producers(status: admin_pb2.StatusResponse) -> Iterator[Finding]:
    if not status.producers:
        yield problem(
            "producers",
            "no app has ever connected",
            "in the app: instrument(client, meter=Meter()); it connects with its first record. "
            "As another user start meterd with --group, from another container share the "
            "socket's volume or set METERD_TARGET",
        )
        return
    connected = [producer for producer in status.producers if producer.is_connected]
    names = ", ".join(sorted({producer.name for producer in connected})[:_SHOWN_MAX])
    if connected:
        yield ok("producers", f"{counted(len(connected), 'producer')} connected: {names}")
    elif all(producer.is_finished for producer in status.producers):
        last = max(producer.last_seen_unix_ns for producer in status.producers)
        yield ok("producers", f"no app runs now; the last ended in good order {_ago(status, last)}")
    else:
        last = max(producer.last_seen_unix_ns for producer in status.producers)
        yield warning(
            "producers",
            f"no app is connected now; the last was heard of {_ago(status, last)}",
            "nothing to do if none runs; else check the METERD_TARGET of the app",
        )
    for producer in _first(status.producers):
        yield from _producer(producer, status)


def _producer(
    producer: admin_pb2.ProducerStatus, status: admin_pb2.StatusResponse
) -> Iterator[Finding]:
    name = f"{producer.name} (pid {producer.pid})"
    waiting = max(0, producer.highest_appended_sequence - producer.watermark)
    silent_ns = status.now_unix_ns - producer.last_seen_unix_ns
    if not producer.is_finished and not producer.is_connected and silent_ns > _SILENT_NS:
        what = f"{counted(waiting, 'record')} not shipped, " if waiting else ""
        yield problem(
            "producers",
            f"{name} was heard of {_ago(status, producer.last_seen_unix_ns)} and never said "
            f"goodbye: {what}{counted(producer.open_calls, 'call')} open",
            "if it lives, check its METERD_TARGET; if it died, meterd adopts its spool as soon "
            "as it can read it (--spool-root), or `meterctl ship SPOOL_ROOT` does",
        )
    if abs(producer.skew_ms) > _SKEW_MS_MAX and silent_ns < _RECENT_NS:
        side = "behind" if producer.skew_ms > 0 else "ahead of"
        yield problem(
            "clocks",
            f"the clock of {name} is {duration(abs(producer.skew_ms) * 1_000_000)} {side} this "
            "machine's: its records are placed by the daemon's clock and flagged",
            "synchronise it (NTP)",
        )


def _uncounted(status: admin_pb2.StatusResponse) -> Iterator[Finding]:
    recent = [
        loss
        for loss in status.losses
        if status.now_unix_ns - loss.declared_at_unix_ns < _LOSS_RECENT_NS
    ]
    for loss in _first(recent):
        number = loss.last_sequence - loss.first_sequence + 1
        yield problem(
            "losses",
            f"{counted(number, 'record')} of {loss.producer} ({loss.first_sequence} to "
            f"{loss.last_sequence}) were declared lost on {moment(loss.declared_at_unix_ns)}: "
            f"{loss.reason}",
            "they are in no figure: compare that day with the provider's bill",
        )
    if status.lost_records and not recent:
        yield warning(
            "losses",
            f"{counted(status.lost_records, 'record')} were declared lost, none in 35 days",
            "`meterctl status` lists them",
        )
    if status.quarantined_records:
        reasons = Counter(row.reason for row in status.quarantine).most_common(3)
        why = "; ".join(f"{reason} ({number})" for reason, number in reasons)
        yield problem(
            "quarantine",
            f"{counted(status.quarantined_records, 'record')} in quarantine, not counted"
            f"{f': {why}' if why else ''}",
            "a newer schema: upgrade meterd, which then reads them; else a bug worth a report",
        )
    for name in status.refused_segments:
        yield problem(
            "spool",
            f"{name} was set aside: meterd would not take it",
            "a bug of ours: its records are declared lost; keep the file and report it",
        )


def _unbilled(status: admin_pb2.StatusResponse) -> Iterator[Finding]:
    for late in _first(status.late_clients):
        yield problem(
            "late",
            f"{counted(late.records, 'record')} of {late.client}, {short_tokens(late.tokens)} "
            "tokens, came more than 35 days late and wait",
            f"`meterctl accept --late {shlex.quote(late.client)}` counts them",
        )
    for model in _first(status.unpriced_models):
        yield problem(
            "prices",
            f"{model.model or 'a request without a model'} of "
            f"{model.provider or 'an unknown provider'} has no price: "
            f"{counted(model.requests, 'request')}, {short_tokens(model.tokens)} tokens unpriced",
            "give it a price in meterd.toml, then `meterctl apply meterd.toml`, and `meterctl "
            'reprice --why "…"` for what was used before',
        )


def _reports(status: admin_pb2.StatusResponse) -> Iterator[Finding]:
    recent = [
        producer
        for producer in status.producers
        if status.now_unix_ns - producer.last_seen_unix_ns < _RECENT_NS
    ]
    yield from _refused(recent)
    yield from _untagged(recent)
    yield from _faults(recent)


def _refused(producers: list[admin_pb2.ProducerStatus]) -> Iterator[Finding]:
    for producer in _first([one for one in producers if one.report.refused_records]):
        report = producer.report
        yield problem(
            "spool",
            f"the spool of {producer.name} (pid {producer.pid}) refused "
            f"{counted(report.refused_records, 'record')}, {short_tokens(report.refused_tokens)} "
            "tokens: full, or its disk is",
            f"make room at {report.spool_directory or 'its spool root'}; those calls are in no "
            "figure",
        )
    torn = sum(producer.report.torn_bytes for producer in producers)
    if torn:
        yield warning(
            "spool",
            f"{counted(torn, 'byte')} cut from the end of segments, after a power cut or on a "
            "full disk",
            "what they held is declared lost where it was a record",
        )


def _untagged(producers: list[admin_pb2.ProducerStatus]) -> Iterator[Finding]:
    places: Counter[str] = Counter()
    for producer in producers:
        for place in producer.report.untagged:
            places[place.place] += place.calls
    for where, calls in places.most_common(_SHOWN_MAX):
        yield problem(
            "tags",
            f"no client for {counted(calls, 'call')} of the last 24 h: {where}",
            'tag it, as `with tagged(client="acme-corp"):`; until then it counts as `unattributed`',
        )
    if len(places) > _SHOWN_MAX:
        hidden = counted(len(places) - _SHOWN_MAX, "place")
        yield problem("tags", f"{hidden} more in the app make calls without a client", "as above")


def _faults(producers: list[admin_pb2.ProducerStatus]) -> Iterator[Finding]:
    counts: Counter[tuple[str, str]] = Counter()
    messages: dict[tuple[str, str], str] = {}
    for producer in producers:
        for fault in producer.report.faults:
            counts[producer.name, fault.kind] += fault.count
            messages[producer.name, fault.kind] = fault.last_message
    for (name, kind), number in counts.most_common(_SHOWN_MAX):
        yield problem(
            "faults",
            f"{counted(number, 'fault')} of kind {kind} in {name} kept from the app; the last: "
            f"{messages[name, kind]}",
            "the app's log has it once in full; if it names no setting of yours, report it",
        )


def _ago(status: admin_pb2.StatusResponse, then_unix_ns: int) -> str:
    return f"{duration(status.now_unix_ns - then_unix_ns)} ago" if then_unix_ns else "never"


def _first(items: Sequence[Item]) -> Sequence[Item]:
    """As many as a reader wants to see of one kind; `status` has them all."""
    return items[:_SHOWN_MAX]
