"""One world in three files: pyproject.toml says what, constraints.txt and environment.yml which."""

import re
import tomllib
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def pins(root):
    lines = (root / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def distributions():
    """Version, Requires-Python and requirements of what is installed, by canonical name."""
    return {
        canonicalize_name(found.metadata["Name"]): (
            found.version,
            found.metadata.get("Requires-Python", ""),
            found.requires or [],
        )
        for found in metadata.distributions()
    }


@pytest.fixture(scope="module")
def makefile(root):
    return (root / "Makefile").read_text()


@pytest.fixture(scope="module")
def tried(makefile):
    return re.search(r"^TRIED := (.*)$", makefile, re.MULTILINE)[1].split()


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


def test_conda_installs_the_same_world(environment, tried):
    python, pip, section = environment["dependencies"]
    assert pip == "pip"
    last = Version(tried[-1])
    assert python == f"python>={tried[0]},<{last.major}.{last.minor + 1}"
    assert section == {"pip": ["-c constraints.txt", "-e .[book,test]"]}


def test_the_makefile_installs_the_same_extras(makefile, environment):
    extras = environment["dependencies"][-1]["pip"][-1].removeprefix("-e .[").removesuffix("]")
    assert f"$(call install,{extras.replace(',', '$(comma)')})" in makefile


def test_all_name_the_same_pythons(root, makefile, tried, project):
    prefix = "Programming Language :: Python :: 3."
    named = [entry for entry in project["classifiers"] if entry.startswith(prefix)]
    assert [entry.rpartition(" ")[2] for entry in named] == tried
    assert project["requires-python"] == f">={tried[0]}"
    workflow = yaml.safe_load((root / ".github/workflows/test.yml").read_text())
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == tried
    said = f"Python {', '.join(tried[:-1])} or {tried[-1]}"
    for page in ("README.md", "CONTRIBUTING.md", "book/running.md"):
        assert said in (root / page).read_text("utf-8"), page


def refusals(distributions, pins, pythons) -> list[str]:
    """Return a line for every pinned distribution that does not admit one of the Pythons."""
    exact = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    return [
        f"{name} {version} needs Python {needed}, not {python}"
        for name, (version, needed, _) in distributions.items()
        if exact.get(name) == version
        for python in pythons
        if not SpecifierSet(needed).contains(python)
    ]


def unpinned(requirements, distributions, pins, environment) -> list[str]:
    """Return what pip would install for the requirements without being told a version.

    What is not installed here has no metadata to follow; its own requirements are not seen.
    """
    found, fixed, seen = {}, set(), set()
    todo = [(requirement, "") for requirement in requirements]
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({**environment, "extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        # torch pins the CUDA libraries of its own build, and others of theirs name them as well.
        if any(clause.operator == "==" for clause in requirement.specifier):
            fixed.add(name)
        for complaint in disagreements([requirement], pins):
            found[name] = complaint
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in seen and name in distributions:
                seen.add((name, wanted))
                todo += [(Requirement(text), wanted) for text in distributions[name][2]]
    return sorted(
        complaint
        for name, complaint in found.items()
        if not (name in fixed and complaint.endswith("is not pinned"))
    )


def pythons_of(tried) -> list[str]:
    """Return the first release of each, which admits the least."""
    return [f"{version}.0" for version in tried]


def test_every_pin_admits_every_python(distributions, pins, tried):
    assert refusals(distributions, pins, pythons_of(tried)) == []


@pytest.mark.parametrize(
    ("system", "platform"), [("Linux", "linux"), ("Darwin", "darwin")], ids=["linux", "macos"]
)
def test_all_that_pip_installs_is_pinned(distributions, project, pins, tried, system, platform):
    for python in pythons_of(tried):
        environment = {
            "python_full_version": python,
            "python_version": python.removesuffix(".0"),
            "platform_system": system,
            "sys_platform": platform,
        }
        found = unpinned(declared(project), distributions, pins, environment)
        assert found == [], f"Python {python} on {system}"


def test_a_pin_that_refuses_a_python_is_seen():
    pins = [Requirement("late==2.0"), Requirement("other==1.0")]
    known = {"late": ("2.0", ">=3.11.5", []), "other": ("1.1", ">=3.14", [])}
    # Nothing is known of what is installed in another version than the pin's.
    assert refusals(known, pins, ["3.11.0", "3.12.0"]) == [
        "late 2.0 needs Python >=3.11.5, not 3.11.0"
    ]


def test_what_only_one_python_needs_is_seen():
    pins = [Requirement("a==1"), Requirement("b==1")]
    known = {
        "a": ("1", "", ['b; python_version < "3.12"', 'c>=2; python_version == "3.12"', "b[x]"]),
        "b": ("1", "", ['d; extra == "x"', 'e; extra == "y"']),
    }
    for python, missing in (("3.11", ["d"]), ("3.12", ["c", "d"])):
        found = unpinned([Requirement("a")], known, pins, {"python_version": python})
        assert found == [f"{name} is not pinned" for name in missing]


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
