"""One call, from the moment it is decided on until its record: where our own faults stop.

    Exchanges.begin ─▶ Exchange ─▶ answered ─▶ feed, feed, feed ─▶ end ─▶ Exchanges.settle

Every entry of the transports into our code stands here or in `exchanges.py`, and catches what
we raise: it is counted, logged once per kind, and the app's call goes on as if we weren't
there. A record is settled once, by whichever ending comes first. An ending that can be a
finaliser's (`late`) takes no lock, does no I/O and calls no callback: its record goes through
`append_later`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from meterd_middleware import refusal
from meterd_middleware.include_usage import UsageHider
from meterd_middleware.readers import Reading, StreamShell, reader_for
from meterd_middleware.settlement import NOTHING_READ, Ending, Sent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from meterd_middleware.exchanges import Exchanges
    from meterd_middleware.lease import Reservation
    from meterd_middleware.readers import Reader
    from meterd_middleware.refusal import QuotaExceeded

_generation = 0
"""Rises in each forked child: what its parent began is the parent's to count."""


def _after_fork_in_child() -> None:
    global _generation
    _generation += 1


os.register_at_fork(after_in_child=_after_fork_in_child)


class Exchange:
    """One call to a provider, between `Exchanges.begin` and its ending."""

    __slots__ = (
        "_content_length",
        "_generation",
        "_owner",
        "_received",
        "_unsettled",
        "call_number",
        "hider",
        "http_status",
        "is_recorded",
        "keeps",
        "new_body",
        "reader",
        "refused",
        "reservation",
        "sent",
        "started_ns",
    )

    def __init__(self, owner: Exchanges, sent: Sent, started_ns: int) -> None:
        self._owner = owner
        self.sent = sent
        self.started_ns = started_ns
        self._generation = _generation
        self._unsettled = [True]  # popped by the one ending that counts: atomic without a lock
        self.reservation: Reservation | None = None
        self.call_number = 0
        self.is_recorded = False
        """A record of it is written: what fails after that must not count the call again."""
        self.reader: Reader | None = None
        self.keeps: Callable[[bytes], bool] | None = None
        """The reader's own quick look at a chunk; False: it took nothing, `feed` it."""
        self.http_status = 0
        self._received = 0
        self._content_length = -1
        self.refused: QuotaExceeded | None = None
        self.new_body: bytes | None = None
        """The request's body with usage asked for; None: send what the app sent."""
        self.hider: UsageHider | None = None

    @property
    def is_over(self) -> bool:
        """Whether the record is written: what still passes isn't looked at."""
        return not self._unsettled

    def refuse(self, refused: QuotaExceeded) -> None:
        """This call is turned away: nothing is sent, so nothing will end."""
        self.refused = refused
        self._unsettled.clear()

    def refusal(self) -> tuple[dict[str, str], bytes]:
        """Headers and body of the 429 that the app gets instead of an answer."""
        assert self.refused is not None
        try:
            shape = self.sent.call.refusal_shape
            return refusal.outbound(shape, self.refused, self._owner.now_ns())
        except Exception as error:
            self._owner.faults.note("refusal", error)
            return {refusal.REFUSED_HEADER: self.refused.reason}, b"{}"

    def drop(self) -> None:
        """The call was never sent, and nobody refused it: the app left while it was decided."""
        self._unsettled.clear()

    def answered(self, http_status: int, headers: Mapping[str, str]) -> None:
        """The response's head is here. A failure is settled at once: it has no usage."""
        try:
            self.http_status = http_status
            if not 200 <= http_status < 300:
                if 300 <= http_status < 400:
                    self._owner.intake.follow(headers.get("location", ""))
                self._settle(Ending.END_OF_FILE, late=False)
                return
            self.reader = reader_for(self.sent.call, http_status, headers)
            if self.new_body is not None and "content-encoding" not in headers:
                self.hider = UsageHider(self.sent.call.provider)
            length = headers.get("content-length", "")
            if length.isdecimal():
                self._content_length = int(length)
            elif isinstance(self.reader, StreamShell):  # nobody asks how much was received
                self.keeps = self.reader.keeps
        except Exception as error:
            self._owner.faults.note("answered", error)

    def refuses_include_usage(self) -> None:
        """The host would not take what we added: never add it there again."""
        self.new_body = None
        self._owner.intake.never_ask(self.sent.call.host)

    def feed(self, chunk: bytes) -> None:
        """Bytes of the response, as they pass on their way to the app."""
        reader = self.reader
        if reader is None:
            return
        try:
            self._received += len(chunk)
            reader.feed(chunk)
            if reader.is_finished:
                self._settle(Ending.TERMINAL, late=False)
        except Exception as error:
            self._owner.faults.note("feed", error)

    def hide(self, chunk: bytes) -> bytes:
        """The chunk as it would have been without our asking for usage."""
        if self.hider is None:
            return chunk
        try:
            return self.hider.feed(chunk)
        except Exception as error:
            self.hider = None
            self._owner.faults.note("hide", error)
            return chunk

    def hide_rest(self) -> bytes:
        """What the hider still holds at the end of the stream."""
        if self.hider is None:
            return b""
        try:
            return self.hider.finish()
        except Exception as error:
            self._owner.faults.note("hide", error)
            return b""

    def fault(self, error: BaseException) -> None:
        """A fault of the transport's own share."""
        self._owner.faults.note("transport", error)

    def end(self, ending: Ending) -> None:
        """The call is over, seen from ordinary code. The first ending alone counts."""
        if self._unsettled:
            self._settle(ending, late=False)

    def end_late(self, ending: Ending = Ending.LEFT) -> None:
        """The call is over, perhaps seen from a finaliser: no lock, no I/O, no callback."""
        if self._unsettled:
            self._settle(ending, late=True)

    def settle_with(self, reading: Reading, ending: Ending, http_status: int) -> None:
        """The call was counted by the app itself (`meter.call`)."""
        self.http_status = http_status
        self._settle(ending, late=False, reading=reading)

    def __del__(self) -> None:
        # A response that was never read, or is left in a cycle, calls nothing else.
        if self._unsettled and self.refused is None:
            self._settle(Ending.LEFT, late=True)

    def _settle(self, ending: Ending, *, late: bool, reading: Reading | None = None) -> None:
        try:
            self._unsettled.pop()
        except IndexError:
            return
        if self._generation != _generation:
            return
        owner = self._owner
        try:
            if reading is None:
                reading = self._read(ending, late=late)
            owner.settle(self, ending, reading, late=late)
        except Exception as error:
            try:
                owner.faults.note("settle", error, late=late)
            finally:
                owner.salvage(self, late=late)
        finally:
            if self.reservation is not None:
                self.reservation.release()  # does nothing where it was settled

    def _read(self, ending: Ending, *, late: bool) -> Reading:
        reader, self.reader = self.reader, None
        if reader is None:
            return NOTHING_READ
        is_whole = ending in _WHOLE or self._received == self._content_length
        try:
            return reader.finish(is_whole)
        except Exception as error:
            self._owner.faults.note("read", error, late=late)
            return Reading(is_complete=is_whole, note="the answer could not be read")


_WHOLE = (Ending.TERMINAL, Ending.END_OF_FILE)
