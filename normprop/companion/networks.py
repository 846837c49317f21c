"""One builder for every method that the experiments compare.

A network is a chain of layers and a linear head; a layer is a linear map or a 3×3 convolution
with, in the order of its method, a normalisation and an activation.  Weights are normal or
orthogonal and biases start at 0, so that the methods differ in their scales alone.
"""

import math

import torch
from torch import Tensor, nn

import normprop
from normprop.companion import peers, transforms
from normprop.companion.methods import METHODS
from normprop.functional import scale_gradient

ACTIVATIONS = {
    "relu": (nn.ReLU, normprop.nn.ReLU),
    "sigmoid": (nn.Sigmoid, normprop.nn.Sigmoid),
    "tanh": (nn.Tanh, normprop.nn.Tanh),
    "gelu": (nn.GELU, normprop.nn.GELU),
}
"""Name, torch's module and its normalised twin."""
CRITICAL = {"relu": (math.sqrt(2), 0.0), "tanh": (1.0, 0.0), "sigmoid": (4.0, 0.0)}
CRITICAL["gelu"] = (math.sqrt(1.983058257437547), math.sqrt(0.1729223907560682))
"""Gain of the weights and standard deviation of the biases at the critical point of each."""
KINDS = ("dense", "conv")
_TORCHS = ("he", "critical", "batchnorm", "layernorm", "leaky", "selu", "lsuv", "dks", "tat")
_TORCHS += ("fixup", "skipinit")
"""Methods whose maps are torch's own."""
_HE = ("he", "batchnorm", "layernorm", "lsuv", "skipinit", "fixup")
"""Methods with the gain of He, or of ``calculate_gain``."""


def build(
    method: str,
    activation: str,
    depth: int,
    width: int,
    classes: int,
    in_features: int,
    kind: str = "dense",
    residual: bool = False,
    *,
    growth: float = math.e,
    orthogonal: bool = False,
    ball: str = "normalize",
) -> nn.Sequential:
    r"""A network of ``depth`` layers and a linear head.

    :data:`normprop.companion.methods.METHODS` says what each method is.  Some details:

    - ``"he"``: GELU has no gain in ``calculate_gain`` and takes He's √2.
    - ``"critical"``: GELU's critical point needs random biases.  A sigmoid is ½ + ½ tanh(x/2): it
      gets gain 4, and biases that take the ½ away, so that it is tanh's network.
    - ``"layernorm"``, ``"weight-standardization"``: in convolutions LayerNorm is GroupNorm with
      one group.
    - ``"lsuv"``: :func:`normprop.companion.peers.lsuv_` scales it, on a batch.
    - ``"unit-scaling"``: see :class:`UnitLinear` and :class:`UnitActivation`.
    - ``"separate-bridge"``: separate per layer where it is legal, the forward scale elsewhere.
      On a chain that is everywhere; in a residual network, outside the blocks.
    - ``"calibrated"``: ReLU moves its mean, GELU both, the others their standard deviation.

    A residual network has a layer and ``depth`` - 1 blocks of one layer each.  The k-th block,
    from 1, gives :math:`\sqrt{k/(k+1)}\,x + \sqrt{1/(k+1)}\,\mathrm{layer}(x)`: the usual sum
    of all branches, at unit variance.  ``"scaled-ws"``, ``"skipinit"`` and ``"fixup"`` have sums
    of their own.

    Args:
        method: one of ``METHODS``.
        activation: one of ``ACTIVATIONS``.
        depth: number of layers, without the head.
        width: number of neurons or channels of each.
        classes: number of outputs.
        in_features: number of elements of an input; for ``"conv"`` the pixels of a square
            image of one channel.
        kind: ``"dense"`` for inputs of shape (N, in_features); ``"conv"`` for images of shape
            (N, 1, side, side), where the first layer has stride 2.
        residual: whether to build residual blocks.
        growth: of the squared gradient, for ``"calibrated"``.
        orthogonal: whether weight matrices of layers begin as orthogonal ones, at the scale
            that they would have; convolutions as delta-orthogonal ones.
        ball: how weights of ``normprop.nn`` stay on their ball: ``"normalize"`` or
            ``"project"``, which :func:`normprop.companion.training.train` sees to.

    Returns:
        Module whose outputs have shape (N, classes).

    Raises:
        ValueError: a name is unknown, a size is less than 1, or no calibration exists.
    """
    _check(method, activation, kind, residual, depth=depth, width=width, classes=classes)
    side = _side(in_features) if kind == "conv" else None
    shares = (1.0, *(1 / (k + 1) if residual else 1.0 for k in range(1, depth)))
    recipe = (method, activation, kind, shares, growth, orthogonal, ball)
    inner, outer = _Layers(*recipe, bridge=not residual), _Layers(*recipe, bridge=True)

    stem = outer.layer(1 if side else in_features, width, stride=2 if side else 1)
    if residual:
        body = [inner.block(width, k) for k in range(1, depth)]
    else:
        body = [inner.layer(width, width) for _ in range(1, depth)]
    neck = [nn.Flatten()] if side else []
    features = width * math.ceil(side / 2) ** 2 if side else width
    network = nn.Sequential(stem, *body, *neck, outer.head(features, classes))
    if method == "critical" and activation == "sigmoid":
        _take_half(network)
    return network


