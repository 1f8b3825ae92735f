"""Asking for usage on the app's behalf, and taking out again what that adds.

    body ──ask()──▶ body with stream_options.include_usage     spliced in, all else untouched
    chunks ──UsageHider.feed()──▶ the bytes the app would have got without

Asking adds one event before `[DONE]`, with empty `choices` and an object `usage`, and puts
`"usage":null` on every other event. Both are taken out, the event with its blank line; what
else an event without choices may carry (Azure's content filter, moderation) stays. Together
and Fireworks have the null on their events unasked, so there it stays.

Nothing is asked where a host states usage anyway (Groq, xAI, DeepSeek, OpenRouter).

Sources: openai 3.57 types/chat/chat_completion_stream_options_param.py; DeepSeek's and
OpenRouter's references; vercel/ai#16087 (Fireworks) and #17986 (Together), November 2026.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meterd_middleware.request import ProviderCall

HELD_BYTES_MAX = 2**20
"""Of an event that doesn't end, how much is held back before it is passed on as it is."""

OPTIONS_BYTES_MAX = 256 * 1024
"""Of a body that names stream options already, how much is parsed."""

_ASKED = b'"stream_options":{"include_usage":true}'


def ask(call: ProviderCall, body: bytes, hosts: Iterable[str] = ()) -> bytes | None:
    """The request's body with usage asked for; None: send it as it is.

    Args:
        hosts: hosts that take it beside those that are known to.
    """
    if not call.is_stream or call.is_signed or call.dialect not in ("oa.chat", "oa.completions"):
        return None
    if not call.takes_include_usage and call.host not in hosts:
        return None
    if _has_options(body):
        # A body of megabytes isn't parsed while the app waits: its usage is estimated.
        return _into_options(body) if len(body) <= OPTIONS_BYTES_MAX else None
    end = body.rstrip()
    if not end.endswith(b"}") or not end.startswith(b"{"):
        return None
    return b"".join((memoryview(end)[:-1], b",", _ASKED, b"}"))  # it has `stream` at least


_OPTIONS = b'"stream_options"'


def _has_options(body: bytes) -> bool:
    """Whether the name stands in the body.

    A single byte is searched ten times as fast as a name, and few texts and no base64 hold
    underscores; those that do are searched for the name.
    """
    at = -1
    for _ in range(1000):
        at = body.find(b"_", at + 1)
        if at < 0:
            return False
        if body.startswith(_OPTIONS, max(at - 7, 0)):
            return True
    return body.find(_OPTIONS, at) >= 0


def _into_options(body: bytes) -> bytes | None:
    """Splice it into options that the app set, keeping them; null options are replaced.

    Where the app set it itself, to true or to false, it is the app's business.
    """
    parsed = _parsed(body)
    if parsed is None:
        return None
    if "stream_options" not in parsed:  # it stood in a text
        return body.rstrip()[:-1] + b"," + _ASKED + b"}"
    options = parsed["stream_options"]
    if options is None:
        replaced = _NULL_OPTIONS.subn(_ASKED, body, count=1)
        return replaced[0] if _same_but_for_options(replaced[0], parsed) else None
    if not isinstance(options, dict) or "include_usage" in options:
        return None
    for found in _OPTIONS_START.finditer(body):
        comma = b"," if options else b""
        spliced = body[: found.end()] + b'"include_usage":true' + comma + body[found.end() :]
        if _same_but_for_options(spliced, parsed):
            return spliced
    return None


_OPTIONS_START = re.compile(rb'"stream_options"\s*:\s*\{')
_NULL_OPTIONS = re.compile(rb'"stream_options"\s*:\s*null')


def _same_but_for_options(spliced: bytes, before: dict[str, object]) -> bool:
    """Whether a splice hit the options themselves and not a text that looks like them."""
    after = _parsed(spliced)
    if after is None:
        return False
    options = after.pop("stream_options", None)
    rest = {name: value for name, value in before.items() if name != "stream_options"}
    return isinstance(options, dict) and options.get("include_usage") is True and after == rest


def _parsed(body: bytes) -> dict[str, object] | None:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_NULL_USAGE = re.compile(rb',\s*"usage"\s*:\s*null|"usage"\s*:\s*null\s*,\s*')


