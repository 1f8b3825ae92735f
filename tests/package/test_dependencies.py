"""What installing the middleware brings with it, and what it registers."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import meterd
import meterd_middleware
import meterd_proto

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]

NOT_BROUGHT = {
    "meterd": set[str](),
    # What the app imports itself before we do, and what does without: a decoder or a tokenizer.
    "middleware": {"aiohttp", "botocore", "httpx", "httpx2", "multidict", "pytest"}
    | {"backports", "brotlicffi", "regex", "zstandard"},
    "proto": set[str](),
}


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


@pytest.mark.parametrize(
    ("directory", "package"),
    [("meterd", meterd), ("middleware", meterd_middleware), ("proto", meterd_proto)],
)
def test_what_a_distribution_imports_comes_with_it(directory: str, package: ModuleType) -> None:
    """An import inside a function fails in front of the user, weeks after the installation."""
    providers = metadata.packages_distributions()
    declared = declared_by(ROOT / directory / "pyproject.toml")
    ours = {package.__name__, "meterd_client"}
    foreign = set(imported(package)) - sys.stdlib_module_names - ours

    undeclared = {
        name
        for name in foreign - NOT_BROUGHT[directory]
        if declared.isdisjoint(
            provider.lower() for provider in providers.get(name, [name.replace("_", "-")])
        )
    }

    assert undeclared == set()


def declared_by(pyproject: Path) -> set[str]:
    """The distributions that a pyproject.toml requires, those of its extras, too."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    extras = project.get("optional-dependencies", {}).values()
    requirements = [*project["dependencies"], *(one for extra in extras for one in extra)]
    return {re.split(r"[^\w.-]", one, maxsplit=1)[0].lower() for one in requirements}


def imported(package: ModuleType) -> Iterator[str]:
    """The top-level names of all absolute imports of a package, wherever they stand."""
    assert package.__file__ is not None
    for path in Path(package.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.partition(".")[0]


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
    return (Path(meterd_middleware.__file__).parent / "py.typed").exists()
