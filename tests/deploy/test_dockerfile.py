"""The Dockerfile, read as far as it can be without an engine."""

from __future__ import annotations

import json
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.deploy.dockerfile import Stage, read_dockerfile

FORBIDDEN = {"torch", "torchvision", "onnx", "onnxscript", "matplotlib"}


@pytest.fixture(scope="module")
def stages(root: Path) -> list[Stage]:
    return read_dockerfile(root / "deploy/Dockerfile")


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return table


@pytest.fixture(scope="module")
def pinned(root: Path) -> dict[str, str]:
    """The versions that deploy/constraints.txt names."""
    lines = (root / "deploy/constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def requirements(project: dict[str, Any], extra: str | None = None) -> list[Requirement]:
    """What pyproject.toml asks for on Linux x86-64, extras that name extras followed."""
    lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
    found = []
    for one in map(Requirement, lines):
        platform = {"sys_platform": "linux", "platform_machine": "x86_64"}
        if one.marker is not None and not one.marker.evaluate(platform):
            continue
        if one.name == project["name"]:
            found += [more for name in one.extras for more in requirements(project, name)]
        else:
            found.append(one)
    return found


def test_base_images_have_a_full_version(stages: list[Stage]) -> None:
    build, final = (re.fullmatch(r"python:(3\.\d+\.\d+)-(slim-)?\w+", one.image) for one in stages)
    assert build is not None
    assert final is not None
    assert final[2]
    assert build[1] == final[1]  # it takes no extensions of another Python


def test_every_source_exists_and_is_sent_to_the_builder(stages: list[Stage], root: Path) -> None:
    lines = (root / "deploy/Dockerfile.dockerignore").read_text().splitlines()
    sent = [line.removeprefix("!") for line in lines if line.startswith("!")]
    for copy in stages[0].all("COPY"):
        for source in copy.split()[:-1]:
            assert (root / source).exists()
            assert any(fnmatch(source, pattern) for pattern in sent), source


def test_runs_as_an_unprivileged_user(stages: list[Stage]) -> None:
    (user,) = stages[-1].all("USER")
    assert all(int(part) > 1000 for part in user.split(":"))


def test_commands_are_those_of_the_project(stages: list[Stage], project: dict[str, Any]) -> None:
    (entry,) = stages[-1].all("ENTRYPOINT")
    (health,) = stages[-1].all("HEALTHCHECK")
    assert json.loads(entry) == ["convoy-serve"]
    assert json.loads(health.partition("CMD ")[2]) == ["convoy", "health"]
    assert {"convoy", "convoy-serve"} <= set(project["scripts"])


def test_exposes_the_ports_it_listens_on(stages: list[Stage]) -> None:
    image = stages[-1]
    addresses = image.environment["CONVOY_GRPC_ADDRESS"], image.environment["CONVOY_HTTP_ADDRESS"]
    (exposed,) = image.all("EXPOSE")
    assert exposed.split() == [address.rpartition(":")[2] for address in addresses]


def test_installs_nothing_of_training(stages: list[Stage], pinned: dict[str, str]) -> None:
    copied = {source for copy in stages[0].all("COPY") for source in copy.split()[:-1]}
    assert "training" not in copied
    assert not FORBIDDEN & set(pinned)


@pytest.mark.parametrize("extra", [None, "serve", "gpu", "compile"])
def test_pins_everything_at_versions_the_project_allows(
    project: dict[str, Any], pinned: dict[str, str], extra: str | None
) -> None:
    for one in requirements(project, extra):
        assert one.specifier.contains(pinned[one.name]), one


def test_build_argument_names_an_extra(stages: list[Stage], project: dict[str, Any]) -> None:
    (argument,) = stages[0].all("ARG")
    name, _, default = argument.partition("=")
    assert name == "EXTRA"
    assert default in project["optional-dependencies"]
