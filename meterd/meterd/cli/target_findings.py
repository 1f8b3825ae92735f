"""Whether a daemon answers where the apps of this user look for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.cli.findings import Finding, ok, problem, warning
from meterd.cli.targets import Target, candidates, why_silent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def look_for_daemons(environ: Mapping[str, str], option: str | None) -> list[tuple[Target, str]]:
    """Each place where a daemon may be, with why nothing answers there; empty: it does."""
    return [(target, why_silent(target)) for target in candidates(environ, option)]


def target_findings(looked: list[tuple[Target, str]]) -> Iterator[Finding]:
    """What the places tell. The first that answers is the one that apps use."""
    answering = [target for target, reason in looked if not reason]
    if not answering:
        tried = "; ".join(f"{target}: {reason}" for target, reason in looked)
        yield problem("target", f"no meterd answers: {tried}", _advice(looked))
        return
    yield ok("target", f"a meterd answers at {answering[0]}")
    for other in answering[1:]:
        yield warning(
            "target",
            f"another meterd answers at {other}, which the apps of this user don't use",
            "set METERD_TARGET where it is meant, or stop it",
        )
    for target, reason in looked[: looked.index((answering[0], ""))]:
        if reason != "no such file":
            yield warning(
                "target",
                f"{target} comes first and is of no use: {reason}",
                "remove it, or start its meterd",
            )


def _advice(looked: list[tuple[Target, str]]) -> str:
    reasons = " ".join(reason for _, reason in looked)
    if "may not open" in reasons:
        return "start meterd with --group NAME and take this user into the group"
    if "access" in reasons or not looked[0][0].path:
        return "check the address, and that meterd listens there (--listen HOST:PORT)"
    return (
        "start `meterd`; in another container share the socket's volume, or set METERD_TARGET "
        "to its HOST:PORT"
    )


def environment_findings(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Variables that keep an app with this environment from metering anything."""
    if environ.get("METERD_DISABLED", "").strip().lower() in ("1", "true", "yes", "on"):
        yield problem(
            "environment",
            "METERD_DISABLED is set: an app with this environment meters nothing",
            "unset it",
        )
