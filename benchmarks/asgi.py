"""CPU that `MeterMiddleware` adds to a request, the quota decision included.

The app is called without a server between, so that nothing but the middleware differs. With
`refuse=True` each request is decided from the lease before the app runs.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from benchmarks.daemon import metering
from benchmarks.harness import ROUNDS_MIN, Pair, Report, Series, arguments, pin
from meterd_middleware import Meter, MeterMiddleware

if TYPE_CHECKING:
    from starlette.requests import Request

REQUESTS = 20_000
CONFIG = """
[agency]
name = "Bench"
currency = "USD"
timezone = "UTC"

[plans.pro]
type = "retainer"
fee = "2500"
included_tokens = "12M"
overage_per_million = "60"
limit = "hard"

[clients.acme-corp]
plan = "pro"
from = 2020-01-01
"""
SCOPE: dict[str, Any] = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "GET",
    "path": "/",
    "raw_path": b"/",
    "query_string": b"",
    "root_path": "",
    "scheme": "http",
    "headers": [(b"host", b"app"), (b"accept", b"*/*"), (b"x-client-id", b"acme-corp")],
    "client": ("127.0.0.1", 1),
    "server": ("127.0.0.1", 80),
}


async def _page(_: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


def main() -> None:
    options = arguments(__doc__ or "")
    pin(0)
    requests = REQUESTS // (4 if options.quick else 1)
    report = Report("asgi")
    with metering(CONFIG) as daemon, Meter(
        target=daemon.target, spool=str(daemon.spool_root), service="bench"
    ) as meter:  # fmt: skip
        tagging = _app(meter, refuse=False)
        deciding = _app(meter, refuse=True)
        bare = Starlette(routes=[Route("/", _page)])
        for name, app in (("tags alone", tagging), ("quota decision included", deciding)):
            pair = asyncio.run(_measured(bare, app, requests))
            report.add(f"{name}: bare", pair.bare, "µs CPU")
            report.add(f"{name}: added", pair.added, "µs CPU", "≤ 8")
    report.print(options.json)


def _app(meter: Meter, *, refuse: bool) -> Any:
    app = Starlette(routes=[Route("/", _page)])
    app.add_middleware(MeterMiddleware, meter=meter, trust_headers=True, refuse=refuse)
    return app


async def _measured(bare: Any, ours: Any, requests: int) -> Pair:
    await _cpu_us(bare, requests // 10)
    await _cpu_us(ours, requests // 10)
    bare_values, ours_values = [], []
    for _ in range(ROUNDS_MIN):
        bare_values.append(await _cpu_us(bare, requests))
        ours_values.append(await _cpu_us(ours, requests))
    return Pair(Series(tuple(bare_values)), Series(tuple(ours_values)))


async def _cpu_us(app: Any, requests: int) -> float:
    """Microseconds of this thread's CPU a request."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start" and message["status"] != 200:
            raise RuntimeError(f"the app answered {message['status']}")

    start = time.thread_time_ns()
    for _ in range(requests):
        await app(dict(SCOPE), receive, send)
    return (time.thread_time_ns() - start) / requests / 1000


if __name__ == "__main__":
    main()
