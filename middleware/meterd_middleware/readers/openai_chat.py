"""OpenAI chat completions and completions, and the many hosts that speak them.

    prompt_tokens ─ whole ─┬ prompt_tokens_details.cached_tokens, cache_write_tokens, audio_tokens
    completion_tokens ─────┴ completion_tokens_details.reasoning_tokens, audio_tokens

Counts are cumulative: the last object `usage` of a stream counts, never a sum (vLLM's
continuous usage, Perplexity, Gemini's OpenAI face). Where hosts differ:

| host | difference |
|---|---|
| xAI chat | reasoning stands outside completion: added if total = prompt + completion + reasoning |
| Gemini's OpenAI face | total > prompt + completion: the rest is reasoning |
| Perplexity | reasoning and citation tokens outside completion |
| Vercel's gateway | Gemini's reasoning outside completion and total: its own cost says so |
| DeepSeek | `prompt_cache_hit_tokens` and `…_miss_tokens` |
| Groq | `x_groq.usage` beside or instead of `usage`; one of them counts |
| Mistral | audio stands outside prompt: added where the total says so |
| OpenRouter, xAI, Perplexity | costs and tools (costs.py) |

Sources: openai 3.57 types/completion_usage.py; genai-prices 0.2.3; the hosts' SDKs.
"""

from __future__ import annotations

import re
from typing import Any

from meterd_middleware.readers.costs import take_costs
from meterd_middleware.readers.counts import ModelUsage
from meterd_middleware.readers.tally import Fields, Tally, fields_of, items_of
from meterd_middleware.usage import TOKENS_MAX

_PARTS_OUTSIDE = frozenset({"perplexity", "vercel"})


