"""How far the rule of characters per token is from the tokenizers, as tables of docs/estimates.md.

    text  ── estimate.output_tokens ──┐
          ── tiktoken, o200k, cl100k ─┴▶ error in per cent

The rule is asked as it is for an abandoned stream (a text), and for a request (messages, tools,
pictures). Beside it: what the exact counter needs, and how long others wait for it.

Nothing here depends on the machine but the last lines.
"""

from __future__ import annotations

import json
import threading
import time
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.harness import ROUNDS_MIN, Report, Series, arguments
from benchmarks.waiting import lateness
from meterd_middleware import estimate, exact, pictures, vocabulary
from meterd_middleware.readers import TextSeen
from meterd_middleware.readers.text import characters_of
from meterd_middleware.request import ProviderCall, read_request
from meterd_middleware.tokenizer import Tokenizer
from tests.wire.texts import CODE, JSON, MARKDOWN, PROSE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MODELS = {"o200k": "gpt-4o", "cl100k": "gpt-4-turbo"}
DATA = {
    "Markdown": MARKDOWN,
    "JSON, indented": JSON,
    "JSON, compact": json.dumps(json.loads(JSON), separators=(",", ":")),
}
GROUPS: Mapping[str, Mapping[str, str]] = {"prose": PROSE, "code": CODE, "data": DATA}

PICTURES: tuple[tuple[str, int, int, int], ...] = (
    ("gpt-4o", 512, 512, 255),
    ("gpt-4o", 1024, 1024, 765),
    ("gpt-4o", 2048, 4096, 1105),
    ("gpt-4o", 1024, 1536, 1105),
    ("gpt-4o-mini", 1024, 1024, 25_501),
    ("o1", 1024, 1024, 675),
    ("gpt-5", 1024, 1024, 630),
    ("gpt-4.1-mini", 1024, 1024, 1_659),
    ("gpt-4.1-mini", 1800, 2400, 2_353),
    ("gpt-5-nano", 1024, 1024, 2_520),
    ("o4-mini", 1024, 1024, 1_762),
    ("gpt-6", 1024, 1024, 1_229),
    ("gpt-6", 4000, 3000, 14_364),
    ("claude-opus-5.5", 1024, 1024, 1_446),
    ("claude-opus-5.5", 4000, 3000, 4_005),
    ("claude-sonnet-4.5", 1024, 1024, 1_434),
    ("claude-sonnet-4.5", 4000, 3000, 1_661),
    ("gemini-3-pro", 1024, 1024, 1_090),
    ("gemini-3-pro", 4000, 3000, 1_065),
)
"""Model, width, height, tokens: OpenAI's by its published rules and examples, the others as
they were measured in November 2026."""


class Compared(NamedTuple):
    """One text by one tokenizer."""

    reckoned: int
    counted: int

    @property
    def error(self) -> float:
        """In per cent; above zero: too many."""
        return 100 * (self.reckoned / self.counted - 1)


def main() -> None:
    options = arguments(__doc__ or "")
    report = Report("estimates")
    _loading(report)
    counters = {name: _counter(f"{name}_base") for name in MODELS}
    _texts(report, counters)
    _requests(report, counters)
    _pictures(report)
    _waiting(report, 3 if options.quick else ROUNDS_MIN)
    report.print(options.json)


def _counter(name: str) -> Callable[[str], int]:
    tokens = vocabulary.tokens(name)
    return Tokenizer(vocabulary.PATTERNS[name], tokens, lambda: None).count


def _call(model: str, body: bytes) -> ProviderCall:
    call = read_request("POST", "api.openai.com", "/v1/chat/completions", "", {}, body)
    assert call is not None and call.request_model == model
    return call


def _texts(report: Report, counters: dict[str, Callable[[str], int]]) -> None:
    """A reply of each kind, alone."""
    for group, texts in GROUPS.items():
        total = {name: [0, 0, 0.0] for name in MODELS}
        for kind, text in texts.items():
            row = {}
            for name, model in MODELS.items():
                call = _call(model, b'{"model":"%s","messages":[]}' % model.encode())
                seen = TextSeen(characters=characters_of(text))
                found = Compared(estimate.output_tokens(seen, call), counters[name](text))
                row[name] = found
                total[name][0] += found.reckoned
                total[name][1] += found.counted
                total[name][2] += abs(found.error)
            print(_line(group, kind, len(text), row))
        for name in MODELS:
            reckoned, counted, errors = total[name]
            all_of_it = Compared(int(reckoned), int(counted))
            report.add(f"{group}, {name}: mean of the errors' sizes", errors / len(texts), "%")
            report.add(f"{group}, {name}: of all of it together", all_of_it.error, "%")


