"""What a process that died leaves in a spool root, written by the middleware's own format."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from meterd_middleware.directory import Acknowledged, SegmentName
from meterd_middleware.segment import KIND_HEADER, KIND_OPEN, KIND_RECORD, frame
from meterd_proto.v1 import spool_pb2, usage_pb2
from tests.cli.running import NOW

if TYPE_CHECKING:
    from pathlib import Path

PRODUCER = "ab" * 16
HOUR_AGO = NOW - 3_600 * 10**9


def leave_records(root: Path, count: int, acknowledged: int = 0, open_calls: int = 0) -> Path:
    """The directory of web@host-1, which wrote `count` records an hour ago and died."""
    directory = root / PRODUCER
    directory.mkdir(parents=True)
    (directory / "lock").touch()
    header = spool_pb2.SegmentHeader(
        producer=bytes.fromhex(PRODUCER), service="web", host="host-1", pid=41
    ).SerializeToString()
    record = usage_pb2.UsageRecord(
        client="acme-corp", provider="openai", operation="chat", request_model="gpt-5",
        status=usage_pb2.STATUS_COMPLETE, occurred_at_unix_ns=HOUR_AGO, input_tokens=12,
    ).SerializeToString()  # fmt: skip
    frames = [frame(KIND_HEADER, 0, header)]
    frames += [frame(KIND_RECORD, number, record) for number in range(1, count + 1)]
    for call in range(1, open_calls + 1):
        opened = spool_pb2.OpenCall(call=call, client="acme-corp", occurred_at_unix_ns=HOUR_AGO)
        frames.append(frame(KIND_OPEN, count, opened.SerializeToString()))
    segment = directory / str(SegmentName(1))
    segment.write_bytes(b"".join(frames))
    os.utime(segment, ns=(HOUR_AGO, HOUR_AGO))
    if acknowledged:
        (directory / "acknowledged").write_bytes(Acknowledged(b"l" * 16, acknowledged).pack())
    return directory
