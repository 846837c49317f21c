"""The names of elementwise functions: torch's own, and what else people call them."""

import difflib
from functools import partial

import torch
from torch import Tensor, nn


def _identity(x: Tensor) -> Tensor:
    return x


NAMED = {
    name: getattr(nn.functional, name)
    for name in (
        "celu",
        "elu",
        "gelu",
        "hardshrink",
        "hardsigmoid",
        "hardswish",
        "hardtanh",
        "leaky_relu",
        "logsigmoid",
        "mish",
        "relu",
        "relu6",
        "selu",
        "silu",
        "softplus",
        "softshrink",
        "softsign",
        "tanhshrink",
    )
} | {
    # torch.nn.functional has these two, but marks them as old.
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu_tanh": partial(nn.functional.gelu, approximate="tanh"),
    "identity": _identity,
}
"""What torch runs for each name, with its default parameters."""

_ALIASES = {
    "geluexact": "gelu",
    "gelunew": "gelu_tanh",
    "gelupython": "gelu",
    "gelupytorchtanh": "gelu_tanh",
    "hswish": "hardswish",
    "id": "identity",
    "linear": "identity",
    "logistic": "sigmoid",
    "lrelu": "leaky_relu",
    "none": "identity",
    "swish": "silu",
}
"""Further names of the same functions, without underscores and in small letters."""

_OTHERS = {
    "abs": "torch.abs",
    "crelu": "nn.Module of two ReLUs: it doubles its input, so that it is not elementwise",
    "exp": "torch.exp",
    "geglu": 'normprop.nn.GatedLinear("gelu")',
    "gelufast": "lambda x: x * torch.sigmoid(1.5957691216 * x * (1 + 0.044715 * x * x))",
    "glu": "torch.nn.GLU()",
    "logsoftmax": "torch.nn.LogSoftmax(dim), with shape=",
    "prelu": "torch.nn.PReLU(), which has a slope to learn",
    "quickgelu": "lambda x: x * torch.sigmoid(1.702 * x)",
    "reglu": 'normprop.nn.GatedLinear("relu")',
    "relu2": "lambda x: torch.relu(x) ** 2",
    "relusquared": "lambda x: torch.relu(x) ** 2",
    "rrelu": "torch.nn.RReLU(), which draws its slopes",
    "sin": "torch.sin",
    "snake": "lambda x: x + torch.sin(x) ** 2",
    "softmax": "torch.nn.Softmax(dim), with shape=",
    "softmin": "torch.nn.Softmin(dim), with shape=",
    "squaredrelu": "lambda x: torch.relu(x) ** 2",
    "starrelu": "lambda x: 0.8944 * torch.relu(x) ** 2 - 0.4472",
    "swiglu": 'normprop.nn.GatedLinear("silu")',
    "threshold": "torch.nn.Threshold(threshold, value)",
}
"""Names of something else, written likewise, and what to pass for it."""


def canonical(name: str, argument: str = "layer") -> str:
    """The name in :data:`NAMED` of the function that people call so.

    Case, underscores, hyphens and spaces have no say.

    Raises:
        ValueError: it is the name of another function, or of none.
    """
    short = _short(name)
    found = _ALIASES.get(short) or _SHORT.get(short)
    if found is not None:
        return found
    names = f"{argument} must be one of the names {', '.join(sorted(NAMED))}, a module or a "
    names += f"function on tensors; it was {name!r}"
    if short in _OTHERS:
        raise ValueError(f"{names}, for which pass {_OTHERS[short]}")
    near = difflib.get_close_matches(short, [*_SHORT, *_ALIASES], n=3, cutoff=0.5)
    near = dict.fromkeys(_SHORT.get(n) or _ALIASES[n] for n in near)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ValueError(f"{names}{hint}")


def _short(name: str) -> str:
    return name.lower().translate(str.maketrans("", "", "_- "))


_SHORT = {_short(name): name for name in NAMED}