def _line(group: str, kind: str, characters: int, row: dict[str, Compared]) -> str:
    cells = [f"{found.counted:,} | {found.error:+.0f} %" for found in row.values()]
    return f"| {group} | {kind} | {characters:,} | {' | '.join(cells)} |"


def _tool(number: int) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": f"find_order_{number}",
            "description": "Finds an order by its number, and says where the parcel is now.",
            "parameters": {
                "type": "object",
                "properties": {
                    "number": {"type": "string", "description": "as printed on the invoice"},
                    "limit": {"type": "integer", "description": "how many at most"},
                },
                "required": ["number"],
            },
        },
    }


def _conversation(turns: int) -> list[dict[str, Any]]:
    texts = list(PROSE.values())
    roles = ("user", "assistant")
    return [
        {"role": "system", "content": "You help the customers of a shop. Answer briefly."},
        *({"role": roles[n % 2], "content": texts[n % 4][:200]} for n in range(turns)),
    ]


REQUESTS: dict[str, dict[str, Any]] = {
    "one short question": {"messages": [{"role": "user", "content": "Where is my parcel?"}]},
    "a conversation of 11 turns": {"messages": _conversation(10)},
    "a conversation of 201 turns": {"messages": _conversation(200)},
    "3 tools and a question": {
        "messages": _conversation(1),
        "tools": [_tool(number) for number in range(3)],
    },
    "20 tools and a question": {
        "messages": _conversation(1),
        "tools": [_tool(number) for number in range(20)],
    },
    "a document of 300 kB": {
        "messages": [{"role": "user", "content": "\n".join(PROSE.values()) * 40}]
    },
}


def _requests(report: Report, counters: dict[str, Callable[[str], int]]) -> None:
    """A whole request, against the cookbook's count, tools as their JSON."""
    for kind, fields in REQUESTS.items():
        row = {}
        for name, model in MODELS.items():
            body = json.dumps({"model": model, **fields}, ensure_ascii=False).encode()
            counted = exact._input_tokens(fields, counters[name])
            row[name] = Compared(estimate.input_tokens(_call(model, body), body), counted)
        print(_line("request", kind, len(body), row))
        report.add(f"request, {kind}, o200k", row["o200k"].error, "%")


def _pictures(report: Report) -> None:
    errors = []
    for model, width, height, tokens in PICTURES:
        provider = next((p for m, p in _PROVIDERS if model.startswith(m)), "openai")
        found = pictures.tokens_of(model, provider, (width, height), is_low=False)
        errors.append(Compared(found, tokens).error)
        print(f"| picture | {model} | {width} × {height} | {tokens:,} | {errors[-1]:+.0f} % |")
    report.add("pictures: largest error", max(errors, key=abs), "%")


_PROVIDERS = (("claude", "anthropic"), ("gemini", "gcp.gemini"))


def _loading(report: Report) -> None:
    """Processor time of the counting thread between two turns of the others."""
    began = time.thread_time()
    exact.prepare()
    report.add("Meter(): regex and its patterns", 1e3 * (time.thread_time() - began), "ms CPU")
    text = "\n".join(PROSE.values()) * 20
    slices: list[float] = []
    last = 0.0

    def pause() -> None:
        nonlocal last
        now = time.thread_time()
        slices.append(now - last)
        exact._let_others_in()
        last = time.thread_time()

    def count() -> None:
        nonlocal last
        tokens = vocabulary.tokens("o200k_base")
        first = next(tokens)  # unpacks it, which lets others in by itself
        last = time.thread_time()
        tokenizer = Tokenizer(vocabulary.PATTERNS["o200k_base"], chain((first,), tokens), pause)
        tokenizer.count(text)
        tokenizer.count("x" * 5_000)

    began = time.process_time()
    thread = threading.Thread(target=count)
    thread.start()
    thread.join()
    slices.sort()
    report.add("the first count, on its thread", 1e3 * (time.process_time() - began), "ms CPU")
    report.add("a slice, median", 1e3 * slices[len(slices) // 2], "ms CPU", "≤ 1")
    report.add("a slice, 99 of 100", 1e3 * slices[len(slices) * 99 // 100], "ms CPU", "≤ 1")
    report.add("a slice, longest", 1e3 * slices[-1], "ms CPU", "≤ 1")


def _waiting(report: Report, rounds: int) -> None:
    """A real loop, from the first stream that is left to the last count."""
    runs: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    for index in range(2 * rounds):
        counts = index % 2 == 1
        runs[counts].append(lateness(counts=counts))
    for counts, name in ((False, "not counted"), (True, "counted")):
        for which in ("p50", "max"):
            series = Series(tuple(run[which] for run in runs[counts]))
            report.add(f"a loop's beat is late, {which}, {name}", series, "ms")


if __name__ == "__main__":
    main()
