"""An app that makes calls until it is killed: run by test_counted_once.py.

    python -m tests.delivery.torture_app ROOT TARGET FIRST

Prints `sent N` once a call has its open frame, `done N` once its record was appended; N is
also the record's count of input tokens. A third of the calls overlap the next ones.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

from meterd_middleware.payload import OpenCall
from meterd_middleware.settings import Settings
from meterd_middleware.shipper import Shipper
from meterd_middleware.usage import UsageRecord


def main(root: str, target: str, first: int) -> None:
    chance = random.Random(first)
    shipper = Shipper(
        Settings(spool_root=Path(root), target=target, service="app", host="h", free_bytes_min=0)
    )
    under_way: list[tuple[int, int]] = []
    number = first
    while True:
        opened = OpenCall(
            client="acme", request_model="gpt-4o", provider="openai", input_tokens=number,
            occurred_at_unix_ns=time.time_ns(),
        )  # fmt: skip
        call = shipper.open_call(opened)
        if call:
            _say(f"sent {number}")
            under_way.append((call, number))
        number += 1
        if len(under_way) > 3 or chance.random() < 0.6:
            call, done = under_way.pop(chance.randrange(len(under_way)))
            record = UsageRecord(
                client="acme", request_model="gpt-4o", provider="openai", input_tokens=done,
                http_status=200, occurred_at_unix_ns=time.time_ns(),
            )  # fmt: skip
            if shipper.append(record, call) > 0:
                _say(f"done {done}")


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
