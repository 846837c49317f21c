"""One world in three files: pyproject.toml says what, constraints.txt and environment.yml which."""

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def pins(root):
    lines = (root / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def environment(root):
    return yaml.safe_load((root / "environment.yml").read_text())


def declared(project) -> list[Requirement]:
    extras = project["optional-dependencies"].values()
    return [Requirement(text) for group in (project["dependencies"], *extras) for text in group]


def disagreements(requirements, pins) -> list[str]:
    """Return a line for every requirement without a pin, or with one that does not satisfy it."""
    versions = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    found = []
    for requirement in requirements:
        version = versions.get(canonicalize_name(requirement.name))
        if version is None:
            found.append(f"{requirement.name} is not pinned")
        elif not requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement} is pinned to {version}")
    return found


def test_every_declared_dependency_is_pinned_within_its_bounds(project, pins):
    assert disagreements(declared(project), pins) == []


def test_pins_are_exact_unique_and_public(pins):
    names = [canonicalize_name(pin.name) for pin in pins]
    assert len(set(names)) == len(names)
    for pin in pins:
        # A local version such as +cpu exists on one index only.
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), f"{pin} must be name==version"


def test_conda_installs_the_same_world(environment, project):
    python, pip, section = environment["dependencies"]
    assert pip == "pip"
    minimum = project["requires-python"].removeprefix(">=")
    assert python == f"python={minimum}"
    assert section == {"pip": ["-c constraints.txt", "-e .[book,test]"]}


def test_the_makefile_installs_the_same_extras(root, environment):
    makefile = (root / "Makefile").read_text()
    extras = environment["dependencies"][-1]["pip"][-1].removeprefix("-e ")
    assert f"-c constraints.txt -e '{extras}'" in makefile


def test_every_imported_package_that_the_tests_need_is_declared(project):
    names = {canonicalize_name(requirement.name) for requirement in declared(project)}
    assert {"numpy", "torch", "tqdm", "pytest", "packaging", "pyyaml", "selenium"} <= names


@pytest.mark.parametrize(
    ("requirement", "message"),
    [("numpy>=999", "numpy>=999 is pinned to"), ("left-pad>=1", "left-pad is not pinned")],
)
def test_a_disagreement_is_seen(pins, requirement, message):
    (line,) = disagreements([Requirement(requirement)], pins)
    assert message in line
