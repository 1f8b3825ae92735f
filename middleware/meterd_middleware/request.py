"""What a request says before it is sent: dialect, model, how long the reply may be, its size.

    method, host, path, headers, body ──read_request()──▶ ProviderCall | None

None is not an LLM call: it passes untouched and makes no record. Bodies up to 256 KiB are
parsed; of larger ones the few fields are looked for at both ends and around the model, so that
a body of many megabytes holds nobody up.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from meterd_middleware.readers.parsing import loads
from meterd_middleware.readers.recognise import (
    Host,
    Route,
    body_speaks,
    host_of,
    provider_of,
    route_at,
    route_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

BODY_PARSED_BYTES_MAX = 256 * 1024
MODEL_CHARACTERS_MAX = 200
SCANNED_BYTES_MAX = 4096
"""Of a larger body, how much of each end is searched for its fields."""


class ProviderCall(NamedTuple):
    """One request to a provider, as far as metering needs to know it.

    A named tuple: one is made for every call, and a frozen dataclass takes three times as long.
    """

    dialect: str
    provider: str
    """OpenTelemetry's `gen_ai.provider.name`."""
    operation: str
    """OpenTelemetry's `gen_ai.operation.name`."""
    request_model: str
    is_stream: bool
    max_output_tokens: int | None
    """The ceiling that the request sets; None: none."""
    input_bytes: int
    is_signed: bool
    """Signed over headers and body (AWS SigV4): nothing of it may be changed."""
    host: str
    path: str
    refusal_shape: str
    """The row of refusal.py's table that this dialect's 429 has."""
    chain_id: str = ""
    """A response or conversation whose history the provider keeps; empty: none."""
    poll_id: str = ""
    """A background response that is asked for again, or cancelled; empty: a new call."""
    takes_include_usage: bool = False
    """The host and api-version are known to accept `stream_options.include_usage`."""
    has_body: bool = True
    """Whether the body was in memory to be read."""


def read_request(
    method: str,
    host: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    body: bytes | None,
) -> ProviderCall | None:
    """What a request says; None where it isn't an LLM call. Never raises.

    Args:
        host: lower case, without port.
        path: percent-decoded, without query.
        headers: names in lower case.
        body: None where it isn't in memory (a generator, multipart): then the path alone
            decides, and only on a host that is known or a path that is telling.
    """
    target = _target(method, host, path)
    if target is None:
        return None
    route, known, provider, refusal_shape = target
    if route.poll_id:
        return _polling(route, host, path, known, headers)
    fields = _fields(body, headers.get("content-type", ""))
    if (known is None or fields is None) and not _is_ours(route, known, fields):
        return None
    given = _NO_FIELDS if fields is None else fields
    model = given.get("model")
    # Most bodies have none of what the functions below look for, and one step sees it.
    has_ceiling = not _CEILING_FIELDS.isdisjoint(given)
    has_chain = not _CHAIN_FIELDS.isdisjoint(given)
    dialect = route.dialect
    length = headers.get("content-length", "")
    return ProviderCall(  # in the order of its fields: by name it takes half as long again
        dialect,
        provider,
        route.operation,
        model[:MODEL_CHARACTERS_MAX]
        if isinstance(model, str) and model
        else _model_elsewhere(route, given),
        route.is_stream
        or given.get("stream") is True
        or (dialect == "ollama" and _streams_anyway(route, given)),
        _max_output_tokens(given) if has_ceiling else None,
        (int(length) if length.isdecimal() and len(length) < 12 else 0) or len(body or b""),
        _is_signed(headers),
        host,
        path,
        refusal_shape,
        _chain_id(given) if has_chain else "",
        "",
        _takes_include_usage(route, known, query, given) if dialect in _ASKED_FOR_USAGE else False,
        body is not None,
    )


_NO_FIELDS: dict[str, object] = {}


@lru_cache(maxsize=1024)
def _target(method: str, host: str, path: str) -> tuple[Route, Host | None, str, str] | None:
    """What method, host and path say: an app sends all it sends to the same few."""
    route = route_of(method, path)
    if route is None:
        return None
    known = host_of(host, path)
    route = route_at(route, known)
    provider = provider_of(route.dialect, known)
    if route.only and (known is None or route.only != provider):
        return None
    return route, known, provider, _refusal_shape(route, known, path)


def history_bytes(call: ProviderCall, body: bytes) -> int | None:
    """Bytes of the turns before the last three exchanges; None where a body isn't looked at.

    An exchange is a user's turn and what answered it. The system prompt and tools are no
    history. Bodies over 256 KiB are left alone.
    """
    if len(body) > BODY_PARSED_BYTES_MAX:
        return None
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return None
    turns = _turns(parsed)
    if turns is None:
        return None
    starts = [index for index, turn in enumerate(turns) if turn.get("role") == "user"]
    if len(starts) <= _EXCHANGES_KEPT:
        return 0
    old = turns[: starts[-_EXCHANGES_KEPT]]
    old = [turn for turn in old if turn.get("role") not in ("system", "developer")]
    return len(json.dumps(old, ensure_ascii=False, separators=(",", ":")).encode()) if old else 0


