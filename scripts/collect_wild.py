"""Collect the constants that other projects print into wild.json, among the package's results.

    python scripts/collect_wild.py            reads what is installed, keeps the rest of the file
    python scripts/collect_wild.py --at DIR   looks for packages in a folder as well

Packages are read, not trusted to be importable: a table of numbers is taken from the package's
source text, so that a model zoo does not have to bring its own dependencies.  What runs without
them is run: unit-scaling's factors are what its functions do to an input.  A source that is not
installed keeps the entry that it has in the file, with the version that it was read from; what no
package holds is cited, with the place where it stands.

Every constant says which exact figure it stands for, in the terms of
:mod:`normprop.companion.audit`.
"""

import argparse
import ast
import json
import re
import sys
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from normprop.companion import results

TARGET = results.FOLDER / "wild.json"

Constants = list[dict]

# How the names of other projects read here.
_NAMES = {"log_sigmoid": "logsigmoid", "swish": "silu"}


def constant(name: str, value: float, quantity: str, layer: str, **more) -> dict:
    """One number, and the exact figure that it stands for."""
    return {"name": name, "value": value, "quantity": quantity, "layer": layer, **more}


def timm() -> Constants:
    """The γ table of the normaliser-free networks."""
    table = _assigned(_source("timm", "models/nfnet.py"), "_nonlin_gamma")
    skipped = ("identity", "log_softmax")
    return [
        constant(name, value, "1/fwd_std", _NAMES.get(name, name))
        for name, value in table.items()
        if name not in skipped
    ]


def dks() -> Constants:
    """A bound on ReLU's slope of the correlation map, which is its χ."""
    text = _source("dks", "base/activation_transform.py")
    (value,) = re.findall(r"local_c_slope_1_target < ([0-9.]+)", text)
    return [constant("ReLU, largest local C-slope", float(value), "chi", "relu")]


def keras() -> Constants:
    """The standard deviation of a normal law cut at two standard deviations."""
    text = _source("keras", "src/initializers/random_initializers.py")
    (value,) = re.findall(r"math\.sqrt\(scale\) / ([0-9.]+)", text)
    return [constant("std of a normal cut at ±2", float(value), "truncated_std", "identity")]


def torch_gains() -> Constants:
    """What torch recommends, what its constants of SELU are, and what its layers start with."""
    gain = nn.init.calculate_gain
    found = [
        constant(name, float(gain(name)), "1/rms", name)
        for name in ("sigmoid", "tanh", "relu", "leaky_relu", "selu")
    ]
    one, far = torch.tensor(1.0, dtype=torch.float64), torch.tensor(-800.0, dtype=torch.float64)
    scale = torch.selu(one).item()
    found.append(constant("λ of SELU", scale, "selu_lambda", "selu"))
    found.append(constant("α of SELU", -torch.selu(far).item() / scale, "selu_alpha", "selu"))
    weight = nn.Linear(4096, 1).weight
    # Uniform on ±1/√fan-in; the bound is what the layer was made with.
    nn.init.kaiming_uniform_(weight, a=5**0.5)
    start = gain("leaky_relu", 5**0.5)
    found.append(constant("start of Linear and Conv, behind ReLU", float(start), "1/rms", "relu"))
    return found


def unit_scaling() -> Constants:
    """Factors of unit-scaling's functions, forward and backward, without its constraint."""
    import unit_scaling.functional as scaled

    found = []
    for name in ("gelu", "silu"):
        x = torch.tensor([1.5], dtype=torch.float64, requires_grad=True)
        plain = getattr(nn.functional, name)(x)
        (slope,) = torch.autograd.grad(plain.sum(), x)
        y = getattr(scaled, name)(x, constraint=None)
        (dx,) = torch.autograd.grad(y.sum(), x)
        found.append(constant(f"{name}, forward", (y / plain).item(), "1/fwd_std", name))
        found.append(constant(f"{name}, backward", (dx / slope).item(), "1/bwd_std", name))
    for p in (0.1, 0.5):
        x = torch.ones(4096, dtype=torch.float64)
        kept = scaled.dropout(x, p, training=True).max().item() * (1 - p)
        found.append(constant(f"dropout, p = {p}", kept, "1/fwd_std", "dropout", p=p))
    return found


