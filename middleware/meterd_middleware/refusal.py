"""Refusals: what an app, its users and its SDKs see of a call that meterd turned away.

    leases ──Denied──▶ QuotaExceeded ─┬─ outbound  a 429 in the provider's own error shape
                                      ├─ inbound   429 application/problem+json (RFC 9457)
                                      └─ meter.check raises it
    any SDK's exception ──refusal_of()──▶ QuotaExceeded | None

A refusal carries `x-meterd-refused` and a message that begins `meterd:`, so that nobody
mistakes it for the agency's own empty account. Shapes, headers and the attempts that each
SDK makes: see the table `_BODIES`. The facts (rule, limit, used, remaining, reset) travel
in the body, under `meterd`.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from meterd_middleware.errors import Refused
from meterd_middleware.lease import Denied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

REFUSED_HEADER = "x-meterd-refused"
STATUS = 429
UNREACHABLE_RETRY_AFTER_S = 5
"""meterd is tried again within seconds, so a client that was turned away for it may be, too."""

PROBLEM_TYPE = "https://iana.org/assignments/http-problem-types#quota-exceeded"
"""Registered by draft-ietf-httpapi-ratelimit-headers beside the `RateLimit` fields."""

_RECENT_MAX = 256


class QuotaExceeded(Refused):
    """A call was refused by meterd, and sent to nobody; says which rule and when it ends.

    Attributes:
        client, project, model: whose call, and of which model; empty where not known.
        rule: the tightest quota that stands against it, as "client acme-corp".
        plan: the plan that sets the quota.
        limit, used, leased, remaining, requested: tokens.
        period_start_unix_ns, period_end_unix_ns: the period; 0 where not known.
        holders: who holds what is lent, where that is the reason.
        reason: "quota", "unreachable" (meterd is away and the plan rejects then) or
            "untagged" (no client was named, and this app refuses such calls).
    """

    def __init__(self, denied: Denied, reason: str = "") -> None:
        super().__init__(denied, reason)  # both, so that it pickles
        self.denied = denied
        self.client = denied.client
        self.project = denied.project
        self.model = denied.model
        self.rule = denied.rule
        self.plan = denied.plan
        self.limit = denied.limit
        self.used = denied.used
        self.leased = denied.leased
        self.remaining = denied.remaining
        self.requested = denied.requested
        self.period_start_unix_ns = denied.period_start_unix_ns
        self.period_end_unix_ns = denied.period_end_unix_ns
        self.holders = denied.holders
        self.reason = reason or denied.reason

    def __str__(self) -> str:
        return _message(self)

    @property
    def resets_at(self) -> datetime | None:
        """When the period ends, aware, UTC; None where it isn't known."""
        if not self.period_end_unix_ns:
            return None
        return datetime.fromtimestamp(self.period_end_unix_ns // 10**9, UTC)

    def retry_after_s(self, now_ns: int) -> int | None:
        """Whole seconds until asking again makes sense; None where it never does."""
        if self.reason == "unreachable":
            return UNREACHABLE_RETRY_AFTER_S
        if not self.period_end_unix_ns:
            return None
        return max(1, -((now_ns - self.period_end_unix_ns) // 10**9))


def _message(refused: QuotaExceeded) -> str:
    if refused.reason == "untagged":
        return (
            "meterd: this call names no client, and this app refuses such calls; "
            "send X-Client-ID with it or wrap it in tagged(client=...)"
        )
    who = refused.rule or f"client {refused.client}"
    if refused.reason == "unreachable":
        return f"meterd: {who} can't be checked, as meterd is away, and its plan rejects then"
    left = f"{max(refused.remaining, 0):,} of {refused.limit:,} tokens left"
    need = f", and this call needs up to {refused.requested:,}" if refused.requested else ""
    lent = f"; {refused.holders}" if refused.holders else ""
    until = f"; the period ends {refused.resets_at:%Y-%m-%d %H:%M} UTC" if refused.resets_at else ""
    return f"meterd: {who} has {left}{need}{lent}{until}"


def untagged() -> QuotaExceeded:
    """The refusal of a call that names no client, where `on_untagged="refuse"`."""
    return QuotaExceeded(_NOBODY, "untagged")


_NOBODY = Denied(
    client="",
    project="",
    model="",
    rule="",
    plan="",
    limit=0,
    used=0,
    leased=0,
    remaining=0,
    requested=0,
    period_start_unix_ns=0,
    period_end_unix_ns=0,
    quota_version=0,
    holders="",
    reason="quota",
)


def facts(refused: QuotaExceeded) -> dict[str, object]:
    """What a program wants to know of a refusal; zeros and blanks left out."""
    known = {name: value for name, value in asdict(refused.denied).items() if value}
    known["reason"] = refused.reason
    if refused.resets_at:
        known["resets_at"] = f"{refused.resets_at:%Y-%m-%dT%H:%M:%SZ}"
        known["remaining"] = max(refused.remaining, 0)
    return known


# Outbound: the provider's own shape.


def outbound(shape: str, refused: QuotaExceeded, now_ns: int) -> tuple[dict[str, str], bytes]:
    """Headers and body of the 429 that an SDK gets instead of its provider's answer.

    `x-should-retry: false` ends the retries of openai, anthropic, groq and together. cohere
    and Gemini interactions don't know it, but `retry-after-ms: 1` lets them give up at once
    instead of sleeping until next month; mistral would spin on it, so it gets neither.
    """
    _remember(refused)
    body = json.dumps(_BODIES.get(shape, _openai)(str(refused), facts(refused))).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "x-should-retry": "false",
        REFUSED_HEADER: refused.reason,
    }
    if shape in ("cohere", "interactions"):
        headers["retry-after-ms"] = "1"
    elif shape in ("openai", "anthropic", "bedrock"):
        seconds = refused.retry_after_s(now_ns)
        if seconds is not None:
            headers["retry-after"] = str(seconds)
    return headers, body


def _openai(message: str, known: dict[str, object]) -> dict[str, object]:
    kind = "insufficient_quota"
    error = {"message": message, "type": kind, "param": None, "code": kind, "meterd": known}
    return {"error": error}


def _anthropic(message: str, known: dict[str, object]) -> dict[str, object]:
    error = {"type": "rate_limit_error", "message": message, "meterd": known}
    return {"type": "error", "error": error}


def _gemini(message: str, known: dict[str, object]) -> dict[str, object]:
    error = {
        "code": STATUS,
        "message": message,
        "status": "RESOURCE_EXHAUSTED",
        "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "meterd": known}],
    }
    return {"error": error}


def _mistral(message: str, known: dict[str, object]) -> dict[str, object]:
    return {
        "object": "error",
        "message": message,
        "type": "rate_limited",
        "param": None,
        "code": "1300",
        "meterd": known,
    }


_BODIES: dict[str, Callable[[str, dict[str, object]], dict[str, object]]] = {
    "openai": _openai,
    "anthropic": _anthropic,
    "bedrock": lambda message, known: {"message": message, "meterd": known},
    "gemini": _gemini,
    "interactions": _gemini,
    "mistral": _mistral,
    "cohere": lambda message, known: {"message": message, "meterd": known},
    "ollama": lambda message, known: {"error": message, "meterd": known},
}


# Inbound: problem+json.


def problem(refused: QuotaExceeded, now_ns: int) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """ASGI headers and body of the 429 that the app's own caller gets."""
    policy = refused.rule or "tokens"
    document = {
        "type": PROBLEM_TYPE,
        "title": "Quota exceeded",
        "status": STATUS,
        "detail": str(refused).removeprefix("meterd: "),
        "violated-policies": [policy],
        **facts(refused),
    }
    body = json.dumps(document).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (REFUSED_HEADER.encode(), refused.reason.encode()),
    ]
    seconds = refused.retry_after_s(now_ns)
    if seconds is not None:
        headers.append((b"retry-after", b"%d" % seconds))
    if refused.limit and refused.period_end_unix_ns:
        headers += _rate_limit(refused, policy, seconds or 0)
    return headers, body


def _rate_limit(refused: QuotaExceeded, policy: str, seconds: int) -> list[tuple[bytes, bytes]]:
    """`RateLimit-Policy` and `RateLimit`, structured fields of draft-ietf-httpapi-ratelimit."""
    name = policy.replace("\\", "\\\\").replace('"', '\\"').encode("ascii", "replace")
    window = (refused.period_end_unix_ns - refused.period_start_unix_ns) // 10**9
    return [
        (b"ratelimit-policy", b'"%s";q=%d;qu="tokens";w=%d' % (name, refused.limit, window)),
        (b"ratelimit", b'"%s";r=%d;t=%d' % (name, max(refused.remaining, 0), seconds)),
    ]


# Finding a refusal of ours in what an SDK raised.


def refusal_of(exc: BaseException) -> QuotaExceeded | None:
    """The refusal behind any SDK's exception; None where meterd did not refuse the call.

    Looks through causes, contexts and groups, at the response's headers where the SDK keeps
    them, and else for the message of a recent refusal in the exception's text.
    """
    for one in _chain(exc):
        if isinstance(one, QuotaExceeded):
            return one
        found = _in_response(one) or _in_text(one)
        if found is not None:
            return found
    return None


_recent: OrderedDict[str, QuotaExceeded] = OrderedDict()


def _remember(refused: QuotaExceeded) -> None:
    """Keep it findable by its message: some SDKs keep nothing else of a response."""
    _recent[str(refused)] = refused
    while len(_recent) > _RECENT_MAX:
        try:
            _recent.popitem(last=False)
        except KeyError:  # another thread took the last one
            break


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """The exception, and all that it grew from or holds; each once."""
    todo, seen = [exc], set[int]()
    while todo:
        one = todo.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, BaseExceptionGroup):
            todo.extend(one.exceptions)
        todo.extend(other for other in (one.__cause__, one.__context__) if other is not None)


