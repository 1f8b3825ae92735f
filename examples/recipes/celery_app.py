"""Celery: the tags of who enqueues a task reach the calls that its worker makes.

    web request ─ tagged ─▶ task.delay() ─ header meterd_tags ─▶ broker ─▶ worker ─ tagged ─▶ call

Three signals do it for every task of the app. `celery -A examples.recipes.celery_app worker`.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

import openai
from celery import Celery
from celery.signals import before_task_publish, task_postrun, task_prerun

from meterd_middleware import Meter, Tags, current_tags, instrument, tagged

HEADER = "meterd_tags"

app = Celery("agency", broker=os.environ.get("CELERY_BROKER_URL", "redis://localhost:6379/0"))
meter = Meter(service="celery-worker")
client = instrument(openai.OpenAI(), meter=meter)

_running: dict[str, ExitStack] = {}


@before_task_publish.connect  # type: ignore[untyped-decorator]  # Celery publishes no types
def carry_tags(headers: dict[str, Any], **_: Any) -> None:
    """In the web process: put the tags in force into the task's headers."""
    tags = current_tags()
    if tags is not None:
        headers[HEADER] = tags.headers()


@task_prerun.connect  # type: ignore[untyped-decorator]  # Celery publishes no types
def enter_tags(task_id: str, task: Any, **_: Any) -> None:
    """In the worker: bill what the task calls to whom it was enqueued for."""
    tags = Tags.from_headers(task.request.get(HEADER) or {})
    if tags is not None:
        _running[task_id] = ExitStack()
        _running[task_id].enter_context(tagged(tags))


@task_postrun.connect  # type: ignore[untyped-decorator]  # Celery publishes no types
def leave_tags(task_id: str, **_: Any) -> None:
    """In the worker: the next task is somebody else's."""
    stack = _running.pop(task_id, None)
    if stack is not None:
        stack.close()


@app.task(ignore_result=True)  # type: ignore[untyped-decorator]  # Celery publishes no types
def write_draft(topic: str) -> None:
    """A task like any other: it knows nothing of tags."""
    client.chat.completions.create(
        model="gpt-5.4-mini", messages=[{"role": "user", "content": f"Write about {topic}."}]
    )
