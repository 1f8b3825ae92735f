"""What a request asks for: dialect, model, stream, wishes; and what the answer will cost.

Wishes (`name=value`, a bare name means 1):

| wish | what happens |
|---|---|
| `status=429` | the dialect's error body with that status; `times=1`: only the first so many |
| `error=2` | an error inside the 200: after 2 chunks of a stream, or in place of a JSON body |
| `cut=2` | the connection dies after 2 chunks (JSON: in its middle); `cut=0`: before the head |
| `hold=2` | after 2 chunks (a JSON body: before it) wait until `provider.release()` |
| `delay_ms=5`, `wait_ms=20` | between chunks; before the head |
| `encoding=gzip` | gzip, deflate, br or zstd if accepted; `force_encoding=`: regardless |
| `no_done` | leave out the terminal `[DONE]` |
| `refuse_usage` | 400 to a request with `stream_options.include_usage`, as some hosts do |
| `no_usage`, `zero_usage`, `null_usage` | report none, zeros, null; the ledger keeps the truth |
| `pieces=7` | write the body in pieces of 7 bytes, cut anywhere |
| `html`, `empty` | an HTML page, or nothing, with a 200 |
| `input=`, `output=`, `cached=`, `written=`, `written_long=`, `reasoning=` | exact counts |
| `polls=2` | a background response is done at the 2nd GET |
| `fixed_ids` | ids follow from the request alone, so that two answers are the same bytes |
"""

from __future__ import annotations

import hashlib
import json
import re
import urllib.parse
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.support.provider.ledger import Counts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WORDS = (
    "quota", "ledger", "client", "tally", "invoice", "margin", "budget", "meter", "signal",
    "answer", "account", "window", "summary", "project", "retainer", "figure", "detail",
    "report", "launch", "campaign", "draft", "outline", "lead", "score",
)  # fmt: skip

_PROMPT_KEYS = (
    "messages", "input", "prompt", "contents", "system", "instructions", "system_instruction",
    "systemInstruction", "texts", "inputs", "query", "documents", "suffix", "content", "requests",
)  # fmt: skip

_DIALECTS: tuple[tuple[str, str], ...] = (
    (r"/chat/completions$", "chat"),
    (r"/fim/completions$", "completions"),
    (r"(?<!/chat)/completions$", "completions"),
    (r"/responses(/compact)?$", "responses"),
    (r"/v2/chat$", "cohere"),
    (r"/v2/embed$", "cohere_embed"),
    (r"/v2/rerank$", "cohere_rerank"),
    (r"/embeddings$", "embeddings"),
    (r"/v1/messages$", "messages"),
    (r"/models/[^/]+:(generateContent|streamGenerateContent)$", "gemini"),
    (r"/api/chat$", "ollama_chat"),
    (r"/api/generate$", "ollama_generate"),
    (r"/api/embed$", "ollama_embed"),
)
_FREE = (
    (r"/v1/messages/count_tokens$", "count_tokens"),
    (r":countTokens$", "count_tokens"),
    (r"/responses/input_tokens$", "count_tokens"),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, read."""

    dialect: str
    """"chat", "messages", …; "count_tokens" is free; "" is no LLM call."""
    style: str
    """Whose flavour of a shared dialect: the first path segment if it names one, else openai."""
    model: str
    is_stream: bool
    body: Mapping[str, Any]
    wish: Mapping[str, str]
    counts: Counts
    digest: str
    """Of what decides the answer: the same request has the same."""
    is_length_limited: bool = False
    query: Mapping[str, str] = field(default_factory=dict)

    def wish_int(self, name: str) -> int | None:
        """The number a wish carries, None if it wasn't made."""
        return int(self.wish[name]) if name in self.wish else None

    @property
    def words(self) -> list[str]:
        """The reply, one word a token: what is output and not reasoning."""
        seed = int(self.digest[:8], 16)
        count = self.counts.output_tokens - self.counts.reasoning_tokens
        return [f"{WORDS[(seed + 7 * i) % len(WORDS)]} " for i in range(count)]

    @property
    def text(self) -> str:
        """The reply in one piece."""
        return "".join(self.words)

    @property
    def asks_for_usage(self) -> bool:
        """`stream_options.include_usage`."""
        return bool((self.body.get("stream_options") or {}).get("include_usage"))


def read(
    method: str, target: str, headers: Mapping[str, str], body: bytes, common_wish: str
) -> Asked:
    """Read a request; `common_wish` is the weakest of its wishes."""
    url = urllib.parse.urlsplit(target)
    path = urllib.parse.unquote(url.path)
    query = dict(urllib.parse.parse_qsl(url.query))
    fields = _fields(body)
    dialect = _dialect(method, path)
    model, at, model_wish = _requested_model(path, fields).partition("@")
    del at
    wish = {
        **parse_wish(common_wish),
        **parse_wish(model_wish.replace("+", ",")),
        **parse_wish(str(fields.get("provider_do") or "")),
        **parse_wish(headers.get("x-provider-do", "")),
    }
    prompt = " ".join(_strings({k: fields[k] for k in _PROMPT_KEYS if k in fields}))
    digest = hashlib.sha256(f"{dialect}\n{model}\n{prompt}".encode()).hexdigest()
    counts, is_limited = _counts(dialect, model, prompt, fields, wish, digest)
    is_stream = bool(fields.get("stream", dialect.startswith("ollama_") and "embed" not in dialect))
    return Asked(
        dialect=dialect,
        style=_style(path),
        model=model,
        is_stream=is_stream or ":streamGenerateContent" in path,
        body=fields,
        wish=wish,
        counts=counts,
        digest=digest,
        is_length_limited=is_limited,
        query=query,
    )


def parse_wish(text: str) -> dict[str, str]:
    """`"cut=2, no_done"` → `{"cut": "2", "no_done": "1"}`."""
    parts = (part.strip().partition("=") for part in text.split(",") if part.strip())
    return {name.strip(): value.strip() or "1" for name, _, value in parts}


def _fields(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body or b"{}")
    except ValueError:
        # A multipart form: of its fields the model alone matters here.
        found = re.search(rb'name="model"\r\n\r\n([^\r]+)', body)
        return {"model": found.group(1).decode()} if found else {}
    return parsed if isinstance(parsed, dict) else {}


def _dialect(method: str, path: str) -> str:
    if method != "POST":
        return ""
    for pattern, dialect in (*_FREE, *_DIALECTS):
        if re.search(pattern, path):
            return dialect
    return ""


def _style(path: str) -> str:
    first = path.strip("/").partition("/")[0]
    return first if first in ("groq", "mistral", "together", "hf") else "openai"


def _requested_model(path: str, fields: Mapping[str, Any]) -> str:
    in_path = re.search(r"/models/([^/:]+):", path)
    return in_path.group(1) if in_path else str(fields.get("model") or "")


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            # Images and audio are counted by no word.
            if key not in ("data", "url", "type", "role", "id"):
                yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)


