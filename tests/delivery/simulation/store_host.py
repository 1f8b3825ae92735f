"""The simulated host with the real daemon at its other end: it crashes, and its clock jumps."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from tests.delivery.simulation.daemon import SimulatedDaemon
from tests.delivery.simulation.host import Host

if TYPE_CHECKING:
    from pathlib import Path

    from meterd_proto.v1 import usage_pb2
    from tests.support.disk import Faults

DAY_NS = 86_400 * 10**9
JUMPS_NS = (0, 0, DAY_NS, -DAY_NS, 400 * DAY_NS, -400 * DAY_NS, -(10**18), 3 * 10**18)
"""Where an operator sets the daemon's clock: right, a day or a year off, to 1970, to 2096."""

TWICE, OUT_OF_ORDER = 0.04, 0.02


class StoreHost(Host):
    """Processes, adopters and a network as ever, and a daemon that is killed as they are."""

    weights: ClassVar[dict[str, int]] = {
        **Host.weights, "crash": 3, "power": 3, "restart": 1, "jump": 2,
    }  # fmt: skip

    def __init__(
        self,
        seed: int,
        directory: Path,
        *,
        faults: Faults | None = None,
        commit_fails: float = 0.0,
        write_fails: float = 0.0,
    ) -> None:
        super().__init__(seed, faults=faults)
        directory.mkdir()
        self.daemon = SimulatedDaemon(self.random, directory, lambda: self.clock_ns)
        self.daemon.disk.commit_fails = commit_fails
        self.daemon.disk.write_fails = write_fails
        self._held: dict[bytes, usage_pb2.ShipRequest] = {}

    def receive(
        self, producer: bytes, request: usage_pb2.ShipRequest
    ) -> list[usage_pb2.ShipResponse]:
        """As the network would never do it: now and then twice, or after the next one."""
        if request.HasField("hello"):
            self._held.pop(producer, None)
        elif producer not in self._held and self.random.random() < OUT_OF_ORDER:
            self._held[producer] = request
            return []
        answers = self.daemon.receive(producer, request)
        if self.random.random() < TWICE:
            answers += self.daemon.receive(producer, request)
        held = self._held.pop(producer, None)
        return answers + self.daemon.receive(producer, held) if held else answers

    def fill_up(self) -> None:
        """The daemon's disk is full, or has room again."""
        self.daemon.is_full = not self.daemon.is_full

    def heal(self) -> None:
        """The daemon's disk and clock are well again."""
        self.daemon.heal()
        self.daemon.clock.offset_ns = 0

    def step(self, name: str) -> None:
        """One thing happens."""
        if name == "crash":
            self.daemon.crash()
        elif name == "power":
            self.daemon.crash(without_power=True)
        elif name == "restart":
            self.daemon.restart()
        elif name == "jump":
            self.daemon.clock.offset_ns = self.random.choice(JUMPS_NS)
        else:
            super().step(name)

    def restore(self, copy: Path) -> None:
        """Put a backup in the ledger's place; every stream breaks with the daemon."""
        self.daemon.restore(copy)
        self._break_streams()
