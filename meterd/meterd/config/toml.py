"""`meterd.toml` as a whole: text in, an `Agency` out, or every mistake at once.

    bytes ─ tomllib ─▶ values ─ Table, Notes ─▶ Agency        + warnings
                  └─ lines.py ─▶ line of each field  ─▶ mistakes

Nothing of a file with a mistake is used. A syntax error is the one mistake that hides the
others, since nothing can be read behind it.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from meterd.config.agency import (
    DEFAULT_THRESHOLDS,
    UNLISTED_IDS_MAX,
    AccessKey,
    Agency,
    Hook,
    UnknownClients,
)
from meterd.config.clients import read_client, read_tax
from meterd.config.lines import lines_of
from meterd.config.prices import read_exchange_rates, read_prices
from meterd.config.reading import Notes, Table, field_name, nearest, one_of, text
from meterd.config.terms import read_plan, read_quota, thresholds
from meterd.errors import ConfigurationRefused, Mistake
from meterd.money import CURRENCIES

if TYPE_CHECKING:
    from meterd.config.agency import Plan

FILE_BYTES_MAX = 8 * 2**20
HOOK_TIMEOUT_MS_MAX = 60_000
UNLISTED_IDS_LIMIT = 1_000_000
SERIES_CHARACTERS_MAX = 12
CLOSE_AFTER_HOURS_MAX = 31 * 24

_SYNTAX = re.compile(
    r"(?P<what>.*) \(at (?:line (?P<line>\d+), column \d+|(?P<end>end of document))\)"
)
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")


class Scope(StrEnum):
    """How far an access key reaches; each holds what the one before it does."""

    SHIP = "ship"
    READ = "read"
    ADMIN = "admin"


class Rounding(StrEnum):
    """How a line that lies between two minor units is rounded where it is exactly between."""

    HALF_UP = "half_up"
    HALF_EVEN = "half_even"


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a file says, and what in it a careful reader would ask about."""

    agency: Agency
    notes: Notes

    @property
    def warnings(self) -> tuple[Mistake, ...]:
        """What is applied, but strange."""
        return tuple(self.notes.warnings)

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        """What keeps it from being applied, sorted by line."""
        return tuple(sorted(self.notes.mistakes, key=lambda one: one.line))

    def mistake(self, path: tuple[str | int, ...], message: str) -> Mistake:
        """A mistake found later, by who knows what the file alone doesn't say."""
        return Mistake(self.notes.line(path), field_name(path), message)


def read(toml: bytes, source: str = "meterd.toml") -> Configuration:
    """Read and check a configuration file.

    Raises:
        ConfigurationRefused: it has mistakes; all of them are in it, sorted by line.
    """
    configuration = look(toml, source)
    if configuration.mistakes:
        raise ConfigurationRefused(configuration.mistakes, source)
    return configuration


def look(toml: bytes, source: str = "meterd.toml") -> Configuration:
    """Read a configuration file as far as it can be, its mistakes beside it.

    Raises:
        ConfigurationRefused: it is no TOML.
    """
    values, lines = _parsed(toml, source)
    notes = Notes(lines)
    return Configuration(_agency(Table(values, (), notes)), notes)


def _parsed(toml: bytes, source: str) -> tuple[dict[str, object], dict[tuple[str | int, ...], int]]:
    if len(toml) > FILE_BYTES_MAX:
        raise _refused(0, f"has {len(toml)} bytes, at most {FILE_BYTES_MAX} are read", source)
    try:
        document = toml.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = toml.count(b"\n", 0, error.start) + 1
        raise _refused(line, "is not UTF-8 text", source) from error
    try:
        return tomllib.loads(document), lines_of(document)
    except tomllib.TOMLDecodeError as error:
        raise _refused(*_syntax_error(str(error), document), source) from error
    except RecursionError as error:
        raise _refused(0, "is nested too deeply", source) from error


def _syntax_error(message: str, document: str) -> tuple[int, str]:
    """The line and the clause of what tomllib says about a file that is no TOML."""
    matched = _SYNTAX.fullmatch(message)
    if matched is None:
        return 0, f"is no TOML: {message}"
    line = int(matched["line"]) if matched["line"] else document.count("\n") + 1
    return line, f"is no TOML: {matched['what'].rstrip('.')}"


def _refused(line: int, message: str, source: str) -> ConfigurationRefused:
    return ConfigurationRefused((Mistake(line, "", message),), source)