def _counts(
    dialect: str,
    model: str,
    prompt: str,
    fields: Mapping[str, Any],
    wish: Mapping[str, str],
    digest: str,
) -> tuple[Counts, bool]:
    """What the answer costs, and whether the reply was cut at the caller's maximum."""
    if not dialect or dialect == "count_tokens":
        return Counts(), False

    def wished(name: str, otherwise: int) -> int:
        return int(wish.get(name, otherwise))

    roll = int(digest[8:16], 16)
    input_tokens = wished("input", 3 + len(prompt.split()))
    if "embed" in dialect or dialect == "cohere_rerank":
        return Counts(input_tokens=input_tokens), False
    thinks = bool(re.match(r"o\d|gpt-[5-9]|gemini-[23]\.?5?-pro|.*(think|deepseek-r)", model))
    reasoning = wished("reasoning", 5 + roll % 17 if thinks else 0)
    output = wished("output", 6 + roll % 41 + reasoning)
    ceiling = _output_ceiling(fields)
    is_limited = ceiling is not None and output > ceiling and "output" not in wish
    if ceiling is not None and is_limited:
        output = ceiling
    caches = dialect in ("chat", "responses", "messages", "gemini")
    cached = wished("cached", input_tokens // 3 if caches and roll % 3 == 0 else 0)
    written = wished("written", input_tokens // 5 if dialect == "messages" and roll % 2 else 0)
    return (
        Counts(
            input_tokens=max(input_tokens, cached + written),
            cache_read_tokens=cached,
            cache_write_tokens=written,
            cache_write_long_tokens=min(written, wished("written_long", 0)),
            output_tokens=max(output, 1),
            reasoning_tokens=min(reasoning, max(output, 1)),
        ),
        is_limited,
    )


def _output_ceiling(fields: Mapping[str, Any]) -> int | None:
    nested = fields.get("generationConfig") or fields.get("options") or {}
    for value in (
        fields.get("max_tokens"),
        fields.get("max_completion_tokens"),
        fields.get("max_output_tokens"),
        nested.get("maxOutputTokens"),
        nested.get("num_predict"),
    ):
        if isinstance(value, int) and value > 0:
            return value
    return None
