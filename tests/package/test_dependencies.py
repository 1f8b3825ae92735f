"""What installing the middleware brings with it, and what it registers."""

from __future__ import annotations

import re
from importlib import metadata

import meterd_middleware


def needed(distribution: str) -> set[str]:
    """The names a distribution requires, its extras left out."""
    return {
        re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        for requirement in metadata.requires(distribution) or []
        if "extra ==" not in requirement
    }


def test_the_middleware_brings_grpcio_and_protobuf_and_nothing_else() -> None:
    assert needed("meterd-middleware") == {"meterd-proto", "grpcio", "protobuf"}
    assert needed("meterd-proto") <= {"grpcio", "protobuf"}


def test_the_three_distributions_share_one_version_and_pin_each_other() -> None:
    versions = {metadata.version(f"meterd{part}") for part in ("", "-middleware", "-proto")}

    assert len(versions) == 1
    (version,) = versions
    assert f"meterd-proto=={version}" in (metadata.requires("meterd-middleware") or [])


def test_the_fixture_for_the_agencys_own_tests_is_registered() -> None:
    found = metadata.entry_points(group="pytest11", name="meterd")

    assert [entry.value for entry in found] == ["meterd_middleware.testing"]


def test_the_package_is_typed_and_names_what_is_public() -> None:
    assert (
        "meterd_middleware/py.typed"
        in {str(file) for file in metadata.files("meterd-middleware") or []}
        or _has_marker()
    )
    for name in meterd_middleware.__all__:
        assert getattr(meterd_middleware, name).__doc__, name


def _has_marker() -> bool:
    """An editable installation lists no files of its own."""
    from pathlib import Path

    return (Path(meterd_middleware.__file__).parent / "py.typed").exists()
