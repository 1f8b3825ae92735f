"""What a provider says a call cost, and hosted tools that it bills apart, beside its tokens.

| host | where |
|---|---|
| OpenRouter | `usage.cost`, dollars; with a key of one's own, what the provider took besides |
| Perplexity | `usage.cost.total_cost`, `num_search_queries`, `tool_calls_details` |
| xAI | `usage.cost_in_usd_ticks`, `server_side_tool_usage_details` |
| LiteLLM's proxy | the header `x-litellm-response-cost` (tally.py) |

A cross-check, never the price.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from meterd_middleware.readers.tally import fields_of

if TYPE_CHECKING:
    from meterd_middleware.readers.tally import Fields, Tally

_TICKS_A_DOLLAR = 10**10
"""xAI's ticks are ten-billionths of a dollar."""


def take_costs(tally: Tally, usage: Fields) -> None:
    """Read what a usage object says beside tokens."""
    cost = usage.get("cost")
    if isinstance(cost, dict):
        cost = cost.get("total_cost")
    tally.saw_cost(cost)
    if usage.get("is_byok") is True:
        _add_upstream(tally, fields_of(usage.get("cost_details")).get("upstream_inference_cost"))
    ticks = tally.count(usage.get("cost_in_usd_ticks"), "cost_in_usd_ticks")
    if ticks is not None:
        tally.provider_cost = Decimal(ticks) / _TICKS_A_DOLLAR
    tally.saw_tool_calls("search_queries", usage.get("num_search_queries"))
    tally.saw_tool_calls("num_sources_used", usage.get("num_sources_used"))
    for name, calls in fields_of(usage.get("server_side_tool_usage_details")).items():
        if name != "mcp_calls":  # run on somebody else's server, and free
            tally.saw_tool_calls(name.removesuffix("_calls")[:60], calls)
    for name, detail in fields_of(usage.get("tool_calls_details")).items():
        tool = "web_search" if name == "search_web" else name[:60]
        tally.saw_tool_calls(tool, fields_of(detail).get("invocation"))


def _add_upstream(tally: Tally, upstream: object) -> None:
    """With one's own key OpenRouter's cost is its fee, and the provider bills the rest."""
    fee = tally.provider_cost
    tally.provider_cost = None
    tally.saw_cost(upstream)
    if tally.provider_cost is None:
        tally.provider_cost = fee
    elif fee is not None:
        tally.provider_cost += fee
