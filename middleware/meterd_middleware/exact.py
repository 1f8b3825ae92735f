"""Estimates counted to the token, where the extra `tiktoken` is installed and knows the model.

    a call without a count ──later()──▶ queue ─ thread ─▶ vocabulary, tokenizer ─▶ its records
                                                └ on it, estimate.py counts instead of reckoning

The thread is started by the first call of a model that it knows, holds o200k once a call
needed it (cl100k too for older models; 25 and 13 MB), and lets all others in after every half
millisecond of work. A process that ends before a call was counted leaves its open frame, as one
that dies does.

What is counted of a request is what OpenAI's cookbook says: 3 a message, role, content and
name, 3 for the reply; tools as their JSON, at most; pictures by their size.

Source: OpenAI's cookbook, "How to count tokens with tiktoken".
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import lzma
import os
import re
import threading
import time
from dataclasses import replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from meterd_middleware import estimate, vocabulary
from meterd_middleware.readers import text as reader_text
from meterd_middleware.readers.parsing import parsed
from meterd_middleware.settlement import NOTE_CHARACTERS_MAX
from meterd_middleware.tokenizer import Tokenizer, compiled

if TYPE_CHECKING:
    from collections.abc import Callable

    from meterd_middleware.readers import TextSeen
    from meterd_middleware.request import ProviderCall
    from meterd_middleware.usage import UsageRecord

BODY_BYTES_MAX = 256 * 1024
"""A larger request is reckoned, not counted: parsing it would hold others up."""

PENDING_MAX = 64
"""So many calls wait to be counted; beyond that they are reckoned at once. Each holds its
request's body and what was kept of its text."""

COMMAS_MAX = 8_000
"""A body with more isn't parsed: a parser lets nobody in, and takes longer for many small
things than for much text."""

EXIT_TIMEOUT_S = 1.0
"""How long the end of the process waits for what is being counted."""

NOTE = "counted with tiktoken"
"""Said of a record whose estimate is a count. It stays marked as estimated: the provider bills
what it counts itself, and of a stream that was left it counts more than passed."""

_OURS = re.compile(
    r"(?:.*/)?(?:ft:)?(?:gpt-|chatgpt-|codex-|o[134](?:-|$)|text-embedding-|(?:davinci|babbage)-002)"
)


def is_installed() -> bool:
    """Whether the extra is there, with what it brings."""
    return all(importlib.util.find_spec(name) is not None for name in ("tiktoken", "regex"))


def prepare() -> None:
    """Have readers keep the text of streams that end without a count, and import `regex`.

    Importing and compiling can't be done in slices: so it is done where a Meter is made, and
    not at the first call that needs it.
    """
    reader_text.keep_text = True
    for pattern in vocabulary.PATTERNS.values():
        compiled(pattern)


def takes(call: ProviderCall) -> bool:
    """Whether a call would be counted: by a vocabulary that we have, its body not too large."""
    return call.input_bytes <= BODY_BYTES_MAX and _OURS.match(call.request_model) is not None


