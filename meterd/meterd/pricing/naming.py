"""Names: providers and tools as OpenTelemetry and the wire say them, and as the price book does.

A provider that the book doesn't know has no prices there: guessing one from the model's name
would bill a local model at its maker's price. An override in `meterd.toml` prices it.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_PROVIDERS: Mapping[str, str] = MappingProxyType(
    {
        "gcp.gemini": "google",
        "gcp.vertex_ai": "google",
        "gcp.gen_ai": "google",
        "azure.ai.openai": "azure",
        "azure.ai.inference": "azure",
        "aws.bedrock": "aws",
        "mistral_ai": "mistral",
        "x_ai": "x-ai",
        "moonshot_ai": "moonshotai",
        "together_ai": "together",
        "fireworks_ai": "fireworks",
    }
)

_TOOLS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(
            (
                "web_search",
                "web_searches",
                "web_search_call",
                "web_search_preview",
                "web_search_requests",
                "google_search",
                "search_queries",
            ),
            "web_searches",
        ),
        **dict.fromkeys(
            ("file_search", "file_search_call", "storage_search", "storage_searches"),
            "storage_searches",
        ),
        **dict.fromkeys(
            ("code_execution", "code_executions", "code_interpreter", "code_execution_requests"),
            "code_executions",
        ),
        **dict.fromkeys(("x_search", "social_searches"), "social_searches"),
    }
)

FREE_TOOLS = frozenset({"web_fetch", "web_fetch_requests", "tool_search", "tool_search_requests"})
"""Billed by the tokens they bring in alone (Anthropic's pricing page, 2025-11)."""

REGIONAL = frozenset({"aws"})
"""Where the request names what is billed: Bedrock answers without the region's prefix."""


def book_provider(provider: str) -> str:
    """The book's id of a provider; its own name where they are the same."""
    return _PROVIDERS.get(provider, provider)


def book_tools(tool_calls: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Calls by the book's name of the tool; what is free by itself is left out."""
    calls: dict[str, int] = {}
    for name, count in tool_calls:
        if count and name not in FREE_TOOLS:
            tool = _TOOLS.get(name, name)
            calls[tool] = calls.get(tool, 0) + count
    return calls


def book_tool(name: str) -> str:
    """The book's name of one tool."""
    return _TOOLS.get(name, name)
