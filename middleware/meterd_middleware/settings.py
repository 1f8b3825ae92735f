"""Settings: arguments before environment before defaults, decided once when a Meter is made.

    Meter(...) arguments ▸ METERD_* environment ▸ defaults ──▶ Settings (frozen)

Spool and target are decided apart, and neither depends on whether the daemon is up: the
target's candidates are tried at every attempt to connect, so that app and daemon may be
started in any order. Nothing here touches the network; the only disk access asks whether
the system's spool root can be written.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from meterd_middleware.errors import InvalidSetting

if TYPE_CHECKING:
    from collections.abc import Mapping

OnUnreachable = Literal["allow", "reject"]
OnUntagged = Literal["record", "refuse"]

SYSTEM_SPOOL_ROOT = Path("/var/spool/meterd")
SYSTEM_SOCKET = "/run/meterd/meterd.sock"
HIDDEN = "…"
"""In place of a secret, which no message may show."""
TCP_PORT = 7310
LEASE_TIMEOUT_MS = 50
LEASE_TIMEOUT_MS_MAX = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one Meter was told. Intervals in milliseconds, sizes in bytes."""

    spool_root: Path
    target: str | None = None
    """`unix:PATH` or `HOST:PORT`; None: `targets()` decides at each attempt to connect."""
    service: str = ""
    """The app's name, as operators see it: `service@host`."""
    host: str = ""
    access_key: str = field(default="", repr=False)
    client: str = ""
    """Whom calls are billed to that name nobody; empty: `unattributed`."""
    on_unreachable: OnUnreachable = "allow"
    on_untagged: OnUntagged = "record"
    disabled: bool = False
    include_usage: bool = True
    """Whether chat streams that did not ask for usage are made to; invisible to the app."""
    include_usage_hosts: tuple[str, ...] = ()
    """Hosts beside the known ones that accept `stream_options.include_usage`."""
    tiktoken: bool = True
    """Whether what would be estimated is counted, where the extra `tiktoken` is installed."""
    tls_ca: str = ""
    home: Path = Path()
    runtime_directory: str = ""

    lease_timeout_ms: int = LEASE_TIMEOUT_MS
    """How long the first call of a client may wait to be decided; then `on_unreachable` does."""
    connect_timeout_ms: int = 5_000
    sync_interval_ms: int = 200
    segment_bytes_max: int = 4 * 2**20
    spool_bytes_max: int = 2**30
    free_bytes_min: int = 256 * 2**20
    heartbeat_interval_ms: int = 10_000
    acknowledged_keep_s: int = 24 * 3600
    acknowledged_keep_bytes: int = 64 * 2**20

    @classmethod
    def load(
        cls,
        target: str | None = None,
        spool: str | os.PathLike[str] | None = None,
        service: str | None = None,
        access_key: str | None = None,
        client: str | None = None,
        on_unreachable: str | None = None,
        on_untagged: str | None = None,
        include_usage: bool | None = None,
        include_usage_hosts: tuple[str, ...] | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> Settings:
        """Settings from arguments, then the environment, then defaults.

        Raises:
            InvalidSetting: a value can't be used; names the argument or variable.
        """
        home = _home(environ)
        if include_usage is None:
            include_usage = _switch("METERD_INCLUDE_USAGE", environ, default=True)
        if include_usage_hosts is None:
            include_usage_hosts = _words(environ.get("METERD_INCLUDE_USAGE_HOSTS", ""))
        return cls(
            spool_root=_spool_root(spool, environ, home),
            target=_target(target, environ),
            service=_service(service, environ),
            host=os.uname().nodename,
            access_key=_access_key(access_key, environ),
            client=client or "",
            on_unreachable=_one_of("on_unreachable", on_unreachable or "allow", _ON_UNREACHABLE),
            on_untagged=_one_of("on_untagged", on_untagged or "record", _ON_UNTAGGED),
            disabled=_switch("METERD_DISABLED", environ, default=False),
            include_usage=include_usage,
            include_usage_hosts=include_usage_hosts,
            tiktoken=_switch("METERD_TIKTOKEN", environ, default=True),
            tls_ca=environ.get("METERD_TLS_CA", ""),
            lease_timeout_ms=_milliseconds(
                "METERD_LEASE_TIMEOUT_MS", environ, LEASE_TIMEOUT_MS, LEASE_TIMEOUT_MS_MAX
            ),
            home=home,
            runtime_directory=environ.get("XDG_RUNTIME_DIR", ""),
        )

    def targets(self) -> tuple[str, ...]:
        """Where to try to connect, in this order, at every attempt."""
        if self.target is not None:
            return (self.target,)
        paths = [str(self.home / ".local/state/meterd/meterd.sock"), SYSTEM_SOCKET]
        if self.runtime_directory:
            paths.insert(0, f"{self.runtime_directory}/meterd.sock")
        return tuple(f"unix:{path}" for path in paths)


_Choice = TypeVar("_Choice", bound=str)

_ON_UNREACHABLE: tuple[OnUnreachable, ...] = ("allow", "reject")
_ON_UNTAGGED: tuple[OnUntagged, ...] = ("record", "refuse")


def _one_of(name: str, value: str, allowed: tuple[_Choice, ...]) -> _Choice:
    for choice in allowed:
        if choice == value:
            return choice
    raise InvalidSetting(name, value, " or ".join(f'"{one}"' for one in allowed))


def _switch(variable: str, environ: Mapping[str, str], *, default: bool) -> bool:
    value = environ.get(variable, "").strip().lower()
    if not value:
        return default
    if value in ("1", "true", "yes", "on"):
        return True
    if value in ("0", "false", "no", "off"):
        return False
    raise InvalidSetting(variable, value, "1 or 0")


def _milliseconds(variable: str, environ: Mapping[str, str], default: int, most: int) -> int:
    value = environ.get(variable, "").strip()
    if not value:
        return default
    if not (value.isascii() and value.isdigit()) or len(value) > 9 or int(value) > most:
        raise InvalidSetting(variable, value, f"a whole number of milliseconds, 0 to {most:,}")
    return int(value)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip().lower() for word in text.split(",") if word.strip())