class Counting:
    """One thread that counts, for all Meters of the process."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._is_started = False
        self._lock = threading.Lock()
        self._tokenizers: dict[str, Tokenizer | None] = {}
        self._counted = 0

    def later(self, job: Callable[[], object]) -> bool:
        """Have this done on the thread; False: too much waits, do it here. Safe in finalisers."""
        if self._jobs.qsize() >= PENDING_MAX:
            return False
        self._jobs.put(job)
        return True

    def start(self) -> None:
        """Have the thread ready. Not for finalisers."""
        if self._is_started:
            return
        with self._lock:
            if not self._is_started:
                self._is_started = True
                threading.Thread(target=self._run, name="meterd-count", daemon=True).start()
                atexit.register(self.drain, EXIT_TIMEOUT_S)

    def drain(self, timeout: float) -> bool:
        """Wait until all that waits now is counted."""
        if not self._is_started:
            return True
        done = threading.Event()
        self._jobs.put(done.set)
        self.start()
        return done.wait(timeout)

    def noted(self, make: Callable[[], list[UsageRecord]]) -> list[UsageRecord]:
        """The records that `make` makes on this thread; where they were counted, that is said."""
        self._counted = 0
        records = make()
        if self._counted and records[0].is_estimated:
            note = f"{records[0].note}; {NOTE}" if records[0].note else NOTE
            records[0] = replace(records[0], note=note[:NOTE_CHARACTERS_MAX])
        return records

    def _run(self) -> None:
        estimate.on_this_thread.counter = self
        while True:
            job = self._jobs.get()
            if job is None:
                return
            job()  # a job keeps its own faults
            _let_others_in()

    # What estimate.py asks on the thread; None: not counted here.

    def input_tokens(self, call: ProviderCall, body: bytes) -> int | None:
        """The tokens of a request, exactly as far as its messages go."""
        if not takes(call) or len(body) > BODY_BYTES_MAX:
            return None
        lean, pictures = estimate.without_base64(call, body)
        _let_others_in()
        if lean.count(b",") > COMMAS_MAX:
            return None
        fields = parsed(lean)
        if not isinstance(fields, dict):
            return None
        tokenizer = self._tokenizer(call.request_model)
        if tokenizer is None:
            return None
        self._counted += 1
        return pictures + _input_tokens(fields, tokenizer.count)

    def output_tokens(self, seen: TextSeen, call: ProviderCall) -> int | None:
        """The tokens of the text that passed, where all of it was kept."""
        is_whole = 0 < len(seen.text) < reader_text.TEXT_KEPT_CHARACTERS_MAX
        if not is_whole or not takes(call):
            return None
        tokenizer = self._tokenizer(call.request_model)
        if tokenizer is None:
            return None
        self._counted += 1
        return tokenizer.count(seen.text)

    def _tokenizer(self, model: str) -> Tokenizer | None:
        """The model's tokenizer, made at its first call; None where its file can't be read."""
        name = "cl100k_base" if estimate.is_older(model) else "o200k_base"
        if name not in self._tokenizers:
            self._tokenizers[name] = _made(name)
        return self._tokenizers[name]


def _made(name: str) -> Tokenizer | None:
    try:
        return Tokenizer(vocabulary.PATTERNS[name], vocabulary.tokens(name), _let_others_in)
    except (OSError, ValueError, ImportError, lzma.LZMAError):
        return None  # reckoned then, as without the extra


def _sleep_shortly() -> None:
    time.sleep(0)


_let_others_in: Callable[[], None] = getattr(os, "sched_yield", _sleep_shortly)
"""Gives the interpreter away: without it others wait for 5 ms until they are let in."""


COUNTING = Counting()


def _after_fork_in_child() -> None:
    """What the parent counts is the parent's."""
    global COUNTING
    COUNTING = Counting()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


# A request, as its dialect spells it.


def _input_tokens(fields: dict[str, Any], count: Callable[[str], int]) -> int:
    tokens = 0
    for name in ("messages", "input"):
        turns = fields.get(name)
        if isinstance(turns, list) and turns and isinstance(turns[0], dict):
            tokens += sum(_of_turn(turn, count) for turn in turns if isinstance(turn, dict))
            tokens += estimate.TOKENS_A_REPLY
        elif turns is not None:
            tokens += _of_texts(turns, count)
    for name in ("prompt", "instructions", "suffix"):
        tokens += _of_texts(fields.get(name), count)
    for name in ("tools", "functions"):
        for tool in fields.get(name) or ():
            tokens += count(json.dumps(tool, separators=(",", ":"), ensure_ascii=False))
    return tokens


def _of_texts(value: object, count: Callable[[str], int]) -> int:
    """A text, several of them, or tokens that the app has counted itself."""
    if isinstance(value, str):
        return count(value)
    if isinstance(value, list):
        if value and all(isinstance(item, int) for item in value):
            return len(value)
        return sum(_of_texts(item, count) for item in value)
    return 0


def _of_turn(turn: dict[str, Any], count: Callable[[str], int]) -> int:
    """A message, or an item of the responses API."""
    tokens = 3
    for name in ("role", "name", "arguments", "output", "refusal"):
        if isinstance(turn.get(name), str):
            tokens += count(turn[name])
    if isinstance(turn.get("name"), str) and "role" in turn:
        tokens += 1
    tokens += _of_content(turn.get("content"), count)
    for call in turn.get("tool_calls") or ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            for name in ("name", "arguments"):
                tokens += _of_texts(function.get(name), count)
    return tokens


def _of_content(content: object, count: Callable[[str], int]) -> int:
    if isinstance(content, str):
        return count(content)
    if not isinstance(content, list):
        return 0
    return sum(
        _of_texts(part.get("text") or part.get("refusal"), count)
        for part in content
        if isinstance(part, dict)
    )
