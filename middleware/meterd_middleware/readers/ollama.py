"""Ollama's own face: newline-delimited JSON, counts at the top level of the line that is done.

`prompt_eval_count` holds cached tokens too; old servers leave it out when the prompt was
cached, which is missing and not zero.

Source: ollama 0.6 _types.py, BaseGenerateResponse; the server's docs/api.md.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from meterd_middleware.readers.tally import Fields, Tally

if TYPE_CHECKING:
    from meterd_middleware.readers.counts import ModelUsage


_COUNTS = re.compile(
    rb'"(prompt_eval_count|prompt_eval_cached_count|eval_count)"\s*:\s*(\d{1,15})(?![\d.])'
)


class Ollama(Tally):
    """chat, generate and embed."""

    terminals = (b'"done":true', b'"done": true')
    every = (*terminals, b'"error"')

    def __init__(self, *, is_embedding: bool) -> None:
        super().__init__()
        self._counts: Fields = {}
        self._is_embedding = is_embedding
        self.has_text = not is_embedding

    def read_body(self, body: Fields) -> None:
        """A whole answer."""
        self.read_event("", body)

    def read_event(self, name: str, event: Fields) -> None:
        """One line."""
        self.saw_model(event.get("model"))
        self.saw_error(event.get("error"))
        if event.get("done") is True:
            self.is_finished = True
        if "prompt_eval_count" in event or "eval_count" in event:
            self._counts = event

    def read_raw(self, window: bytes) -> None:
        """The counts behind a long `context`, or behind many embeddings."""
        for name, digits in _COUNTS.findall(window):
            self._counts = {**self._counts, name.decode(): int(digits)}

    def usages(self) -> tuple[ModelUsage, ...]:
        """One model's counts."""
        counts = self._counts
        if not counts:
            return ()
        given = self.count(counts.get("eval_count"), "eval_count")
        return (
            self.usage(
                input_tokens=self.count(counts.get("prompt_eval_count"), "prompt_eval_count"),
                output_tokens=0 if self._is_embedding and given is None else given,
                cache_read=self.part(
                    counts.get("prompt_eval_cached_count"), "prompt_eval_cached_count"
                ),
            ),
        )
