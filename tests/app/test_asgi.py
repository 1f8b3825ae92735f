"""MeterMiddleware on Starlette: who is asking, what is left alone, what a refusal looks like."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx2
import openai
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient

from meterd_middleware import (
    MeterMiddleware,
    QuotaExceeded,
    Tags,
    current_tags,
    instrument,
    tag_request,
    tagged,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request
    from starlette.websockets import WebSocket

    from meterd_middleware.testing import RecordingMeter
    from tests.support.provider import Provider


def shows_tags(request: Request) -> Response:
    tags = current_tags()
    return JSONResponse({"client": tags.client, "project": tags.project} if tags else None)


def app_with(*routes: Any, **options: Any) -> TestClient:
    app = Starlette(routes=list(routes) or [Route("/", shows_tags)])
    app.add_middleware(MeterMiddleware, **options)
    return TestClient(app, raise_server_exceptions=True)


def test_identify_names_the_client_of_a_request(meter: RecordingMeter) -> None:
    client = app_with(meter=meter, identify=lambda scope: Tags("acme-corp", "p"))

    assert client.get("/").json() == {"client": "acme-corp", "project": "p"}


def test_identify_may_be_async_and_return_a_string(meter: RecordingMeter) -> None:
    async def who(scope: Any) -> str:
        return "acme-corp"

    assert app_with(meter=meter, identify=who).get("/").json()["client"] == "acme-corp"


def test_an_identify_that_raises_counts_as_nobody_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from meterd_middleware.testing import RecordingMeter

    def who(scope: Any) -> str:
        raise KeyError("session")

    meter = RecordingMeter()
    client = app_with(meter=meter, identify=who)

    assert [client.get("/").json(), client.get("/").json()] == [None, None]
    assert [kind for kind, _ in meter.faults] == ["identify", "identify"]
    assert len([r for r in caplog.records if "identify" in r.getMessage()]) == 1


def test_a_stranger_who_sends_a_client_header_is_not_believed(meter: RecordingMeter) -> None:
    assert app_with(meter=meter).get("/", headers={"X-Client-ID": "bigco-inc"}).json() is None


def test_headers_are_believed_where_trust_headers_says_so(meter: RecordingMeter) -> None:
    client = app_with(meter=meter, trust_headers=True)

    found = client.get("/", headers={"X-Client-ID": "acme-corp", "X-Project-ID": "p"}).json()

    assert found == {"client": "acme-corp", "project": "p"}


def test_two_trusted_headers_that_contradict_each_other_name_nobody(
    meter: RecordingMeter,
) -> None:
    def page(request: Request) -> Response:
        with meter.call(request_model="m") as call:
            call.settle(input_tokens=1, output_tokens=1)
        return PlainTextResponse("done")

    client = app_with(Route("/", page), meter=meter, trust_headers=True)
    client.get("/", headers=[("X-Client-ID", "acme-corp"), ("X-Client-ID", "bigco-inc")])

    assert [(r.client, r.note) for r in meter.records] == [
        ("unattributed", "two different X-Client-ID headers")
    ]


def test_identify_comes_before_trusted_headers(meter: RecordingMeter) -> None:
    client = app_with(meter=meter, identify=lambda scope: "acme-corp", trust_headers=True)

    assert client.get("/", headers={"X-Client-ID": "bigco-inc"}).json()["client"] == "acme-corp"


def test_the_tags_of_one_request_do_not_reach_the_next(meter: RecordingMeter) -> None:
    client = app_with(meter=meter, trust_headers=True)

    client.get("/", headers={"X-Client-ID": "acme-corp"})

    assert client.get("/").json() is None


def test_streaming_responses_and_background_tasks_keep_the_tags(meter: RecordingMeter) -> None:
    seen: list[str] = []

    def note() -> None:
        tags = current_tags()
        seen.append(tags.client if tags else "nobody")

    async def body() -> AsyncIterator[bytes]:
        for _ in range(2):
            note()
            yield b"x"

    def page(request: Request) -> Response:
        return StreamingResponse(body(), background=BackgroundTask(note))

    client = app_with(Route("/", page), meter=meter, identify=lambda scope: "acme-corp")
    client.get("/")

    assert seen == ["acme-corp"] * 3


def test_a_websocket_is_tagged_for_as_long_as_it_lasts(meter: RecordingMeter) -> None:
    """Chats come over one; its login may run in the endpoint, after the first message."""

    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        while (name := await socket.receive_text()) != "end":
            if name:
                tag_request(client=name)
            await socket.send_text(getattr(current_tags(), "client", "nobody"))
        await socket.close()

    for identify, first in ((lambda scope: "acme", "acme"), (lambda scope: None, "nobody")):
        client = app_with(WebSocketRoute("/ws", talk), meter=meter, identify=identify, refuse=True)
        with client.websocket_connect("/ws") as socket:
            heard = []
            for name in ("", "techstartup", ""):
                socket.send_text(name)
                heard.append(socket.receive_text())
            socket.send_text("end")

        assert heard == [first, "techstartup", "techstartup"]


def test_an_app_mounted_in_another_keeps_the_outer_ones_tags_until_it_knows_better(
    meter: RecordingMeter,
) -> None:
    """Each has its middleware; the inner one often waits for a login that runs later."""

    def login(request: Request) -> Response:
        tag_request(client="inner")
        return shows_tags(request)

    def mounted(**options: Any) -> Any:
        app = Starlette(routes=[Route("/", shows_tags), Route("/login", login)])
        app.add_middleware(MeterMiddleware, meter=meter, **options)
        return app

    client = app_with(
        Mount("/later", mounted()),
        Mount("/nobody", mounted(identify=lambda scope: None)),
        Mount("/other", mounted(identify=lambda scope: "other")),
        meter=meter,
        identify=lambda scope: Tags("outer", "p"),
    )

    shown = [client.get(path).json()["client"] for path in
             ("/later/", "/later/login", "/nobody/", "/other/")]  # fmt: skip
    assert shown == ["outer", "inner", "outer", "other"]


def test_lifespan_runs_as_without_us(meter: RecordingMeter) -> None:
    from contextlib import asynccontextmanager

    happened: list[str] = []

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        happened.append("started")
        yield
        happened.append("ended")

    app = Starlette(routes=[Route("/", shows_tags)], lifespan=lifespan)
    app.add_middleware(MeterMiddleware, meter=meter)
    with TestClient(app) as client:
        client.get("/")

    assert happened == ["started", "ended"]


def test_the_end_of_the_lifespan_hands_over_what_is_left(
    meter: RecordingMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[float] = []

    def flush(timeout: float) -> bool:
        flushed.append(timeout)
        return True

    monkeypatch.setattr(meter, "flush", flush)
    app = Starlette(routes=[Route("/", shows_tags)])
    app.add_middleware(MeterMiddleware, meter=meter)
    with TestClient(app):
        assert flushed == []

    assert flushed == [2.0]


def refused_app(
    meter: RecordingMeter, page: Callable[[Request], Any], **options: Any
) -> TestClient:
    meter.refuse("acme-corp", limit=2_000_000)
    return app_with(Route("/", page), meter=meter, identify=lambda scope: "acme-corp", **options)


def test_a_refusal_left_uncaught_becomes_a_problem_document(
    meter: RecordingMeter, provider: Provider
) -> None:
    chat = instrument(openai.OpenAI(api_key="k", base_url=provider.base_url("openai")), meter=meter)

    def page(request: Request) -> Response:
        made = chat.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "hi"}]
        )
        return PlainTextResponse(str(made.choices[0].message.content))

    answer = refused_app(meter, page).get("/")

    problem = answer.json()
    assert answer.status_code == 429
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["title"] == "Quota exceeded"
    assert problem["status"] == 429
    assert problem["rule"] == "client acme-corp"
    assert (problem["limit"], problem["used"], problem["remaining"]) == (2_000_000, 2_000_000, 0)
    assert problem["resets_at"].endswith("Z")
    assert 0 < int(answer.headers["retry-after"]) <= 30 * 24 * 3600
    assert answer.headers["ratelimit-policy"].startswith('"client acme-corp";q=2000000;')
    assert answer.headers["ratelimit"].startswith('"client acme-corp";r=0;t=')
    assert answer.headers["x-meterd-refused"] == "quota"
    assert provider.ledger.served == []


def test_a_refusal_that_the_app_catches_is_the_apps(meter: RecordingMeter) -> None:
    def page(request: Request) -> Response:
        try:
            meter.check(client="acme-corp", tokens=100)
        except QuotaExceeded as refused:
            return PlainTextResponse(f"sorry: {refused.rule}", status_code=200)
        raise AssertionError

    assert refused_app(meter, page).get("/").text == "sorry: client acme-corp"


def test_a_refusal_in_a_task_group_is_found(meter: RecordingMeter) -> None:
    async def page(request: Request) -> Response:
        try:
            await meter.acheck(client="acme-corp")
        except QuotaExceeded as refused:
            raise ExceptionGroup("tasks", [ValueError("else"), refused]) from None
        raise AssertionError

    assert refused_app(meter, page).get("/").status_code == 429


def test_an_error_of_the_apps_own_is_left_alone(meter: RecordingMeter) -> None:
    def page(request: Request) -> Response:
        raise ZeroDivisionError("the app's own")

    with pytest.raises(ZeroDivisionError):
        refused_app(meter, page).get("/")


def test_a_providers_own_rate_limit_is_not_taken_for_ours(
    meter: RecordingMeter, provider: Provider
) -> None:
    provider.next_do.append("status=429")
    chat = instrument(
        openai.OpenAI(api_key="k", base_url=provider.base_url("openai"), max_retries=0),
        meter=meter,
    )

    def page(request: Request) -> Response:
        with tagged(client="somebody-else"):
            chat.chat.completions.create(
                model="gpt-4o", messages=[{"role": "user", "content": "hi"}]
            )
        raise AssertionError

    with pytest.raises(openai.RateLimitError):
        refused_app(meter, page).get("/")


def test_a_refusal_after_the_response_has_started_stays_an_error(meter: RecordingMeter) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"begun"
        meter.check(client="acme-corp")

    with pytest.raises(QuotaExceeded):
        refused_app(meter, lambda request: StreamingResponse(body())).get("/")


def test_by_default_the_other_pages_of_a_refused_client_work(meter: RecordingMeter) -> None:
    assert refused_app(meter, shows_tags).get("/").json()["client"] == "acme-corp"


def test_refuse_answers_before_the_app_runs(meter: RecordingMeter) -> None:
    def page(request: Request) -> Response:
        raise AssertionError("the app ran")

    answer = refused_app(meter, page, refuse=True).get("/")

    assert answer.status_code == 429
    assert answer.json()["client"] == "acme-corp"


def test_refuse_may_be_a_predicate_on_the_scope(meter: RecordingMeter) -> None:
    client = refused_app(
        meter, shows_tags, refuse=lambda scope: scope["query_string"] == b"expensive"
    )

    assert client.get("/").status_code == 200
    assert client.get("/?expensive").status_code == 429


def test_a_predicate_that_raises_refuses_nobody() -> None:
    from meterd_middleware.testing import RecordingMeter

    def broken(scope: Any) -> bool:
        raise KeyError("x")

    meter = RecordingMeter()

    assert refused_app(meter, shows_tags, refuse=broken).get("/").status_code == 200
    assert [kind for kind, _ in meter.faults] == ["refuse"]


async def test_nothing_is_left_in_the_context_of_a_server_that_shares_it(
    meter: RecordingMeter,
) -> None:
    """uvicorn gives each request a context of its own; other servers need not."""
    app = MeterMiddleware(
        Starlette(routes=[Route("/", shows_tags)]), meter=meter, identify=lambda scope: "acme-corp"
    )
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app), base_url="http://app"
    ) as client:
        assert json.loads((await client.get("/")).content)["client"] == "acme-corp"

    assert current_tags() is None