class OpenAIChat(Tally):
    """Chat completions and legacy completions, of OpenAI and whoever speaks like it."""

    terminals = (b"[DONE]",)
    last = (b'"usage":{', b'"usage": {', b'finish_reason":"', b'finish_reason": "')
    may_be_spaced = re.compile(rb'usage"(?!: ?[n{])')
    spaced = re.compile(rb'"usage"(?=\s{2}|\s:|:\s{2}|:[\r\n\t])\s*:\s*\{')

    def __init__(self, provider: str = "openai") -> None:
        super().__init__()
        self._provider = provider
        self._usage: Fields = {}

    def read_body(self, body: Fields) -> None:
        """A whole answer, or Cloudflare's envelope around one."""
        if "usage" not in body and isinstance(body.get("result"), dict):
            body = body["result"]
        self.read_event("", body)

    def read_event(self, name: str, event: Fields) -> None:
        """A chunk; the usage of a later one replaces that of an earlier."""
        get = event.get
        self.saw_id(get("id"))
        self.saw_model(get("model"))
        if tier := get("service_tier"):
            self.saw_context("service_tier", tier)
        if error := get("error") or (event if name == "error" else None):
            self.saw_error(error)
        if get("object") == "error":  # Mistral, vLLM
            self.saw_error(event)
        usage = fields_of(get("usage")) or fields_of(fields_of(get("x_groq")).get("usage"))
        if usage:
            self._usage = _overlaid(self._usage, usage)
            if tier := usage.get("service_tier"):  # Mistral
                self.saw_context("service_tier", tier)
        for choice in items_of(get("choices")):
            if isinstance(choice, dict):
                if choice.get("finish_reason"):
                    self.may_be_whole = True
                if error := choice.get("error"):
                    self.saw_error(error)
                # Some hosts put the last chunk's usage into the choice (Moonshot).
                if not usage and fields_of(choice.get("usage")):
                    usage = choice["usage"]
                    self._usage = _overlaid(self._usage, usage)
        if usage and self.may_be_whole:
            self.has_last_count = True

    def read_raw(self, window: bytes) -> None:
        """A chunk with a picture or much audio is too large to parse, and may be the last."""
        if _FINISHED.search(window):
            self.may_be_whole = True

    def usages(self) -> tuple[ModelUsage, ...]:
        """One model's counts."""
        usage = self._usage
        if not usage:
            return ()
        plain = self._plain(usage)
        if plain is not None:
            return (plain,)
        prompt = fields_of(usage.get("prompt_tokens_details") or usage.get("input_tokens_details"))
        reply = fields_of(
            usage.get("completion_tokens_details") or usage.get("output_tokens_details")
        )
        whole_in = self.count(_first(usage, "prompt_tokens", "input_tokens"), "prompt_tokens")
        whole_out = self.count(
            _first(usage, "completion_tokens", "output_tokens"), "completion_tokens"
        )
        reasoning = self.part(
            _first(reply, "reasoning_tokens") or usage.get("reasoning_tokens"), "reasoning_tokens"
        )
        total = self.count(usage.get("total_tokens"), "total_tokens")
        whole_in = self._input_of_cache(usage, whole_in)
        audio_in = self.part(prompt.get("audio_tokens"), "audio_tokens")
        beside = audio_beside(self, usage, whole_in, whole_out, total)
        if beside and whole_in is not None:
            whole_in, audio_in = whole_in + beside, beside
        whole_out, reasoning = self._output(usage, whole_in, whole_out, reasoning, total)
        take_costs(self, usage)
        return (
            self.usage(
                input_tokens=whole_in,
                output_tokens=whole_out,
                cache_read=self._cache_read(usage, prompt),
                cache_write=self.part(
                    _first(prompt, "cache_write_tokens", "cache_creation_tokens")
                    or usage.get("cache_creation_input_tokens"),
                    "cache_write_tokens",
                ),
                cache_write_long=long_write(self, prompt),
                reasoning=reasoning,
                audio_input=audio_in,
                audio_output=self.part(reply.get("audio_tokens"), "audio_tokens"),
            ),
        )

    def _plain(self, usage: Fields) -> ModelUsage | None:
        """The shape that OpenAI itself sends, read in one go; None where anything is odd.

        Most calls have it, and looking for what other hosts add costs them 8 µs.
        """
        if not usage.keys() <= _PLAIN or self._provider in _PARTS_OUTSIDE:
            return None
        prompt: Any = usage.get("prompt_tokens_details") or _NO_FIELDS
        reply: Any = usage.get("completion_tokens_details") or _NO_FIELDS
        whole_in: Any
        whole_out: Any
        if type(prompt) is not dict or type(reply) is not dict or _ODD & prompt.keys():
            return None
        whole_in, whole_out = usage.get("prompt_tokens"), usage.get("completion_tokens")
        read, audio_in = prompt.get("cached_tokens") or 0, prompt.get("audio_tokens") or 0
        write = prompt.get("cache_write_tokens") or 0
        reasoning, audio_out = reply.get("reasoning_tokens") or 0, reply.get("audio_tokens") or 0
        is_counted = (
            type(whole_in)
            is type(whole_out)
            is type(read)
            is type(write)
            is type(audio_in)
            is type(reasoning)
            is type(audio_out)
            is int
        )
        if (
            not is_counted
            or (whole_in | whole_out | read | write | audio_in | reasoning | audio_out) < 0
        ):  # a negative one makes them all negative
            return None
        is_sound = (
            usage.get("total_tokens") == whole_in + whole_out <= TOKENS_MAX
            and read + write <= whole_in
            and audio_in <= whole_in
            and reasoning <= whole_out
            and audio_out <= whole_out
        )
        if not is_sound:
            return None
        return ModelUsage(
            self.response_model,
            whole_in,
            whole_out,
            read,
            write,
            0,
            reasoning,
            audio_in,
            audio_out,
        )

    def _cache_read(self, usage: Fields, prompt: Fields) -> int:
        """Wherever the host puts what it read from its cache."""
        for value in (
            prompt.get("cached_tokens"),
            usage.get("prompt_cache_hit_tokens"),
            usage.get("cached_tokens"),
            usage.get("cache_read_input_tokens"),
            usage.get("num_cached_tokens"),
        ):
            if found := self.part(value, "cached_tokens"):
                return found
        return 0

    def _input_of_cache(self, usage: Fields, whole: int | None) -> int | None:
        """DeepSeek's input where it states only hits and misses."""
        if whole is not None or "prompt_cache_miss_tokens" not in usage:
            return whole
        hits = self.part(usage.get("prompt_cache_hit_tokens"), "prompt_cache_hit_tokens")
        return hits + self.part(usage.get("prompt_cache_miss_tokens"), "prompt_cache_miss_tokens")

    def _output(
        self,
        usage: Fields,
        whole_in: int | None,
        whole_out: int | None,
        reasoning: int,
        total: int | None,
    ) -> tuple[int | None, int]:
        """Output with reasoning inside, wherever the host counts it."""
        if self._provider == "vercel" and self.response_model.startswith("google/"):
            return None if whole_out is None else whole_out + reasoning, reasoning
        if self._provider == "perplexity" and whole_out is not None:
            citation = self.part(usage.get("citation_tokens"), "citation_tokens")
            return whole_out + reasoning + citation, reasoning
        if whole_in is None or total is None:
            return whole_out, reasoning
        if whole_out is None:  # an embedding's shape: all of the total is input
            return (total - whole_in if total >= whole_in else None), reasoning
        beyond = total - whole_in - whole_out
        if beyond <= 0:
            return whole_out, reasoning
        if reasoning == beyond:
            return whole_out + reasoning, reasoning
        if not reasoning and self._provider in ("gcp.gemini", "gcp.vertex_ai"):
            return whole_out + beyond, beyond
        self.note("total_tokens is not the sum of its parts")
        return whole_out, reasoning


_PLAIN = frozenset(
    {
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "prompt_tokens_details",
        "completion_tokens_details",
    }
)
_ODD = frozenset({"cache_write_tokens_details", "cache_creation_tokens"})
_NO_FIELDS: Fields = {}
_FINISHED = re.compile(rb'"finish_reason"\s*:\s*"')


def audio_beside(
    tally: Tally, usage: Fields, taken: int | None, given: int | None, total: int | None
) -> int:
    """Mistral's audio, which stands outside the prompt: what the total has beyond both sides.

    As many as `audio_tokens` says, or all of it where only the seconds are stated.
    """
    if taken is None or given is None or total is None or total <= taken + given:
        return 0
    beyond = total - taken - given
    stated = fields_of(usage.get("prompt_tokens_details")).get("audio_tokens")
    if stated:
        return beyond if tally.count(stated, "audio_tokens") == beyond else 0
    return beyond if usage.get("prompt_audio_seconds") else 0


def long_write(tally: Tally, details: Fields) -> int:
    """The part of what was written to the cache at the longer lifetime (12 h, since GPT-5.6)."""
    split = fields_of(details.get("cache_write_tokens_details"))
    return tally.part(split.get("ttl_12h_tokens"), "ttl_12h_tokens")


def _first(fields: Fields, *names: str) -> object:
    """The first of these fields that is there and not null."""
    for name in names:
        if fields.get(name) is not None:
            return fields[name]
    return None


def _overlaid(before: Fields, after: Fields) -> Fields:
    """The later usage, with what only the earlier one states."""
    return {**before, **{name: value for name, value in after.items() if value is not None}}
