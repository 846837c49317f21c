"""What `import normprop` costs: neither plotting, nor notebooks, nor GPU compilers are loaded."""

import json
import subprocess
import sys

import pytest

HEAVY = {"IPython", "ipykernel", "matplotlib", "myst_nb", "nbformat", "papermill", "sklearn"}


def loaded_by(statement: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has after the statement."""
    code = f"{statement}\nimport sys, json\nprint(json.dumps([*sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


@pytest.fixture(scope="module")
def with_torch_alone() -> set[str]:
    return loaded_by("import torch")


def heavy(modules: set[str]) -> set[str]:
    return {
        name for name in modules if name in HEAVY or name.startswith("jupyter") or name == "triton"
    }


def test_importing_the_package_loads_nothing_heavy(with_torch_alone):
    # What torch itself loads is torch's affair.
    assert heavy(loaded_by("import normprop") - with_torch_alone) == set()


@pytest.mark.parametrize("module", ["matplotlib", "sklearn", "nbformat"])
def test_a_heavy_import_is_seen(module, with_torch_alone):
    assert module in heavy(loaded_by(f"import {module}") - with_torch_alone)


def test_the_public_names_are_there():
    names = "moments, Moments, simulate, Simulation, table, nn, functional"
    loaded_by(f"from normprop import {names}")
