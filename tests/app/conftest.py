"""A loopback provider, and a meter that keeps its records in a list."""

from __future__ import annotations

import gc
import sys
import warnings
from typing import TYPE_CHECKING

import pytest

from meterd_middleware.testing import RecordingMeter
from tests.support.provider import Provider

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Some SDKs offer no way to close their sockets; which test the collector finds them in
    is chance."""
    for item in items:
        if "tests/app/" in item.nodeid:
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))


@pytest.fixture(scope="module", autouse=True)
def _sdks_sockets_are_collected_here() -> Iterator[None]:
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
        gc.collect()


@pytest.fixture(autouse=True)
def _hugging_faces_clients_are_each_tests_own() -> Iterator[None]:
    """They are global to the process, and stay metered for the test that instrumented them."""
    yield
    http = sys.modules.get("huggingface_hub.utils._http")
    if http is not None:
        http.close_session()
        http.set_async_client_factory(http.default_async_client_factory)


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A provider of this test's own."""
    with Provider() as provider:
        yield provider


@pytest.fixture
def meter() -> Iterator[RecordingMeter]:
    """A meter of this test's own; a fault that it kept from the app fails the test.

    It takes the loopback provider for a host that accepts `stream_options.include_usage`, as
    the real ones of its SDKs do.
    """
    with RecordingMeter(include_usage_hosts=("127.0.0.1",)) as meter:
        yield meter
        assert meter.faults == []
