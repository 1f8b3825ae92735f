"""The names and numbers by which things are known; each its own type, so that none is mistaken."""

from __future__ import annotations

from typing import NewType

ClientId = NewType("ClientId", str)
"""Whom usage is billed to, as the agency writes it: `acme-corp`."""

ProjectId = NewType("ProjectId", str)
"""A part of a client; the empty one is none."""

PlanId = NewType("PlanId", str)
"""A plan's key in `meterd.toml`."""

ProducerId = NewType("ProducerId", bytes)
"""16 random bytes: one process that writes records."""

LedgerId = NewType("LedgerId", bytes)
"""16 random bytes: one ledger, kept by its backups."""

Sequence = NewType("Sequence", int)
"""A record's number within its producer: 1, 2, 3 …; 0 is before the first."""

LeaseId = NewType("LeaseId", int)
"""A part of a quota lent to a producer; 0 is none."""

RateId = NewType("RateId", int)
"""A resolved rate, append-only; 0 is unpriced."""

UNATTRIBUTED = ClientId("unattributed")
"""The client of calls that name none: recorded, never dropped."""

OTHER = "(other)"
"""Where ids that the configuration doesn't list are rolled up once there are too many."""
