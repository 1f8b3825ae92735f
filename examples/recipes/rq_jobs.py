"""RQ: the tags of who enqueues a job travel in the job's meta and are entered in the worker.

    web request ─ tagged ─▶ enqueue(queue, write_draft, …) ─ meta ─▶ redis ─▶ worker ─▶ call

RQ's worker forks for each job: the child is a producer of its own, and what it had not yet
sent when it ended is on disk, from where meterd takes it within seconds. `rq worker drafts`.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import openai
from rq import get_current_job

from meterd_middleware import Meter, Tags, current_tags, instrument, tagged

if TYPE_CHECKING:
    from collections.abc import Callable

    from rq import Queue
    from rq.job import Job

META = "meterd_tags"

P = ParamSpec("P")
R = TypeVar("R")

meter = Meter(service="rq-worker")
client = instrument(openai.OpenAI(), meter=meter)


def enqueue(queue: Queue, job: Callable[..., object], *args: object) -> Job:
    """Enqueue a job with the tags in force here."""
    tags = current_tags()
    return queue.enqueue(job, args=args, meta={META: tags.headers()} if tags else {})


def billed(job: Callable[P, R]) -> Callable[P, R]:
    """Decorate a job: its calls are billed to whom it was enqueued for."""

    @wraps(job)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        running = get_current_job()
        tags = Tags.from_headers(running.meta.get(META, {})) if running else None
        if tags is None:
            return job(*args, **kwargs)
        with tagged(tags):
            return job(*args, **kwargs)

    return wrapper


@billed
def write_draft(topic: str) -> None:
    """A job like any other."""
    client.chat.completions.create(
        model="gpt-5.4-mini", messages=[{"role": "user", "content": f"Write about {topic}."}]
    )
