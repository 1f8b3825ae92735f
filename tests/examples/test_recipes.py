"""The recipes of docs/recipes.md, each with the real thing: workers, brokers, prefork servers."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import httpx2
import pytest

from tests.examples.running import BIN, WITHIN_S, Running, assert_counted, environment, run, running
from tests.support.provider import Counts

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import Daemon
    from tests.support.provider import Provider

CLIENTS = ("acme-corp", "techstartup", "bigco-inc")


def served_about(provider: Provider, word: str) -> Counts:
    """What the provider served for requests that speak of `word`."""
    total = Counts()
    for call in provider.ledger.served:
        if word.encode() in call.received_body:
            total += call.counts
    return total


def test_celery_carries_the_tags_through_its_broker(
    provider: Provider, daemon: Daemon, redis_socket: Path
) -> None:
    """The task runs in another process, which knows the client by the message alone."""
    broker = f"redis+socket://{redis_socket}"
    environ = environment(provider, daemon, CELERY_BROKER_URL=broker)
    enqueue = (
        "from examples.recipes.celery_app import write_draft\n"
        "from meterd_middleware import tagged\n"
        f"for client in {CLIENTS!r}:\n"
        "    with tagged(client=client, project='content-generator'):\n"
        "        write_draft.delay(client)\n"
    )
    command = [str(BIN / "celery"), "-A", "examples.recipes.celery_app", "worker"]

    with running([*command, "--concurrency", "2", "--loglevel", "INFO"], environ, " ready."):
        run([sys.executable, "-c", enqueue], environ)
        provider.ledger.wait_until(
            lambda served: sum(call.ending == "finished" for call in served) == len(CLIENTS),
            timeout_s=60,
        )

    assert_counted(daemon, {(c, "content-generator"): served_about(provider, c) for c in CLIENTS})


def test_rq_carries_the_tags_in_the_jobs_meta(
    provider: Provider, daemon: Daemon, redis_socket: Path
) -> None:
    """RQ forks for every job and ends the child at once: its record must survive that."""
    url = f"unix://{redis_socket}"
    environ = environment(provider, daemon)
    enqueue = (
        "from redis import Redis\n"
        "from rq import Queue\n"
        "from examples.recipes.rq_jobs import enqueue, write_draft\n"
        "from meterd_middleware import tagged\n"
        f"queue = Queue('drafts', connection=Redis.from_url({url!r}))\n"
        f"for client in {CLIENTS!r}:\n"
        "    with tagged(client=client, project='content-generator'):\n"
        "        enqueue(queue, write_draft, client)\n"
    )

    run([sys.executable, "-c", enqueue], environ)
    run([str(BIN / "rq"), "worker", "--url", url, "--burst", "drafts"], environ)

    assert_counted(daemon, {(c, "content-generator"): served_about(provider, c) for c in CLIENTS})


def test_threads_and_executors_bill_whom_they_work_for(provider: Provider, daemon: Daemon) -> None:
    """A pool's thread is reused for one client after another."""
    run([sys.executable, "-m", "examples.recipes.threads"], environment(provider, daemon))

    assert len(provider.ledger.served) == 9
    assert_counted(daemon, {(c, "content-generator"): served_about(provider, c) for c in CLIENTS})


@pytest.mark.parametrize(
    ("app", "options"),
    [
        ("examples.recipes.flask_app:app", ["--preload", "--workers", "2"]),
        ("examples.recipes.django_app:application", ["--workers", "2"]),
        ("examples.recipes.flask_app:app", ["--worker-class", "gevent", "--workers", "2"]),
    ],
    ids=["flask", "django", "gevent"],
)
def test_wsgi_apps_under_gunicorns_prefork_are_metered(
    app: str, options: list[str], provider: Provider, daemon: Daemon
) -> None:
    """With --preload the Meter is made before the fork: each worker is a producer of its own."""
    command = [str(BIN / "gunicorn"), *options, "--bind", "127.0.0.1:0", app]

    with running(command, environment(provider, daemon), "Booting worker") as server:
        url = _url_of(server)
        for number in range(8):
            for key, client in (("acme", "acme-corp"), ("bigco", "bigco-inc")):
                answer = httpx2.post(
                    f"{url}/answer",
                    json={"question": f"{client} asks {number}"},
                    headers={"Authorization": f"Bearer {key}"},
                    trust_env=False,
                    timeout=WITHIN_S,
                )
                assert answer.status_code == 200, answer.text

    assert_counted(
        daemon,
        {(c, "support-chatbot"): served_about(provider, c) for c in ("acme-corp", "bigco-inc")},
    )


def _url_of(server: Running) -> str:
    found = re.search(r"http://[\d.]+:\d+", server.wait_for("Listening at"))
    assert found
    return found.group()
