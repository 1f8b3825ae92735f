"""Per-client metering of LLM calls, inside your app."""

from meterd_middleware.asgi import MeterMiddleware
from meterd_middleware.errors import (
    CannotInstrument,
    InvalidSetting,
    InvalidUsage,
    MeterdError,
    Refused,
    Unavailable,
    Untagged,
)
from meterd_middleware.instrument import Instrumentation, instrument, instrument_all
from meterd_middleware.meter import Meter
from meterd_middleware.refusal import QuotaExceeded, refusal_of
from meterd_middleware.tags import Tags, current_tags, tag_request, tagged
from meterd_middleware.usage import Estimated, Status, UsageRecord

__all__ = [
    "CannotInstrument",
    "Estimated",
    "Instrumentation",
    "InvalidSetting",
    "InvalidUsage",
    "Meter",
    "MeterMiddleware",
    "MeterdError",
    "QuotaExceeded",
    "Refused",
    "Status",
    "Tags",
    "Unavailable",
    "Untagged",
    "UsageRecord",
    "current_tags",
    "instrument",
    "instrument_all",
    "refusal_of",
    "tag_request",
    "tagged",
]
