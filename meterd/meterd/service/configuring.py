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
        self._restored: tuple[bytes, str, Configuration] | None = None

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
            self._restored = version.toml, version.source, configuration
            return
        await self._store.use_agency(self._in_force.agency)

    async def apply(self, toml: bytes, source: str, *, dry_run: bool = False) -> Applied:
        """Apply a file, or with `dry_run` say what it would change. Never raises for mistakes."""
        async with self._one_at_a_time:
            try:
                configuration = self._read(toml, source)
                await self._check_against_closed(configuration, source)
                await _check_aliases(configuration, source)
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
        if restored is not None and restored[:2] == (toml, source):
            return restored[2]
        return config_toml.read(toml, source)

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

    async def _check_against_closed(self, configuration: Configuration, source: str) -> None:
        """While no period is closed everything may change; after that not what moves bounds.

        Raises:
            ConfigurationRefused: a change reaches into a closed period.
        """
        before = self._in_force.agency
        opened = open_from(before, await self._store.closed_periods())
        mistakes = tuple(
            configuration.mistake(path, message)
            for path, message in forbidden_changes(before, configuration.agency, opened)
        )
        if mistakes:
            raise ConfigurationRefused(mistakes, source)


async def _check_aliases(configuration: Configuration, source: str) -> None:
    """Every `same_as` must be in the price book.

    Raises:
        ConfigurationRefused: one isn't; a price that rests on nothing is no price.
    """
    found = await asyncio.to_thread(lambda: list(unknown_aliases(configuration.agency)))
    if found:
        mistakes = tuple(configuration.mistake(path, message) for path, message in found)
        raise ConfigurationRefused(mistakes, source)
