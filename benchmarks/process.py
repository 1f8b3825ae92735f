"""A process from outside: what it holds in memory, and the CPU it has had."""

from __future__ import annotations

import psutil

MIB = 1 << 20


def rss_mib(pid: int | None = None) -> float:
    """Resident memory of a process (None: this one), in MiB."""
    return float(psutil.Process(pid).memory_info().rss) / MIB


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has had, its threads and the kernel's work for it included."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
