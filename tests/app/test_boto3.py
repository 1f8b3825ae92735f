"""boto3 goes through urllib3: Bedrock's calls are counted under its own session, byte for byte."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar

import boto3
import botocore.exceptions
import pytest
from botocore.config import Config

from meterd_middleware import instrument, instrument_all, refusal_of, tagged
from tests.wire.dialects import (
    Counts,
    _anthropic_message,
    _bedrock_frames,
    _converse_frames,
    _converse_usage,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meterd_middleware.testing import RecordingMeter

COUNTS = Counts(1_000, 77, cache_read=300, cache_write=100)
TEXTS = ["one ", "two ", "three "] * 20
MESSAGES: Any = [{"role": "user", "content": [{"text": "hello"}]}]


class Bedrock(ThreadingHTTPServer):
    """Bedrock's four paths on loopback, and what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.statuses: list[int] = []
        self.cut_after = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Bedrock

    BODIES: ClassVar[dict[str, Any]] = {
        "converse": {"output": {"message": {"role": "assistant", "content": [{"text": "Hi"}]}},
                     "stopReason": "end_turn", "usage": _converse_usage(COUNTS),
                     "metrics": {"latencyMs": 1}},
        "invoke": _anthropic_message(COUNTS),
    }  # fmt: skip

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
        action = self.path.rpartition("/")[2]
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        if status != 200:
            self._whole(status, {"message": "slow down"})
        elif action in self.BODIES:
            self._whole(200, self.BODIES[action])
        else:
            make = _converse_frames if action == "converse-stream" else _bedrock_frames
            self._stream(make(COUNTS, TEXTS))

    def _whole(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, frames: list[bytes]) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/vnd.amazon.eventstream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number, frame in enumerate(frames):
            if self.server.cut_after and number == self.server.cut_after:
                self.close_connection = True
                return
            self.wfile.write(b"%x\r\n%s\r\n" % (len(frame), frame))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def bedrock() -> Iterator[Bedrock]:
    server = Bedrock()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def client(bedrock: Bedrock) -> Iterator[Any]:
    made = boto3.client(
        "bedrock-runtime", region_name="us-east-1", endpoint_url=bedrock.url,
        aws_access_key_id="k", aws_secret_access_key="s",
        config=Config(retries={"max_attempts": 2, "mode": "standard"}),
    )  # fmt: skip
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _acme() -> Iterator[None]:
    with tagged(client="acme-corp", project="support-chatbot"):
        yield


def converse(client: Any) -> Any:
    return client.converse(modelId="anthropic.claude-sonnet-4", messages=MESSAGES)


def converse_stream(client: Any) -> Any:
    answer = client.converse_stream(modelId="anthropic.claude-sonnet-4", messages=MESSAGES)
    return list(answer["stream"])


def invoke(client: Any) -> Any:
    body = json.dumps({"messages": [], "max_tokens": 9})
    answer = client.invoke_model(modelId="anthropic.claude-sonnet-4", body=body)
    return json.loads(answer["body"].read())


def invoke_in_pieces(client: Any) -> Any:
    answer = client.invoke_model(modelId="anthropic.claude-sonnet-4", body=b"{}")
    return json.loads(b"".join(answer["body"].iter_chunks(7)))


def invoke_stream(client: Any) -> Any:
    answer = client.invoke_model_with_response_stream(
        modelId="arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude", body=b"{}"
    )
    return list(answer["body"])


CALLS = pytest.mark.parametrize(
    "call", [converse, converse_stream, invoke, invoke_in_pieces, invoke_stream]
)


def counted(meter: RecordingMeter) -> list[tuple[int, int, int, int]]:
    return [
        (r.input_tokens, r.output_tokens, r.cache_read_tokens, r.cache_write_tokens)
        for r in meter.records
    ]