def _home(environ: Mapping[str, str]) -> Path:
    """The user's home; the working directory's root where there is none (a bare container)."""
    home = environ.get("HOME", "")
    if home:
        return Path(home)
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def _spool_root(
    spool: str | os.PathLike[str] | None, environ: Mapping[str, str], home: Path
) -> Path:
    given = spool if spool is not None else environ.get("METERD_SPOOL", "")
    if os.fspath(given):
        return Path(given).expanduser().absolute()
    if SYSTEM_SPOOL_ROOT.is_dir() and os.access(SYSTEM_SPOOL_ROOT, os.W_OK | os.X_OK):
        return SYSTEM_SPOOL_ROOT
    state = environ.get("XDG_STATE_HOME", "")
    return Path(state) / "meterd/spool" if state else home / ".local/state/meterd/spool"


def _target(target: str | None, environ: Mapping[str, str]) -> str | None:
    name = "target" if target else "METERD_TARGET"
    target = target or environ.get("METERD_TARGET", "")
    if not target:
        return None
    if target.startswith("/"):
        return f"unix:{target}"
    if target.startswith("unix:"):
        path = target.removeprefix("unix:")
        path = path[2:] if path.startswith("//") else path
        if path:
            return f"unix:{path}"
    host, _, port = target.rpartition(":")
    if host and port.isdecimal() and 0 < int(port) < 65_536 and "/" not in target:
        return target
    if not port.isdecimal() and target.replace(".", "").replace("-", "").isalnum():
        return f"{target}:{TCP_PORT}"
    raise InvalidSetting(name, target, "unix:PATH or HOST:PORT")


def _service(service: str | None, environ: Mapping[str, str]) -> str:
    """The app's name: given, else its script's or package's."""
    given = service or environ.get("METERD_SERVICE", "")
    if given:
        return given
    script = Path(sys.argv[0] if sys.argv else "")
    name = script.parent.name if script.stem == "__main__" else script.stem
    return name if name and not name.startswith("-") else "python"


def _access_key(access_key: str | None, environ: Mapping[str, str]) -> str:
    given = (access_key or environ.get("METERD_ACCESS_KEY", "")).strip()
    if given:
        return _usable_key(given, "access_key" if access_key else "METERD_ACCESS_KEY")
    file = environ.get("METERD_ACCESS_KEY_FILE", "")
    if not file:
        return ""
    try:
        key = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting("METERD_ACCESS_KEY_FILE", file, "a readable file") from error
    return _usable_key(key, "METERD_ACCESS_KEY_FILE")


def _usable_key(key: str, field: str) -> str:
    """The key; grpc would complain on the app's stderr about each attempt with an unusable one."""
    if not (key.isascii() and key.isprintable()):
        raise InvalidSetting(field, HIDDEN, "printable ASCII, as `meterctl access-key` makes it")
    return key