def _in_response(exc: BaseException) -> QuotaExceeded | None:
    response = getattr(exc, "response", None) or getattr(exc, "raw_response", None)
    headers = getattr(response, "headers", None) or getattr(exc, "headers", None)
    reason = _header(headers, REFUSED_HEADER)
    if not reason:
        return None
    return _in_text(exc) or _from_facts(_body(exc, response), reason)


def _header(headers: object, name: str) -> str:
    try:
        for key, value in cast("Mapping[str, str]", headers).items():
            if key.lower() == name:
                return value
    except Exception:  # whatever an SDK keeps under that name, it isn't headers
        pass
    return ""


def _body(exc: BaseException, response: object) -> object:
    body: object = getattr(exc, "body", None)
    if body is not None and not isinstance(body, str):
        return body
    try:
        found: object = json.loads(body or _content_of(response))
    except Exception:  # unread, or not JSON
        return None
    return found


def _content_of(response: object) -> bytes:
    content: bytes = getattr(response, "content", b"{}")
    return content


def _from_facts(body: object, reason: str) -> QuotaExceeded:
    """A refusal from another process's facts, as a gateway passes them on."""
    blank = asdict(_NOBODY)
    del blank["reason"]
    known = _find_facts(body, depth=4)
    told: dict[str, Any] = {
        name: value
        for name, value in known.items()
        if name in blank and type(value) is type(blank[name])
    }
    return QuotaExceeded(replace(_NOBODY, **told), reason)


def _find_facts(body: object, depth: int) -> dict[str, object]:
    if isinstance(body, dict):
        held = body.get("meterd")
        if isinstance(held, dict):
            return held
        inner: list[object] = list(body.values())
    elif isinstance(body, list):
        inner = body
    else:
        return {}
    if depth:
        for value in inner:
            found = _find_facts(value, depth - 1)
            if found:
                return found
    return {}


def _in_text(exc: BaseException) -> QuotaExceeded | None:
    if not _recent:
        return None
    try:
        text = str(exc)
    except Exception:  # an SDK's broken __str__ is not our business
        return None
    if "meterd:" not in text:
        return None
    return next(
        (held for message, held in reversed(list(_recent.items())) if message in text), None
    )
