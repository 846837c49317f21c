"""Every kernel compiles, for GPUs that need not be there."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")


@pytest.fixture(scope="module")
def found(root, tmp_path_factory):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(root), environment.get("PYTHONPATH")])
    )
    # What is compiled never runs: the assembler is to take it, not to make it fast.
    environment["DISABLE_PTXAS_OPT"] = "1"
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.ptx"],
        env=environment, cwd=root, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def compilations(found):
    return found["compilations"]


@pytest.mark.slow
def test_every_kernel_compiles_for_every_architecture(compilations):
    kernels = {
        "_forward_kernel", "_backward_kernel", "_element_kernel", "_factor_kernel",
        "_channel_kernel", "_weights_kernel", "_simulate_kernel",
    }  # fmt: skip
    done = {(entry["kernel"], entry["architecture"]) for entry in compilations}
    assert done == {(kernel, architecture) for kernel in kernels for architecture in (80, 90)}
    assert all(entry["target"] for entry in compilations)


def test_float64_meets_no_float32_on_its_way(compilations):
    # A constant that went through float32 would bring its eight digits along.
    maps = [entry for entry in compilations if entry["kernel"] != "_simulate_kernel"]
    double = [entry for entry in maps if entry["double"]]
    assert len(double) > 60
    assert {entry["kernel"] for entry in double if entry["single"]} == set()
    assert any(entry["single"] for entry in maps if not entry["double"])
    # Where the compiler has done the detour itself, its mark is on the constant.
    assert [(entry["kernel"], entry["rounded"]) for entry in double if entry["rounded"]] == []


def test_memory_is_read_in_wide_words(compilations):
    maps = [e for e in compilations if e["kernel"] in ("_forward_kernel", "_backward_kernel")]
    assert sum(entry["wide"] for entry in maps) > 60


def test_layers_of_other_constants_share_what_is_compiled(found):
    # Every function, direction and type; at each two sets of constants.
    assert len(found["shared"]) > 200
    assert all(first for first, _ in found["shared"])
    assert [(a, b) for a, b in found["shared"] if a != b] == []


def test_grids_are_long_in_their_first_dimension_alone(found):
    # The others end at 65,535.
    assert len(found["grids"]) > 12
    assert max(size for grid in found["grids"] for size in grid) < 2**16
