"""Over TCP: TLS where the network isn't this machine's, and an access key everywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import sha256
from typing import TYPE_CHECKING

import grpc
import pytest

from meterd.service.access import is_private_peer, scopes_for
from meterd_proto.v1 import admin_pb2, admin_pb2_grpc, rollup_pb2, rollup_pb2_grpc
from tests.deploy.asking import WITHIN_S, apply, channel, rollup
from tests.support.certificates import make_certificates
from tests.support.daemon import start_daemon

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon

KEYS = {scope: f"meterd_{scope}_0123456789" for scope in ("ship", "read", "admin")}
CONFIG = "".join(
    f'[access_keys.{scope}]\nscope = "{scope}"\n'
    f'hash = "sha256:{sha256(key.encode()).hexdigest()}"\n'
    for scope, key in KEYS.items()
)
APP = """\
from meterd_middleware import Meter
with Meter() as meter:
    meter.record(client="acme-corp", provider="openai", request_model="gpt-4o",
                 input_tokens=1000, output_tokens=100)
    assert meter.flush(20)
"""


def port_of(daemon: Daemon) -> str:
    """HOST:PORT as the ready line says it."""
    words = daemon.stderr.replace(",", " ").split()
    return next(word for word in words if word.startswith(("127.0.0.1:", "0.0.0.0:")))


def run_app(daemon: Daemon, **environ: str) -> None:
    """An app with a real Meter, that ends once its record is durable."""
    subprocess.run(
        [sys.executable, "-c", APP],
        env={"PATH": os.environ["PATH"], "HOME": str(daemon.directory), **environ},
        timeout=60,
        check=True,
    )


def code_of(target: str, key: str, method: str = "rollup") -> grpc.StatusCode:
    """How a call over TCP with this key ends."""
    metadata = (("authorization", f"Bearer {key}"),) if key else ()
    with grpc.insecure_channel(target) as opened:
        try:
            if method == "rollup":
                query = rollup_pb2_grpc.RollupServiceStub(opened).Query
                list(query(rollup_pb2.RollupRequest(), timeout=WITHIN_S, metadata=metadata))
            elif method == "health":
                check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = opened.unary_unary(
                    "/grpc.health.v1.Health/Check"
                )
                check(b"", timeout=WITHIN_S)
            else:
                admin = admin_pb2_grpc.AdminServiceStub(opened)
                request = admin_pb2.ApplyRequest(toml=CONFIG.encode(), dry_run=True)
                admin.Apply(request, timeout=WITHIN_S, metadata=metadata)
        except grpc.RpcError as error:
            assert isinstance(error, grpc.Call)
            return error.code()
    return grpc.StatusCode.OK


@pytest.fixture
def daemon(place: Path) -> Iterator[Daemon]:
    """A daemon on a socket and on a port of loopback, with three keys."""
    listen = (f"unix:{place}/m.sock", "127.0.0.1:0")
    with start_daemon(place, config=CONFIG, listen=listen) as daemon:
        yield daemon


@pytest.mark.parametrize(
    ("key", "method", "code"),
    [
        ("", "rollup", grpc.StatusCode.UNAUTHENTICATED),
        ("meterd_wrong", "rollup", grpc.StatusCode.UNAUTHENTICATED),
        (KEYS["ship"], "rollup", grpc.StatusCode.PERMISSION_DENIED),
        (KEYS["read"], "rollup", grpc.StatusCode.OK),
        (KEYS["admin"], "rollup", grpc.StatusCode.OK),
        (KEYS["read"], "apply", grpc.StatusCode.PERMISSION_DENIED),
        (KEYS["ship"], "apply", grpc.StatusCode.PERMISSION_DENIED),
        (KEYS["admin"], "apply", grpc.StatusCode.OK),
        ("", "health", grpc.StatusCode.OK),
    ],
)
def test_each_scope_reaches_what_it_is_for(
    daemon: Daemon, key: str, method: str, code: grpc.StatusCode
) -> None:
    """An app's key must not read what other clients pay, nor change a plan."""
    assert code_of(port_of(daemon), key, method) is code


def test_an_app_ships_with_its_key_over_loopback(daemon: Daemon) -> None:
    """The real Meter, the real channel; without the key nothing arrives."""
    run_app(daemon, METERD_TARGET=port_of(daemon), METERD_ACCESS_KEY=KEYS["ship"])

    assert rollup(daemon)["acme-corp"].tokens == 1_100


