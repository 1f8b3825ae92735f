"""Intake: what is known of a call before it is sent: who pays, how large it is, what to ask.

    ProviderCall + headers + body ──Intake──▶ Sent (whom, when, sizes) + the body to send

Nothing is decided or written here but the note of a call that names no client.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from meterd_middleware import estimate, include_usage, places
from meterd_middleware.pending import ENTRIES_MAX, Memory
from meterd_middleware.request import history_bytes
from meterd_middleware.tags import CLIENT_HEADER, PROJECT_HEADER, Payer, who_pays

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meterd_middleware.ports import Sink
    from meterd_middleware.readers import Reading
    from meterd_middleware.request import ProviderCall
    from meterd_middleware.settings import Settings
    from meterd_middleware.settlement import Sent

logger = logging.getLogger("meterd")

HISTORY_SAMPLED_ONE_IN = 16
SIZED_BYTES_MAX = 4096
"""A body up to this is sized by its length before it is sent: counting its characters would
cost 15 µs, for a reservation that the count replaces a moment later."""
BYTES_A_TOKEN = 4
PENDING_KEEP_S = 24 * 3600
CHAIN_KEEP_S = 24 * 3600

_CHAINED = frozenset({"oa.responses", "gg.interactions"})


class Intake:
    """What one Meter's calls share before they are sent. Safe from any thread."""

    def __init__(self, settings: Settings, sink: Sink) -> None:
        self._settings = settings
        self._sink = sink
        self._never_ask: set[str] = set()
        self._hosts: set[str] = set()
        self._pending: Memory[Sent] = Memory(PENDING_KEEP_S)
        self._polled: Memory[bool] = Memory(PENDING_KEEP_S)
        self._chains: Memory[int] = Memory(CHAIN_KEEP_S)
        self._calls_by_model: dict[tuple[str, str], int] = {}
        self._places: set[str] = set()

    # Who pays.

    def payer(self, call: ProviderCall, headers: Mapping[str, str], now_ns: int) -> Payer:
        """Who pays for a call: of a background response, who paid for its start."""
        if call.poll_id:
            waiting = self._pending.get(call.poll_id, now_ns)
            if waiting is not None:
                return Payer(waiting.tags, waiting.note)
        client, project = headers.get(CLIENT_HEADER), headers.get(PROJECT_HEADER)
        payer = who_pays(
            _values(client) if client else (),
            _values(project) if project else (),
            self._settings.client,
        )
        if not payer.is_named and not call.poll_id:
            self.note_untagged()
        if call.host not in self._hosts:
            self._know(call.host)
        return payer

    def note_untagged(self) -> None:
        """A call names no client: logged once per place in the app's code, counted each time."""
        place = places.app_place()
        self._sink.note_untagged(place)
        if place not in self._places and len(self._places) < ENTRIES_MAX:
            self._places.add(place)
            logger.warning("no client for this call: %s", place)

    def is_known(self, host: str) -> bool:
        """Whether LLM calls go to this host, so that our headers have no business there."""
        return host in self._hosts

    def follow(self, location: str) -> None:
        """A redirect carries our headers on to another host: they have none there either."""
        authority = location.partition("://")[2].partition("/")[0].partition("?")[0]
        self._know(authority.rpartition("@")[2].partition(":")[0])

    def _know(self, host: str) -> None:
        if host and host not in self._hosts and len(self._hosts) < ENTRIES_MAX:
            self._hosts.add(host)

    # How large it is.

    def measure(self, sent: Sent, body: bytes | None, now_ns: int) -> None:
        """Size up the input, and now and then look at how much of it is history."""
        call = sent.call
        if call.chain_id:  # the history is with the provider: what it last took in counts
            sent.chain_tokens = self._chains.get(call.chain_id, now_ns) or 0
        if body is None:
            return
        sent.body = body
        if len(body) <= SIZED_BYTES_MAX:
            tokens = len(body) // BYTES_A_TOKEN
        else:
            tokens = estimate.rough_input_tokens(call, body)
        sent.reserved_input_tokens = tokens + sent.chain_tokens
        key = (sent.tags.client, call.request_model)
        calls = self._calls_by_model.get(key, 0)
        if calls % HISTORY_SAMPLED_ONE_IN == 0:
            sent.history_bytes = history_bytes(call, body)
            if len(self._calls_by_model) >= ENTRIES_MAX:
                self._calls_by_model.clear()
        self._calls_by_model[key] = calls + 1

    # What to ask.

    def body_that_asks(self, call: ProviderCall, body: bytes | None) -> bytes | None:
        """The body that asks for usage on the app's behalf; None: send what the app sent."""
        if body is None or not call.is_stream or not self._settings.include_usage:
            return None
        if call.host in self._never_ask:
            return None
        return include_usage.ask(call, body, self._settings.include_usage_hosts)

    def never_ask(self, host: str) -> None:
        """Remember that this host refuses `stream_options.include_usage`."""
        if len(self._never_ask) < ENTRIES_MAX:
            self._never_ask.add(host)

    # What later calls need of this one.

    def remember(self, sent: Sent, reading: Reading, tokens: int, now_ns: int) -> None:
        """Keep who pays for a background response, and how long a chain of responses is."""
        sent.body = None
        if reading.pending_id:
            self._pending.put(reading.pending_id, sent, now_ns)
        if tokens and sent.call.dialect in _CHAINED:
            if reading.response_id:
                self._chains.put(reading.response_id, tokens, now_ns)
            if sent.call.chain_id:
                self._chains.put(sent.call.chain_id, tokens, now_ns)

    def is_first_sight(self, sent: Sent, reading: Reading, now_ns: int) -> bool:
        """Whether a GET of a response shows the usage of a background call for the first time.

        Started here, it is counted once; started elsewhere, each process that polls it counts
        it, under one `dedupe_id`. Any other response was counted when it was made.
        """
        if reading.pending_id or not reading.usages:
            return False
        if self._pending.pop(sent.call.poll_id, now_ns) is not None:
            self._polled.put(sent.call.poll_id, True, now_ns)
            return True
        if not reading.is_background or self._polled.get(sent.call.poll_id, now_ns):
            return False
        self._polled.put(sent.call.poll_id, True, now_ns)
        return True


def _values(field: str) -> Sequence[str]:
    """The values of one of our headers; several are kept apart by a NUL (fields.py)."""
    return (field,) if "\0" not in field else field.split("\0")
