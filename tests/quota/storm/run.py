"""The storm: rounds of calls until a client's quota is gone, and kills at random moments."""

from __future__ import annotations

import time
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from meterd_middleware import Meter
from tests.quota.storm.crew import Crew, Orders, crew
from tests.quota.storm.verdict import (
    Round,
    Scenario,
    bound_of,
    interrupted_records,
    judge,
    served_rows,
    settled_quota,
)
from tests.support.daemon import Daemon, start_daemon
from tests.support.provider import provider_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SDKS = 3
INPUT_TOKENS_MAX = 1_000
"""More than any of the workers' prompts is taken for."""
ROUND_S_MAX = 600.0


@dataclass(frozen=True, slots=True)
class Force:
    """How hard it blows."""

    workers: int = 4
    concurrency: int = 64
    """Calls at once with each of the SDKs, in each worker."""
    worker_kills: int = 4
    daemon_kills: int = 2
    quota: int = 1_000_000
    calm_s_max: float = 2.5
    """Between two kills at most."""


SCENARIOS = (
    Scenario("1M hard", "usual", 1_000_000, 1_024, 1_000),
    Scenario("1M hard", "ceiling", 1_000_000, 1_024, 1_000),
    Scenario("50k left, max_tokens 64,000", "usual", 50_000, 64_000, 4_000),
    Scenario("50k left, max_tokens 64,000", "ceiling", 50_000, 64_000, 4_000),
)

_PLAN = """
[plans.{reserve}]
type = "retainer"
fee = "500"
included_tokens = "{quota}"
limit = "hard"
overage = "none"
reserve = "{reserve}"
on_unreachable = "reject"
"""


def storm(
    rounds: int,
    seed: int,
    force: Force | None = None,
    scenarios: Sequence[Scenario] = SCENARIOS,
    tell: Callable[[Round], object] = lambda found: None,
) -> list[Round]:
    """So many rounds, each with a client and a quota of its own; returns what came of each."""
    force, random = force or Force(), Random(seed)
    kinds = [scenarios[turn % len(scenarios)] for turn in range(rounds)]
    config = "".join(_PLAN.format(reserve=mode, quota=force.quota) for mode in ("usual", "ceiling"))
    for turn, kind in enumerate(kinds):
        config += f'[clients.storm-{turn}]\nplan = "{kind.reserve}"\n'
    with (
        provider_process() as provider,
        start_daemon(config=config) as daemon,
        crew(daemon.directory) as workers,
    ):
        found = []
        for turn, kind in enumerate(kinds):
            one = _Turn(daemon, workers, provider, force, kind, f"storm-{turn}", random)
            found.append(one.run())
            tell(found[-1])
        return found


class _Turn:
    """One round."""

    def __init__(
        self,
        daemon: Daemon,
        workers: Crew,
        provider: str,
        force: Force,
        scenario: Scenario,
        client: str,
        random: Random,
    ) -> None:
        self._daemon, self._workers, self._provider = daemon, workers, provider
        self._force, self._scenario, self._client = force, scenario, client
        self._random = random
        self._killed = {"worker": 0, "meterd": 0}

    def run(self) -> Round:
        """Use up what others left, let them call, kill, wait until all has settled; judge."""
        began = time.monotonic()
        before = self._force.quota - self._scenario.left
        self._use(before)
        for _ in range(self._force.workers):
            self._workers.start(self._orders())
        for victim in self._victims():
            if self._workers.wait_until_done(self._random.random() * self._force.calm_s_max):
                break
            self._kill(victim)
        assert self._workers.wait_until_done(ROUND_S_MAX), self._workers.said
        return self._judged(before, time.monotonic() - began)

    def _judged(self, before: int, seconds: float) -> Round:
        force, scenario = self._force, self._scenario
        quota = settled_quota(self._daemon, self._client)
        rows = [row["counts"] for row in served_rows(self._provider, self._client)]
        served = [row for row in rows if row["input_tokens"]]
        seen = self._workers.take_seen()
        in_flight = force.workers * force.concurrency * SDKS
        struck = interrupted_records(self._daemon, self._client)
        shortest = min((row["output_tokens"] for row in served), default=0)
        found = Round(
            client=self._client,
            scenario=scenario,
            worker_kills=self._killed["worker"],
            daemon_kills=self._killed["meterd"],
            calls=len(served),
            served=sum(row["input_tokens"] + row["output_tokens"] for row in served),
            counted=quota.used - before,
            interrupted=struck,
            bound=bound_of(scenario, in_flight, struck, shortest),
            refused_away=sum(one.get("unreachable", 0) for one in seen),
            seconds=seconds,
            refusal=next((one["refusal"] for one in seen if one["refusal"]), ""),
        )
        return judge(found, quota, scenario.max_tokens + INPUT_TOKENS_MAX)

    def _use(self, tokens: int) -> None:
        """What the client used before the storm."""
        if tokens:
            with Meter(target=self._daemon.target, spool=self._daemon.spool_root) as meter:
                meter.record(
                    client=self._client,
                    provider="openai",
                    operation="chat",
                    request_model="gpt-4o-mini",
                    input_tokens=tokens,
                    output_tokens=0,
                )
                assert meter.flush(30)

    def _orders(self) -> Orders:
        return Orders(
            number=0,
            target=self._daemon.target,
            spool=str(self._daemon.spool_root),
            provider=self._provider,
            client=self._client,
            concurrency=self._force.concurrency,
            max_tokens=self._scenario.max_tokens,
            replies_max=self._scenario.replies_max,
            seed=self._random.randrange(2**32),
        )

    def _victims(self) -> Iterator[str]:
        victims = ["worker"] * self._force.worker_kills + ["meterd"] * self._force.daemon_kills
        self._random.shuffle(victims)
        yield from victims if self._scenario.with_kills else ()

    def _kill(self, victim: str) -> None:
        if victim == "worker":
            self._killed["worker"] += self._workers.kill_one(self._random)
            return
        self._killed["meterd"] += 1
        self._daemon.kill()
        self._workers.wait_until_done(self._random.random() * self._force.calm_s_max / 2)
        self._daemon.start()