_EXCHANGES_KEPT = 3


def _turns(parsed: object) -> list[dict[str, object]] | None:
    if not isinstance(parsed, dict):
        return None
    for name in ("messages", "contents", "input"):
        turns = parsed.get(name)
        if isinstance(turns, list):
            return [turn for turn in turns if isinstance(turn, dict)]
    return None


def _polling(
    route: Route, host: str, path: str, known: Host | None, headers: Mapping[str, str]
) -> ProviderCall | None:
    if route.is_free_form and known is None:
        return None
    return ProviderCall(
        dialect=route.dialect,
        provider=provider_of(route.dialect, known),
        operation=route.operation,
        request_model="",
        is_stream=False,
        max_output_tokens=None,
        input_bytes=0,
        is_signed=_is_signed(headers),
        host=host,
        path=path,
        refusal_shape=_refusal_shape(route, known, path),
        poll_id=route.poll_id,
    )


def _is_ours(route: Route, known: Host | None, fields: dict[str, object] | None) -> bool:
    if fields is None:  # unread, or no JSON: multipart uploads of known paths are ours
        return known is not None or not route.is_free_form
    return known is not None or body_speaks(route, fields)


def _fields(body: bytes | None, content_type: str) -> dict[str, object] | None:
    """The top-level fields of a JSON body; None where it is no JSON object we can read."""
    if body is None:
        return None
    if content_type.startswith("multipart/"):
        return _form_fields(body)
    if len(body) > BODY_PARSED_BYTES_MAX:
        return _scanned(body)
    try:
        parsed = loads(body)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


_FORM_FIELD = re.compile(
    rb'name="(model|stream)"(?:\r?\nContent-[^\r\n]*)*\r?\n\r?\n([^\r\n]{1,200})\r?\n',
    re.IGNORECASE,
)


def _form_fields(body: bytes) -> dict[str, object]:
    """Model and stream of a multipart form; its files are never looked at."""
    fields: dict[str, object] = {}
    ends = (body[:SCANNED_BYTES_MAX], body[-SCANNED_BYTES_MAX:])
    for name, value in (found for end in ends for found in _FORM_FIELD.findall(end)):
        text = value.decode("utf-8", "replace")
        fields[name.decode()] = text == "true" if name == b"stream" else text
    return fields


_STRING_FIELD = re.compile(rb'"(model|previous_response_id|service_tier)"\s*:\s*"([^"\\]{1,200})"')
_FLAG_FIELD = re.compile(rb'"(stream|background)"\s*:\s*(true|false)')
_NUMBER_FIELD = re.compile(
    rb'"(max_tokens|max_completion_tokens|max_output_tokens)"\s*:\s*(\d{1,9})\b'
)
_PRESENT = (b'"messages"', b'"input"', b'"prompt"', b'"contents"', b'"texts"', b'"images"')


def _scanned(body: bytes) -> dict[str, object]:
    """The fields of a large body: of its two ends, and of what stands around its model.

    SDKs put the short fields before, between and behind the long ones (messages, tools).
    """
    head, tail = body[:SCANNED_BYTES_MAX], body[-SCANNED_BYTES_MAX:]
    fields: dict[str, object] = {
        name.strip(b'"').decode(): True for name in _PRESENT if name in head or name in tail
    }
    middle = b"" if _MODEL_FIELD.search(head) else _around_model(body)
    for window in (tail, middle, head):  # what stands earlier wins
        for name, text in reversed(_STRING_FIELD.findall(window)):
            fields[name.decode()] = text.decode("utf-8", "replace")
        for name, flag in reversed(_FLAG_FIELD.findall(window)):
            fields[name.decode()] = flag == b"true"
        for name, number in reversed(_NUMBER_FIELD.findall(window)):
            fields[name.decode()] = int(number)
    return fields


_MODEL_FIELD = re.compile(rb'"model"\s*:\s*"')
_MODELS_TRIED_MAX = 8


def _around_model(body: bytes) -> bytes:
    """What begins at the model's field: one behind a list (the messages), else the last one.

    In a text its quotes would be escaped, so what is found is a field; but a tool may have
    one of that name too, and tools stand last.
    """
    best, end = -1, len(body)
    for _ in range(_MODELS_TRIED_MAX):
        at = body.rfind(b'"model"', 0, end)
        if at < 0:
            break
        if _MODEL_FIELD.match(body, at):
            best = max(best, at)
            if body[max(at - 64, 0) : at].rstrip().removesuffix(b",").rstrip().endswith(b"]"):
                best = at
                break
        end = at
    return body[best : best + SCANNED_BYTES_MAX] if best >= 0 else b""


