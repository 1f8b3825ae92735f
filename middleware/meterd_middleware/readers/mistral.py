"""Mistral's conversations (agents): usage of all their steps, connectors beside the prompt.

`connector_tokens` are what connectors brought in: input, outside `prompt_tokens`, as the
total says. `connectors` counts their uses, billed apart. Chat speaks OpenAI's dialect.

Source: mistralai 3.7 models/conversationusageinfo.py, responsedoneevent.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd_middleware.readers.tally import Fields, Tally, fields_of, items_of

if TYPE_CHECKING:
    from meterd_middleware.readers.counts import ModelUsage


class MistralConversations(Tally):
    """Start, append and restart of a conversation, whole or streamed."""

    terminals = (b"conversation.response.done", b"conversation.response.error")
    every = (b"conversation.response.", b'"error"')
    last = (b'"model"',)

    def __init__(self) -> None:
        super().__init__()
        self._usage: Fields = {}

    def read_body(self, body: Fields) -> None:
        """A whole answer."""
        self.saw_id(body.get("conversation_id"))
        self.saw_error(body.get("error"))
        for output in items_of(body.get("outputs")):
            self.saw_model(fields_of(output).get("model"))
        self._usage = fields_of(body.get("usage"))

    def read_event(self, name: str, event: Fields) -> None:
        """An event of a stream."""
        kind = event.get("type") or name
        self.saw_id(event.get("conversation_id"))
        self.saw_model(event.get("model"))
        if kind == "conversation.response.done":
            self._usage = fields_of(event.get("usage"))
            self.is_finished = True
        elif kind == "conversation.response.error":
            self.saw_error("error")
            self.is_finished = True
        else:
            self.saw_error(event.get("error"))

    def usages(self) -> tuple[ModelUsage, ...]:
        """One model's counts."""
        usage = self._usage
        if not usage:
            return ()
        taken = self.count(usage.get("prompt_tokens"), "prompt_tokens")
        brought_in = self.part(usage.get("connector_tokens"), "connector_tokens")
        for name, calls in fields_of(usage.get("connectors")).items():
            self.saw_tool_calls(name, calls)
        return (
            self.usage(
                input_tokens=None if taken is None else taken + brought_in,
                output_tokens=self.count(usage.get("completion_tokens"), "completion_tokens"),
            ),
        )
