"""One script per SDK, run as it stands: what the provider served is what meterd counted."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.examples.running import (
    ROOT,
    assert_counted,
    assert_no_header_of_ours,
    environment,
    run,
)

if TYPE_CHECKING:
    from tests.support.daemon import Daemon
    from tests.support.provider import Provider

SCRIPTS = {
    "with_openai": ("support-chatbot", 4),
    "with_anthropic": ("content-generator", 2),
    "with_google_genai": ("lead-qualification", 3),
    "with_mistralai": ("support-chatbot", 2),
    "with_cohere": ("lead-qualification", 3),
    "with_groq": ("support-chatbot", 2),
    "with_together": ("support-chatbot", 2),
    "with_ollama": ("support-chatbot", 2),
    "with_huggingface_hub": ("support-chatbot", 2),
    "with_litellm": ("content-generator", 2),
    "with_langchain": ("content-generator", 2),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_sdk_script_is_counted_to_the_token(
    name: str, provider: Provider, daemon: Daemon
) -> None:
    """Each SDK keeps its HTTP client elsewhere and ends a stream in its own way."""
    project, calls = SCRIPTS[name]

    said = run([sys.executable, f"examples/sdk/{name}.py"], environment(provider, daemon))

    served = [call for call in provider.ledger.served if call.counts.tokens]
    assert len(served) == calls
    assert said.strip()
    assert_counted(daemon, {("acme-corp", project): provider.ledger.counts()})
    assert_no_header_of_ours(provider)


def test_there_is_a_test_for_every_sdk_script() -> None:
    """A script that no test runs rots unseen."""
    scripts = {path.stem for path in (ROOT / "examples" / "sdk").glob("with_*.py")}

    assert scripts == set(SCRIPTS)
