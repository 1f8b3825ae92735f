"""OpenAI responses: whole, streamed, in the background, compacted; and Google's interactions.

`usage` stands in the response object; a stream carries that object in its first events with
`usage: null` and in its last, `response.completed`, `.incomplete` or `.failed`, with the
counts. A background response answers `queued` without usage, which comes with a later GET.

Sources: openai 3.57 types/responses/{response,response_usage}.py; google-genai 3.6
interactions.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from meterd_middleware.readers.costs import take_costs
from meterd_middleware.readers.openai_chat import long_write
from meterd_middleware.readers.tally import Fields, Tally, fields_of, items_of, word_of

if TYPE_CHECKING:
    from meterd_middleware.readers.counts import ModelUsage

_TERMINAL = frozenset({"response.completed", "response.incomplete", "response.failed"})
PICTURE_MODEL = "gpt-image-1"
"""What the hosted picture tool runs on where the request doesn't say."""

_STILL_RUNNING = frozenset({"queued", "in_progress"})
_TOOL_ITEMS = {
    "web_search_call": "web_search",
    "file_search_call": "file_search",
    "code_interpreter_call": "code_interpreter",
}


_TOOL_ITEM = re.compile(rb'"type"\s*:\s*"(web_search_call|file_search_call|code_interpreter_call)"')
_FREE_SEARCH = re.compile(rb'"action"\s*:\s*\{\s*"type"\s*:\s*"(?:open_page|find|find_in_page)"')


class OpenAIResponses(Tally):
    """The responses API."""

    terminals = (b"response.completed", b"response.incomplete", b"response.failed")
    every = (b'"response":{', b'"response": {', b'"error"')
    text_mark = b".delta"

    def __init__(self) -> None:
        super().__init__()
        self._usage: Fields = {}
        self._pictures: Fields = {}
        self._picture_model = PICTURE_MODEL

    def read_body(self, body: Fields) -> None:
        """A whole response, or one that was asked for again."""
        self._take_response(body)
        if word_of(body.get("status")) in _STILL_RUNNING:
            self.pending_id = self.response_id

    def read_event(self, name: str, event: Fields) -> None:
        """One event; its type stands in it, or is the event's name."""
        kind = word_of(event.get("type")) or name
        response = event.get("response")
        if isinstance(response, dict):
            self._take_response(response)
        if kind in _TERMINAL:
            self.is_finished = True
        elif kind == "error" or name == "error":
            self.saw_error(event.get("error") or event.get("code") or "error")

    def _take_response(self, response: Fields) -> None:
        self.saw_id(response.get("id"))
        self.saw_model(response.get("model"))
        self.saw_context("service_tier", response.get("service_tier"))
        if response.get("background") is True:
            self.is_background = True
        if response.get("status") == "failed":
            self.saw_error(response.get("error") or "failed")
        usage = fields_of(response.get("usage"))
        if usage:
            self._usage = usage
        self._tools(response)

    def _tools(self, response: Fields) -> None:
        """Hosted tools: billed apart, counted as output items or in `tool_usage`."""
        calls: dict[str, int] = {}
        for item in items_of(response.get("output")):
            if isinstance(item, dict) and word_of(item.get("type")) in _TOOL_ITEMS:
                if _is_search_without_charge(item):
                    continue
                tool = _TOOL_ITEMS[item["type"]]
                calls[tool] = calls.get(tool, 0) + 1
        for tool, number in calls.items():
            self.saw_tool_calls(tool, number)
        usage = response.get("tool_usage")
        if isinstance(usage, dict):
            searches = fields_of(usage.get("web_search"))
            self.saw_tool_calls("web_search", searches.get("num_requests"))
            self._pictures = fields_of(usage.get("image_gen"))
            if self._pictures.get("total_tokens"):
                self._picture_model = _picture_model(response)

    def read_piece(self, piece: bytes) -> None:
        """The hosted tools of a long answer; one that a piece's end cuts in two is left out."""
        for found in _TOOL_ITEM.finditer(piece):
            tool = _TOOL_ITEMS[found[1].decode()]
            self.tool_calls[tool] = self.tool_calls.get(tool, 0) + 1
        free = len(_FREE_SEARCH.findall(piece))
        if free and (searches := self.tool_calls.pop("web_search", 0) - free) > 0:
            self.tool_calls["web_search"] = searches

    def usages(self) -> tuple[ModelUsage, ...]:
        """One model's counts."""
        usage = self._usage
        if not usage:
            return ()
        taken = fields_of(usage.get("input_tokens_details"))
        given = fields_of(usage.get("output_tokens_details"))
        if usage.keys() - _PLAIN:
            take_costs(self, usage)
        cached = taken.get("cached_tokens", taken.get("cache_read_input_tokens"))  # Perplexity
        first = (
            self.usage(
                input_tokens=self.count(usage.get("input_tokens"), "input_tokens"),
                output_tokens=self.count(usage.get("output_tokens"), "output_tokens"),
                cache_read=self.part(cached, "cached_tokens"),
                cache_write=self.part(taken.get("cache_write_tokens"), "cache_write_tokens"),
                cache_write_long=long_write(self, taken),
                reasoning=self.part(given.get("reasoning_tokens"), "reasoning_tokens"),
                audio_input=self.part(taken.get("audio_tokens"), "audio_tokens"),
                audio_output=self.part(given.get("audio_tokens"), "audio_tokens"),
            ),
        )
        return first + self._of_pictures()

    def _of_pictures(self) -> tuple[ModelUsage, ...]:
        """The tokens of pictures made by the hosted tool, which runs on a model of its own."""
        usage = self._pictures
        taken = self.part(usage.get("input_tokens"), "image_gen input_tokens")
        given = self.part(usage.get("output_tokens"), "image_gen output_tokens")
        if not taken and not given:
            return ()
        return (self.usage(input_tokens=taken, output_tokens=given, model=self._picture_model),)


