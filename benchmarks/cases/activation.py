"""One activation, forward and backward, over sizes from 10³ to 10⁸ elements."""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

import normprop
from benchmarks import gate, peers
from benchmarks.case import Case, Context, Prepared
from benchmarks.inputs import normals

MAIN = ("ReLU", "Sigmoid", "Tanh", "GELU", "SiLU")
"""Activations that are measured at every size."""
CHANNELS, GROUPS = 50, 10
SHAPES = {
    1_000: (1, CHANNELS, 4, 5),
    10_000: (2, CHANNELS, 10, 10),
    100_000: (5, CHANNELS, 20, 20),
    1_000_000: (10, CHANNELS, 40, 50),
    10_000_000: (25, CHANNELS, 80, 100),
    100_000_000: (100, CHANNELS, 100, 200),
}
"""Shape of each size: images, so that the normalisation layers have their usual axes."""
COMPILED = (10_000, 1_000_000)
OTHERS_AT = 1_000_000
_FLOATS = 9
"""Tensors of the input's size that the largest peer holds at a time."""
_GATED = 1_000_000
"""Up to this size the gate looks at the very input that is timed, above at one of 10⁴ elements:
in float64 it needs several times the memory."""


def cases(sizes: tuple[int, ...], compiled: tuple[int, ...] = (), others: int | None = OTHERS_AT):
    """All cases of this family.

    Args:
        sizes: numbers of elements for the main activations.
        compiled: the same for compiled against compiled.
        others: number of elements for all other activations of the package, or ``None``.
    """
    for name in MAIN:
        yield from (_case(name, size) for size in sizes)
    for name in MAIN:
        yield from (_case(name, size, compile=True) for size in compiled)
    if others is not None:
        yield from (_case(name, others) for name in other_activations())


def other_activations() -> list[str]:
    """Classes of ``normprop.nn`` that are elementwise activations, without the main ones.

    Those are the twins of torch's activations that keep the shape and draw no random numbers.
    """
    return [n for n in sorted(normprop.nn.__all__) if n not in MAIN and _is_elementwise(n)]


def _is_elementwise(name: str) -> bool:
    twin, ours = getattr(nn, name, None), getattr(normprop.nn, name)
    if getattr(twin, "__module__", "") != "torch.nn.modules.activation":
        return False
    x = torch.linspace(-3, 3, 8).reshape(2, 4)
    try:
        module = ours()
        moments = normprop.moments(twin())
        first, second = module(x), module(x)
    except (TypeError, ValueError):
        return False
    plain = isinstance(moments.fwd_mean, float)
    return plain and first.shape == x.shape and torch.equal(first, second)


def _case(name: str, size: int, compile: bool = False) -> Case:
    lower = name.lower()
    makers: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {
        "plain": lambda: _same(_twin(name)),
        "naive": lambda: (peers.naive(_twin(name)), _formula(name, "backward")),
        "normprop": lambda: (getattr(normprop.nn, name)(), _formula(name, "backward")),
        "normprop separate": lambda: (
            getattr(normprop.nn, name)(scaling="separate"),
            _formula(name, "separate"),
        ),
    }
    if name in MAIN:
        if lower in peers.UNIT_SCALING:
            makers["unit-scaling"] = lambda: (
                peers.unit_activation(lower),
                peers.ScaledActivation(_twin(name), peers.unit_scale(lower)),
            )
        makers["batchnorm"] = lambda: _same(nn.Sequential(nn.BatchNorm2d(CHANNELS), _twin(name)))
        makers["layernorm"] = lambda: _same(nn.Sequential(_LastNorm(CHANNELS), _twin(name)))
        makers["groupnorm"] = lambda: _same(
            nn.Sequential(nn.GroupNorm(GROUPS, CHANNELS), _twin(name))
        )
    if not compile:
        makers["copy"] = lambda: (_Copy(), _Copy())
    group = "compiled-activation" if compile else "activation"
    return Case(
        name=f"{group}/{lower}/{size}",
        baseline="plain",
        implementations={
            title: _implementation(make, SHAPES[size], compile) for title, make in makers.items()
        },
        parameters={"activation": lower, "size": size, "shape": list(SHAPES[size])},
        memory=4 * _FLOATS * size,
        compiled=compile,
    )


