"""The names of elementwise functions: torch's own, and what else people call them."""

import difflib
import inspect
from functools import partial

import torch
from torch import Tensor, nn


def _identity(x: Tensor) -> Tensor:
    return x


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


def _short(name: str) -> str:
    return name.lower().translate(str.maketrans("", "", "_- "))


def _of_torch() -> dict[type[nn.Module], str]:
    """The activations of torch that have a function, by the name that the two share."""
    # Names that end in an underscore work in place.
    known = [name for name in dir(nn.functional) if name == name.lower().strip("_")]
    functions = {_short(name): name for name in known}
    classes = [getattr(nn, name) for name in nn.modules.activation.__all__]
    return {t: functions[_short(t.__name__)] for t in classes if _short(t.__name__) in functions}


CLASSES: dict[type[nn.Module], str] = {**_of_torch(), nn.Identity: "identity"}
"""The name of the function that a class of torch computes."""

NAMED = {
    name: getattr(nn.functional, name)
    for name in sorted(CLASSES.values())
    if name != "identity" and _short(name) not in _OTHERS
} | {
    # torch.nn.functional has these two, but marks them as old.
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu_tanh": partial(nn.functional.gelu, approximate="tanh"),
    "identity": _identity,
}
"""What torch runs for each name, with its default parameters."""

_SHORT = {_short(name): name for name in NAMED}


def arguments_of(layer_type: type[nn.Module]) -> tuple[str, ...]:
    """What the function of a class in :data:`CLASSES` takes after its input, but ``inplace``.

    The class takes the same, and keeps each as an attribute.
    """
    # Hardtanh's had other names once, which its function never had.
    own = inspect.signature(layer_type).parameters.values()
    more = ("inplace", "min_value", "max_value")
    return tuple(p.name for p in own if p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in more)


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
