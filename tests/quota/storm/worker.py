"""Workers: each a process with its own meter, and so many calls at once with each of three SDKs.

`python -m tests.quota.storm.worker` imports the SDKs once, then forks a worker for every line
of its standard input (an `Orders` as JSON) and answers with its pid. A worker calls until the
quota has nothing left that could come back, then says `done`, with what it has seen.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from random import Random
from typing import Any, TypeAlias

import anthropic
import openai
from google import genai
from google.genai import types

from meterd_middleware import Meter, instrument, refusal_of, tagged

WORDS = ("quota", "ledger", "client", "tally", "invoice", "margin", "summary", "retainer")
REST_S = 0.1
"""A caller that was refused, though tokens may come back, asks again so much later."""

Call: TypeAlias = Callable[[str, str, bool], Awaitable[None]]
"""(prompt, the provider's orders, streamed or not)."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What one worker does."""

    number: int
    target: str
    spool: str
    provider: str
    client: str
    concurrency: int
    """Calls at once with each SDK."""
    max_tokens: int
    replies_max: int
    """The longest of the replies; one in twenty comes near it."""
    seed: int

    def to_line(self) -> str:
        """As a line of the forking process's standard input."""
        return json.dumps(asdict(self))


class Worker:
    """One worker's callers."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._random = Random(orders.seed)
        self._seen: Counter[str] = Counter()
        self._message = ""

    async def run(self) -> dict[str, object]:
        """Call until nothing is left; returns what happened."""
        orders = self._orders
        meter = Meter(
            target=orders.target, spool=orders.spool, service="storm", on_unreachable="reject"
        )
        with tagged(client=orders.client, project=f"worker-{orders.number}"):
            async with asyncio.TaskGroup() as callers:
                for call in _sdks(meter, orders):
                    for _ in range(orders.concurrency):
                        callers.create_task(self._call_on(call))
        is_flushed = await asyncio.to_thread(meter.flush, 60)
        meter.close()
        return {**self._seen, "is_flushed": is_flushed, "refusal": self._message}

    async def _call_on(self, call: Call) -> None:
        """One caller: call after call, until a refusal is final."""
        random = self._random
        while True:
            prompt = " ".join(random.choices(WORDS, k=random.randrange(20, 300)))
            wish = f"output={self._reply()},wait_ms={random.randrange(5, 200)}"
            try:
                await call(prompt, wish, random.random() < 0.5)
            except Exception as error:
                refused = refusal_of(error)
                if refused is None:
                    raise
                self._seen[refused.reason] += 1
                self._message = str(refused)
                if refused.reason == "quota" and _is_final(refused):
                    return
                await asyncio.sleep(REST_S * (1 + random.random()))
            else:
                self._seen["calls"] += 1

    def _reply(self) -> int:
        """Tokens of the next reply: most are short."""
        random, longest = self._random, self._orders.replies_max
        if random.random() < 0.05:
            return random.randrange(longest // 2, longest)
        return random.randrange(longest // 20, longest // 3)


def _is_final(refused: Any) -> bool:
    """Not even what others hold would cover the call."""
    return bool(refused.remaining + refused.leased < refused.requested)


def _sdks(meter: Meter, orders: Orders) -> tuple[Call, Call, Call]:
    named = {"X-Request-ID": orders.client}
    open_ai = instrument(
        openai.AsyncOpenAI(
            base_url=f"{orders.provider}/v1", api_key="k", default_headers=named, timeout=120
        ),
        meter=meter,
    )
    claude = instrument(
        anthropic.AsyncAnthropic(
            base_url=orders.provider, api_key="k", default_headers=named, timeout=120
        ),
        meter=meter,
    )
    gemini = instrument(
        genai.Client(
            api_key="k",
            http_options=types.HttpOptions(base_url=orders.provider, headers=named),
        ),
        meter=meter,
    )

    async def ask_open_ai(prompt: str, wish: str, is_stream: bool) -> None:
        asked: dict[str, Any] = {"stream_options": {"include_usage": True}} if is_stream else {}
        answer: Any = await open_ai.chat.completions.create(
            model="gpt-4o-mini",
            max_completion_tokens=orders.max_tokens,
            messages=[{"role": "user", "content": prompt}],
            stream=is_stream,
            extra_headers={"X-Provider-Do": wish},
            **asked,
        )
        if is_stream:
            async for _ in answer:
                pass

    async def ask_claude(prompt: str, wish: str, is_stream: bool) -> None:
        answer: Any = await claude.messages.create(
            model="claude-haiku-4-5",
            max_tokens=orders.max_tokens,
            messages=[{"role": "user", "content": prompt}],
            stream=is_stream,
            extra_headers={"X-Provider-Do": wish},
        )
        if is_stream:
            async for _ in answer:
                pass

    async def ask_gemini(prompt: str, wish: str, is_stream: bool) -> None:
        config = types.GenerateContentConfig(
            max_output_tokens=orders.max_tokens,
            http_options=types.HttpOptions(headers={"X-Provider-Do": wish, **named}),
        )
        if not is_stream:
            await gemini.aio.models.generate_content(
                model="gemini-2.5-flash", contents=prompt, config=config
            )
            return
        stream = await gemini.aio.models.generate_content_stream(
            model="gemini-2.5-flash", contents=prompt, config=config
        )
        async for _ in stream:
            pass

    return ask_open_ai, ask_claude, ask_gemini


def _work(line: str) -> None:
    """A worker's whole life, in its own process."""
    orders = Orders(**json.loads(line))
    try:
        seen = asyncio.run(Worker(orders).run())
        _say({"event": "done", "number": orders.number, "pid": os.getpid(), "seen": seen})
    except BaseException:
        traceback.print_exc()
        _say({"event": "failed", "number": orders.number, "pid": os.getpid(), "seen": {}})
    os._exit(0)


def _say(said: dict[str, object]) -> None:
    """One write, so that the lines of several processes don't mix."""
    os.write(1, (json.dumps(said) + "\n").encode())


def main() -> None:
    """Fork a worker a line; kill those that are left when standard input ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the dead
    os.setpgid(0, 0)
    for line in sys.stdin:
        number = json.loads(line)["number"]
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _work(line)
        _say({"event": "started", "number": number, "pid": pid, "seen": {}})
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
