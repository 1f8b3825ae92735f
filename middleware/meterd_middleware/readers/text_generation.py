"""Text generation in shapes of its own: Hugging Face's TGI, IBM watsonx, Anthropic's old one.

| dialect | counts |
|---|---|
| hf.generate | `details.generated_tokens`; input `details.input_length`, or as long as `prefill` |
| watsonx | `results[]` `.input_token_count`, `.generated_token_count`; cumulative in a stream |
| an.complete | none: `/v1/complete` states no usage, so it is estimated |

Sources: huggingface_hub 2.4 inference/_generated/types/text_generation.py; IBM's reference of
`/ml/v1/text/generation`; anthropic 2.14 types/completion.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from meterd_middleware.readers.tally import Fields, Tally, fields_of, items_of

if TYPE_CHECKING:
    from meterd_middleware.readers.counts import ModelUsage


class HuggingFaceGenerate(Tally):
    """TGI's generate and generate_stream: an array of one, an object, or a token an event."""

    every = (b'"details":{', b'"details": {', b'"error"')

    def __init__(self) -> None:
        super().__init__()
        self._details: Fields = {}

    def read_body(self, body: Fields) -> None:
        """A whole answer."""
        self.read_event("", body)

    def read_event(self, name: str, event: Fields) -> None:
        """A token of a stream; the last one holds the details."""
        if event.get("error"):
            self.saw_error(event.get("error_type") or event["error"])
        details = fields_of(event.get("details"))
        if details:
            self._details = details
        if isinstance(event.get("generated_text"), str):
            self.may_be_whole = True

    def usages(self) -> tuple[ModelUsage, ...]:
        """One model's counts; without details there are none."""
        details = self._details
        if not details:
            return ()
        taken = self.count(details.get("input_length"), "input_length")
        prefill = items_of(details.get("prefill"))
        if taken is None and prefill:
            taken = len(prefill)
        given = self.count(details.get("generated_tokens"), "generated_tokens")
        return (self.usage(input_tokens=taken, output_tokens=given),)


_INPUT_COUNT = re.compile(rb'"input_token_count"\s*:\s*(\d{1,15})(?![\d.])')


class Watsonx(Tally):
    """watsonx's own generation and embeddings; its chat speaks OpenAI's."""

    every = (b'"stop_reason"', b'"error"', b'"errors"')
    """Each event has a stop reason, `not_finished` until the last."""

    def __init__(self, *, is_embedding: bool) -> None:
        super().__init__()
        self._taken: int | None = None
        self._given: int | None = None
        self._is_embedding = is_embedding
        self.has_text = not is_embedding

    def read_body(self, body: Fields) -> None:
        """A whole answer."""
        self.read_event("", body)
        if self._is_embedding:
            self._taken = self.count(body.get("input_token_count"), "input_token_count")

    def read_event(self, name: str, event: Fields) -> None:
        """A part of a stream: the prompt's tokens in the first, the reply's so far in each."""
        self.saw_model(event.get("model_id"))
        self.saw_error(event.get("error") or event.get("errors"))
        for result in items_of(event.get("results")):
            if not isinstance(result, dict):
                continue
            taken = self.count(result.get("input_token_count"), "input_token_count")
            given = self.count(result.get("generated_token_count"), "generated_token_count")
            if taken is not None:
                self._taken = max(taken, self._taken or 0)
            if given is not None:
                self._given = max(given, self._given or 0)
            if result.get("stop_reason") not in (None, "", "not_finished"):
                self.may_be_whole = True

    def read_raw(self, window: bytes) -> None:
        """The count behind many embeddings."""
        if found := _INPUT_COUNT.findall(window):
            self._taken = int(found[-1])

    def usages(self) -> tuple[ModelUsage, ...]:
        """One model's counts."""
        if self._taken is None and self._given is None:
            return ()
        given = 0 if self._is_embedding else self._given
        return (self.usage(input_tokens=self._taken, output_tokens=given),)


class AnthropicCompletion(Tally):
    """Anthropic's legacy text completions, which state no usage."""

    every = (b'"stop_reason"', b'"error"')

    def read_body(self, body: Fields) -> None:
        """A whole answer."""
        self.read_event("", body)

    def read_event(self, name: str, event: Fields) -> None:
        """An event of a stream."""
        self.saw_id(event.get("id"))
        self.saw_model(event.get("model"))
        self.saw_error(event.get("error"))
        if event.get("stop_reason"):
            self.may_be_whole = True

    def usages(self) -> tuple[ModelUsage, ...]:
        """None: it is estimated from the text."""
        return ()
