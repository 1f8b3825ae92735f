"""Which quotas a call counts against: one list, in which each level stands beside the others.

    agency ── client ── client's project ── client's model pattern: a call must fit all

A quota's limit here is where calls are refused: the quota if it is hard, the cap if it is soft
and has one; what has neither refuses nobody and is only watched (`thresholds.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from meterd.config.agency import LimitMode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from meterd.config.agency import QuotaRule


_VERSION = re.compile(r"[-@:](20\d\d-?[01]\d-?[0-3]\d|latest)$")


@dataclass(frozen=True, slots=True)
class Quota:
    """One quota of one period, with what was granted by hand on top of its rule."""

    rule: QuotaRule
    period: int
    granted: int = 0
    is_own: bool = False
    """The client's own, which its plan's tokens make; grants are made to this one."""

    @property
    def name(self) -> str:
        """As refusals and events name it."""
        if not self.rule.client:
            return f"agency, model {self.rule.model}" if self.rule.model else "agency"
        project = f", project {self.rule.project}" if self.rule.project else ""
        model = f", model {self.rule.model}" if self.rule.model else ""
        return f"client {self.rule.client}{project}{model}"

    @property
    def tokens(self) -> int:
        """What it includes: beyond lies overage, or nothing."""
        return max(0, self.rule.tokens + self.granted)

    @property
    def cap(self) -> int | None:
        """Where overage ends, if the quota is soft and has a cap."""
        if self.rule.mode is not LimitMode.SOFT or self.rule.cap is None:
            return None
        return max(0, self.rule.cap + self.granted)

    @property
    def ceiling(self) -> int | None:
        """Where calls are refused; None: nowhere."""
        return self.tokens if self.rule.mode is LimitMode.HARD else self.cap

    def counts(self, client: str, project: str, model: str) -> bool:
        """Whether usage of this client, project and model counts against it."""
        return self.may_count(client, project, model)

    def may_count(self, client: str, project: str | None, model: str | None) -> bool:
        """As `counts` for a lease, whose project or model may be any (None): then it may."""
        rule = self.rule
        return (
            rule.client in ("", client)
            and (project is None or rule.project in ("", project))
            and (model is None or not rule.model or is_model(rule.model, model))
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """A quota and its figures at one moment."""

    quota: Quota
    used: int
    """In the ledger."""
    leased: int
    """Lent, and neither in the ledger nor returned."""

    @property
    def remaining(self) -> int:
        """What can still be lent; only for quotas with a ceiling."""
        return max(0, (self.quota.ceiling or 0) - self.used - self.leased)


def is_model(pattern: str, model: str) -> bool:
    """Whether a model is one that a quota's pattern means.

    A call asks for `gpt-4o` and is answered by `gpt-4o-2024-08-06`, the name under which its
    usage stands in the ledger: both are the model that `gpt-4o` means, `gpt-4o-mini` isn't.
    """
    return fnmatchcase(model, pattern) or fnmatchcase(_VERSION.sub("", model), pattern)


def by_project(quotas: Iterable[Quota]) -> bool:
    """Whether leases have to go by project for these quotas to hold."""
    return any(quota.rule.project for quota in quotas if quota.ceiling is not None)


def by_model(quotas: Iterable[Quota]) -> bool:
    """Whether leases have to go by model for these quotas to hold."""
    return any(quota.rule.model for quota in quotas if quota.ceiling is not None)


def limiting(quotas: Iterable[Quota], client: str, project: str, model: str) -> list[Quota]:
    """The quotas with a ceiling that a call counts against."""
    return [
        quota
        for quota in quotas
        if quota.ceiling is not None and quota.counts(client, project, model)
    ]


def used_of(quota: Quota, usage: Mapping[tuple[str, str], tuple[int, int]]) -> tuple[int, int]:
    """Tokens that count against a quota, and the estimated ones among them.

    Args:
        usage: (project, model) → (tokens, of which estimated), of the quota's client, or of
            all clients for the agency's quotas.
    """
    used = estimated = 0
    for (project, model), (tokens, guessed) in usage.items():
        if quota.counts(quota.rule.client, project, model):
            used += tokens
            estimated += guessed
    return used, estimated
