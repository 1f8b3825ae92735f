"""Wrapping: a metered transport around each transport that a client already has.

In place, so that limits, proxies, mounts and socket options stay what the SDK made them. The
only file that touches private parts of httpx and httpx2: `_transport`, `_mounts` and
`_transport_for_url`, the same in both since 0.18. Families are told apart by their classes,
not by module names: after `httpx2.alias_httpx()` the name `httpx` is httpx2.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from meterd_middleware.errors import CannotInstrument
from meterd_middleware.transport import Shell

if TYPE_CHECKING:
    from types import ModuleType

    from meterd_middleware.meter import Meter

FAMILIES = ("httpx2", "httpx")


def family_of(client: object) -> str:
    """The library whose client this is, "httpx" or "httpx2"; empty where it is neither's."""
    for name in FAMILIES:
        module = sys.modules.get(name)
        if module is not None and isinstance(client, (module.Client, module.AsyncClient)):
            return name
    return ""


def wrap_client(client: Any, meter: Meter, account: str) -> None:
    """Put a metered transport around each of a client's own; those that are metered stay.

    Raises:
        CannotInstrument: one of its transports is of the wrong family.
    """
    wrapped: dict[int, Shell] = {}

    def around(inner: Any) -> Shell:
        if id(inner) not in wrapped:
            wrapped[id(inner)] = metered(client, inner, meter, account, strips_always=True)
        return wrapped[id(inner)]

    main = around(client._transport)
    mounts = {
        pattern: None if inner is None else around(inner)  # None: no proxy for these hosts
        for pattern, inner in client._mounts.items()
    }
    client._transport = main
    client._mounts.update(mounts)


def metered(
    client: object, inner: Any, meter: Meter, account: str, *, strips_always: bool
) -> Shell:
    """The metered transport for one of a client's transports; a metered one changes its meter."""
    if isinstance(inner, Shell):
        inner.meter, inner.account = meter, account or inner.account
        return inner
    family = family_of(client)
    shells = importlib.import_module(f"meterd_middleware.{family}")
    is_async = isinstance(client, sys.modules[family].AsyncClient)
    kind = shells.AsyncMeteredTransport if is_async else shells.MeteredTransport
    shell: Shell = kind(meter, inner, account=account)
    shell.strips_always = strips_always
    return shell


_SHELLS = "_meterd_shells"


class ClassPatch:
    """Meters all clients of a family, those that exist and those to come, until `undo`.

    Patches the one method that chooses a request's transport; the transports themselves stay
    where they are.
    """

    def __init__(self, library: ModuleType, meter: Meter) -> None:
        self.meter = meter
        self._undone = False
        self._patched = [self._patch(library.Client), self._patch(library.AsyncClient)]

    def _patch(self, kind: Any) -> tuple[Any, Any, Any]:
        original = getattr(kind, "_transport_for_url", None)
        if original is None:
            raise CannotInstrument(
                f"this version of {kind.__module__} has no _transport_for_url: instrument_all "
                "can't reach its clients; use instrument(client) or MeteredTransport"
            )

        def _transport_for_url(client: Any, url: Any) -> Any:
            inner = original(client, url)
            if self._undone or isinstance(inner, Shell):
                return inner
            try:
                return self._shell(client, inner)
            except Exception as error:
                self.meter.exchanges.faults.note("instrument_all", error)
                return inner

        kind._transport_for_url = _transport_for_url
        return kind, original, _transport_for_url

    def _shell(self, client: Any, inner: Any) -> Shell:
        """One metered transport for each of a client's transports, kept with the client."""
        shells: dict[int, Shell] = client.__dict__.setdefault(_SHELLS, {})
        shell = shells.get(id(inner))
        if shell is None or shell.inner is not inner:
            shell = shells[id(inner)] = metered(client, inner, self.meter, "", strips_always=False)
        shell.meter = self.meter
        return shell

    def undo(self) -> None:
        """Put the original methods back, unless somebody has patched them again since."""
        self._undone = True
        for kind, original, ours in self._patched:
            if kind._transport_for_url is ours:
                kind._transport_for_url = original
