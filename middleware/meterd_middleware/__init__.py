"""Per-client metering of LLM calls, inside your app."""
