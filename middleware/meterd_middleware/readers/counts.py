"""What a reader hands over: token counts as the provider reported them, and what is needed beside.

    bytes ──Reader.feed()──▶ … ──Reader.finish()──▶ Reading ──▶ exchange

Missing is not zero: a side the provider did not report is `None` here, and the exchange
estimates it. Readers do no I/O and never raise. These values are named tuples, since every
call makes some: a frozen dataclass takes three times as long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from meterd_middleware.usage import NO_CONTEXT, NOTHING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal


class ModelUsage(NamedTuple):
    """Tokens one model used in one call, as reported; checked and clamped.

    `input_tokens` and `output_tokens` are wholes (cached, audio and reasoning inside), or
    None where the provider reported none.
    """

    response_model: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_long_tokens: int = 0
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0


class TextSeen(NamedTuple):
    """How much generated text passed, for estimating what an unfinished stream produced.

    Characters by kind of script, never the text itself; `text` is kept, bounded, only where
    tiktoken is installed and will count it exactly.
    """

    characters: Mapping[str, int] = NOTHING
    text: str = ""


class Reading(NamedTuple):
    """All that one response said about its usage."""

    usages: tuple[ModelUsage, ...] = ()
    """The models that ran, the first one the request's; empty: nothing was reported."""
    response_id: str = ""
    response_model: str = ""
    """The last non-empty model seen, also where no usage came."""
    is_complete: bool = False
    """The terminal event, or a whole body, was seen."""
    is_counted: bool = False
    """The usage came with the last of the reply: it is final, whether or not the end was seen."""
    error: str = ""
    """The kind of an error inside a 200 ("server_error"), never its message."""
    pending_id: str = ""
    """A background response that is still queued or running: its usage comes with a later GET."""
    is_background: bool = False
    """The response ran in the background: whoever polls it sees the same usage again."""
    price_context: Mapping[str, str] = NO_CONTEXT
    tool_calls: Mapping[str, int] = NOTHING
    provider_cost: Decimal | None = None
    seen: TextSeen = TextSeen()
    is_stream: bool = False
    """It came as a stream, whatever was asked for."""
    note: str = ""
    """What could not be trusted, one short clause; never text of the response."""


class Reader(Protocol):
    """Reads one response's usage from its wire bytes, as sent (content-encoding included)."""

    @property
    def is_finished(self) -> bool:
        """True once the terminal event has passed: settle now, don't wait for the end of file."""
        ...

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body. Cheap: a copy and a look. Never raises."""
        ...

    def finish(self, is_whole: bool) -> Reading:
        """Say what was read. `is_whole`: the body ended cleanly. Called once; never raises."""
        ...
