"""What the spool roots of this machine tell: can apps write, and does something wait there?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from meterd.cli.figures import NS_PER_S, counted, duration, short_tokens, size
from meterd.cli.findings import Finding, ok, problem, warning
from meterd.cli.spools import ClosedDirectory, SpoolDirectory, SpoolRoot

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meterd_proto.v1 import admin_pb2

_FLEETING = frozenset(("overlay", "overlayfs", "aufs", "tmpfs", "ramfs", "fuse.fuse-overlayfs"))
_REMOTE = frozenset(("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "ceph"))
_GRACE_NS = 15 * NS_PER_S
"""meterd sweeps every 2 s, a shipper sends at once: what waits longer is stuck."""
_SHOWN_MAX = 10


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is known beside the disk: the daemon's status, if one answers, and the time.

    A daemon on another machine sweeps other disks than those we can see.
    """

    status: admin_pb2.StatusResponse | None
    now_unix_ns: int
    free_bytes_min: int
    is_same_machine: bool = True

    @property
    def swept_roots(self) -> list[Path]:
        """The roots on this machine that the daemon adopts from."""
        if self.status is None or not self.is_same_machine:
            return []
        return [Path(root) for root in self.status.spool_roots.split(", ") if root]

    def producer(self, hexadecimal: str) -> admin_pb2.ProducerStatus | None:
        """What the daemon knows of a producer."""
        if self.status is None:
            return None
        found = (one for one in self.status.producers if one.producer == hexadecimal)
        return next(found, None)

    def is_swept(self, root: Path) -> bool:
        """Whether the daemon that answers adopts what dead processes left in this root."""
        return root.resolve() in [swept.resolve() for swept in self.swept_roots]


def root_findings(root: SpoolRoot, around: Surroundings) -> Iterator[Finding]:
    """Whether records can be written there, and whether they survive there."""
    if not root.is_writable:
        yield problem(
            "spool",
            f"this user may not write to the spool root {root.path}",
            "run the app as a user of its group (meterd --group), or set METERD_SPOOL",
        )
        return
    if root.file_system in _FLEETING:
        yield warning(
            "spool",
            f"the spool root {root.path} lies on {root.file_system}: what has not been shipped "
            "is lost with the container or at a restart",
            "mount a volume there, or set METERD_SPOOL to a directory on one",
        )
    elif root.file_system in _REMOTE:
        yield warning(
            "spool",
            f"the spool root {root.path} lies on {root.file_system}, a network file system: "
            "locks and appends are not safe there",
            "set METERD_SPOOL to a local directory",
        )
    if root.free_bytes < around.free_bytes_min:
        yield problem(
            "spool",
            f"only {size(root.free_bytes)} are free at the spool root {root.path}: records are "
            "refused there",
            f"make room: at least {size(around.free_bytes_min)}",
        )
    elif root.exists:
        yield ok("spool", f"the spool root {root.path} can be written")
    else:
        yield ok("spool", f"the spool root {root.path} will be made with the first record")


def directory_findings(
    root: Path, directories: Sequence[SpoolDirectory | ClosedDirectory], around: Surroundings
) -> Iterator[Finding]:
    """What waits in the directories of a root, and why."""
    closed = [one for one in directories if isinstance(one, ClosedDirectory)]
    if closed:
        yield warning(
            "spool",
            f"{len(closed)} of the directories in {root} are closed to this user, as "
            f"{closed[0].path.name}",
            "run `meterctl doctor` as root or as the app's user",
        )
    found = [
        finding
        for one in directories
        if isinstance(one, SpoolDirectory)
        for finding in _directory(root, one, around)
    ]
    yield from found[:_SHOWN_MAX]
    if len(found) > _SHOWN_MAX:
        hidden = len(found) - _SHOWN_MAX
        yield problem(
            "spool", f"{hidden} more findings in {root}", "mend the first ones, ask again"
        )


def _directory(root: Path, directory: SpoolDirectory, around: Surroundings) -> Iterator[Finding]:
    known = around.producer(directory.producer)
    watermark = max(directory.watermark, known.watermark if known else 0)
    waiting = max(0, directory.last_sequence - watermark)
    age_ns = around.now_unix_ns - directory.written_unix_ns
    if age_ns > _GRACE_NS and (waiting or not directory.is_live):
        what = (
            f"{counted(waiting, 'record')} wait in {directory.path}, the newest written "
            f"{duration(age_ns)} ago"
            if waiting
            else f"{directory.path} waits to be adopted for {duration(age_ns)}: calls that were "
            "open when its process died aren't counted yet"
        )
        if directory.is_live:
            yield _held(directory, known, what, around)
        else:
            yield _left(root, directory, what, around)
    told = set(around.status.refused_segments) if around.status is not None else set()
    for name in directory.refused_files:
        if str(directory.path / name) in told:
            continue
        yield problem(
            "spool",
            f"{directory.path / name} was set aside: meterd would not take it",
            "a bug of ours: its records are declared lost; keep the file and report it",
        )
    if known is None and directory.counters.refused_records:
        refused = directory.counters
        yield problem(
            "spool",
            f"{directory.path} refused {counted(refused.refused_records, 'record')}, "
            f"{short_tokens(refused.refused_tokens)} tokens: it was full, or its disk",
            "make room; those calls are in no figure",
        )


def _held(
    directory: SpoolDirectory,
    known: admin_pb2.ProducerStatus | None,
    what: str,
    around: Surroundings,
) -> Finding:
    whose = f"{directory.name} (pid {directory.pid})" if directory.name else "a process"
    if around.status is None:
        return warning(
            "spool",
            f"{what}; {whose} holds it and ships as soon as a meterd answers",
            "start meterd",
        )
    if known is not None and known.is_connected:
        return problem(
            "spool",
            f"{what}; {whose} is connected, yet doesn't ship them",
            "the app's log names why; a restart of the app loses nothing",
        )
    return problem(
        "spool",
        f"{what}; {whose} lives and is not connected to this meterd",
        "check the app's METERD_TARGET, access key and METERD_TLS_CA; its log has the reason",
    )


def _left(root: Path, directory: SpoolDirectory, what: str, around: Surroundings) -> Finding:
    whose = f"{directory.name} (pid {directory.pid})" if directory.name else "a process"
    if around.is_swept(root):
        advice = f"meterd sweeps {root}: its log says what keeps it from this directory"
    else:
        advice = f"start meterd with --spool-root {root}, or run `meterctl ship {root}`"
    return problem("spool", f"{what}, left by {whose} that has ended", advice)
