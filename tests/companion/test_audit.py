"""The audit: its file is what the packages say, and its figures are what their names say."""

import json
import math
import runpy
from importlib import metadata

import pytest

from normprop import moments
from normprop.companion import audit, results
from normprop.companion.audit import Constant, after, constants, exact, standard_error


@pytest.fixture(scope="module")
def script(root):
    return runpy.run_path(str(root / "scripts" / "collect_wild.py"))


@pytest.fixture(scope="module")
def stored():
    return json.loads(results.path("wild.json").read_text("utf-8"))


def test_the_file_is_what_the_installed_packages_say(script, stored):
    found = script["collect"](stored)
    assert list(found) == list(stored)
    for name, entry in found.items():
        if name in script["READ"] and entry["version"] != stored[name]["version"]:
            pytest.skip(f"{name} is installed in another version than the file was made from")
        assert entry == stored[name]


def test_torch_is_read_whenever_it_is_there(script, stored):
    # It always is; so the comparison above compares something.
    assert (
        metadata.version("torch").partition("+")[0] == script["collect"]({})["PyTorch"]["version"]
    )
    assert len(stored["PyTorch"]["constants"]) == len(script["torch_gains"]())


def test_a_table_is_read_from_source_text(script):
    source = "import os\n_gamma = dict(\n    relu=1.5,\n    tanh=2.0,\n)\n"
    assert script["_assigned"](source, "_gamma") == {"relu": 1.5, "tanh": 2.0}
    with pytest.raises(LookupError, match="_delta must be assigned in the module"):
        script["_assigned"](source, "_delta")


def test_every_constant_has_an_exact_figure():
    for constant in constants():
        assert math.isfinite(exact(constant))
        assert constant.rounds or constant.error != 0


def made(quantity, layer="relu", value=1.0, **more):
    return Constant("here", layer, value, quantity, layer, **more)


def test_quantities():
    relu = moments("relu")
    assert exact(made("fwd_mean")) == relu.fwd_mean
    assert exact(made("1/fwd_std")) == 1 / relu.fwd_std
    assert exact(made("1/bwd_std")) == 1 / relu.bwd_std
    assert abs(exact(made("rms")) - math.sqrt(0.5)) < 1e-15
    assert abs(exact(made("chi")) - math.pi / (math.pi - 1)) < 1e-14
    assert exact(made("fwd_std", std=3.0)) == moments("relu", std=3.0).fwd_std
    assert exact(made("fwd_mean", "max 4")) == pytest.approx(
        6 * math.atan(math.sqrt(2)) / math.pi**1.5, abs=1e-15
    )
    assert exact(made("1/fwd_std", "dropout", p=0.75)) == 0.5
    assert abs(exact(made("rms", "leaky_relu", slope=0.2)) - math.sqrt(0.52)) < 1e-15
    with pytest.raises(ValueError, match="a quantity must be one that the module lists"):
        exact(made("median"))


def test_selu_is_a_fixed_point():
    # Its own definition: mean 0 and variance 1, by the closed form of ELU at these parameters.
    alpha, scale = audit.selu()
    selu = moments("selu")
    assert abs(selu.fwd_mean) <= selu.error + 1e-15
    assert abs(selu.fwd_std - 1) <= selu.error + 1e-15
    assert (alpha, scale) == pytest.approx((1.6732632423543772, 1.0507009873554805), abs=1e-15)


def test_rounding_is_to_the_digits_printed():
    assert made("fwd_std", value=0.5838, digits=4).rounds
    assert not made("fwd_std", value=0.5837, digits=4).rounds
    assert made("bwd_std", value=math.sqrt(0.5)).rounds
    assert not made("bwd_std", value=0.7071).rounds


def test_a_stack_of_exact_constants_keeps_its_std():
    assert after(made("1/fwd_std", "tanh", 1 / moments("tanh").fwd_std)) == pytest.approx(1.0)
    # ReLU is homogeneous: the error is raised to the depth.
    assert after(made("1/rms", value=1.01 * math.sqrt(2)), 50) == pytest.approx(1.01**50)
    assert after(made("bwd_std", value=math.sqrt(0.5) / 1.01), 50) == pytest.approx(1.01**50)
    assert after(made("rms", value=1e-9), 200) == math.inf
    with pytest.raises(ValueError, match="a stack must be one of scales"):
        after(made("fwd_mean"))


def test_a_standard_error_is_that_of_the_size():
    # Of the mean of n ReLUs: σ_f/√n.
    found = standard_error(made("fwd_mean", samples=10_000))
    # Its own relative error, from 256 replicates, is 1/√510; five of them.
    assert abs(found / (moments("relu").fwd_std / 100) - 1) < 5 / math.sqrt(510)
    with pytest.raises(ValueError, match="samples must be known"):
        standard_error(made("fwd_mean"))
