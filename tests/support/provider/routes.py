"""From a request to its answer: which shape, with which errors in place of it."""

from __future__ import annotations

import itertools
import re
from collections import Counter, deque
from typing import TYPE_CHECKING

from tests.support.provider import (
    anthropic_shapes,
    errors,
    openai_shapes,
    other_shapes,
    responses_shapes,
)
from tests.support.provider.answer import CREATED, Answer, Part, document, encoded
from tests.support.provider.ledger import Counts

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.provider.asked import Asked

_SHAPES: dict[str, Callable[[Asked, str], Answer]] = {
    "chat": openai_shapes.chat,
    "completions": openai_shapes.completions,
    "embeddings": openai_shapes.embeddings,
    "messages": anthropic_shapes.messages,
    "gemini": other_shapes.gemini,
    "cohere": other_shapes.cohere,
    "cohere_embed": other_shapes.cohere_embed,
    "cohere_rerank": other_shapes.cohere_embed,
    "ollama_chat": other_shapes.ollama,
    "ollama_generate": other_shapes.ollama,
    "ollama_embed": other_shapes.ollama,
}

_ID_PREFIXES = {"chat": "chatcmpl-", "messages": "msg_", "responses": "resp_"}


class Routes:
    """Answers requests; remembers background responses and how often a wish has struck."""

    def __init__(self) -> None:
        self._pending: dict[str, responses_shapes.Background] = {}
        self._struck: Counter[str] = Counter()
        self._serial = itertools.count(1)
        self.next_do: deque[str] = deque()
        """Wishes for the next requests to LLM paths, one each, before all others."""

    def answer(self, asked: Asked, method: str, path: str) -> Answer:
        """What to send back, the wishes about status and body considered."""
        if not asked.dialect:
            return self._beside(asked, method, path)
        if asked.dialect == "count_tokens":
            return _count_tokens(asked, path)
        status = asked.wish_int("status")
        if status is not None and self._strikes(asked):
            return errors.error_answer(asked, status)
        if "refuse_usage" in asked.wish and asked.asks_for_usage:
            return errors.error_answer(asked, 400)
        if "html" in asked.wish:
            return Answer([Part(b"<html><body>It works!</body></html>")], "text/html")
        if "empty" in asked.wish:
            return Answer([Part(b"")])
        return _with_error_inside(self._shape(asked), asked)

    def _shape(self, asked: Asked) -> Answer:
        serial = 0 if "fixed_ids" in asked.wish else next(self._serial)
        prefix = _ID_PREFIXES.get(asked.dialect, "")
        ident = f"{prefix}{asked.digest[:20]}{serial:06d}"
        if asked.dialect == "responses":
            return responses_shapes.responses(asked, ident, self._pending)
        return _SHAPES[asked.dialect](asked, ident)

    def _strikes(self, asked: Asked) -> bool:
        """Whether a wish with `times=` strikes once more."""
        times = asked.wish_int("times")
        self._struck[asked.digest] += 1
        return times is None or self._struck[asked.digest] <= times

    def _beside(self, asked: Asked, method: str, path: str) -> Answer:
        """GETs and whatever is no LLM call."""
        found = re.search(r"/responses/([^/]+?)(/cancel)?$", path)
        if found and found.group(1) in self._pending:
            if found.group(2):
                return responses_shapes.cancel(found.group(1), self._pending)
            return responses_shapes.poll(found.group(1), self._pending, dict(asked.query))
        if method == "GET" and path.endswith("/models"):
            listed = [{"id": "gpt-4o-mini", "object": "model", "created": CREATED}]
            return document({"object": "list", "data": listed}, Counts())
        missing = {"error": {"message": f"no {method} {path} here", "type": "not_found"}}
        return Answer([Part(encoded(missing))], status=404)


def _count_tokens(asked: Asked, path: str) -> Answer:
    words = len(str(asked.body).split())
    name = "totalTokens" if ":" in path else "input_tokens"
    return document({name: words}, Counts())


def _with_error_inside(answer: Answer, asked: Asked) -> Answer:
    """The same answer broken off by an error after as many chunks as wished.

    The ledger then holds no charge: a provider that says it failed does not bill.
    """
    after = asked.wish_int("error")
    if after is None:
        return answer
    failure = errors.error_event(asked)
    if not answer.is_stream:
        body = errors.error_answer(asked, 500).parts
        return Answer(body, answer.content_type)
    return Answer([*answer.parts[:after], failure], answer.content_type, is_stream=True)
