"""`meterctl access-key`: make an access key; it is shown once, the configuration has its hash."""

from __future__ import annotations

import json
import re
import secrets
from hashlib import sha256
from typing import TYPE_CHECKING

from meterd.cli.console import DONE, WrongValue
from meterd.cli.options import add_format, identifier
from meterd.cli.output import write_csv, write_json

if TYPE_CHECKING:
    import argparse

    from meterd.cli.console import Console

EXAMPLE = "meterctl access-key web-1 --scope ship"

SCOPES = ("ship", "read", "admin")
_KEY_BYTES = 32
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `meterctl access-key`."""
    parser.add_argument(
        "name", type=identifier("NAME"), metavar="NAME", help="whose key: a process or a person"
    )
    parser.add_argument(
        "--scope", type=_scope, required=True, metavar="|".join(SCOPES),
        help="ship: an app; read: figures alone; admin: everything",
    )  # fmt: skip
    add_format(parser)


def _scope(text: str) -> str:
    if text not in SCOPES:
        raise WrongValue("--scope", text, "ship, read or admin")
    return text


def run(options: argparse.Namespace, console: Console) -> int:
    """Make a key here; no daemon is asked, and nothing but the output ever has the key."""
    access_key = f"meterd_{secrets.token_urlsafe(_KEY_BYTES)}"
    facts: dict[str, object] = {
        "name": options.name,
        "scope": options.scope,
        "access_key": access_key,
        "hash": f"sha256:{sha256(access_key.encode()).hexdigest()}",
    }
    table = _table(options.name, options.scope, str(facts["hash"]))
    if options.format == "json":
        write_json(console.out, {"schema": "meterd.access-key/1", **facts, "config": table})
    elif options.format == "csv":
        write_csv(console.out, list(facts), [facts])
    else:
        console.print(access_key)
        console.remark(
            "Shown this once. The app gets it as METERD_ACCESS_KEY (or a file that "
            "METERD_ACCESS_KEY_FILE names); meterd.toml, then `meterctl apply`, gets:\n"
        )
        console.print(table)
    return DONE


def _table(name: str, scope: str, digest: str) -> str:
    """The table for meterd.toml; a name that is no bare key is quoted, as JSON quotes it."""
    key = name if _BARE_KEY.fullmatch(name) else json.dumps(name)
    return f'[access_keys.{key}]\nscope = "{scope}"\nhash = "{digest}"'
