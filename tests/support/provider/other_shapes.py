"""Gemini's generateContent, Cohere's v2, Ollama's NDJSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.provider.answer import DONE, Answer, Part, document, encoded, event, stream

if TYPE_CHECKING:
    from tests.support.provider.asked import Asked


def gemini(asked: Asked, ident: str) -> Answer:
    """`:generateContent` and `:streamGenerateContent`: thoughts stand outside candidates."""

    def chunk(text: str, finish: str = "", tokens: int = 0, *, usage: bool = False) -> Part:
        candidate: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text}]}}
        candidate["index"] = 0
        if finish:
            candidate["finishReason"] = finish
        body: dict[str, Any] = {"candidates": [candidate]}
        if usage:
            body |= _gemini_usage(asked)
        body |= {"modelVersion": asked.model, "responseId": ident}
        return event(body, output_tokens=tokens)

    finish = "MAX_TOKENS" if asked.is_length_limited else "STOP"
    if asked.is_stream:
        first, *rest = asked.words or [""]
        parts = [chunk(first, tokens=asked.counts.reasoning_tokens + 1)]
        parts += [chunk(word, tokens=1) for word in rest]
        parts.append(chunk("", finish, usage=True))
        if asked.query.get("alt") == "sse":
            return stream(
                parts,
                asked.counts,
                response_id=ident,
                model=asked.model,
                content_type="text/event-stream",
            )
        # Without `alt=sse` the same objects come as one JSON array, written piece by piece.
        pieces = [part.data.removeprefix(b"data: ").strip() for part in parts]
        array = [
            Part((b"[" if i == 0 else b",\r\n") + piece, parts[i].output_tokens)
            for i, piece in enumerate(pieces)
        ]
        return stream(
            [*array, Part(b"]")],
            asked.counts,
            response_id=ident,
            model=asked.model,
            content_type="application/json; charset=UTF-8",
        )
    body = {
        "candidates": [
            {
                "content": {"role": "model", "parts": [{"text": asked.text}]},
                "finishReason": finish,
                "index": 0,
            }
        ],
        **_gemini_usage(asked),
        "modelVersion": asked.model,
        "responseId": ident,
    }
    return document(body, asked.counts, response_id=ident, model=asked.model)


def _gemini_usage(asked: Asked) -> dict[str, Any]:
    counts = asked.counts
    if "no_usage" in asked.wish or "null_usage" in asked.wish:
        return {}
    if "zero_usage" in asked.wish:
        return {"usageMetadata": {"promptTokenCount": 0, "totalTokenCount": 0}}
    usage = {
        "promptTokenCount": counts.input_tokens,
        "candidatesTokenCount": counts.output_tokens - counts.reasoning_tokens,
        "totalTokenCount": counts.tokens,
    }
    if counts.cache_read_tokens:
        usage["cachedContentTokenCount"] = counts.cache_read_tokens
    if counts.reasoning_tokens:
        usage["thoughtsTokenCount"] = counts.reasoning_tokens
    return {"usageMetadata": usage}


def cohere(asked: Asked, ident: str) -> Answer:
    """`/v2/chat`: billed units, as floats; a named event a step."""
    finish = "MAX_TOKENS" if asked.is_length_limited else "COMPLETE"
    if not asked.is_stream:
        body = {
            "id": ident,
            "finish_reason": finish,
            "message": {"role": "assistant", "content": [{"type": "text", "text": asked.text}]},
            **_cohere_usage(asked),
        }
        return document(body, asked.counts, response_id=ident, model=asked.model)
    start = {"message": {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": []}}
    block = {"message": {"content": {"type": "text", "text": ""}}}
    parts = [
        event({"id": ident, "type": "message-start", "delta": start}, "message-start"),
        event({"type": "content-start", "index": 0, "delta": block}, "content-start"),
    ]
    for word in asked.words:
        delta = {"message": {"content": {"text": word}}}
        parts.append(
            event({"type": "content-delta", "index": 0, "delta": delta}, "content-delta", 1)
        )
    parts.append(event({"type": "content-end", "index": 0}, "content-end"))
    end = {"finish_reason": finish, **_cohere_usage(asked)}
    parts.append(event({"id": ident, "type": "message-end", "delta": end}, "message-end"))
    if "no_done" not in asked.wish:
        parts.append(DONE)
    return stream(parts, asked.counts, response_id=ident, model=asked.model)


def cohere_embed(asked: Asked, ident: str) -> Answer:
    """`/v2/embed` and `/v2/rerank`: `meta.billed_units`."""
    billed: dict[str, float] = {"input_tokens": float(asked.counts.input_tokens)}
    body: dict[str, Any] = {"id": ident}
    if asked.dialect == "cohere_embed":
        texts = asked.body.get("texts") or [""]
        body |= {"embeddings": {"float": [[0.25, -0.5] for _ in texts]}, "texts": texts}
    else:
        body["results"] = [{"index": 0, "relevance_score": 0.5}]
        billed["search_units"] = 1.0
    body["meta"] = {"api_version": {"version": "2"}, "billed_units": billed}
    return document(body, asked.counts, response_id=ident, model=asked.model)


def _cohere_usage(asked: Asked) -> dict[str, Any]:
    if "no_usage" in asked.wish or "null_usage" in asked.wish:
        return {}
    counts = asked.counts
    billed = {
        "input_tokens": float(counts.input_tokens),
        "output_tokens": float(counts.output_tokens),
    }
    # What the model saw is more than what is billed: a reader must not take it.
    seen = {
        "input_tokens": float(counts.input_tokens + 64),
        "output_tokens": float(counts.output_tokens),
    }
    return {"usage": {"billed_units": billed, "tokens": seen}}


def ollama(asked: Asked, ident: str) -> Answer:
    """`/api/chat`, `/api/generate`, `/api/embed`: counts at the top level of the last line."""
    del ident  # Ollama has none
    if asked.dialect == "ollama_embed":
        body = {
            "model": asked.model,
            "embeddings": [[0.25, -0.5]],
            "total_duration": 1,
            "load_duration": 1,
            "prompt_eval_count": asked.counts.input_tokens,
        }
        return document(body, asked.counts, model=asked.model)

    def line(text: str, tokens: int, **more: Any) -> Part:
        reply: dict[str, Any] = (
            {"message": {"role": "assistant", "content": text}}
            if asked.dialect == "ollama_chat"
            else {"response": text}
        )
        frame = {"model": asked.model, "created_at": "2025-11-24T12:00:00Z", **reply}
        return Part(encoded({**frame, "done": False, **more}) + b"\n", tokens)

    end: dict[str, Any] = {
        "done": True,
        "done_reason": "length" if asked.is_length_limited else "stop",
        "total_duration": 1,
        "load_duration": 1,
        "prompt_eval_duration": 1,
        "eval_duration": 1,
    }
    if "no_usage" not in asked.wish:
        end["prompt_eval_count"] = asked.counts.input_tokens
        end["eval_count"] = asked.counts.output_tokens
    if asked.is_stream:
        parts = [line(word, 1) for word in asked.words]
        parts.append(line("", asked.counts.reasoning_tokens, **end))
        return stream(parts, asked.counts, model=asked.model, content_type="application/x-ndjson")
    whole = line(asked.text, asked.counts.output_tokens, **end)
    return Answer([whole], counts=asked.counts, model=asked.model)