CITED = {
    "forward post": {
        "where": "Feng Wang, Normalizing All Layers: A New Standard?, 22 March 2016, "
        "sections 3 and 4",
        "note": "Simulated: sigmoid with 100 000 samples, maxima with 10 000 000 windows.",
        "constants": [
            constant("sigmoid, std", 0.2083, "fwd_std", "sigmoid", samples=100_000, digits=4),
            constant("maximum of 4, mean", 1.0291, "fwd_mean", "max 4", samples=10**7, digits=4),
            constant("maximum of 4, std", 0.7010, "fwd_std", "max 4", samples=10**7, digits=4),
            constant("maximum of 9, mean", 1.4850, "fwd_mean", "max 9", samples=10**7, digits=4),
            constant("maximum of 9, std", 0.5978, "fwd_std", "max 9", samples=10**7, digits=4),
        ],
    },
    "this post": {
        "where": "Feng Wang, Normalizing All Layers: Back-Propagation, 28 March 2016, section 3",
        "note": "Simulated with 100 000 samples.",
        "constants": [
            constant("sigmoid, backward", 0.2123, "bwd_std", "sigmoid", samples=100_000, digits=4)
        ],
    },
    "later code": {
        "where": "later code of the post's author, as described to the authors of this book",
        "note": "The file itself was not seen.",
        "constants": [
            constant(f"sigmoid, std at s = {s}", value, "fwd_std", "sigmoid", std=s, digits=4)
            for s, value in ((1.0, 0.2084), (2.0, 0.3144), (3.0, 0.3673))
        ],
    },
    "EDM2": {
        "where": "NVlabs/edm2, training/networks_edm2.py, mp_silu",
        "note": "Karras et al. (2024), equation 81.",
        "constants": [constant("SiLU", 0.596, "rms", "silu", digits=3)],
    },
    "StyleGAN3": {
        "where": "NVlabs/stylegan3, torch_utils/ops/bias_act.py, activation_funcs",
        "note": "Default gains; those not listed are 1.",
        "constants": [
            constant("relu", 2**0.5, "1/rms", "relu"),
            constant("lrelu, slope 0.2", 2**0.5, "1/rms", "leaky_relu", slope=0.2),
            constant("swish", 2**0.5, "1/rms", "silu"),
            constant("tanh", 1.0, "1/rms", "tanh"),
            constant("sigmoid", 1.0, "1/rms", "sigmoid"),
            constant("elu", 1.0, "1/rms", "elu"),
            constant("softplus", 1.0, "1/rms", "softplus"),
        ],
    },
}

# Name of the source, of its distribution, where the numbers stand, and how to read them.
READ: dict[str, tuple[str, str, Callable[[], Constants]]] = {
    "NFNets in timm": ("timm", "timm/models/nfnet.py, _nonlin_gamma", timm),
    "PyTorch": (
        "torch",
        "torch.nn.init.calculate_gain, torch.selu, torch.nn.Linear",
        torch_gains,
    ),
    "unit-scaling": ("unit-scaling", "unit_scaling.functional, run", unit_scaling),
    "Keras": ("keras", "keras/src/initializers/random_initializers.py", keras),
    "DKS": ("dks", "dks/base/activation_transform.py", dks),
}


def collect(before: dict) -> dict:
    """All sources: read where they are installed, as they were before where they are not."""
    found = {}
    for name, (distribution, where, read) in READ.items():
        try:
            version = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            if name in before:
                found[name] = before[name]
            continue
        found[name] = {
            # A build's local version says nothing of its constants.
            "version": version.partition("+")[0],
            "where": where,
            "note": "",
            "constants": read(),
        }
    return found | CITED


def text(found: dict) -> str:
    """The file's text."""
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def stored() -> dict:
    """The file as it is, or nothing."""
    return json.loads(TARGET.read_text("utf-8")) if TARGET.exists() else {}


def _source(package: str, path: str) -> str:
    (folder,) = find_spec(package).submodule_search_locations
    return (Path(folder) / path).read_text("utf-8")


def _assigned(source: str, name: str) -> dict:
    """The keywords of a ``dict(…)`` that a module assigns to a name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == name:
            return {k.arg: ast.literal_eval(k.value) for k in node.value.keywords}
    raise LookupError(f"{name} must be assigned in the module; it is not")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--at", action="append", default=[], metavar="DIR", type=Path)
    for folder in parser.parse_args().at:
        sys.path.append(str(folder.resolve()))
    TARGET.write_text(text(collect(stored())), encoding="utf-8")
