"""docs/quotas.md: its recipes are the example's own lines, and the example does what it says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from meterd.delivery import signature
from meterd_middleware import Meter
from meterd_proto.v1 import admin_pb2, admin_pb2_grpc
from tests.deploy.asking import channel, until
from tests.examples.running import (
    BIN,
    ROOT,
    WITHIN_S,
    assert_counted,
    counted,
    environment,
    listening_directory,
    running,
)
from tests.support.daemon import start_daemon
from tests.support.provider import Counts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.daemon import Daemon
    from tests.support.provider import Provider

CONFIG = """\
[plans.tier]
type = "retainer"
fee = "500"
included_tokens = "100k"
limit = "hard"
overage = "none"
[clients.acme-corp]
plan = "tier"
[[clients.acme-corp.quotas]]
model = "gpt-5.4"
tokens = "1k"
limit = "hard"
[clients.techstartup]
plan = "tier"
included_tokens = "1k"
"""
DOCS = (ROOT / "docs" / "quotas.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A meterd whose two clients have used up a model and a plan."""
    with listening_directory() as directory, start_daemon(directory, config=CONFIG) as daemon:
        with Meter(target=daemon.target, spool=daemon.spool_root, service="batch") as meter:
            for client in ("acme-corp", "techstartup"):
                meter.record(
                    client=client, provider="openai", operation="chat", request_model="gpt-5.4",
                    input_tokens=1_000, output_tokens=0,
                )  # fmt: skip
            assert meter.flush(20)
        yield daemon


def test_the_recipes_of_the_page_are_the_examples_own_lines() -> None:
    """A copy would grow old."""
    example = (ROOT / "examples" / "recipes" / "over_quota.py").read_text(encoding="utf-8")
    recipes = [block for block in BLOCKS if block.startswith("async def")]

    assert len(recipes) == 3
    assert all(recipe in example for recipe in recipes)


def test_the_page_verifies_what_meterd_signs() -> None:
    """As a webhook would, and nothing else passes."""
    (block,) = (block for block in BLOCKS if "def is_genuine" in block)
    names: dict[str, Any] = {}
    exec(block, names)  # the page's own code
    is_genuine = names["is_genuine"]

    assert is_genuine("s", b"{}", signature("s", b"{}"))
    assert not is_genuine("s", b"{ }", signature("s", b"{}"))
    assert not is_genuine("t", b"{}", signature("s", b"{}"))


def test_a_client_over_its_quota_gets_a_page_a_cheaper_model_or_its_answer_later(
    provider: Provider, daemon: Daemon
) -> None:
    """Three ways to take a refusal, and each call is billed to who asked."""
    command = [str(BIN / "uvicorn"), "examples.recipes.over_quota:app", "--port", "0"]
    with running(command, environment(provider, daemon), "Uvicorn running on") as server:
        found = re.search(r"http://[\d.]+:\d+", server.wait_for("Uvicorn running on"))
        assert found

        def get(path: str, client: str) -> httpx2.Response:
            return httpx2.get(
                f"{found.group()}{path}", params={"q": f"What of {client}?"},
                headers={"X-Client-ID": client}, trust_env=False, timeout=WITHIN_S,
            )  # fmt: skip

        page = get("/answer", "techstartup")
        degraded = get("/cheaper", "acme-corp")
        before = get("/later", "techstartup")
        _grant(daemon, "techstartup", 50_000)
        assert until(lambda: get("/later", "techstartup").status_code == 200)

    assert page.status_code == 429
    assert "Your plan's 1,000 tokens are used up until " in page.text
    assert degraded.status_code == 200
    assert before.status_code == 202
    by_model = provider.ledger.by_model()
    assert set(by_model) == {"gpt-5.4", "gpt-5.4-mini"}
    used_before = Counts(input_tokens=1_000)
    assert_counted(
        daemon,
        {
            ("acme-corp", ""): used_before + by_model["gpt-5.4-mini"],
            ("techstartup", ""): used_before + by_model["gpt-5.4"],
        },
    )
    assert len(counted(daemon)) == 2


def _grant(daemon: Daemon, client: str, tokens: int) -> None:
    request = admin_pb2.GrantRequest(client=client, tokens=tokens, why="a test", who="ann")
    with channel(daemon) as opened:
        admin_pb2_grpc.AdminServiceStub(opened).Grant(request, timeout=WITHIN_S)
