"""What a package gives out is what its files say is public, and nothing else."""

import ast
import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

import normprop


@pytest.mark.parametrize("name", ["nn", "functional", "rules"])
def test_a_package_gives_out_what_its_files_do(name):
    package = importlib.import_module(f"normprop.{name}")
    files = {f.stem for f in Path(package.__file__).parent.glob("*.py")} - {"__init__"}
    modules = [importlib.import_module(f"normprop.{name}.{file}") for file in files]
    named = [public for m in modules for public in getattr(m, "__all__", ())]
    assert len(named) == len(set(named))
    # A module of functions of its own beside the layers.
    assert sorted([*named, *(["init"] if name == "nn" else [])]) == package.__all__
    for public in package.__all__:
        assert hasattr(package, public)


@pytest.mark.parametrize("name", ["nn", "functional", "rules"])
def test_a_package_takes_in_every_file_that_has_something_public(name):
    # Type checkers follow the stars, and nothing that is made while running.
    package = importlib.import_module(f"normprop.{name}")
    tree = ast.parse(Path(package.__file__).read_text("utf-8"))
    taken = {
        node.module.rpartition(".")[2]
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"
    }
    files = Path(package.__file__).parent.glob("*.py")
    public = {f.stem for f in files if "\n__all__ = [" in f.read_text("utf-8")}
    assert taken == public - {"__init__"}


def test_every_public_name_is_there():
    assert all(hasattr(normprop, name) for name in normprop.__all__)


def test_what_is_public_has_a_place_on_the_page_of_the_api_and_what_has_one_is_public(root):
    page = (root / "book" / "api.md").read_text("utf-8")
    shown = re.findall(r"^\.\. auto(?:function|class|module):: (\S+)$", page, re.M)
    for name in normprop.__all__:
        found = getattr(normprop, name)
        place = found.__name__ if isinstance(found, ModuleType) else f"normprop.{name}"
        assert place in shown, name
    for place in shown:
        home, _, name = place.rpartition(".")
        module = importlib.import_module(home)
        public = getattr(module, "__all__", [name])
        assert name in public, f"{place} is documented, but not public in {home}"
    # The parts of a report are made by the package, and are read where they come out.
    assert {p for p in shown if p.count(".") > 1} == {
        "normprop.catalogue.Layer",
        "normprop.gaussian.calibration",
        "normprop.gaussian.maps",
        "normprop.graph.affine.Affine",
        "normprop.graph.affine.Clamp",
    }
