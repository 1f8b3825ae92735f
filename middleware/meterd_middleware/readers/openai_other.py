"""OpenAI's embeddings, audio and images: usage beside something that is no text.

Transcriptions have usage of type `tokens`, or `duration` where the model is billed by the
minute; there `input_token_details` is spelt in the singular. Speech has none in its audio
and one in its events. Images have `usage`, and each streamed image event its own.

Sources: openai 3.57 types/{create_embedding_response,images_response}.py,
types/audio/transcription*.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from meterd_middleware.readers.costs import take_costs
from meterd_middleware.readers.openai_chat import audio_beside
from meterd_middleware.readers.tally import Fields, Tally, fields_of, items_of

if TYPE_CHECKING:
    from meterd_middleware.readers.counts import ModelUsage


class OpenAIEmbeddings(Tally):
    """Embeddings: all input, no output."""

    has_text = False

    def __init__(self) -> None:
        super().__init__()
        self._usage: Fields = {}

    def read_body(self, body: Fields) -> None:
        """A whole answer."""
        if "usage" not in body and isinstance(body.get("result"), dict):
            body = body["result"]
        self.saw_id(body.get("id"))
        self.saw_model(body.get("model"))
        self.saw_error(body.get("error"))
        usage = fields_of(body.get("usage"))
        meta = fields_of(body.get("meta"))
        self._usage = usage or fields_of(meta.get("billed_units")) or fields_of(meta.get("tokens"))

    def read_event(self, name: str, event: Fields) -> None:
        """Not streamed; an answer in pieces is read alike."""
        self.read_body(event)

    def usages(self) -> tuple[ModelUsage, ...]:
        """One model's counts; the output is a reported nothing."""
        usage = self._usage
        if not usage:
            return ()
        for name in ("prompt_tokens", "input_tokens", "total_tokens"):
            tokens = self.count(usage.get(name), name)
            if tokens is not None:
                break
        take_costs(self, usage)
        return (self.usage(input_tokens=tokens, output_tokens=0),)


class OpenAITranscription(Tally):
    """Transcriptions and translations, whole or streamed."""

    terminals = (b"transcript.text.done",)
    every = (b"transcript.text.done", b'"error"')
    text_mark = b".delta"

    def __init__(self) -> None:
        super().__init__()
        self._usage: Fields = {}

    def read_body(self, body: Fields) -> None:
        """A whole answer."""
        self.saw_error(body.get("error"))
        self.saw_model(body.get("model"))
        self._take(fields_of(body.get("usage")))

    def read_event(self, name: str, event: Fields) -> None:
        """One event of a stream."""
        self.saw_error(event.get("error"))
        if (event.get("type") or name) == "transcript.text.done":
            self._take(fields_of(event.get("usage")))
            self.is_finished = True

    def _take(self, usage: Fields) -> None:
        if usage.get("type") == "duration":
            # Billed by the second: no token was used, and none may be estimated.
            self._usage = {"input_tokens": 0, "output_tokens": 0}
            self.note("billed by duration")
        elif usage:
            self._usage = usage

    def usages(self) -> tuple[ModelUsage, ...]:
        """One model's counts."""
        usage = self._usage
        if not usage:
            return ()
        details = fields_of(usage.get("input_token_details") or usage.get("input_tokens_details"))
        if "prompt_tokens" in usage:  # Mistral's: as in its chat
            return _mistral_counts(self, usage)
        return (
            self.usage(
                input_tokens=self.count(usage.get("input_tokens"), "input_tokens"),
                output_tokens=self.count(usage.get("output_tokens"), "output_tokens"),
                audio_input=self.part(details.get("audio_tokens"), "audio_tokens"),
            ),
        )


def _mistral_counts(tally: Tally, usage: Fields) -> tuple[ModelUsage, ...]:
    taken = tally.count(usage.get("prompt_tokens"), "prompt_tokens")
    given = tally.count(usage.get("completion_tokens"), "completion_tokens")
    total = tally.count(usage.get("total_tokens"), "total_tokens")
    audio = audio_beside(tally, usage, taken, given, total)
    if taken is not None:
        taken += audio
    return (tally.usage(input_tokens=taken, output_tokens=given, audio_input=audio),)


