"""Bedrock: converse, and whatever model's own body `invoke` carries, with counts in headers.

`invoke` answers with the model's own JSON (Anthropic's messages, Nova's, Llama's, Titan's,
Cohere's, Mistral's) and states the counts in `x-amzn-bedrock-*` headers; its stream wraps
each event as `{"bytes": base64}` in an AWS frame, the last one with
`amazon-bedrock-invocationMetrics`. Input there leaves out what was cached.

Sources: the AWS reference of Converse, TokenUsage and InvokeModel; anthropic 2.14
lib/bedrock.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import TYPE_CHECKING

from meterd_middleware.readers.anthropic import AnthropicMessages
from meterd_middleware.readers.frames import in_base64
from meterd_middleware.readers.tally import Fields, Tally, fields_of, items_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meterd_middleware.readers.counts import ModelUsage

_HEADERS = {
    "x-amzn-bedrock-input-token-count": "input_tokens",
    "x-amzn-bedrock-output-token-count": "output_tokens",
    "x-amzn-bedrock-cache-read-input-token-count": "cache_read_input_tokens",
    "x-amzn-bedrock-cache-write-input-token-count": "cache_creation_input_tokens",
}


class BedrockInvoke(AnthropicMessages):
    """InvokeModel, streamed or not."""

    terminals = ()
    frame_marks = in_base64(b"invocationMetrics")
    every: tuple[bytes, ...] = (*AnthropicMessages.every, b'"usage"', b"oken_count", b"okenCount",
                                b'top_reason"', b'topReason"', b'ompletionReason"',
                                b"guardrailAction")  # fmt: skip

    def __init__(self, operation: str = "chat") -> None:
        super().__init__()
        self.has_text = operation in ("chat", "text_completion")

    def read_headers(self, headers: Mapping[str, str]) -> None:
        """The counts that a whole answer states in its headers."""
        super().read_headers(headers)
        counts: dict[str, object] = {
            name: headers[header] for header, name in _HEADERS.items() if header in headers
        }
        if counts:
            self._overlay(counts)

    def read_body(self, body: Fields) -> None:
        """A whole answer in the model's own shape."""
        super().read_body(body)
        self._take_other_models(body)

    def read_event(self, name: str, event: Fields) -> None:
        """One frame, or the event that was wrapped in it."""
        if name.startswith("!"):
            self.saw_error(name[1:] or "error")
            return
        wrapped = event.get("bytes")
        if not isinstance(wrapped, str):
            self._inner(name, event)
            return
        try:
            inner = json.loads(base64.b64decode(wrapped))
        except (ValueError, binascii.Error, RecursionError):
            self.note("a frame could not be read")
            return
        if isinstance(inner, dict):
            self._inner("", inner)

    def read_raw(self, window: bytes) -> None:
        """Titan's count behind a long embedding."""
        if found := _TITAN_INPUT.findall(window):
            self._overlay({"input_tokens": int(found[-1])})

    def _inner(self, name: str, event: Fields) -> None:
        super().read_event(name, event)
        self._take_other_models(event)
        if fields_of(event.get("amazon-bedrock-invocationMetrics")):
            self.is_finished = True
        elif self.is_finished:
            # message_stop carries the metrics itself; without them, the end of file is next.
            self.is_finished = False
            self.may_be_whole = True

    def _take_other_models(self, body: Fields) -> None:
        """Counts where Nova, Llama, Titan, Cohere and Mistral put them."""
        usage = fields_of(body.get("usage"))
        counts: dict[str, object] = {
            "input_tokens": _first(
                usage.get("inputTokens"),
                usage.get("prompt_tokens"),
                body.get("prompt_token_count"),
                body.get("inputTextTokenCount"),
            ),
            "output_tokens": _first(
                usage.get("outputTokens"),
                usage.get("completion_tokens"),
                body.get("generation_token_count"),
                _titan_output(body),
            ),
            "cache_read_input_tokens": usage.get("cacheReadInputTokenCount"),
            "cache_creation_input_tokens": usage.get("cacheWriteInputTokenCount"),
        }
        if any(value is not None for value in counts.values()):
            self._overlay(counts)
        if any(body.get(name) for name in _ENDS):
            self.may_be_whole = True

    def usages(self) -> tuple[ModelUsage, ...]:
        """The counts; what makes no text has no output, and needs to report none."""
        usages = super().usages()
        if self.has_text or not usages or usages[0].output_tokens is not None:
            return usages
        return (usages[0]._replace(output_tokens=0),)


_TITAN_INPUT = re.compile(rb'"inputTextTokenCount"\s*:\s*(\d{1,15})(?![\d.])')
_ENDS = ("stop_reason", "completionReason", "stopReason", "amazon-bedrock-guardrailAction")
"""What the last event of a model's own stream has; a guardrail's is its only one."""


def _titan_output(body: Fields) -> object:
    results = [item for item in items_of(body.get("results")) if isinstance(item, dict)]
    return results[0].get("tokenCount") if results else body.get("totalOutputTextTokenCount")


def _first(*values: object) -> object:
    return next((value for value in values if value is not None), None)


class BedrockConverse(Tally):
    """Converse and ConverseStream."""

    every = (b'"metadata"', b'"messageStop"', b'"usage"', b'"stopReason"')
    frame_marks = (b"metadata",)
    frame_types = frozenset({"metadata", "messageStop"})

    def __init__(self) -> None:
        super().__init__()
        self._usage: Fields = {}

    def read_body(self, body: Fields) -> None:
        """A whole answer."""
        self._take(body)

    def read_event(self, name: str, event: Fields) -> None:
        """One frame, its type in the frame's header or around the event."""
        if name.startswith("!"):
            self.saw_error(name[1:] or "error")
            return
        for kind in ("metadata", "messageStop"):
            inner = event.get(kind)
            if isinstance(inner, dict):
                name, event = kind, inner
        if name == "messageStop" or event.get("stopReason"):
            self.may_be_whole = True
        self._take(event)
        if name == "metadata" and self._usage:
            self.is_finished = True

    def _take(self, body: Fields) -> None:
        usage = fields_of(body.get("usage"))
        if usage:
            self._usage = usage
        router = fields_of(fields_of(body.get("trace")).get("promptRouter"))
        self.saw_model(router.get("invokedModelId"))
        latency = fields_of(body.get("performanceConfig")).get("latency")
        if latency == "optimized":
            self.saw_context("speed", "fast")
        tier = fields_of(body.get("serviceTier")).get("type")
        self.saw_context("service_tier", tier)

    def usages(self) -> tuple[ModelUsage, ...]:
        """One model's counts; input leaves out what was cached."""
        usage = self._usage
        if not usage:
            return ()
        read = self.part(
            _first(usage.get("cacheReadInputTokens"), usage.get("cacheReadInputTokenCount")),
            "cacheReadInputTokens",
        )
        write = self.part(
            _first(usage.get("cacheWriteInputTokens"), usage.get("cacheWriteInputTokenCount")),
            "cacheWriteInputTokens",
        )
        long_write = sum(
            self.part(item.get("inputTokens"), "cacheDetails")
            for item in items_of(usage.get("cacheDetails"))
            if isinstance(item, dict) and item.get("ttl") == "1h"
        )
        fresh = self.count(usage.get("inputTokens"), "inputTokens")
        return (
            self.usage(
                input_tokens=None if fresh is None else fresh + read + write,
                output_tokens=self.count(usage.get("outputTokens"), "outputTokens"),
                cache_read=read,
                cache_write=write,
                cache_write_long=long_write,
            ),
        )
