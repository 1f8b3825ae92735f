"""Anthropic messages, on its own host, on Vertex and, framed, on Bedrock.

`input_tokens` leaves out both cache counts: the whole is the sum of the three. A stream
states its usage in `message_start` and overlays it in each `message_delta`, cumulative;
servers that put a 0 in one of them exist, so each field takes the larger. What was written
to the cache at the 1 h lifetime is split in `message_start` alone; what the total grew by
since is 5 min. `iterations`, where present, are the bill: a record for each model. What was
refused before a word of it was written is free: a whole message, or an attempt that another
model then took over.

Sources: anthropic 2.14 types/{usage,message_delta_usage,beta/beta_usage}.py,
lib/streaming/_messages.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd_middleware.readers.costs import take_costs
from meterd_middleware.readers.tally import Fields, Tally, fields_of, items_of

if TYPE_CHECKING:
    from meterd_middleware.readers.counts import ModelUsage

_COUNTS = (
    "input_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "output_tokens",
)
_TOOLS = {
    "web_search_requests": "web_search",
    "web_fetch_requests": "web_fetch",
    "code_execution_requests": "code_execution",
    "tool_search_requests": "tool_search",
}


class AnthropicMessages(Tally):
    """The messages API."""

    terminals: tuple[bytes, ...] = (b"message_stop",)
    every: tuple[bytes, ...] = (
        b'message_start"',
        b'message_delta"',
        b'message_stop"',
        b'"error"',
        b'invocationMetrics"',
    )
    text_mark = b"_delta"

    def __init__(self) -> None:
        super().__init__()
        self._usage: dict[str, int] = {}
        self._long_write = 0
        self._iterations: list[Fields] = []
        self._is_reported = False
        self._thinking = 0
        self._metrics: Fields = {}
        self._stop_reason: object = None
        self._last_output: int | None = None

    def read_body(self, body: Fields) -> None:
        """A whole message."""
        if body.get("type") == "error":
            self.saw_error(body.get("error") or "error")
        self._take_message(body)

    def read_event(self, name: str, event: Fields) -> None:
        """One event of a stream."""
        kind = event.get("type") or name
        if kind == "message_start":
            self._take_message(fields_of(event.get("message")))
        elif kind == "message_delta":
            stop_reason = fields_of(event.get("delta")).get("stop_reason")
            if stop_reason:
                self._stop_reason = stop_reason
                self.may_be_whole = True
            usage = fields_of(event.get("usage"))
            self._overlay(usage)
            self.has_last_count = bool(stop_reason and usage)
        elif kind == "message_stop":
            self.is_finished = True
        elif kind == "error" or name == "error":
            self.saw_error(event.get("error") or "error")
        elif kind == "message":
            self._take_message(event)
        metrics = fields_of(event.get("amazon-bedrock-invocationMetrics"))
        if metrics:
            self._metrics = metrics

    def read_metrics(self, counts: dict[str, object]) -> None:
        """Counts that Bedrock states beside the body: input without what was cached."""
        self._overlay(counts)

    def _take_message(self, message: Fields) -> None:
        self.saw_id(message.get("id"))
        self.saw_model(message.get("model"))
        self._stop_reason = message.get("stop_reason") or self._stop_reason
        self._overlay(fields_of(message.get("usage")))

    def _overlay(self, usage: Fields) -> None:
        for name in _COUNTS:
            number = self.count(usage.get(name), name)
            if number is not None:
                self._usage[name] = max(number, self._usage.get(name, 0))
                self._is_reported = True
                if name == "output_tokens":
                    self._last_output = number
        split = fields_of(usage.get("cache_creation"))
        self._long_write = max(
            self._long_write,
            self.part(split.get("ephemeral_1h_input_tokens"), "ephemeral_1h_input_tokens"),
        )
        short = self.part(split.get("ephemeral_5m_input_tokens"), "ephemeral_5m_input_tokens")
        if split and "cache_creation_input_tokens" not in self._usage:
            self._usage["cache_creation_input_tokens"] = short + self._long_write
        details = fields_of(usage.get("output_tokens_details"))
        self._thinking = max(
            self._thinking, self.part(details.get("thinking_tokens"), "thinking_tokens")
        )
        iterations = [item for item in items_of(usage.get("iterations")) if isinstance(item, dict)]
        if iterations:
            self._iterations = iterations
        for name in ("service_tier", "speed", "inference_geo"):
            self.saw_context(name, usage.get(name))
        for name, calls in fields_of(usage.get("server_tool_use")).items():
            if name in _TOOLS:
                self.saw_tool_calls(_TOOLS[name], calls)
        if "cost" in usage:  # OpenRouter speaks this dialect too
            take_costs(self, usage)

    def usages(self) -> tuple[ModelUsage, ...]:
        """The message's counts, or those of each model that its iterations ran on."""
        if self._metrics:
            self._take_bedrock_metrics()
        if self._iterations:
            return self._of_iterations()
        if not self._is_reported:
            return ()
        if self._stop_reason == "refusal" and self._last_output == 0:
            self.note("refused without output: free")
            return (self.usage(input_tokens=0, output_tokens=0),)
        return (self._one(self._usage, self._long_write, self._thinking, None),)

    def _one(
        self, usage: dict[str, int], long_write: int, thinking: int, model: str | None
    ) -> ModelUsage:
        read = usage.get("cache_read_input_tokens", 0)
        write = usage.get("cache_creation_input_tokens", 0)
        fresh = usage.get("input_tokens")
        return self.usage(
            input_tokens=None if fresh is None else fresh + read + write,
            output_tokens=usage.get("output_tokens"),
            cache_read=read,
            cache_write=write,
            cache_write_long=long_write,
            reasoning=thinking,
            model=model,
        )

    def _of_iterations(self) -> tuple[ModelUsage, ...]:
        """Each iteration is billed; those of one model are one record, the message's first."""
        by_model: dict[str, tuple[dict[str, int], int, int]] = {}
        served = self._served_by()
        for item in self._iterations:
            model = item.get("model")
            name = model if isinstance(model, str) and model else self.response_model
            if served and name != served and _is_declined(item):
                self.note("an attempt refused without output: free")
                continue
            sums, long_write, thinking = by_model.get(name, ({}, 0, 0))
            for field in _COUNTS:
                number = self.count(item.get(field), field)
                if number is not None:
                    sums[field] = sums.get(field, 0) + number
            split = fields_of(item.get("cache_creation"))
            long_write += self.part(split.get("ephemeral_1h_input_tokens"), "ephemeral_1h")
            details = fields_of(item.get("output_tokens_details"))
            thinking += self.part(details.get("thinking_tokens"), "thinking_tokens")
            by_model[name] = (sums, long_write, thinking)
        if served:
            self.response_model = served
        names = sorted(by_model, key=lambda name: name != self.response_model)
        if names and not any(thinking for _, _, thinking in by_model.values()):
            # Stated of the message as a whole, so of the model that answered.
            sums, long_write, _ = by_model[names[0]]
            by_model[names[0]] = (sums, long_write, self._thinking)
        return tuple(self._one(*by_model[name], name) for name in names)

    def _served_by(self) -> str:
        """The model that answered in place of one that declined; empty: nobody had to."""
        for item in self._iterations:
            model = item.get("model")
            if item.get("type") == "fallback_message" and isinstance(model, str):
                return model
        return ""

    def _take_bedrock_metrics(self) -> None:
        """What Bedrock adds to the last event; the same numbers as the message's, or the only."""
        names = {
            "inputTokenCount": "input_tokens",
            "outputTokenCount": "output_tokens",
            "cacheReadInputTokenCount": "cache_read_input_tokens",
            "cacheWriteInputTokenCount": "cache_creation_input_tokens",
        }
        metrics, self._metrics = self._metrics, {}
        self._overlay({names[name]: value for name, value in metrics.items() if name in names})


def _is_declined(iteration: Fields) -> bool:
    """Whether an attempt ended before a word of it was written."""
    return iteration.get("type") == "message" and iteration.get("output_tokens") == 0
