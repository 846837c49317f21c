"""Imports inside the package point one way: ground, rules, tensors, layers, networks, companion."""

import ast
import json
from pathlib import Path

import pytest

# Each part, a module or a folder of normprop, may import the parts named here, and itself.
# "" is the package, __init__.py, which hands out the public names of all parts but the companion.
ALLOWED = {
    "checks": set(),
    "gaussian": {"checks"},
    "callables": {"gaussian"},
    "names": set(),
    "process": set(),
    "rules": {"checks", "gaussian", "callables", "names"},
    # The witness shares nothing with what it testifies about but names, and what numbers must be;
    # nor do the kernels.
    "montecarlo": {"checks", "kernels", "names", "process"},
    "kernels": set(),
    "functional": {"checks", "gaussian", "rules", "kernels", "names"},
    "nn": {"checks", "gaussian", "rules", "functional", "names"},
    "graph": {"checks", "gaussian", "rules", "functional", "nn", "process"},
    "post": {"gaussian", "rules", "montecarlo", "functional", "nn"},
    "catalogue": {"rules", "nn"},
    "": {"gaussian", "rules", "montecarlo", "functional", "nn", "graph", "post", "catalogue"},
    "__main__": {"", "gaussian", "rules", "montecarlo", "functional", "nn", "post", "catalogue"},
    "companion": {"", "gaussian", "rules", "montecarlo", "functional", "nn", "graph", "post"},
}

# Folders beside the package, which import it, and which nothing of it imports.
OUTSIDE = {"benchmarks", "scripts", "tests"}


def imported_names(source: str, package: str) -> set[str]:
    """Return the dotted names that a source imports, at any depth, resolved against its package."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            if node.level:
                base = [*package.split(".")[: package.count(".") + 2 - node.level], *base]
            names.update(".".join([*base, alias.name]) for alias in node.names)
    return names


def violations(package: Path) -> list[str]:
    """Return a line for every import in the package that points the wrong way."""
    found = []
    for path in sorted(package.rglob("*.py")):
        inner = path.relative_to(package).with_suffix("").parts
        part = "" if inner == ("__init__",) else inner[0]
        where = path.relative_to(package.parent)
        if part not in ALLOWED:
            found.append(f"{where}: {part!r} is no part of the house; say what it may import")
            continue
        for name in sorted(
            imported_names(path.read_text("utf-8"), ".".join(("normprop", *inner[:-1])))
        ):
            top, *rest = name.split(".")
            target = rest[0] if rest and rest[0] in ALLOWED else ""
            if top == "normprop" and target != part and target not in ALLOWED[part]:
                found.append(f"{where}: {part or 'normprop'} must not import {name}")
            if top == "triton" and part != "kernels":
                found.append(f"{where}: only kernels may import {name}")
            if top in OUTSIDE:
                found.append(f"{where}: the package must not import {name}")
            if name.startswith("torch.nn") and part == "gaussian":
                found.append(f"{where}: gaussian knows no layers, but imports {name}")
    return found


def test_the_package_keeps_its_arrows(root):
    assert violations(root / "normprop") == []


def test_no_chapter_imports_what_lies_beside_the_package(root):
    found = []
    for path in (root / "book").rglob("*.ipynb"):
        if ".ipynb_checkpoints" in path.parts:
            continue
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                names = imported_names("".join(cell["source"]), "")
                found += [f"{path.name}: {n}" for n in names if n.partition(".")[0] in OUTSIDE]
    assert found == []


def test_the_arrows_have_no_cycle():
    done: set[str] = set()
    while len(done) < len(ALLOWED):
        free = {part for part, targets in ALLOWED.items() if part not in done and targets <= done}
        assert free, f"a cycle among {sorted(set(ALLOWED) - done)}"
        done |= free


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("gaussian/law.py", "from normprop.rules import moments"),
        ("gaussian/law.py", "from ..rules import moments"),
        ("gaussian/law.py", "from .. import nn"),
        ("gaussian/law.py", "import torch.nn"),
        ("gaussian/law.py", "from torch import nn"),
        ("rules.py", "import normprop.functional as F"),
        ("rules.py", "from .nn import ReLU"),
        ("rules.py", "import normprop"),
        ("montecarlo.py", "from .gaussian import law"),
        ("montecarlo.py", "def f():\n    from normprop.rules import moments"),
        ("functional/pool.py", "from ..nn import pool"),
        ("functional/pool.py", "import triton.language as tl"),
        ("nn/pool.py", "from ..companion.record import record"),
        ("nn/pool.py", "if True:\n    from triton import jit"),
        ("post.py", "from normprop.companion import figures"),
        ("__init__.py", "from . import companion"),
        ("__init__.py", "from .companion.record import record"),
        ("companion/benchmarks.py", "from benchmarks import runner"),
        ("nn/pool.py", "import tests.reference"),
        ("helpers.py", ""),
    ],
)
def test_a_wrong_arrow_is_seen(tmp_path, file, source):
    path = tmp_path / "normprop" / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert len(violations(tmp_path / "normprop")) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        (
            "rules.py",
            "from torch import nn\nfrom .gaussian import law\nfrom normprop import gaussian",
        ),
        ("functional/pool.py", "from . import conv\nfrom ..kernels import pool"),
        ("kernels/pool.py", "import triton"),
        ("companion/record.py", "import normprop\nfrom normprop.post import table"),
        ("__init__.py", "from .rules import moments\nfrom . import nn, functional"),
    ],
)
def test_a_right_arrow_is_let_through(tmp_path, file, source):
    path = tmp_path / "normprop" / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert violations(tmp_path / "normprop") == []