@CALLS
def test_a_client_is_counted_to_the_token_and_answers_as_without_us(
    meter: RecordingMeter, bedrock: Bedrock, client: Any, call: Any
) -> None:
    bare = call(client)

    assert instrument(client, meter=meter, account="prod") is client
    metered = call(client)

    if call is not converse:  # its answer holds a date and a request's id
        assert metered == bare
    assert counted(meter) == [(1_000, 77, 300, 100)]
    record = meter.records[0]
    assert (record.client, record.provider, record.status) == (
        "acme-corp", "aws.bedrock", "complete",
    )  # fmt: skip
    assert (record.is_estimated, record.account, record.http_status) == (False, "prod", 200)
    assert record.is_stream is (call in (converse_stream, invoke_stream))


@CALLS
def test_instrument_all_counts_every_client_once_also_one_that_is_metered_itself(
    meter: RecordingMeter, client: Any, call: Any
) -> None:
    with instrument_all(meter):
        call(client)
        instrument(client, meter=meter)
        call(client)
    assert len(meter.records) == 2

    unmetered = client._endpoint.http_session.inner
    client._endpoint.http_session = unmetered
    call(client)
    assert len(meter.records) == 2


def test_a_stream_that_the_app_leaves_is_estimated_from_what_passed(
    meter: RecordingMeter, client: Any
) -> None:
    instrument(client, meter=meter)
    answer = client.converse_stream(modelId="anthropic.claude-sonnet-4", messages=MESSAGES)
    for number, _ in enumerate(answer["stream"]):
        if number == 10:
            break
    answer["stream"].close()

    [record] = meter.records
    assert (record.status, record.is_estimated) == ("abandoned", True)
    assert record.input_tokens > 0


def test_a_stream_cut_by_the_network_is_cut_and_raises_what_botocore_raises(
    meter: RecordingMeter, bedrock: Bedrock, client: Any
) -> None:
    bedrock.cut_after = 5
    instrument(client, meter=meter)

    with pytest.raises(Exception, match=r"Connection broken|ended prematurely") as raised:
        converse_stream(client)

    assert type(raised.value).__module__.startswith(("urllib3", "botocore"))
    assert [r.status for r in meter.records] == ["cut"]


def test_each_attempt_of_botocore_is_a_record_and_failures_cost_nothing(
    meter: RecordingMeter, bedrock: Bedrock, client: Any
) -> None:
    bedrock.statuses = [503]
    instrument(client, meter=meter)

    converse(client)

    assert [(r.status, r.http_status, r.attempt, r.tokens) for r in meter.records] == [
        ("failed", 503, 0, 0), ("complete", 200, 1, 1_077),
    ]  # fmt: skip


@CALLS
def test_a_refusal_is_the_clients_own_throttling_error_and_sent_once(
    meter: RecordingMeter, bedrock: Bedrock, client: Any, call: Any
) -> None:
    meter.refuse("acme-corp")
    instrument(client, meter=meter)

    with pytest.raises(client.exceptions.ThrottlingException) as raised:
        call(client)

    assert isinstance(raised.value, botocore.exceptions.ClientError)
    assert "meterd:" in str(raised.value)
    refused = refusal_of(raised.value)
    assert refused is not None
    assert refused.client == "acme-corp"
    assert bedrock.seen == []
    assert [r.status for r in meter.records] == ["refused"]


def test_a_signed_request_leaves_as_it_was(
    meter: RecordingMeter, bedrock: Bedrock, client: Any
) -> None:
    """A changed header would break its signature."""
    converse(client)
    instrument(client, meter=meter)
    converse(client)

    (_, bare), (_, metered) = bedrock.seen
    assert bare.keys() == metered.keys()
    assert metered["authorization"].startswith("AWS4-HMAC-SHA256")


def test_calls_to_other_services_are_not_looked_at(meter: RecordingMeter) -> None:
    """A path that looks like a model's, on a client of something else."""
    with instrument_all(meter):
        other = boto3.client(
            "sts", region_name="us-east-1", endpoint_url="http://127.0.0.1:9",
            aws_access_key_id="k", aws_secret_access_key="s",
            config=Config(retries={"max_attempts": 0}, connect_timeout=1),
        )  # fmt: skip
        with pytest.raises(botocore.exceptions.EndpointConnectionError):
            other.get_caller_identity()
        other.close()

    assert meter.records == []