def _model_elsewhere(route: Route, fields: dict[str, object]) -> str:
    """The model asked for where the body names none: the URL's, else Mistral's agent."""
    for value in (route.url_model, *(fields.get(name) for name in _MODEL_FIELDS)):
        if isinstance(value, str) and value:
            return value[:MODEL_CHARACTERS_MAX]
    return ""


_MODEL_FIELDS = ("agent", "agent_id", "model_id")
"""Interactions' agents, Mistral's agents, watsonx."""


def _streams_anyway(route: Route, fields: dict[str, object]) -> bool:
    """Ollama's own face streams unless told not to."""
    return route.operation != "embeddings" and fields.get("stream") is not False


_CEILINGS = ("max_completion_tokens", "max_output_tokens", "max_tokens", "max_tokens_to_sample")


def _max_output_tokens(fields: dict[str, object]) -> int | None:
    """The largest reply the request allows, for all its choices together."""
    ceiling = _first_count(fields, _CEILINGS)
    if ceiling is None:
        for name, key in _NESTED_CEILINGS:
            nested = fields.get(name)
            if isinstance(nested, dict) and (found := _count(nested.get(key))) is not None:
                ceiling = found
                break
    if ceiling is None:
        return None
    choices = _count(fields.get("n")) or 1
    return ceiling * min(choices, 128)


_NESTED_CEILINGS = (
    ("generationConfig", "maxOutputTokens"),
    ("generation_config", "max_output_tokens"),
    ("inferenceConfig", "maxTokens"),
    ("options", "num_predict"),
)
_CEILING_FIELDS = frozenset({*_CEILINGS, *(name for name, _ in _NESTED_CEILINGS)})


def _first_count(fields: dict[str, object], names: tuple[str, ...]) -> int | None:
    for name in names:
        if (found := _count(fields.get(name))) is not None:
            return found
    return None


def _count(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**40:
        return value
    return None


_CHAIN_NAMES = ("previous_response_id", "conversation", "previous_interaction_id", "thread_id")
_CHAIN_FIELDS = frozenset(_CHAIN_NAMES)


def _chain_id(fields: dict[str, object]) -> str:
    """What names the history that the provider keeps."""
    for name in _CHAIN_NAMES:
        value = fields.get(name)
        if isinstance(value, dict):
            value = value.get("id")
        if isinstance(value, str) and value:
            return value[:200]
    return ""


def _is_signed(headers: Mapping[str, str]) -> bool:
    return headers.get("authorization", "").startswith("AWS4-HMAC-SHA256") or (
        "x-amz-signature" in headers
    )


_SHAPES = {
    "an.messages": "anthropic",
    "an.complete": "anthropic",
    "mistral.conversations": "mistral",
    "gemini": "gemini",
    "vertex.predict": "gemini",
    "gg.interactions": "interactions",
    "bedrock.invoke": "bedrock",
    "bedrock.converse": "bedrock",
    "cohere": "cohere",
    "ollama": "ollama",
}
_SHAPES_OF_PROVIDERS = {"mistral_ai": "mistral"}


def _refusal_shape(route: Route, known: Host | None, path: str) -> str:
    shape = _SHAPES.get(route.dialect)
    if shape is not None:
        return shape
    if path.endswith(("/fim/completions", "/agents/completions")):
        return "mistral"
    return _SHAPES_OF_PROVIDERS.get(known.provider, "openai") if known else "openai"


_AZURE_PREVIEW_SINCE = "2024-09-01-preview"
_AZURE_STABLE_SINCE = "2024-10-21"
_API_VERSION = re.compile(r"(?:^|&)api-version=([^&]*)")


_ASKED_FOR_USAGE = frozenset({"oa.chat", "oa.completions"})


def _takes_include_usage(
    route: Route, known: Host | None, query: str, fields: dict[str, object]
) -> bool:
    """Whether asking for usage is known to be taken by this host and api-version.

    Azure OpenAI since 2024-09-01-preview and 2024-10-21; never with `data_sources`, which it
    answers with 400.
    """
    if known is None or not known.takes_include_usage or "data_sources" in fields:
        return False
    if known.provider != "azure.ai.openai":
        return True
    matched = _API_VERSION.search(query)
    if matched is None:
        return True  # the /openai/v1 face has no api-version and is newer than all
    version = matched[1]
    since = _AZURE_PREVIEW_SINCE if version.endswith("preview") else _AZURE_STABLE_SINCE
    return version >= since or version in ("latest", "preview", "v1")
