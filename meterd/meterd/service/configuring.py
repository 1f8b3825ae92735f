"""Applying a configuration: checked, compared, stored, and put in force, in this order.

    toml ─ read ─▶ Agency ─ allowed now? ─▶ differences ─▶ store.apply_config ─▶ store.use_agency
                                                                            └─▶ InForce.set

Stored before it is used: a daemon that is killed between the two starts with the stored
version and finishes. One at a time, so that two `apply` don't mix.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meterd.billing.frozen import forbidden_changes, open_from
from meterd.config import toml as config_toml
from meterd.config.difference import Difference, differences
from meterd.errors import ConfigurationRefused, Mistake, Unavailable
from meterd.service.aliases import unknown_aliases

if TYPE_CHECKING:
    from meterd.clock import Clock
    from meterd.config.agency import Agency
    from meterd.config.in_force import InForce
    from meterd.config.toml import Configuration
    from meterd.store.store import Store
    from meterd.store.values import ConfigVersion

_log = logging.getLogger("meterd")


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a file: refused with mistakes, or in force with what it changed."""

    is_applied: bool
    version: int
    mistakes: tuple[Mistake, ...] = ()
    warnings: tuple[Mistake, ...] = ()
    differences: tuple[Difference, ...] = ()


class Configuring:
    """The one way by which a configuration comes into force."""

    def __init__(self, store: Store, in_force: InForce, clock: Clock) -> None:
        self._store = store
        self._in_force = in_force
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._restored: tuple[bytes, Configuration] | None = None

    async def restore(self) -> None:
        """Put the newest stored version that can be read in force; at start."""
        for version in reversed(await self._store.config_versions()):
            try:
                configuration = config_toml.read(version.toml, version.source)
            except ConfigurationRefused as error:
                # A newer meterd may be stricter; an older one may know less.
                _log.error("stored configuration %d can't be read: %s", version.version, error)
                self._in_force.refused = error.mistakes
                continue
            await self._put_in_force(configuration.agency, version)
            self._restored = version.toml, configuration
            return
        await self._store.use_agency(self._in_force.agency)

    async def apply(self, toml: bytes, source: str, *, dry_run: bool = False) -> Applied:
        """Apply a file, or with `dry_run` say what it would change. Never raises for mistakes."""
        async with self._one_at_a_time:
            try:
                configuration = self._read(toml, source)
                await self._check(configuration, source)
            except ConfigurationRefused as error:
                return Applied(False, self._in_force.version, mistakes=error.mistakes)
            changes = tuple(differences(self._in_force.agency, configuration.agency))
            if not dry_run and (changes or not self._in_force.version):
                await self._store_and_use(configuration.agency, toml, source)
            return Applied(
                not dry_run,
                self._in_force.version,
                warnings=configuration.warnings,
                differences=changes,
            )

    async def apply_at_start(self, toml: bytes | OSError, source: str) -> None:
        """Apply the file named at start; refused, the old one stays and `status` says so."""
        if isinstance(toml, OSError):
            reason = toml.strerror or str(toml)
            mistakes: tuple[Mistake, ...] = (Mistake(0, "", f"can't be read: {reason}"),)
        else:
            try:
                mistakes = (await self.apply(toml, source)).mistakes
            except Unavailable as error:  # a full disk must not keep records from being taken
                mistakes = (Mistake(0, "", f"can't be stored: {error}"),)
        self._in_force.refused = mistakes
        if mistakes:
            _log.error("%s was refused; version %d stays in force:", source, self._in_force.version)
        for mistake in mistakes:
            _log.error("%s: %s", source, mistake)

    def _read(self, toml: bytes, source: str) -> Configuration:
        """Read a file; at nearly every start it is the stored one, read a moment ago.

        A thousand clients take 40 ms.
        """
        restored, self._restored = self._restored, None
        if restored is not None and restored[0] == toml:
            return restored[1]
        return config_toml.look(toml, source)

    async def _store_and_use(self, agency: Agency, toml: bytes, source: str) -> None:
        at_ms = self._clock.unix_ns() // 1_000_000
        version = await self._store.apply_config(toml, source, at_ms)
        await self._put_in_force(agency, version)

    async def _put_in_force(self, agency: Agency, version: ConfigVersion) -> None:
        await self._store.use_agency(agency)
        self._in_force.set(
            agency, version.version, version.source, version.applied_at_ms * 1_000_000
        )
        self._in_force.refused = ()

    async def _check(self, configuration: Configuration, source: str) -> None:
        """Every mistake at once: what the file alone says, the price book, and closed periods.

        Raises:
            ConfigurationRefused: there is any.
        """
        mistakes = list(configuration.mistakes)
        known = {mistake.line for mistake in mistakes}
        mistakes += [one for one in await _aliases(configuration) if one.line not in known]
        if not configuration.mistakes:  # of half a client it can't be said what it changes
            mistakes += await self._against_closed(configuration)
        if mistakes:
            raise ConfigurationRefused(tuple(sorted(mistakes, key=lambda one: one.line)), source)

    async def _against_closed(self, configuration: Configuration) -> list[Mistake]:
        """While no period is closed everything may change; after that not what moves bounds."""
        before = self._in_force.agency
        opened = open_from(before, await self._store.closed_periods())
        return [
            configuration.mistake(path, message)
            for path, message in forbidden_changes(before, configuration.agency, opened)
        ]


async def _aliases(configuration: Configuration) -> list[Mistake]:
    """Every `same_as` must be in the price book: a price that rests on nothing is no price."""
    found = await asyncio.to_thread(lambda: list(unknown_aliases(configuration.agency)))
    return [configuration.mistake(path, message) for path, message in found]