def rate_unit(method: str, optimizer: str, fan_in: int, samples: int) -> float:
    """Learning rate that changes a layer's map as much as rate 1 does under He's scale.

    Only unit scaling stores its weights, and their gradients, on another scale: weights √n
    times larger for fan-in n, whose gradients are divided by the root of the number of samples
    rather than by √n.  A grid of rates is the same grid for all methods in this unit.

    Args:
        method: one of ``METHODS``.
        optimizer: ``"sgd"`` or ``"adam"``.
        fan_in: of the hidden layers.
        samples: rows that one weight gradient sums over: batch times positions.
    """
    if method != "unit-scaling":
        return 1.0
    return math.sqrt(fan_in * samples) if optimizer == "sgd" else math.sqrt(fan_in)


class ScaledResidual(nn.Module):
    """√(1 - share)·x + √share·layer(x), which keeps unit variance at initialisation.

    Args:
        layer: the branch.
        share: of the branch in the variance, between 0 and 1.
        unit: whether the branch's √share is moved, in the backward pass, from its end to its
            beginning, so that a gradient of unit variance arrives inside it (unit scaling).
    """

    def __init__(self, layer: nn.Module, share: float, unit: bool = False) -> None:
        super().__init__()
        self.layer, self.share, self.unit = layer, share, unit

    def forward(self, input: Tensor) -> Tensor:
        """Add the branch."""
        weight = math.sqrt(self.share)
        if self.unit:
            branch = scale_gradient(self.layer(scale_gradient(input, weight)), 1 / weight)
        else:
            branch = self.layer(input)
        return math.sqrt(1 - self.share) * input + weight * branch

    def extra_repr(self) -> str:
        """The arguments."""
        return f"share={self.share:.4g}, unit={self.unit}"


class _Unit:
    """Unit scaling of a map that is linear in input and weight (Blake et al. 2023).

    The weight has unit variance.  The output is scaled by fan-in^-½, the gradient of the input
    by fan-out^-½, and those of weight and bias by n^-½ for the n rows that they sum over.
    """

    bridge = True

    def forward(self, input: Tensor) -> Tensor:
        """Apply the map with its three scales."""
        fan_in, fan_out = _fans(self.weight, getattr(self, "stride", (1,)))
        forward = fan_in**-0.5
        # Inside a residual block one scale has to serve both passes.
        backward = fan_out**-0.5 if self.bridge else forward
        rows = input[:, 0].numel() / math.prod(getattr(self, "stride", (1,)))
        weight = scale_gradient(self.weight, rows**-0.5 / forward)
        bias = scale_gradient(self.bias, rows**-0.5)
        return self._map(scale_gradient(input, backward / forward), forward * weight, bias)


