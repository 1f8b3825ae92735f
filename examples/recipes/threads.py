"""Threads and executors: tags live in a contextvar, which a new thread doesn't see by itself.

await, asyncio.to_thread, anyio, Starlette's threadpool   nothing to do: they copy the context
ThreadPoolExecutor, run_in_executor, threading.Thread     run the call in a copy of it
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import openai

from meterd_middleware import Meter, instrument, tagged

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")


def submit(
    executor: ThreadPoolExecutor, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
) -> Future[R]:
    """`executor.submit`, with the tags in force here."""
    return executor.submit(partial(copy_context().run, function, *args, **kwargs))


async def in_executor(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """`loop.run_in_executor` with the default executor, with the tags in force here."""
    call = partial(copy_context().run, function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(None, call)


def in_thread(function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """A thread of one's own, with the tags in force here; waits for it."""
    call = partial(copy_context().run, function, *args, **kwargs)
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def main() -> None:
    """The same call from each of them, for one client after another."""
    with Meter(service="threads") as meter, ThreadPoolExecutor(4) as executor:
        client = instrument(openai.OpenAI(), meter=meter)

        def ask(topic: str) -> None:
            client.chat.completions.create(
                model="gpt-5.4-mini", messages=[{"role": "user", "content": topic}]
            )

        calls = []
        for name in ("acme-corp", "techstartup", "bigco-inc"):
            with tagged(client=name, project="content-generator"):
                calls.append(submit(executor, ask, f"A headline for {name}"))
                asyncio.run(in_executor(ask, f"A slogan for {name}"))
                in_thread(ask, f"A poem for {name}")
        for call in calls:
            call.result()


if __name__ == "__main__":
    main()