def _agency(file: Table) -> Agency:
    table = file.table("agency")
    currency = table.read("currency", _currency) or "USD"
    anchor = table.whole("anchor", 1, 1, 31)
    plans = _plans(file.table("plans"), currency)
    clients = file.table("clients")
    agency = Agency(
        name=table.text("name"),
        currency=currency,
        timezone=table.read("timezone", _timezone) or "UTC",
        rounding=table.choice("rounding", Rounding.HALF_UP).value,
        unknown_clients=table.choice("unknown_clients", UnknownClients.METER),
        unlisted_ids_max=table.whole("unlisted_ids_max", UNLISTED_IDS_MAX, 1, UNLISTED_IDS_LIMIT),
        anchor=anchor,
        close_after_hours=table.whole("close_after_hours", 48, 0, CLOSE_AFTER_HOURS_MAX),
        thresholds=table.read("thresholds", thresholds) or DEFAULT_THRESHOLDS,
        target_margin=table.percent("target_margin", 0, 100),
        invoice_series=table.read("invoice_series", _series) or "",
        address=table.text("address"),
        email=table.text("email"),
        tax_id=table.text("tax_id"),
        payment_terms=table.text("payment_terms"),
        tax=read_tax(table),
        plans=plans,
        clients={
            name: read_client(clients.table(name), name, plans, currency, anchor)
            for name in clients.names()
        },
        quotas=tuple(read_quota(inner) for inner in file.tables("quotas")),
        prices=read_prices(file.tables("prices"), clients.names()),
        exchange_rates=read_exchange_rates(file.tables("exchange_rates"), currency),
        on_threshold=_hook(file),
        access_keys=_access_keys(file.table("access_keys")),
    )
    table.done()
    file.done()
    return agency


def _plans(table: Table, currency: str) -> dict[str, Plan]:
    found = {name: read_plan(table.table(name), name, currency) for name in table.names()}
    return {name: plan for name, plan in found.items() if plan is not None}


def _currency(value: object) -> str:
    name = text(value)
    if name in CURRENCIES:
        return name
    hint = f"; write {name.upper()}" if name.upper() in CURRENCIES else nearest(name, CURRENCIES)
    raise ValueError(f"{name!r} is no currency of ISO 4217{hint}")


def _series(value: object) -> str:
    """What numbers of invoices begin with: with six digits, and "CN-" before those of a credit
    note, 21 characters, the least that accounting programs take."""
    name = text(value)
    if len(name) > SERIES_CHARACTERS_MAX or not name.isascii() or not name.isprintable():
        raise ValueError(
            f"{name!r} is no beginning of a number: at most {SERIES_CHARACTERS_MAX} printable "
            'ASCII characters, as "NW-2026-"'
        )
    return name


def _timezone(value: object) -> str:
    name = text(value)
    try:
        # "localtime" and the like are files that `zoneinfo` would read, but not the same on
        # the next host; "" is no key.
        if name and ZoneInfo(name).key == name and not name.startswith(("/", "localtime")):
            return name
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    hint = nearest(name, available_timezones())
    raise ValueError(f'{name!r} is no time zone, as "America/New_York"{hint}')


def _hook(file: Table) -> Hook | None:
    if not file.has("on_threshold"):
        return None
    table = file.table("on_threshold")
    hook = Hook(
        command=table.texts("command"),
        url=table.text("url"),
        secret=table.text("secret"),
        timeout_ms=table.whole("timeout_ms", 10_000, 100, HOOK_TIMEOUT_MS_MAX),
    )
    if table.has("command") == table.has("url"):
        table.mistake("", "needs either a command or a url")
    elif table.has("command") and not hook.command:
        table.mistake("command", "names no program")
    elif table.has("url") and not _is_web_address(hook.url):
        table.mistake("url", f"{hook.url!r} is no web address, as https://example.com/meterd")
    elif table.has("url") and not hook.secret:
        table.mistake("", "needs a secret, with which each webhook is signed")
    table.done()
    return hook


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _access_keys(keys: Table) -> tuple[AccessKey, ...]:
    found = [_access_key(keys.table(name), name) for name in keys.names()]
    return tuple(key for key in found if key is not None)


def _access_key(table: Table, name: str) -> AccessKey | None:
    for needed in ("hash", "scope"):
        if not table.has(needed):
            table.mistake("", f"has no {needed}; `meterctl access-key {name}` prints it")
    digest = table.read("hash", _key_hash)
    scope = table.read("scope", one_of(Scope))
    table.done()
    if digest is None or scope is None:
        return None
    return AccessKey(name, digest, scope.value)


def _key_hash(value: object) -> str:
    written = text(value)
    if not _SHA256.fullmatch(written):
        # Not shown: it may be the key itself.
        raise ValueError('is no hash, as "sha256:…"; `meterctl access-key` prints key and hash')
    return written.removeprefix("sha256:")
