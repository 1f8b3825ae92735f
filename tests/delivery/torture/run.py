"""One run: so many rounds from a seed, and the verdict."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from tests.delivery.torture.load import Load
from tests.delivery.torture.scene import App, Kill, Scene
from tests.delivery.torture.verdict import Verdict, find, judge
from tests.support.daemon import start_daemon
from tests.support.provider import provider_process

if TYPE_CHECKING:
    from collections.abc import Callable


def torture(
    rounds: int, seed: int, *, tell: Callable[[Kill], object] = lambda kill: None
) -> Verdict:
    """Kill so many times, let everything settle, and compare.

    Args:
        tell: hears of each kill when its victims are back.
    """
    random = Random(seed)
    with provider_process() as provider_url, start_daemon() as daemon:
        app = App(daemon, provider_url, random)
        load = Load(app.url, Random(random.random()))
        scene = Scene(daemon, app, load, random)
        try:
            app.start()
            for _ in range(rounds):
                tell(scene.turn())
        finally:
            load.end()
            app.kill()
        return judge(find(daemon, provider_url), load.asked, scene.kills)
