"""What a package gives out is what its files say is public, and nothing else."""

import ast
import importlib
from pathlib import Path

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
