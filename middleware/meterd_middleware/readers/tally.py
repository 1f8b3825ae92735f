"""The tally: what one response has said so far, and how it becomes a Reading.

A dialect is a subclass that says which events can matter and reads them into the fields
here; the shells in `shells.py`, `streams.py` and `frames.py` cut, decode and bound the
bytes, alike for all of them.

A count is taken as reported or not at all: missing is not zero. Integral floats and digits
are counts; booleans, negatives, NaN, fractions and anything beyond 2^53 are nonsense, noted,
and the side is estimated. Parts are clamped to their whole.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from meterd_middleware.readers.counts import ModelUsage, Reading, TextSeen
from meterd_middleware.usage import TOKENS_MAX

if TYPE_CHECKING:
    import re
    from collections.abc import Mapping

Fields = dict[str, Any]
"""A JSON object of a provider; looked into by the dialect's reader alone."""

NAME_CHARACTERS_MAX = 200


class Tally:
    """One response's usage as it comes together. Subclasses read one dialect each."""

    terminals: tuple[bytes, ...] = ()
    """Bytes that may announce the terminal event; the event itself decides."""
    every: tuple[bytes, ...] = (b'"error"',)
    """Each event with one of these is read. Keys as they stand unescaped: inside a text their
    quotes would be escaped."""
    last: tuple[bytes, ...] = ()
    """Of the events with one of these only the last is read: what is cumulative."""
    text_mark: bytes = b""
    """Of a stream's events only those with this hold generated text; empty: any may."""
    frame_marks: tuple[bytes, ...] = ()
    """Of AWS frames: bytes that may announce the last one."""
    frame_types: frozenset[str] = frozenset()
    """Of AWS frames: those that are read whatever they hold."""
    spaced: re.Pattern[bytes] | None = None
    """Finds what `last` looks for where it is spaced oddly; asked only where that isn't found."""
    may_be_spaced: re.Pattern[bytes] | None = None
    """Finds at least one place where `spaced` finds one, in half its time."""
    has_text = True
    """Whether what it generates is text at all: embeddings and pictures are not."""

    # What was seen so far. What can't change in place stands here, which costs a call nothing.
    is_finished = False
    """The terminal event was read."""
    may_be_whole = False
    """What has been seen is whole if the stream now ends cleanly (`finish_reason`)."""
    has_last_count = False
    """The usage came with the last of the reply: what follows changes nothing."""
    response_id = ""
    response_model = ""
    error = ""
    pending_id = ""
    is_background = False
    provider_cost: Decimal | None = None
    _counted: tuple[ModelUsage, ...] | None = None

    def __init__(self) -> None:
        self.price_context: dict[str, str] = {}
        self.tool_calls: dict[str, int] = {}
        self.notes: list[str] = []

    # What a dialect says.

    def read_body(self, body: Fields) -> None:
        """Take in a whole JSON answer."""
        raise NotImplementedError

    def read_event(self, name: str, event: Fields) -> None:
        """Take in one event of a stream; `name` is empty where it has none."""
        raise NotImplementedError

    def read_plain_event(self, data: bytes) -> None:
        """Take in an event that is no JSON object, as `[DONE]`."""
        if data.strip() == b"[DONE]":
            self.is_finished = True

    def read_headers(self, headers: Mapping[str, str]) -> None:
        """Take in what the response's headers say: LiteLLM's proxy states its cost there."""
        cost = headers.get("x-litellm-response-cost")
        if cost:
            self.saw_cost(cost)

    def read_raw(self, window: bytes) -> None:
        """Look through an end of a body too large to parse, for what isn't in its usage."""

    def read_piece(self, piece: bytes) -> None:
        """Look through all of a body too large to parse, piece by piece, for what is strewn in it.

        A thing may be cut in two by the end of a piece.
        """

    def usages(self) -> tuple[ModelUsage, ...]:
        """What was reported, checked and clamped; empty where nothing was."""
        raise NotImplementedError

    # What they share.

    def saw_model(self, model: object) -> None:
        """The last non-empty model counts."""
        if isinstance(model, str) and model:
            self.response_model = model[:NAME_CHARACTERS_MAX]

    def saw_id(self, response_id: object) -> None:
        """The response's id, once."""
        if isinstance(response_id, str) and response_id and not self.response_id:
            self.response_id = response_id[:NAME_CHARACTERS_MAX]

    def saw_error(self, error: object) -> None:
        """An error inside a 200: its kind, never its message."""
        if not error:
            return
        kind: object = error
        if isinstance(error, dict):
            kind = error.get("type") or error.get("code") or error.get("status") or "error"
        text = str(kind) if isinstance(kind, str | int) and not isinstance(kind, bool) else "error"
        self.error = text[:60] if _is_a_word(text) else "error"

    def saw_context(self, name: str, value: object) -> None:
        """A part of the price context, as the response states it."""
        if isinstance(value, str) and value:
            self.price_context[name] = value[:60]

    def saw_tool_calls(self, name: str, calls: object) -> None:
        """Uses of a hosted tool that is billed apart; cumulative, so the largest counts."""
        number = self.count(calls, name)
        if number:
            self.tool_calls[name] = max(number, self.tool_calls.get(name, 0))

    def saw_cost(self, cost: object) -> None:
        """A cost that the provider states itself, in US dollars."""
        if isinstance(cost, bool) or not isinstance(cost, int | float | str):
            return
        try:
            amount = Decimal(str(cost))
        except InvalidOperation:
            return
        if amount.is_finite() and 0 <= amount < 10**9:
            self.provider_cost = amount

    def note(self, text: str) -> None:
        """What could not be trusted, once."""
        if text and text not in self.notes and len(self.notes) < 8:
            self.notes.append(text)

    def count(self, value: object, name: str) -> int | None:
        """A reported count; None where there is none, or none that can be believed."""
        if value is None:
            return None
        number = value if type(value) is int else _whole_number(value)
        if 0 <= number <= TOKENS_MAX:
            return number
        self.note(f"{name} is no count")
        return None

    def part(self, value: object, name: str) -> int:
        """A reported part of a whole; 0 where there is none."""
        return self.count(value, name) or 0

    def usage(
        self,
        *,
        input_tokens: int | None,
        output_tokens: int | None,
        cache_read: int = 0,
        cache_write: int = 0,
        cache_write_long: int = 0,
        reasoning: int = 0,
        audio_input: int = 0,
        audio_output: int = 0,
        model: str | None = None,
    ) -> ModelUsage:
        """One model's counts, each part no larger than its whole."""
        if (
            input_tokens is not None
            and output_tokens is not None
            and cache_read + cache_write <= input_tokens
            and cache_write_long <= cache_write
            and audio_input <= input_tokens
            and reasoning <= output_tokens
            and audio_output <= output_tokens
        ):  # as it nearly always is
            return ModelUsage(
                self.response_model if model is None else model,
                input_tokens,
                output_tokens,
                cache_read,
                cache_write,
                cache_write_long,
                reasoning,
                audio_input,
                audio_output,
            )
        read = self._within(cache_read, input_tokens, "cache_read_tokens")
        rest = None if input_tokens is None else input_tokens - read
        write = self._within(cache_write, rest, "cache_write_tokens")
        return ModelUsage(
            response_model=self.response_model if model is None else model,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cache_read_tokens=read,
            cache_write_tokens=write,
            cache_write_long_tokens=self._within(cache_write_long, write, "cache_write_long"),
            reasoning_tokens=self._within(reasoning, output_tokens, "reasoning_tokens"),
            audio_input_tokens=self._within(audio_input, input_tokens, "audio_input_tokens"),
            audio_output_tokens=self._within(audio_output, output_tokens, "audio_output_tokens"),
        )

    def _within(self, part: int, whole: int | None, name: str) -> int:
        if whole is None or part <= whole:
            return part
        self.note(f"{name} beyond its whole")
        return whole

    def counted(self) -> tuple[ModelUsage, ...]:
        """`usages`, worked out once all has been read: it is asked for twice."""
        if self._counted is None:
            self._counted = self.usages()
        return self._counted

    def is_reported(self) -> bool:
        """Whether both sides of the first model's usage were reported."""
        usages = self.counted()
        return bool(usages) and None not in (usages[0].input_tokens, usages[0].output_tokens)

    def reading(self, *, is_complete: bool, seen: TextSeen, is_stream: bool = False) -> Reading:
        """All of it, as the exchange takes it."""
        notes = self.notes
        return Reading(  # in the order of its fields: by name it takes half as long again
            self.counted(),
            self.response_id,
            self.response_model,
            is_complete,
            is_complete or self.has_last_count,
            self.error,
            self.pending_id,
            self.is_background,
            self.price_context,
            self.tool_calls,
            self.provider_cost,
            seen,
            is_stream,
            "; ".join(notes) if notes else "",
        )


def _whole_number(value: object) -> int:
    """The value as a whole number; −1 where it is none."""
    if isinstance(value, bool):
        return -1
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 17:
        return int(value)
    return -1


def fields_of(value: object) -> Fields:
    """A JSON object, or an empty one where there is none."""
    return value if isinstance(value, dict) else {}


def word_of(value: object) -> str:
    """A JSON string, or an empty one where there is none."""
    return value if isinstance(value, str) else ""


def items_of(value: object) -> list[Any]:
    """A JSON array, or an empty one where there is none."""
    return value if isinstance(value, list) else []


def _is_a_word(text: str) -> bool:
    """Whether an error's kind is a name and not a sentence, which could hold a prompt."""
    return len(text) <= 60 and all(letter.isalnum() or letter in "_-." for letter in text)