_PLAIN = frozenset(
    {
        "input_tokens",
        "input_tokens_details",
        "output_tokens",
        "output_tokens_details",
        "total_tokens",
    }
)


def _picture_model(response: Fields) -> str:
    """The model that the hosted picture tool was asked to use."""
    for tool in items_of(response.get("tools")):
        if isinstance(tool, dict) and tool.get("type") == "image_generation":
            model = tool.get("model")
            return model if isinstance(model, str) and model else PICTURE_MODEL
    return PICTURE_MODEL


def _is_search_without_charge(item: Fields) -> bool:
    """A web search's `open_page` and `find` steps are part of a search that was counted."""
    action = fields_of(item.get("action")).get("type")
    return item["type"] == "web_search_call" and action in ("open_page", "find", "find_in_page")


class GoogleInteractions(Tally):
    """Google's interactions: the totals stand outside each other, as in Gemini."""

    terminals = (b"interaction.complete",)
    every = (b'"interaction":{', b'"interaction": {', b'"error"', b"interaction.complete")
    text_mark = b"delta"

    _EVENT = re.compile(r"interaction\.(complete|completed|failed|cancelled|incomplete)$")

    def __init__(self) -> None:
        super().__init__()
        self._usage: Fields = {}

    def read_body(self, body: Fields) -> None:
        """A whole interaction."""
        self._take(body)
        if body.get("status") in ("queued", "in_progress"):
            self.pending_id = self.response_id

    def read_event(self, name: str, event: Fields) -> None:
        """One event of a stream."""
        interaction = event.get("interaction")
        if isinstance(interaction, dict):
            self._take(interaction)
        kind = event.get("event_type") or event.get("type") or name
        if isinstance(kind, str) and self._EVENT.match(kind):
            self.is_finished = True
        self.saw_error(event.get("error"))

    def _take(self, interaction: Fields) -> None:
        self.saw_id(interaction.get("id"))
        self.saw_model(interaction.get("model") or interaction.get("agent"))
        if interaction.get("background") is True:
            self.is_background = True
        if interaction.get("status") == "failed":
            self.saw_error("failed")
        usage = fields_of(interaction.get("usage"))
        if usage:
            self._usage = usage

    def usages(self) -> tuple[ModelUsage, ...]:
        """One model's counts: tool use is input, thought is output."""
        usage = self._usage
        if not usage:
            return ()
        taken = self.count(usage.get("total_input_tokens"), "total_input_tokens")
        given = self.count(usage.get("total_output_tokens"), "total_output_tokens")
        tools = self.part(usage.get("total_tool_use_tokens"), "total_tool_use_tokens")
        thought = self.part(
            usage.get("total_thought_tokens") or usage.get("total_reasoning_tokens"),
            "total_thought_tokens",
        )
        return (
            self.usage(
                input_tokens=None if taken is None else taken + tools,
                output_tokens=None if given is None else given + thought,
                cache_read=self.part(usage.get("total_cached_tokens"), "total_cached_tokens"),
                reasoning=thought,
                audio_input=_modality(self, usage, "input_tokens_by_modality"),
                audio_output=_modality(self, usage, "output_tokens_by_modality"),
            ),
        )


def _modality(tally: Tally, usage: Fields, name: str) -> int:
    """Tokens of audio in a list of counts by modality."""
    return sum(
        tally.part(item.get("tokens") or item.get("token_count"), name)
        for item in items_of(usage.get(name))
        if isinstance(item, dict) and str(item.get("modality", "")).lower() == "audio"
    )