class UsageHider:
    """Takes out of a stream what asking for usage added; all other bytes pass at once.

    An event is held back only while it isn't whole, since only a whole one can be judged.
    """

    __slots__ = ("_held", "_held_bytes", "_is_done", "_keeps_null", "_seam")

    def __init__(self, provider: str = "") -> None:
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._seam = b""  # the end of what is held, into which a blank line may reach
        self._is_done = False
        self._keeps_null = provider in _NULL_UNASKED

    def feed(self, chunk: bytes) -> bytes:
        """What of these bytes, and of those held back, the app would have got."""
        if self._is_done:
            return chunk
        is_one_event = chunk.find(b"\n\n") == len(chunk) - 2 > 0 and b"\r" not in chunk
        if is_one_event and not self._held:
            if not self._keeps_null and chunk.endswith(_NULL_AT_END):
                return chunk[: -len(_NULL_AT_END)] + b"}\n\n"
            if b'"usage"' not in chunk:
                return chunk
        searched = self._seam + chunk
        ends = [found.end() for found in _EVENT_END.finditer(searched)]
        if not ends:
            return self._hold(chunk, searched)
        offset = self._held_bytes - len(self._seam)
        data = b"".join((*self._held, chunk))
        passed = []
        start = 0
        for end in ends:
            passed.append(self._without_usage(data[start : offset + end]))
            start = offset + end
        rest = data[start:]
        self._held, self._held_bytes, self._seam = ([rest] if rest else []), len(rest), rest[-3:]
        if self._held_bytes > HELD_BYTES_MAX:
            passed.append(self._give_up())
        return b"".join(passed)

    def _hold(self, chunk: bytes, searched: bytes) -> bytes:
        if chunk:
            self._held.append(chunk)
            self._held_bytes += len(chunk)
            self._seam = searched[-3:]
        return self._give_up() if self._held_bytes > HELD_BYTES_MAX else b""

    def _give_up(self) -> bytes:
        """An event too long to hold passes as it is, and with it all that follows."""
        self._is_done = True
        rest, self._held = b"".join(self._held), []
        return rest

    def finish(self) -> bytes:
        """What is still held back when the stream ends."""
        rest, self._held = b"".join(self._held), []
        return self._without_usage(rest) if rest else b""

    def _without_usage(self, event: bytes) -> bytes:
        return event if b'"usage"' not in event else _without_usage(event, self._keeps_null)


_NULL_UNASKED = frozenset({"together", "fireworks"})


def _without_usage(event: bytes, keeps_null: bool) -> bytes:
    """An event as it would have been; nothing of it where it wouldn't have been."""
    at = event.find(b'"usage"')
    if found := _PLAIN_NULL.match(event, at):
        if keeps_null:
            return event
        comma = event.rfind(b",", 0, at)
        if comma > 0 and not event[comma + 1 : at].strip():
            return event[:comma] + event[found.end() :]
    data = _data_of(event)
    if data is None:
        return event
    usage = data.get("usage", "absent")
    if isinstance(usage, dict):
        return b"" if _is_added(data) else event
    if usage is None and not keeps_null:
        return _without_null(event, data)
    return event


_NULL_AT_END = b',"usage":null}\n\n'
"""As OpenAI ends each event: the brace behind it is the last, so it stands at the top."""

_PLAIN_NULL = re.compile(
    rb'"usage"\s*:\s*null(?=(?:\s*,\s*"[a-z_]+"\s*:\s*(?:"[^"\\]*"|null|\d+))*\s*\}\s*$)'
)
"""A null usage with nothing but short fields behind it: at the top for sure, without parsing."""

_DATA_LINE = re.compile(rb"^data: ?(.*?)\r?$", re.MULTILINE)
_ENVELOPE = frozenset(
    {"id", "object", "created", "model", "choices", "usage", "service_tier", "system_fingerprint",
     "obfuscation", "provider", "x_groq", "timings", "prompt_token_ids", "nvext"}
)  # fmt: skip


def _data_of(event: bytes) -> dict[str, object] | None:
    return _parsed(b"\n".join(_DATA_LINE.findall(event)))


def _is_added(data: dict[str, object]) -> bool:
    """Whether the event is the one that asking added: no choices and no content of its own."""
    return not data.get("choices") and all(
        name in _ENVELOPE or not value for name, value in data.items()
    )


def _without_null(event: bytes, data: dict[str, object]) -> bytes:
    """The event without its `"usage":null`, where that can be cut out without a doubt."""
    without = {name: value for name, value in data.items() if name != "usage"}
    for found in _NULL_USAGE.finditer(event):
        cut = event[: found.start()] + event[found.end() :]
        if _data_of(cut) == without:
            return cut
    return event
