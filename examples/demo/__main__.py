"""`python -m examples.demo`: the demo of `make demo`; exit code 0 only if every figure agrees."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from examples.demo import proof, screen
from examples.demo.screen import act, bold, faint, good, quote, say
from examples.demo.stage import INTERRUPTS, DidNotStart, Stage
from examples.demo.traffic import Traffic, archive

if TYPE_CHECKING:
    import httpx2

    from examples.demo.traffic import Deed

QUOTA = 2_000_000
CAPPED = "techstartup"
ARCHIVES_MAX = 20
ATTEMPTS_MAX = 100


class Surprise(Exception):
    """Something went otherwise than the demo promises."""


def main() -> int:
    """Play all acts; clean up whatever happens."""
    for number in INTERRUPTS:
        signal.signal(number, _as_interrupt)
    try:
        with Stage() as stage:
            return _play(stage)
    except KeyboardInterrupt:
        say("\ninterrupted; everything is cleaned up")
        return 130
    except (DidNotStart, Surprise, RuntimeError) as error:
        say(screen.bad(f"\n✗ {error}"))
        return 1


def _as_interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _play(stage: Stage) -> int:
    say(bold("meterd") + " · an agency, its three clients, real SDKs and a loopback provider")
    with act("meterd, the provider and the agency's app start"):
        _start(stage)
    traffic = Traffic(stage.app_url)
    with act("a morning: chats (openai, streamed), drafts (anthropic), scores (google-genai)"):
        _morning(traffic)
    with act("kill -9 meterd, in the middle of the day's requests"):
        _kill(stage, traffic)
    with act("meterd starts again"):
        stage.start_meterd()
        if not proof.settled(stage, traffic.deeds):
            say("  not everything has arrived yet")
        say("  what had waited on disk is in the ledger")
    with act(f"{CAPPED} uploads archives: Starter, 2M tokens, hard"):
        _into_the_quota(stage, traffic)
    with act("who used what"):
        agree = _settle(stage, traffic)
    say()
    if not agree:
        say(faint(stage.last_words()))
        say(screen.bad("✗ the provider and meterd do not agree"))
        return 1
    say(good("✓ every token that was served is counted, once, for who used it"))
    return 0


def _start(stage: Stage) -> None:
    stage.start_provider()
    with ThreadPoolExecutor(2) as both:
        meterd = both.submit(stage.start_meterd)
        app = both.submit(stage.start_app)
        say(f"  meterd     {stage.target}, pid {meterd.result().pid}")
        app.result()
    say(f"  provider   {stage.provider_url}, in OpenAI's, Anthropic's and Gemini's shapes")
    say(f"  app        {stage.app_url}, FastAPI under uvicorn")


def _morning(traffic: Traffic) -> None:
    deeds = traffic.day(
        acme_corp="9 chat, 4 search, 5 draft, 5 score, 2 archive",
        bigco_inc="6 chat, 3 draft, 4 score, 5 archive",
        techstartup="4 chat, 2 score",
    )
    _all_answered(traffic.run(deeds))
    for client in ("acme-corp", "bigco-inc", "techstartup"):
        projects = [deed.project for deed in deeds if deed.client == client]
        each = ", ".join(f"{name} {projects.count(name)}" for name in sorted(set(projects)))
        say(f"  {client:<12}{len(projects):>3} requests   {faint(each)}")


def _kill(stage: Stage, traffic: Traffic) -> None:
    """Requests before, during and after the kill; none may notice."""
    deeds = traffic.day(
        acme_corp="8 chat, 3 draft, 4 score",
        bigco_inc="5 chat, 3 draft, 2 search",
    )

    async def through_the_kill() -> list[httpx2.Response]:
        running = asyncio.ensure_future(traffic.arun(deeds, at_once=4))
        await asyncio.sleep(0.15)
        pid = await asyncio.to_thread(stage.kill_meterd)
        say(f"  pid {pid} is gone, without a last word")
        return await running

    answers = asyncio.run(through_the_kill())
    _all_answered(answers)
    say(f"  {len(answers)} of {len(answers)} requests were answered all the same")


def _all_answered(answers: list[httpx2.Response]) -> None:
    failed = [answer for answer in answers if answer.status_code != 200]
    if failed:
        raise Surprise(f"the app answered {failed[0].status_code}: {failed[0].text[:300]}")


def _into_the_quota(stage: Stage, traffic: Traffic) -> None:
    refused: httpx2.Response | None = None
    for number in range(1, ARCHIVES_MAX):
        deed = traffic.deed(CAPPED, "archive")
        (answer,) = traffic.run([deed])
        if answer.status_code == 429:
            refused = answer
            break
        _all_answered([answer])
        if number % 3 == 1:
            say(f"  {screen.bar(_used(stage, traffic.deeds), QUOTA)}")
    if refused is None:
        raise Surprise(f"{CAPPED} was never refused")
    say(f"  {screen.bar(_used(stage, traffic.deeds), QUOTA)}")
    say("  the next one is refused before it is sent; the app left the exception uncaught, so:")
    say()
    say(f"    HTTP 429   {refused.headers['content-type']}")
    for name in ("retry-after", "ratelimit"):
        if name in refused.headers:
            say(f"    {name}: {refused.headers[name]}")
    quote(json.dumps(refused.json(), indent=2))
    say()
    _refused_in_code(stage)
    home = traffic.home(CAPPED)
    _all_answered([home])
    say(f"  GET / still answers 200: {home.text}")


def _used(stage: Stage, deeds: dict[str, Deed]) -> int:
    """What the client has used so far, as the provider says."""
    said = proof.provider_says(stage, deeds)
    return sum(
        line["input_tokens"] + line["output_tokens"]
        for (client, _), line in said.items()
        if client == CAPPED
    )


def _refused_in_code(stage: Stage) -> None:
    """The same refusal as a script sees it, in another process than the app's."""
    import openai

    from meterd_middleware import Meter, instrument, refusal_of

    os.environ.update(stage.environment())
    # A script's first call waits 50 ms for meterd at most; this one would rather be turned
    # away than go over, and asks again where that was too short on a busy machine.
    with Meter(service="demo-script", on_unreachable="reject") as meter:
        client = instrument(openai.OpenAI(), meter=meter)
        for _ in range(ATTEMPTS_MAX):
            try:
                client.chat.completions.create(
                    model="gpt-5.4-mini",
                    messages=[{"role": "user", "content": archive(99)}],
                    extra_headers={"X-Client-ID": CAPPED, "X-Project-ID": "lead-qualification"},
                )
            except openai.RateLimitError as error:
                refused = refusal_of(error)
                if refused is None:
                    raise Surprise("the provider refused, and not meterd") from error
                if refused.reason == "quota":
                    break
                time.sleep(0.1)
            else:
                raise Surprise("the script's call was not refused")
        else:
            raise Surprise("the script never reached meterd")
    say("  and in a script, through the openai SDK:")
    say()
    quote(f"openai.RateLimitError → refusal_of(error): {refused}")
    say()


def _settle(stage: Stage, traffic: Traffic) -> bool:
    proof.settled(stage, traffic.deeds)
    for command in (("rollup",), ("rollup", "--by", "client,project,model"), ("quota",)):
        say()
        say(bold(f"  $ meterctl {' '.join(command)}"))
        quote(stage.meterctl(*command))
    say()
    say(bold("  the provider's own ledger, line by line against meterd's"))
    are_equal = proof.show(stage, traffic.deeds)
    if leaked := proof.headers_that_leaked(stage):
        say(screen.bad(f"  the provider received our headers: {leaked}"))
        return False
    return are_equal


if __name__ == "__main__":
    sys.exit(main())