def test_a_key_that_is_taken_out_stops_working_at_once(daemon: Daemon) -> None:
    """A lost laptop: `meterctl apply`, and no restart."""
    only_admin = CONFIG[CONFIG.index("[access_keys.admin]") :]
    assert code_of(port_of(daemon), KEYS["read"]) is grpc.StatusCode.OK

    assert apply(daemon, only_admin).applied

    assert code_of(port_of(daemon), KEYS["read"]) is grpc.StatusCode.UNAUTHENTICATED


def test_over_tls_key_and_authority_are_all_an_app_needs(place: Path) -> None:
    """METERD_TLS_CA beside METERD_ACCESS_KEY."""
    files = make_certificates(place)
    with start_daemon(
        place,
        config=CONFIG,
        listen=(f"unix:{place}/m.sock", "127.0.0.1:0"),
        options=("--tls-cert", str(files.certificate), "--tls-key", str(files.key)),
    ) as daemon:
        run_app(
            daemon,
            METERD_TARGET=port_of(daemon),
            METERD_ACCESS_KEY=KEYS["ship"],
            METERD_TLS_CA=str(files.authority),
        )

        assert rollup(daemon)["acme-corp"].requests == 1
        assert code_of(port_of(daemon), KEYS["read"]) is grpc.StatusCode.UNAVAILABLE


def test_on_a_private_network_without_tls_somebody_has_to_insist(place: Path) -> None:
    """Containers of one host: every address of it, but only private peers."""
    with start_daemon(
        place,
        config=CONFIG,
        listen=(f"unix:{place}/m.sock", "0.0.0.0:0"),
        options=("--insecure-network",),
    ) as daemon:
        port = port_of(daemon).rpartition(":")[2]

        assert code_of(f"127.0.0.1:{port}", KEYS["read"]) is grpc.StatusCode.OK
        assert code_of(f"127.0.0.1:{port}", "") is grpc.StatusCode.UNAUTHENTICATED


def test_without_keys_a_port_is_of_no_use_and_says_so(place: Path) -> None:
    """The socket is: that is where the first `apply` comes from."""
    with start_daemon(place, listen=(f"unix:{place}/m.sock", "127.0.0.1:0")) as daemon:
        assert "nobody can use TCP yet" in daemon.stderr
        assert code_of(port_of(daemon), "any") is grpc.StatusCode.UNAUTHENTICATED
        with channel(daemon) as opened:
            stub = admin_pb2_grpc.AdminServiceStub(opened)
            assert stub.Status(admin_pb2.StatusRequest(), timeout=WITHIN_S).records == 0


def test_a_certificate_that_is_not_there_says_so(place: Path) -> None:
    """One sentence, before anything is bound."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "meterd.main", "--listen", "127.0.0.1:0"),
            *("--tls-cert", "/no/cert.pem", "--tls-key", "/no/key.pem"),
        ],
        env={"PATH": os.environ["PATH"], "HOME": str(place)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr == "meterd: /no/key.pem can't be read: no such file or directory\n"


@pytest.mark.parametrize(
    ("peer", "is_private"),
    [
        ("ipv4:127.0.0.1:4711", True),
        ("ipv4:10.1.2.3:4711", True),
        ("ipv4:172.17.0.2:4711", True),
        ("ipv4:192.168.1.9:1", True),
        ("ipv4:8.8.8.8:4711", False),
        ("ipv4:172.32.0.1:4711", False),
        ("ipv6:%5B::1%5D:4711", True),
        ("ipv6:[fd00::1]:4711", True),
        ("ipv6:[fe80::1%25eth0]:4711", True),
        ("ipv6:[::ffff:10.0.0.1]:4711", True),
        ("ipv6:[::ffff:8.8.8.8]:4711", False),
        ("ipv6:[2001:4860:4860::8888]:4711", False),
        ("unix:", True),
        ("", False),
        ("ipv4:nonsense:1", False),
    ],
)
def test_a_private_peer_is_told_from_a_stranger(peer: str, is_private: bool) -> None:
    """As grpc writes peers, both families, mapped addresses too."""
    assert is_private_peer(peer) is is_private


def test_no_method_is_open_by_omission() -> None:
    """A method that nobody thought of needs an admin's key."""
    assert scopes_for("/meterd.v1.AdminService/Imagined") == {"admin"}
    assert scopes_for("/meterd.v1.UsageService/Ship") == {"admin", "ship"}
    assert scopes_for("/grpc.health.v1.Health/Check") == frozenset()
    assert scopes_for("/evil.Health/Check") == {"admin"}
