"""Narrow chains of 10 to 10 000 layers: what a layer costs must not depend on how many there are.

Weights are orthogonal and tanh stands at the input scale that suits the depth, so that no signal
overflows or fades into denormal numbers, which would be slow for another reason.
"""

import copy
from collections.abc import Iterator

import torch
from torch import nn

import normprop
from benchmarks import gate, package, peers
from benchmarks.case import Case, Context, Prepared

METHODS = ("plain", "batchnorm", "layernorm", "normprop", "normprop projected")
ROWS = 32


def cases(depths: tuple[int, ...], width: int = 16) -> Iterator[Case]:
    """Forward and backward of a chain, to all its weights."""
    for depth in depths:
        yield Case(
            f"depth/{depth}",
            "plain",
            {method: _implementation(method, depth, width) for method in METHODS},
            {"depth": depth, "width": width, "batch": ROWS, "activation": "tanh"},
            # Weights, gradients, what autograd keeps, and the nodes themselves.
            memory=depth * (1 << 16) * len(METHODS),
            # Each method runs five times at least, at some 0.3 ms a layer where a call takes long.
            seconds=depth * len(METHODS) * 5 * 3e-4,
        )


def _chain(method: str, depth: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    curve = normprop.nn.Calibrated("tanh", depth=depth)
    for _ in range(depth):
        layers += _layer(method, width, curve)
    return nn.Sequential(*layers)


def _layer(method: str, width: int, curve: nn.Module) -> list[nn.Module]:
    if method in ("naive", "normprop", "normprop projected"):
        way = "project" if method == "normprop projected" else "normalize"
        if method == "naive":
            linear, activation = peers.NaiveLinear(width, width), _NaiveCalibrated(curve)
        else:
            linear, activation = normprop.nn.Linear(width, width, method=way), curve
        nn.init.orthogonal_(linear.weight)
        normprop.nn.project_(linear)
        return [linear, activation]
    linear = nn.Linear(width, width)
    nn.init.orthogonal_(linear.weight)
    norms = {"batchnorm": [nn.BatchNorm1d(width)], "layernorm": [nn.LayerNorm(width)]}
    return [linear, *norms.get(method, []), nn.Tanh()]


class _NaiveCalibrated(nn.Module):
    """(f(m + sx) - μ)/σ in plain operations, of the scale that ``Calibrated`` has found."""

    def __init__(self, curve: nn.Module) -> None:
        super().__init__()
        found = curve.calibration
        self.mean, self.std = found.mean, found.std
        moments = normprop.moments("tanh", self.mean, self.std)
        self.shift, self.scale = moments.fwd_mean, moments.fwd_std

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return (torch.tanh(self.mean + self.std * input) - self.shift) / self.scale


def _implementation(method: str, depth: int, width: int):
    def prepare(context: Context) -> Prepared:
        torch.manual_seed(context.seed)
        model = _chain(method, depth, width).to(context.device)
        if method.startswith("normprop"):
            model = package.batched(model)
        x, dy = torch.randn(2, ROWS, width, device=context.device).unbind()
        parameters = list(model.parameters())

        def call():
            return torch.autograd.grad(model(x), parameters, dy)

        return Prepared(call, lambda: _wrong(method, depth, width, model, x))

    return prepare


def _wrong(method: str, depth: int, width: int, model: nn.Module, x) -> str | None:
    """Holds the output against the same weights in naive layers, in float64."""
    reference = copy.deepcopy(model).double()
    if method.startswith("normprop"):
        reference = _chain("naive", depth, width).to(x.device).double()
        reference.load_state_dict(model.state_dict())

    def results(network, inputs):
        with torch.no_grad():
            return [network(inputs)]

    moves = gate.sensitivities(reference, x.double(), results)
    return gate.network(["output"], results(model, x), results(reference, x.double()), moves, width)
