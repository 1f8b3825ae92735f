"""The files of examples/deploy say what the programs understand."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from meterd.config import toml
from meterd.options import parse
from tests.examples.running import ROOT

if TYPE_CHECKING:
    from pathlib import Path

DEPLOY = ROOT / "examples" / "deploy"


def compose() -> dict[str, Any]:
    """The compose file, read."""
    read: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return read


def unit() -> configparser.ConfigParser:
    """The systemd unit, read; a key that stands twice would be an error."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # its documented use
    parser.read_string((DEPLOY / "meterd.service").read_text().replace("\\\n", " "))
    return parser


def test_the_example_configuration_is_accepted() -> None:
    """The three retainers of the README, and the same one as a wall."""
    text = (ROOT / "examples" / "meterd.toml").read_bytes()

    agency = toml.read(text).agency

    assert {"starter", "growth", "pro"} <= set(agency.plans)


def test_the_compose_files_meterd_and_apps_meet_in_one_volume() -> None:
    """Where the app spools and where meterd sweeps must be the same volume, by default paths."""
    services = compose()["services"]
    words = shlex.split(services["meterd"]["command"])

    options = parse(words[1:], {}, "0")

    for name in ("app", "worker"):
        environ = services[name]["environment"]
        assert environ["METERD_TARGET"] == str(options.listen[0])
        assert environ["METERD_SPOOL"] == str(options.spool_roots[0])
        assert f"spool:{options.spool_roots[0]}" in services[name]["volumes"]
    assert f"spool:{options.spool_roots[0]}" in services["meterd"]["volumes"]
    assert set(compose()["volumes"]) == {"spool", "ledger"}


def test_the_images_files_exist() -> None:
    """A COPY of what isn't there fails on the user's machine first."""
    for line in (DEPLOY / "Dockerfile").read_text().splitlines():
        if found := re.match(r"COPY (\S+) ", line):
            assert (ROOT / found.group(1)).exists()


def test_the_units_command_is_one_that_meterd_understands(tmp_path: Path) -> None:
    """And its listening address is the one that apps try by default."""
    words = shlex.split(unit()["Service"]["ExecStart"])

    options = parse(words[1:], {}, "0")

    assert str(options.listen[0]) == "unix:/run/meterd/meterd.sock"
    assert str(options.spool_roots[0]) == "/var/spool/meterd"
    checker = shutil.which("systemd-analyze")
    if checker is None:
        pytest.skip("systemd-analyze isn't here to check the unit's own syntax")
    copy = tmp_path / "meterd.service"
    text = (DEPLOY / "meterd.service").read_text()
    copy.write_text(text.replace("/opt/meterd/bin/meterd", "/bin/true"))
    done = subprocess.run(
        [checker, "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False
    )
    assert "meterd.service:" not in done.stderr


@pytest.mark.parametrize("page", ["docs/recipes.md", "docs/deployment.md", "examples/README.md"])
def test_every_link_of_a_page_leads_to_a_file(page: str) -> None:
    """An example that was renamed would be missed by readers first."""
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)

    assert links
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


def test_every_recipe_stands_in_the_docs() -> None:
    """A recipe that nobody is told of helps nobody."""
    text = (ROOT / "docs" / "recipes.md").read_text()
    recipes = [path.name for path in (ROOT / "examples" / "recipes").glob("[!_]*.py")]

    assert [name for name in recipes if name not in text] == []