class OpenAISpeech(Tally):
    """Speech: audio says nothing of usage, its event stream does."""

    terminals = (b"speech.audio.done",)
    every = (b"speech.audio.done", b'"error"')
    has_text = False

    def __init__(self) -> None:
        super().__init__()
        self._usage: Fields = {}

    def read_body(self, body: Fields) -> None:
        """A whole answer in JSON."""
        self.saw_error(body.get("error"))
        self._usage = fields_of(body.get("usage"))

    def read_event(self, name: str, event: Fields) -> None:
        """One event of a stream."""
        self.saw_error(event.get("error"))
        if (event.get("type") or name) == "speech.audio.done":
            self._usage = fields_of(event.get("usage"))
            self.is_finished = True

    def usages(self) -> tuple[ModelUsage, ...]:
        """One model's counts: what comes out is audio."""
        usage = self._usage
        if not usage:
            return ()
        output = self.count(usage.get("output_tokens"), "output_tokens")
        return (
            self.usage(
                input_tokens=self.count(usage.get("input_tokens"), "input_tokens"),
                output_tokens=output,
                audio_output=output or 0,
            ),
        )


class OpenAIImages(Tally):
    """Images: usage of the answer, or of each finished picture of a stream."""

    every = (b"image_generation.completed", b"image_edit.completed", b'"error"')
    has_text = False

    def __init__(self) -> None:
        super().__init__()
        self._usages: list[Fields] = []

    def read_body(self, body: Fields) -> None:
        """A whole answer."""
        self.saw_error(body.get("error"))
        self.saw_model(body.get("model"))
        for name in ("usage", "svg_usage"):
            if usage := fields_of(body.get(name)):
                self._usages.append(usage)

    def read_event(self, name: str, event: Fields) -> None:
        """One event; several pictures may come, each with its own usage."""
        self.saw_error(event.get("error"))
        kind = event.get("type") or name
        if isinstance(kind, str) and kind.endswith(".completed"):
            if usage := fields_of(event.get("usage")):
                self._usages.append(usage)
            self.may_be_whole = True

    def usages(self) -> tuple[ModelUsage, ...]:
        """The counts of all pictures together."""
        if not self._usages:
            return ()
        taken = [_either(self, usage, "input_tokens", "prompt_tokens") for usage in self._usages]
        given = [
            _either(self, usage, "output_tokens", "completion_tokens") for usage in self._usages
        ]
        for usage in self._usages:
            take_costs(self, usage)
        return (self.usage(input_tokens=_sum(taken), output_tokens=_sum(given)),)


def _either(tally: Tally, usage: Fields, name: str, other: str) -> int | None:
    """A count by OpenAI's name, or by OpenRouter's."""
    return tally.count(usage.get(name, usage.get(other)), name)


def _sum(counts: list[int | None]) -> int | None:
    """The sum of what was reported; None where nothing was."""
    reported = [count for count in counts if count is not None]
    return sum(reported) if reported else None


_TOKEN_COUNT = re.compile(rb'"token_count"\s*:\s*(\d{1,15})')
_CUT_BYTES = 64


class VertexPredict(Tally):
    """Vertex `:predict`: embeddings with their statistics; other models say nothing."""

    has_text = False

    def __init__(self) -> None:
        super().__init__()
        self._tokens: int | None = None
        self._cut = b""

    def read_body(self, body: Fields) -> None:
        """A whole answer."""
        for prediction in items_of(body.get("predictions")):
            embeddings = fields_of(fields_of(prediction).get("embeddings"))
            statistics = fields_of(embeddings.get("statistics"))
            tokens = self.count(statistics.get("token_count"), "token_count")
            if tokens is not None:
                self._tokens = (self._tokens or 0) + tokens

    def read_event(self, name: str, event: Fields) -> None:
        """Not streamed."""
        self.read_body(event)

    def read_piece(self, piece: bytes) -> None:
        """The counts of many embeddings, each behind its own numbers."""
        piece = self._cut + piece
        end = 0
        for found in _TOKEN_COUNT.finditer(piece):
            if found.end() == len(piece):
                break  # its digits may go on in the next piece
            end = found.end()
            self._tokens = (self._tokens or 0) + int(found[1])
        self._cut = piece[max(end, len(piece) - _CUT_BYTES) :]

    def usages(self) -> tuple[ModelUsage, ...]:
        """One model's counts."""
        if self._tokens is None:
            return ()
        return (self.usage(input_tokens=self._tokens, output_tokens=0),)
