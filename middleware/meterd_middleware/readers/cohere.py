"""Cohere, v1 and v2: what was billed, not what the model saw; numbers come as floats.

`usage.billed_units` (v2) and `meta.billed_units` (v1, embed, rerank) are the bill; `tokens`
beside them is what the model saw, templates included. Rerank bills searches.

Source: cohere 7.3 types/{usage,api_meta,v2chat_stream_response}.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd_middleware.readers.costs import take_costs
from meterd_middleware.readers.tally import Fields, Tally, fields_of

if TYPE_CHECKING:
    from meterd_middleware.readers.counts import ModelUsage


class Cohere(Tally):
    """Chat, embed, rerank, generate and classify."""

    terminals = (b"[DONE]", b"message-end", b"stream-end")
    every = (b'message-start"', b'message-end"', b'stream-start"', b'stream-end"', b'"error"')

    def __init__(self, operation: str) -> None:
        super().__init__()
        self._usage: Fields = {}
        self._operation = operation
        self.has_text = operation not in ("embeddings", "rerank", "classify")

    def read_body(self, body: Fields) -> None:
        """A whole answer."""
        self.saw_id(body.get("generation_id") or body.get("id") or body.get("response_id"))
        self.saw_model(body.get("model"))
        self._take(body)

    def read_event(self, name: str, event: Fields) -> None:
        """One event of a v1 or v2 stream."""
        kind = event.get("type") or event.get("event_type") or name
        self.saw_id(event.get("generation_id") or event.get("id"))
        if kind == "message-end":
            delta = fields_of(event.get("delta"))
            self._take(delta)
            self.saw_error(delta.get("error"))
            self.is_finished = True
        elif kind == "stream-end":
            response = fields_of(event.get("response"))
            self.read_body(response)
            if event.get("finish_reason") in ("ERROR", "ERROR_TOXIC"):
                self.saw_error("error")
            self.is_finished = True
        elif kind == "error" or name == "error":
            self.saw_error(event.get("error") or "error")

    def _take(self, body: Fields) -> None:
        usage = fields_of(body.get("usage")) or fields_of(body.get("meta"))
        if usage:
            self._usage = usage

    def usages(self) -> tuple[ModelUsage, ...]:
        """One model's counts, as billed; without a bill, as the model saw them."""
        usage = self._usage
        if usage and "billed_units" not in usage and "tokens" not in usage:
            return self._as_others_state_it(usage)
        billed = fields_of(usage.get("billed_units"))
        seen = fields_of(usage.get("tokens"))
        if not billed and not seen:
            return ()
        searches = self.count(billed.get("search_units"), "search_units")
        self.saw_tool_calls("search_units", searches)
        counts = billed if billed.get("input_tokens") is not None else seen or billed
        taken = self.count(counts.get("input_tokens"), "input_tokens")
        given = self.count(counts.get("output_tokens"), "output_tokens")
        images = self.part(billed.get("image_tokens"), "image_tokens")
        if images:
            taken = (taken or 0) + images
        if not self.has_text:
            given = given or 0
            if self._operation != "embeddings":
                taken = taken or 0
        return (
            self.usage(
                input_tokens=taken,
                output_tokens=given,
                # Of what the model saw, Cohere's own template included: seldom within the bill.
                cache_read=min(self.part(usage.get("cached_tokens"), "cached_tokens"), taken or 0),
            ),
        )

    def _as_others_state_it(self, usage: Fields) -> tuple[ModelUsage, ...]:
        """Rerankers of Voyage, Jina, Together and OpenRouter count as OpenAI does."""
        take_costs(self, usage)
        taken = None
        for name in ("prompt_tokens", "input_tokens", "total_tokens"):
            if (taken := self.count(usage.get(name), name)) is not None:
                break
        given = None
        for name in ("completion_tokens", "output_tokens"):
            if (given := self.count(usage.get(name), name)) is not None:
                break
        if taken is None and given is None:
            return ()
        if given is None and not self.has_text:
            given = 0
        return (self.usage(input_tokens=taken, output_tokens=given),)