class _LastNorm(nn.LayerNorm):
    """LayerNorm over channels: the image is read as rows of so many numbers, as tokens are."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.view(-1, *self.normalized_shape)).view(input.shape)


class _Copy(nn.Module):
    """A copy, which no activation can beat: one number in, one number out."""

    def forward(self, input: Tensor) -> Tensor:
        return input.clone()


class _Formula(nn.Module):
    """The normalised activation in plain operations: the reference of the gate.

    Args:
        function: f.
        shift: μ.
        forward_std: divisor of the forward pass.
        backward_std: divisor of the backward pass.
    """

    def __init__(self, function, shift: float, forward_std: float, backward_std: float) -> None:
        super().__init__()
        self.function, self.shift = function, shift
        self.forward_std, self.backward_std = forward_std, backward_std

    def forward(self, input: Tensor) -> Tensor:
        y = self.function(input)
        forward = (y.detach() - self.shift) / self.forward_std
        # Its value is nothing, its slope that of y/backward_std.
        return forward + (y - y.detach()) / self.backward_std


def _twin(name: str) -> nn.Module:
    return getattr(nn, name)()


def _same(module: nn.Module) -> tuple[nn.Module, nn.Module]:
    return module, copy.deepcopy(module)


def _formula(name: str, scaling: str) -> nn.Module:
    moments = normprop.moments(_twin(name))
    forward = moments.bwd_std if scaling == "backward" else moments.fwd_std
    return _Formula(_twin(name), moments.fwd_mean, forward, moments.bwd_std)


def _implementation(make, shape: tuple[int, ...], compile: bool):
    def prepare(context: Context) -> Prepared:
        module, reference = make()
        module = module.to(context.device)
        run = torch.compile(module, fullgraph=True, dynamic=False) if compile else module
        x, dy = normals(shape, context)
        parameters = list(module.parameters())

        def call():
            return torch.autograd.grad(run(x), (x, *parameters), dy)

        def check() -> str | None:
            inputs = (x, dy) if x.numel() <= _GATED else normals(SHAPES[10_000], context)
            return wrong(run, reference.double(), *inputs)

        return Prepared(call, check)

    return prepare


def wrong(run, reference: nn.Module, x: Tensor, dy: Tensor) -> str | None:
    """What is wrong with an activation's output or gradient, or ``None``."""
    y = run(x)
    (dx,) = torch.autograd.grad(y, x, dy)
    reference = reference.to(x.device)
    wide = x.detach().double().requires_grad_()
    right = reference(wide)
    (slope,) = torch.autograd.grad(right, wide, dy.double())

    # A normalisation layer's z is what goes into the activation, and off by its own roundings:
    # sums over n elements add one for each halving of n.
    normalised = isinstance(reference, nn.Sequential)
    z = reference[0](wide).detach() if normalised else wide.detach()
    roundings = gate.ROUNDINGS + (math.log2(x.numel()) if normalised else 0)
    size = 1 + z.abs() + right.detach().abs()
    complaint = gate.elementwise("y", y.detach(), right.detach(), size, roundings)
    if complaint is not None:
        return complaint

    eps = torch.finfo(x.dtype).eps
    free = _at_a_kink(reference[-1] if normalised else reference, z, roundings * eps)
    scale = dy.double().abs() * (1 + z.abs()) + slope.abs()
    if normalised:
        # Through the means over a channel or a row of so many elements, an element that may
        # have either slope moves all others a little.
        share = float(free.sum()) / min(x.numel() / CHANNELS, CHANNELS)
        peak = float(dy.abs().max()) * (1 + float(z.abs().max()))
        scale = scale + 1 + peak * share / (roundings * eps)
    return gate.elementwise("dx", dx[~free], slope[~free], scale[~free], roundings)


def _at_a_kink(function: nn.Module, z: Tensor, step: float) -> Tensor:
    """Where rounding of z, or of f(z), may put z on either side of a kink, or on it.

    Over so small a step the slope of a smooth function changes by a few steps; where it changes
    by more than √step, it jumps.
    """
    sides = []
    for shifted in (z - step * (1 + z.abs()), z + step * (1 + z.abs())):
        shifted = shifted.requires_grad_()
        sides += torch.autograd.grad(function(shifted).sum(), shifted)
    return (sides[1] - sides[0]).abs() > math.sqrt(step)
