"""The FastAPI and the Starlette app, under uvicorn, driven over HTTP."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import httpx2

from tests.examples.running import (
    BIN,
    WITHIN_S,
    assert_counted,
    assert_no_header_of_ours,
    environment,
    running,
)
from tests.support.provider import Counts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from tests.examples.running import Running
    from tests.support.daemon import Daemon
    from tests.support.provider import Provider


def served_app(app: str, environ: Mapping[str, str]) -> AbstractContextManager[Running]:
    """An app under uvicorn on a free port."""
    command = [str(BIN / "uvicorn"), app, "--port", "0"]
    return running(command, environ, "Uvicorn running on")


def url_of(server: Running) -> str:
    """Where uvicorn says that it runs."""
    found = re.search(r"http://[\d.]+:\d+", server.wait_for("Uvicorn running on"))
    assert found
    return found.group()


def by_request_id(provider: Provider, prefix: str) -> Counts:
    """What the provider served for requests whose id begins so."""
    total = Counts()
    for request_id, counts in provider.ledger.by_request_id().items():
        if request_id.startswith(prefix):
            total += counts
    return total


def test_the_fastapi_app_bills_each_request_to_who_signed_in(
    provider: Provider, daemon: Daemon
) -> None:
    """The login is a dependency: streams, background tasks and three SDKs must all see it."""
    requests = [
        (key, path, f"{key}-{path.split('/')[1]}-{number}")
        for key in ("acme", "bigco")
        for number, path in enumerate(
            (
                "/support-chatbot/chat",
                "/support-chatbot/search",
                "/content-generator/draft",
                "/lead-qualification/score",
            )
        )
    ]

    with served_app("examples.fastapi_app:app", environment(provider, daemon)) as server:
        url = url_of(server)
        for key, path, request_id in requests:
            answer = httpx2.post(
                url + path,
                json={"text": f"about {request_id}"},
                headers={"Authorization": f"Bearer {key}", "X-Request-ID": request_id},
                trust_env=False,
                timeout=WITHIN_S,
            )
            assert answer.status_code == 200, answer.text
        stranger = httpx2.post(
            url + "/support-chatbot/chat",
            json={"text": "hello"},
            headers={"X-Client-ID": "acme-corp"},
            trust_env=False,
            timeout=WITHIN_S,
        )
        # The two background headlines come after their answers.
        provider.ledger.wait_until(lambda served: len(served) == len(requests) + 2)

    assert stranger.status_code == 401
    assert_counted(
        daemon,
        {
            (client, project): by_request_id(provider, f"{key}-{project}")
            for key, client in (("acme", "acme-corp"), ("bigco", "bigco-inc"))
            for project in ("support-chatbot", "content-generator", "lead-qualification")
        },
    )
    assert_no_header_of_ours(provider)


def test_a_client_over_its_hard_quota_is_refused_and_its_other_pages_work(
    provider: Provider, daemon: Daemon
) -> None:
    """The refusal is left uncaught in the app and must become a 429, not a 500."""
    provider.do = "input=1990000"

    with served_app("examples.fastapi_app:app", environment(provider, daemon)) as server:
        url, headers = url_of(server), {"Authorization": "Bearer tech"}
        # A call that the daemon did not decide in time goes on (`on_unreachable = "allow"`), so a
        # busy machine may let some through; one of the next is refused all the same.
        answers: list[httpx2.Response] = []
        while len(answers) < 20 and (not answers or answers[-1].status_code == 200):
            answers.append(
                httpx2.post(
                    url + "/lead-qualification/score",
                    json={"text": "word " * 9_000},
                    headers=headers,
                    trust_env=False,
                    timeout=WITHIN_S,
                )
            )
        home = httpx2.get(url + "/", headers=headers, trust_env=False, timeout=WITHIN_S)

    assert answers[0].status_code == 200
    assert answers[-1].status_code == 429
    assert answers[-1].headers["content-type"] == "application/problem+json"
    assert "techstartup" in answers[-1].text
    assert home.status_code == 200
    assert len(provider.ledger.served) < len(answers)


def test_the_starlette_app_believes_its_edge(provider: Provider, daemon: Daemon) -> None:
    """Behind an edge of the agency's own the inbound headers say who pays."""
    with served_app("examples.starlette_app:app", environment(provider, daemon)) as server:
        answer = httpx2.post(
            url_of(server) + "/answer",
            json={"question": "Where is my parcel?"},
            headers={"X-Client-ID": "bigco-inc", "X-Project-ID": "support-chatbot"},
            trust_env=False,
            timeout=WITHIN_S,
        )

    assert answer.json()["answer"]
    assert_counted(daemon, {("bigco-inc", "support-chatbot"): provider.ledger.counts()})


def test_the_starlette_app_reads_its_session(provider: Provider, daemon: Daemon) -> None:
    """Without such an edge `identify` says who is asking, and a stranger's header nothing."""
    with served_app("examples.starlette_app:app_with_sessions", environment(provider, daemon)) as (
        server
    ):
        answer = httpx2.post(
            url_of(server) + "/answer",
            json={"question": "Where is my parcel?"},
            headers={"Cookie": "session=session-of-acme", "X-Client-ID": "bigco-inc"},
            trust_env=False,
            timeout=WITHIN_S,
        )

    assert answer.json()["answer"]
    assert_counted(daemon, {("acme-corp", "support-chatbot"): provider.ledger.counts()})
