"""What the middleware raises, to the app's own calls of its API alone; never into an LLM call.

MeterdError
├── Refused          change something, then ask again
│   ├── QuotaExceeded    (refusal.py)
│   ├── InvalidSetting   an argument or environment variable
│   ├── InvalidUsage     what `meter.record` was given
│   ├── CannotInstrument an object whose transport can't be reached
│   └── Untagged         `on_untagged="refuse"` and no client was named
└── Unavailable      send the same again later
"""


class MeterdError(Exception):
    """Anything that meterd raises."""


class Refused(MeterdError):
    """The caller has to change something; asking the same again gets the same answer."""


class Unavailable(MeterdError):
    """Nothing is wrong with what was asked; asking again later is safe."""


class InvalidSetting(Refused):
    """A setting can't be used; named with its value and what was expected."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        super().__init__(field, value, expected)
        self.field, self.value, self.expected = field, value, expected

    def __str__(self) -> str:
        return f"{self.field} is {self.value!r}, expected {self.expected}"


class InvalidUsage(InvalidSetting):
    """A field of a usage record given by hand can't be counted."""


class CannotInstrument(Refused):
    """The object given to `instrument` has no transport that can be metered; says what to do."""


class Untagged(Refused):
    """A call names no client, and this meter refuses such calls."""
