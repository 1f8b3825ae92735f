"""`meterctl doctor`: why is nothing arriving? Looks everywhere in seconds, says what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meterd.cli.client import connected
from meterd.cli.console import DONE, FAILED, CommandRefused, DaemonUnavailable
from meterd.cli.daemon_findings import daemon_findings
from meterd.cli.figures import counted
from meterd.cli.findings import Finding, Level, finding_lines, ok, problem, warning
from meterd.cli.options import add_connection, add_format
from meterd.cli.output import write_csv, write_json
from meterd.cli.progress import Progress
from meterd.cli.spool_findings import Surroundings, directory_findings, root_findings
from meterd.cli.spools import look_at_root, look_into_root, settings_of
from meterd.cli.status import ask_status
from meterd.cli.target_findings import environment_findings, look_for_daemons, target_findings
from meterd.cli.verify import prove

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from meterd.cli.client import Daemon
    from meterd.cli.console import Console
    from meterd_proto.v1 import admin_pb2

EXAMPLE = "meterctl doctor"

_PROOF_TIMEOUT_S = 10.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `meterctl doctor`."""
    add_format(parser)
    add_connection(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """Look at target, daemon, ledger and spools; exit code 1 where something is wrong."""
    with Progress(console, "looking"):
        findings = list(_look(options.target, console))
    is_healthy = all(finding.level is not Level.PROBLEM for finding in findings)
    rows: list[dict[str, object]] = [
        {"level": one.level.value, "check": one.check, "message": one.message, "advice": one.advice}
        for one in findings
    ]
    if options.format == "json":
        document = {"schema": "meterd.doctor/1", "healthy": is_healthy, "findings": rows}
        write_json(console.out, document)
    elif options.format == "csv":
        write_csv(console.out, ["level", "check", "message", "advice"], rows)
    else:
        for line in finding_lines(findings, console.width):
            console.print(line)
        console.print()
        console.print(_verdict(findings))
    return DONE if is_healthy else FAILED


def _verdict(findings: list[Finding]) -> str:
    problems = sum(finding.level is Level.PROBLEM for finding in findings)
    warnings = sum(finding.level is Level.WARNING for finding in findings)
    if problems:
        return f"{counted(problems, 'problem')} found."
    return f"Nothing is wrong; {counted(warnings, 'warning')}." if warnings else "Nothing is wrong."


def _look(option: str | None, console: Console) -> Iterator[Finding]:
    yield from environment_findings(console.environ)
    looked = look_for_daemons(console.environ, option)
    yield from target_findings(looked)
    answering = next((target for target, reason in looked if not reason), None)
    status: admin_pb2.StatusResponse | None = None
    if answering is not None:
        try:
            with connected(str(answering), console) as daemon:
                status = ask_status(daemon, console)
                yield from daemon_findings(status)
                yield from _proof(daemon, status.period, console)
        except (DaemonUnavailable, CommandRefused) as error:
            yield problem("daemon", str(error), "its log says more")
    yield from _spools(status, answering is None or bool(answering.path), console)


def _proof(daemon: Daemon, period: str, console: Console) -> Iterator[Finding]:
    """Ledger = rollups for the open period: the proof itself, not a sign of it."""
    try:
        proof = prove(daemon, period, Progress(console, "verifying"), _PROOF_TIMEOUT_S)
    except DaemonUnavailable:
        yield warning(
            "ledger",
            f"proving that ledger and rollups agree took more than {_PROOF_TIMEOUT_S:.0f} s",
            "`meterctl verify` takes the time it needs",
        )
        return
    except CommandRefused as error:
        yield warning("ledger", f"nothing was proved: {error}", "`meterctl verify` says more")
        return
    for difference in proof.differences:
        yield problem(
            "ledger",
            f"ledger and rollups differ: {difference}",
            "the ledger is the truth: keep a `meterctl backup`, `meterctl verify` lists all",
        )
    if not proof.differences:
        checked = counted(proof.checked, "record")
        yield ok("ledger", f"ledger and rollups of {period} agree: {checked} checked")


def _spools(
    status: admin_pb2.StatusResponse | None, is_same_machine: bool, console: Console
) -> Iterator[Finding]:
    settings = settings_of(console.environ)
    around = Surroundings(status, console.now_unix_ns(), settings.free_bytes_min, is_same_machine)
    own = settings.spool_root
    yield from root_findings(look_at_root(own), around)
    roots = [own, *(root for root in around.swept_roots if root != own)]
    for root in roots:
        try:
            directories = look_into_root(root)
        except PermissionError:
            yield warning(
                "spool", f"{root} is closed to this user", "run `meterctl doctor` as root, too"
            )
            continue
        yield from directory_findings(root, directories, around)
    if status is not None and not around.is_swept(own) and look_into_root(own):
        yield warning(
            "spool",
            f"apps of this user spool into {own}, which this meterd doesn't sweep: what a killed "
            "process leaves waits there for the next one",
            f"start meterd with --spool-root {own}, or run `meterctl ship {own} --watch`",
        )