class UnitLinear(_Unit, nn.Linear):
    """Linear map with the unit scaling of Blake et al. (2023)."""

    def _map(self, input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return nn.functional.linear(input, weight, bias)


class UnitConv2d(_Unit, nn.Conv2d):
    """Convolution with the unit scaling of Blake et al. (2023)."""

    def _map(self, input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self._conv_forward(input, weight, bias)


class UnitActivation(nn.Module):
    """f(x)/σ_f forward, a gradient divided by σ_b backward, nothing subtracted.

    This is the rule of Blake et al. (2023), with this package's exact constants: their own
    package has neither ReLU nor tanh.

    Args:
        activation: one of ``ACTIVATIONS``.
        bridge: whether the two scales may differ; otherwise σ_f serves both passes.
    """

    def __init__(self, activation: str, bridge: bool = True) -> None:
        super().__init__()
        self.function = ACTIVATIONS[activation][0]()
        moments = normprop.moments(activation)
        self.forward_std = moments.fwd_std
        self.backward_std = moments.bwd_std if bridge else moments.fwd_std

    def forward(self, input: Tensor) -> Tensor:
        """Apply the activation and divide."""
        output = self.function(input) / self.forward_std
        return scale_gradient(output, self.forward_std / self.backward_std)


class _Layers:
    """Makes the layers of one method."""

    def __init__(
        self, method, activation, kind, shares, growth, orthogonal, ball, *, bridge
    ) -> None:
        self.method, self.kind, self.bridge = method, kind, bridge
        self.orthogonal, self.ball = orthogonal, ball
        self.gain, self.bias_std = _gain(method, activation)
        # It holds nothing that a layer changes, so that all layers share it.
        self.activation = self._activation(activation, shares, growth)

    def layer(self, inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
        map_ = self._map(inputs, outputs, self.kind, stride)
        return nn.Sequential(map_, *self._normalisation(outputs), self.activation)

    def block(self, width: int, place: int) -> nn.Module:
        """The residual block of that place, from 1."""
        if self.method == "fixup":
            return peers.Fixup(self._map(width, width, self.kind, 1), self.activation)
        layer = self.layer(width, width)
        if self.method == "skipinit":
            return peers.SkipInit(layer)
        if self.method == "scaled-ws":
            return peers.NormalizerFree(layer, place - 1)
        return ScaledResidual(layer, 1 / (place + 1), self.method == "unit-scaling")

    def head(self, inputs: int, outputs: int) -> nn.Module:
        # Nothing follows it: gain 1 gives outputs of unit variance.
        self.gain, self.bias_std = 1.0, 0.0
        return self._map(inputs, outputs, "dense", 1)

    def _map(self, inputs: int, outputs: int, kind: str, stride: int) -> nn.Module:
        dense, convolution = self._types()
        options = self._options()
        if kind == "dense":
            map_ = dense(inputs, outputs, **options)
        else:
            map_ = convolution(inputs, outputs, 3, stride=stride, padding=1, **options)
        if self.method == "unit-scaling":
            map_.bridge = self.bridge
        if isinstance(map_, peers.StandardizedLinear | peers.StandardizedConv2d):
            map_.standardize(gain=self.method == "scaled-ws")
        _initialise(map_, self.gain, self.method == "unit-scaling", self.orthogonal)
        if self.bias_std:
            nn.init.normal_(map_.bias, std=self.bias_std)
        return map_

    def _types(self):
        if self.method in _TORCHS:
            return nn.Linear, nn.Conv2d
        if self.method == "unit-scaling":
            return UnitLinear, UnitConv2d
        if self.method in ("weight-standardization", "scaled-ws"):
            return peers.StandardizedLinear, peers.StandardizedConv2d
        return normprop.nn.Linear, normprop.nn.Conv2d

    def _options(self) -> dict[str, str]:
        if self._types()[0] is not normprop.nn.Linear:
            return {}
        grain = "layer" if self.method in ("separate-layer", "separate-bridge") else "neuron"
        return {"scaling": self._scaling(), "per": grain, "method": self.ball}

    def _scaling(self) -> str:
        if self.method in ("forward", "backward"):
            return self.method
        separate = self.method in ("separate-layer", "separate-neuron")
        separate = separate or (self.method == "separate-bridge" and self.bridge)
        return "separate" if separate else "forward"

    def _normalisation(self, width: int) -> list[nn.Module]:
        if self.method == "batchnorm":
            return [nn.BatchNorm1d(width) if self.kind == "dense" else nn.BatchNorm2d(width)]
        if self.method in ("layernorm", "weight-standardization"):
            return [nn.LayerNorm(width) if self.kind == "dense" else nn.GroupNorm(1, width)]
        return []

    def _activation(self, name: str, shares: tuple[float, ...], growth: float) -> nn.Module:
        plain, twin = ACTIVATIONS[name]
        if self.method == "selu":
            return nn.SELU()
        if self.method == "leaky":
            return nn.LeakyReLU(peers.LEAKY_SLOPE)
        if self.method in ("dks", "tat"):
            return _transformed(self.method, name, shares)
        if self.method == "unit-scaling":
            return UnitActivation(name, self.bridge)
        if self.method == "scaled-ws":
            return peers.ScaledActivation(plain(), name)
        if self.method == "calibrated":
            # χ of ReLU at mean 0 is π/(π - 1) at every scale, so that its mean has to move; so has
            # that of GELU, which at mean 0 loses the scale of the signal.
            vary = {"relu": "mean", "gelu": "both"}.get(name, "std")
            depth = len(shares)
            return normprop.nn.Calibrated(name, depth=depth, growth=growth, vary=vary)
        if self._types()[0] is normprop.nn.Linear:
            return twin(scaling=self._scaling())
        return plain()


def _transformed(method: str, name: str, shares: tuple[float, ...]) -> nn.Module:
    if method == "tat" and name == "relu":
        found = transforms.leaky_tat(shares)
    else:
        found = {"dks": transforms.dks, "tat": transforms.tat}[method](name, shares)
    plain = ACTIVATIONS[name][0]() if found.slope is None else nn.LeakyReLU(found.slope)
    return transforms.Transformed(plain, found)


@torch.no_grad()
def _initialise(map_: nn.Module, gain: float, unit: bool, orthogonal: bool) -> None:
    """Weights of standard deviation gain/√fan-in, or 1 for unit scaling; biases 0."""
    fan_in = map_.weight[0].numel()
    std = 1.0 if unit else gain / math.sqrt(fan_in)
    if orthogonal:
        if map_.weight.dim() == 2:
            nn.init.orthogonal_(map_.weight)
        else:
            peers.delta_orthogonal_(map_.weight)
        map_.weight *= std / map_.weight.square().mean().sqrt()
    else:
        nn.init.normal_(map_.weight, std=std)
    nn.init.zeros_(map_.bias)
    normprop.nn.project_(map_)


@torch.no_grad()
def _take_half(network: nn.Module) -> None:
    """Biases that take away the ½ about which a sigmoid's outputs lie, but for the first map."""
    maps = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    for map_ in maps[1:]:
        map_.bias -= 0.5 * map_.weight.flatten(1).sum(1)


def _gain(method: str, activation: str) -> tuple[float, float]:
    """Gain of the weights and standard deviation of the biases."""
    if method == "critical":
        return CRITICAL[activation]
    if method == "leaky":
        return nn.init.calculate_gain("leaky_relu", peers.LEAKY_SLOPE), 0.0
    if method not in _HE:
        return 1.0, 0.0
    return math.sqrt(2) if activation == "gelu" else nn.init.calculate_gain(activation), 0.0


def _fans(weight: Tensor, stride: tuple[int, ...]) -> tuple[float, float]:
    """Terms in an output's sum, and in an input's, averaged over a period of the stride."""
    taps = math.prod(weight.shape[2:])
    return weight.shape[1] * taps, weight.shape[0] * taps / math.prod(stride)


def _side(pixels: int) -> int:
    side = math.isqrt(pixels)
    if side * side != pixels:
        raise ValueError(f"in_features must be a square for kind 'conv'; it was {pixels}")
    return side


def _check(method: str, activation: str, kind: str, residual: bool, **sizes: int) -> None:
    for name, value, known in (
        ("method", method, tuple(METHODS)),
        ("activation", activation, tuple(ACTIVATIONS)),
        ("kind", kind, KINDS),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}; it was {value!r}")
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1; it was {value}")
    if not (METHODS[method].skips if residual else METHODS[method].chain):
        raise ValueError(
            f"method {method!r} must have {'no ' if residual else ''}skips; residual was {residual}"
        )
