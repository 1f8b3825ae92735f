"""Gemini's generateContent, on its own host and on Vertex; whole, as events, as an array.

    prompt + toolUsePrompt = input (cached inside)      candidates + thoughts = output

Thoughts stand outside candidates, and total is the sum of the four; where prompt +
candidates + toolUse already make the total, thoughts are inside. Under Search grounding the
tool-use prompt isn't billed. A later `usageMetadata` replaces the former whole if it counts
anything; chunks that state the traffic type alone don't. No event is terminal: a
finishReason and a clean end make it whole.

Sources: google-genai 3.6 types.py, GenerateContentResponseUsageMetadata; Vertex AI's
reference of the same name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd_middleware.readers.tally import Fields, Tally, fields_of, items_of

if TYPE_CHECKING:
    from meterd_middleware.readers.counts import ModelUsage


class Gemini(Tally):
    """generateContent and streamGenerateContent, and embedContent where it counts."""

    every = (b'"webSearchQueries"', b'"maps"', b'"error"', b'"blockReason"')
    last = (
        b'"promptTokenCount"',
        b'"totalTokenCount"',
        b'"candidatesTokenCount"',
        b'"finishReason"',
        b'"trafficType"',
    )

    def __init__(self, *, is_embedding: bool = False) -> None:
        super().__init__()
        self._usage: Fields = {}
        self._is_grounded = False
        self._is_embedding = is_embedding
        self.has_text = not is_embedding

    def read_body(self, body: Fields) -> None:
        """A whole answer."""
        self.read_event("", body)

    def read_event(self, name: str, event: Fields) -> None:
        """One chunk."""
        inner = event.get("response")
        if isinstance(inner, dict) and "usageMetadata" not in event:  # Code Assist's envelope
            event = inner
        self.saw_id(event.get("responseId"))
        self.saw_model(event.get("modelVersion"))
        self.saw_error(event.get("error"))
        usage = fields_of(event.get("usageMetadata"))
        if self._counts_anything(usage):
            self._usage = usage
        if isinstance(usage.get("trafficType"), str):
            self._traffic(usage["trafficType"])
        self.saw_context("service_tier", usage.get("serviceTier"))
        for candidate in items_of(event.get("candidates")):
            if isinstance(candidate, dict):
                self._candidate(candidate)
        if self.may_be_whole and self._counts_anything(usage):
            self.has_last_count = True
        if fields_of(event.get("promptFeedback")).get("blockReason"):
            self.may_be_whole = True

    def _counts_anything(self, usage: Fields) -> bool:
        return any(
            usage.get(name) is not None
            for name in ("promptTokenCount", "totalTokenCount", "candidatesTokenCount")
        )

    def _traffic(self, traffic: str) -> None:
        """Provisioned throughput is paid otherwise; flex and priority have prices of their own."""
        tiers = {
            "PROVISIONED_THROUGHPUT": "provisioned",
            "ON_DEMAND_PRIORITY": "priority",
            "ON_DEMAND_FLEX": "flex",
        }
        if traffic in tiers:
            self.saw_context("service_tier", tiers[traffic])

    def _candidate(self, candidate: Fields) -> None:
        if candidate.get("finishReason"):
            self.may_be_whole = True
        grounding = fields_of(candidate.get("groundingMetadata"))
        queries = items_of(grounding.get("webSearchQueries"))
        if queries:
            self._is_grounded = True
            self.saw_tool_calls("google_search", len(queries))
        chunks = items_of(grounding.get("groundingChunks"))
        if any(isinstance(chunk, dict) and chunk.get("maps") for chunk in chunks):
            self._is_grounded = True

    def read_raw(self, window: bytes) -> None:
        """A picture's chunk is too large to parse, and may be the last."""
        if b'"finishReason"' in window:
            self.may_be_whole = True

    def usages(self) -> tuple[ModelUsage, ...]:
        """One model's counts."""
        usage = self._usage
        if not usage:
            return ()
        prompt = self.count(usage.get("promptTokenCount"), "promptTokenCount")
        tools = self.part(usage.get("toolUsePromptTokenCount"), "toolUsePromptTokenCount")
        thoughts = self.part(usage.get("thoughtsTokenCount"), "thoughtsTokenCount")
        total = self.count(usage.get("totalTokenCount"), "totalTokenCount")
        given = self._given(usage, prompt, tools, thoughts, total)
        billed_tools = 0 if self._is_grounded else tools
        return (
            self.usage(
                input_tokens=None if prompt is None else prompt + billed_tools,
                output_tokens=given,
                cache_read=self.part(
                    usage.get("cachedContentTokenCount"), "cachedContentTokenCount"
                ),
                reasoning=thoughts,
                audio_input=self._audio(usage, "promptTokensDetails"),
                audio_output=self._audio(usage, "candidatesTokensDetails"),
            ),
        )

    def _given(
        self, usage: Fields, prompt: int | None, tools: int, thoughts: int, total: int | None
    ) -> int | None:
        """Output, thoughts included once."""
        candidates = self.count(
            usage.get("candidatesTokenCount", usage.get("responseTokenCount")),
            "candidatesTokenCount",
        )
        if self._is_embedding:
            return candidates or 0
        if candidates is None:
            if total is None or prompt is None:
                return thoughts or None
            # Absent candidates are none: a reply of thoughts alone, or a blocked prompt.
            return max(total - prompt - tools, thoughts)
        is_inside = thoughts and prompt is not None and prompt + candidates + tools == total
        return candidates if is_inside else candidates + thoughts

    def _audio(self, usage: Fields, name: str) -> int:
        return sum(
            self.part(item.get("tokenCount"), name)
            for item in items_of(usage.get(name))
            if isinstance(item, dict) and item.get("modality") == "AUDIO"
        )
