"""Errors in each dialect's own shape, as a status or inside a 200."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.provider.answer import Answer, Part, encoded, event

if TYPE_CHECKING:
    from tests.support.provider.asked import Asked

MESSAGE = "the loopback provider was asked to fail"


def error_answer(asked: Asked, status: int) -> Answer:
    """The dialect's body for a status."""
    headers = {"retry-after": "0"} if status in (429, 503) else {}
    return Answer([Part(encoded(_body(asked, status)))], status=status, headers=headers)


def error_event(asked: Asked) -> Part:
    """The error a stream breaks off with."""
    if asked.dialect == "messages":
        return event(_body(asked, 529), "error")
    if asked.dialect == "responses":
        return event(
            {
                "type": "error",
                "code": "server_error",
                "message": MESSAGE,
                "param": None,
                "sequence_number": 99,
            },
            "error",
        )
    if asked.dialect == "cohere":
        delta = {"finish_reason": "ERROR", "error": MESSAGE}
        return event({"type": "message-end", "delta": delta}, "message-end")
    if asked.dialect.startswith("ollama"):
        return Part(encoded({"error": MESSAGE}) + b"\n")
    return event(_body(asked, 500))


def _body(asked: Asked, status: int) -> dict[str, Any]:
    if asked.dialect == "messages":
        kinds = {429: "rate_limit_error", 529: "overloaded_error", 400: "invalid_request_error"}
        error = {"type": kinds.get(status, "api_error"), "message": MESSAGE}
        return {"type": "error", "error": error, "request_id": "req_loopback"}
    if asked.dialect == "gemini":
        kinds = {429: "RESOURCE_EXHAUSTED", 400: "INVALID_ARGUMENT", 503: "UNAVAILABLE"}
        code = kinds.get(status, "INTERNAL")
        return {"error": {"code": status, "message": MESSAGE, "status": code}}
    if asked.dialect.startswith("cohere"):
        return {"id": "err-loopback", "message": MESSAGE}
    if asked.dialect.startswith("ollama"):
        return {"error": MESSAGE}
    if asked.style == "mistral":
        kind = "rate_limited" if status == 429 else "server_error"
        return {"object": "error", "message": MESSAGE, "type": kind, "param": None, "code": "1300"}
    if "refuse_usage" in asked.wish and asked.asks_for_usage:
        message = "Unrecognized request argument supplied: stream_options"
        kind = "invalid_request_error"
        return {"error": {"message": message, "type": kind, "param": None, "code": None}}
    kinds = {429: "rate_limit_exceeded", 400: "invalid_request_error"}
    kind = kinds.get(status, "server_error")
    return {"error": {"message": MESSAGE, "type": kind, "param": None, "code": kind}}
