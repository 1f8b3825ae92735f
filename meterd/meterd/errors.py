"""What the daemon raises. The first split is what the caller does next.

MeterdError
├── Refused              change something, then ask again
│   ├── InvalidSetting      an option or an environment variable
│   ├── ConfigurationRefused   `meterd.toml`: every mistake, with line and field
│   ├── InvalidRequest      a request names something that can't be: a month, a client
│   │   └── NotFound        … that isn't there
│   ├── BatchBroken         framing, size or order of a batch: a producer's bug
│   ├── SequenceGap         a batch begins beyond watermark + 1, undeclared
│   ├── NotAllowed          the access key's scope doesn't reach that far
│   │   └── NotIdentified   no access key, or one that isn't known
│   ├── NotPossibleNow      the state forbids it: a period is closed, one is still open
│   └── CannotStart         socket in use, data directory taken or not writable
└── Unavailable          send the same again later; nothing, or nothing certain, happened
    ├── StoreBusy           the write lock was not free within the configured wait
    └── StorageFault        disk full, I/O error: the reason, in one sentence

`service/status.py` turns these into gRPC statuses, `cli` into exit codes.
"""

from __future__ import annotations

from dataclasses import dataclass


class MeterdError(Exception):
    """Anything that meterd raises."""


class Refused(MeterdError):
    """The caller has to change something; asking the same again gets the same answer."""


class Unavailable(MeterdError):
    """Nothing is wrong with what was asked; asking again later is safe."""


class InvalidSetting(Refused):
    """A setting can't be used; named with its value and what was expected."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        super().__init__(field, value, expected)  # all three, so that it pickles
        self.field, self.value, self.expected = field, value, expected

    def __str__(self) -> str:
        return f"{self.field} is {self.value!r}, expected {self.expected}"


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing wrong in a configuration file; line 0 is the file as a whole."""

    line: int
    field: str
    message: str

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        return f"{place}{self.field}: {self.message}" if self.field else f"{place}{self.message}"


class ConfigurationRefused(Refused):
    """A `meterd.toml` has mistakes; all of them are here, and nothing of it was applied."""

    def __init__(self, mistakes: tuple[Mistake, ...], source: str = "meterd.toml") -> None:
        super().__init__(mistakes, source)
        self.mistakes, self.source = mistakes, source

    def __str__(self) -> str:
        return "\n".join(f"{self.source}: {mistake}" for mistake in self.mistakes)


class InvalidRequest(Refused):
    """A request names something that can't be; says what was expected."""


class NotFound(InvalidRequest):
    """A request names something that isn't there."""


class BatchBroken(Refused):
    """A batch can't be read for its framing, size or order: a bug of the producer."""


class SequenceGap(Refused):
    """A batch begins beyond the watermark + 1, and what lies between was not declared lost."""


class NotAllowed(Refused):
    """The access key shown is known, but its scope doesn't reach this far."""


class NotIdentified(NotAllowed):
    """No access key was shown where one is needed, or one that isn't known."""


class NotPossibleNow(Refused):
    """What was asked is well-formed, but the state of things forbids it; says which."""


class CannotStart(Refused):
    """The daemon can't start here; one sentence says why and what to do."""


class StoreBusy(Unavailable):
    """The write lock was not free within the configured wait."""


class StorageFault(Unavailable):
    """The disk is full or failing; nothing acknowledged is lost."""
