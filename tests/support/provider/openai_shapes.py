"""OpenAI's chat, completions and embeddings, with the flavours of Groq, Mistral and Together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.provider.answer import CREATED, DONE, Answer, Part, document, event, stream

if TYPE_CHECKING:
    from tests.support.provider.asked import Asked


def chat(asked: Asked, ident: str) -> Answer:
    """`/chat/completions`."""
    if asked.is_stream:
        return _chat_stream(asked, ident)
    message: dict[str, Any] = {"role": "assistant", "content": asked.text, "refusal": None}
    body = {
        **_frame(asked, ident, "chat.completion"),
        "choices": [
            {"index": 0, "message": message, "logprobs": None, "finish_reason": _why(asked)}
        ],
        **usage_field(asked),
    }
    if asked.style == "groq":
        body["x_groq"] = {"id": f"req_{ident}"}
    return document(body, asked.counts, response_id=ident, model=asked.model)


def _chat_stream(asked: Asked, ident: str) -> Answer:
    def chunk(delta: dict[str, Any], finish: str | None, tokens: int = 0, **more: Any) -> Part:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        body = {**_frame(asked, ident, "chat.completion.chunk"), "choices": [choice], **more}
        if asked.asks_for_usage and "usage" not in more:
            body["usage"] = None
        return event(body, output_tokens=tokens)

    reasoning = asked.counts.reasoning_tokens
    parts = [chunk({"role": "assistant", "content": ""}, None, reasoning)]
    parts += [chunk({"content": word}, None, 1) for word in asked.words]
    last: dict[str, Any] = {}
    if asked.style == "mistral":
        last = usage_field(asked)  # Mistral's last chunk carries it unasked
    elif asked.style == "groq":
        last = {"x_groq": {"id": f"req_{ident}", **usage_field(asked)}}
    elif asked.style == "together":
        last = usage_field(asked)
    parts.append(chunk({}, _why(asked), **last))
    if asked.asks_for_usage and asked.style not in ("mistral", "together"):
        body = {**_frame(asked, ident, "chat.completion.chunk"), "choices": []}
        parts.append(event({**body, **usage_field(asked)}))
    if "no_done" not in asked.wish:
        parts.append(DONE)
    return stream(parts, asked.counts, response_id=ident, model=asked.model)


def completions(asked: Asked, ident: str) -> Answer:
    """`/completions`, the old one."""
    frame = _frame(asked, ident, "text_completion")
    if not asked.is_stream:
        choice = {"index": 0, "text": asked.text, "logprobs": None, "finish_reason": _why(asked)}
        body = {**frame, "choices": [choice], **usage_field(asked)}
        return document(body, asked.counts, response_id=ident, model=asked.model)
    asks = {"usage": None} if asked.asks_for_usage else {}
    parts = [
        event({**frame, "choices": [_text_choice(word, None)], **asks}, output_tokens=1)
        for word in asked.words
    ]
    parts.append(event({**frame, "choices": [_text_choice("", _why(asked))], **asks}))
    if asked.asks_for_usage:
        parts.append(event({**frame, "choices": [], **usage_field(asked)}))
    if "no_done" not in asked.wish:
        parts.append(DONE)
    return stream(parts, asked.counts, response_id=ident, model=asked.model)


def embeddings(asked: Asked, ident: str) -> Answer:
    """`/embeddings`: small vectors, one an input, as floats or base64 as asked."""
    given = asked.body.get("input", asked.body.get("inputs", ""))
    count = len(given) if isinstance(given, list) and given and isinstance(given[0], str) else 1
    # Eight zero bytes of two float32, since SDKs ask for base64 and decode it themselves.
    vector: object = (
        "AACAPgAAAL8=" if asked.body.get("encoding_format") == "base64" else [0.25, -0.5]
    )
    body = {
        "object": "list",
        "data": [{"object": "embedding", "index": i, "embedding": vector} for i in range(count)],
        "model": asked.model,
        "id": ident,
        **usage_field(asked),
    }
    return document(body, asked.counts, response_id=ident, model=asked.model)


def usage_field(asked: Asked) -> dict[str, Any]:
    """`{"usage": …}` as asked for: nothing, null, zeros or the truth."""
    if "no_usage" in asked.wish:
        return {}
    if "null_usage" in asked.wish:
        return {"usage": None}
    counts = asked.counts
    if "zero_usage" in asked.wish:
        return {"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}
    usage: dict[str, Any] = {"prompt_tokens": counts.input_tokens, "total_tokens": counts.tokens}
    if asked.dialect == "embeddings":
        if asked.style == "mistral":
            usage["completion_tokens"] = 0
        return {"usage": usage}
    usage["completion_tokens"] = counts.output_tokens
    usage["prompt_tokens_details"] = {"cached_tokens": counts.cache_read_tokens}
    if counts.cache_write_tokens:
        usage["prompt_tokens_details"]["cache_write_tokens"] = counts.cache_write_tokens
    usage["completion_tokens_details"] = {"reasoning_tokens": counts.reasoning_tokens}
    return {"usage": usage}


def _text_choice(text: str, finish: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}


def _frame(asked: Asked, ident: str, kind: str) -> dict[str, Any]:
    frame = {"id": ident, "object": kind, "created": CREATED, "model": asked.model}
    if asked.style == "openai":
        frame |= {"service_tier": "default", "system_fingerprint": "fp_loopback"}
    return frame


def _why(asked: Asked) -> str:
    return "length" if asked.is_length_limited else "stop"
