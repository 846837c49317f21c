"""What a layer does to an affine map that its input stands for."""

import math
from dataclasses import dataclass

from torch import nn

from normprop.functional.scale import Constants
from normprop.graph.affine import Clamp
from normprop.nn.calibrated import Calibrated
from normprop.nn.parametric import Parametric

_MAPS = ("Linear", "Conv1d", "Conv2d", "Conv3d")
_TRANSPOSED = ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
_CLAMPS = ("ReLU", "ReLU6", "Hardtanh")
_HOMOGENEOUS = ("LeakyReLU", "PReLU")
_CURVES = (
    "CELU", "ELU", "GELU", "GLU", "Hardshrink", "Hardsigmoid", "Hardswish", "LogSigmoid", "Mish",
    "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink",
    "Threshold",
)  # fmt: skip
_AVERAGES = ("AvgPool1d", "AvgPool2d", "AvgPool3d")
_COMMUTING = (
    "Identity", "Flatten", "Unflatten", "PixelShuffle", "PixelUnshuffle", "ChannelShuffle",
    "Upsample", "UpsamplingNearest2d", "UpsamplingBilinear2d",
    "MaxPool1d", "MaxPool2d", "MaxPool3d",
    "AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "AdaptiveMaxPool3d",
    "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d",
    "ReflectionPad1d", "ReflectionPad2d", "ReflectionPad3d",
    "ReplicationPad1d", "ReplicationPad2d", "ReplicationPad3d",
    "CircularPad1d", "CircularPad2d", "CircularPad3d",
)  # fmt: skip
_ZERO_PADS = ("ZeroPad1d", "ZeroPad2d", "ZeroPad3d")
_DROPOUTS = ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d")
_BATCH_NORMS = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d")
_NORMS = ("LayerNorm", "GroupNorm")

_IDENTITY = Constants(0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Kind:
    """What a module does.

    Attributes:
        name: "map", linear but for a bias; "clamp"; "homogeneous", f(cx) = c f(x) for c > 0;
            "curve", any other function; "commuting" with every affine map; "batchnorm";
            "norm", which no affine map of its input changes; "dropout", the normalised one;
            "opaque", anything else with parameters.
        plain: the class of torch; None where there is none.
        constants: shift and divisors; those of the identity for layers of torch.
        before: scale and shift of the input in front of the function.
        limits: of a clamp.
        needs_zero: whether the shift of its input has to be 0.
    """

    name: str
    plain: type[nn.Module] | None
    constants: Constants = _IDENTITY
    before: tuple[float, float] = (1.0, 0.0)
    limits: tuple[float, float] = (-math.inf, math.inf)
    needs_zero: bool = False

    @property
    def normalised(self) -> bool:
        """Whether there are constants to move away."""
        return self.name == "dropout" or self.constants != _IDENTITY


def is_watched(module: nn.Module) -> bool:
    """Whether a hook, which may change the weights, sees what comes out; or another forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def kind_of(module: nn.Module) -> Kind | None:
    """The kind of a layer of ``torch.nn`` or ``normprop.nn``; None where it is not known.

    A subclass of theirs from elsewhere may do anything, and is not known; nor is a layer with
    hooks.
    """
    if is_watched(module):
        return None
    if type(module) is Clamp:
        plain = nn.ReLU if module.high == math.inf else nn.Hardtanh
        return Kind("clamp", plain, limits=(module.low, module.high))
    if type(module) is Calibrated:
        return _calibrated(module)
    own = type(module).__module__.startswith("normprop.nn.")
    plain = next((t for t in type(module).__mro__ if t.__module__.startswith("torch.nn.")), None)
    if plain is None or not (own or type(module) is plain):
        return None
    name = plain.__name__
    if getattr(nn, name, None) is not plain:
        return None
    if own and isinstance(module, Parametric):
        return _map(module, plain) if name in _MAPS + _TRANSPOSED else None
    if own and name in _DROPOUTS:
        return Kind("dropout", plain)
    constants = _IDENTITY
    if own:
        constants = getattr(module, "constants", None)
        if not isinstance(constants, Constants):
            return None
    return _without_weights(module, plain, constants, own)


def _without_weights(module, plain, constants, own) -> Kind | None:
    name = plain.__name__
    if name in _CLAMPS:
        limits = (0.0, math.inf) if name == "ReLU" else (module.min_val, module.max_val)
        return Kind("clamp", plain, constants, limits=limits)
    if name in _HOMOGENEOUS:
        return Kind("homogeneous", plain, constants, needs_zero=True)
    if name in _AVERAGES:
        return Kind("commuting", plain, constants, needs_zero=_counts_padding(module))
    if name in _COMMUTING:
        return Kind("commuting", plain, constants)
    if name in _ZERO_PADS:
        return Kind("commuting", plain, constants, needs_zero=True)
    if name in _CURVES and own:
        return Kind("curve", plain, constants)
    if own:
        return None
    if name in _MAPS + _TRANSPOSED:
        return _map(module, plain)
    if name in _DROPOUTS:
        return Kind("commuting", plain, needs_zero=module.training)
    if name in _BATCH_NORMS:
        return Kind("batchnorm", plain)
    if name in _NORMS:
        return Kind("norm", plain)
    # Its parameters are its own affair, whoever else holds them.
    own_parameters = any(p is not None for p in module._parameters.values())
    return Kind("opaque", plain) if own_parameters and not module._modules else None


def _map(module, plain) -> Kind:
    transposed = plain.__name__ in _TRANSPOSED
    padded = getattr(module, "padding_mode", "zeros") == "zeros" and _any(
        getattr(module, "padding", 0)
    )
    return Kind("map", plain, needs_zero=transposed or padded)


def _calibrated(module: Calibrated) -> Kind | None:
    names = {_simple(t.__name__): t for t in vars(nn).values() if isinstance(t, type)}
    plain = names.get(_simple(module.activation))
    before = (module.calibration.std, module.calibration.mean)
    if plain is nn.ReLU:
        return Kind("clamp", plain, module.constants, before, limits=(0.0, math.inf))
    if plain is None or plain.__name__ not in _CURVES:
        return None
    return Kind("curve", plain, module.constants, before)


def _simple(name: str) -> str:
    return name.lower().replace("_", "")


def _any(padding) -> bool:
    if isinstance(padding, str):
        return padding != "valid"
    return any((padding,) if isinstance(padding, int) else padding)


def _counts_padding(module) -> bool:
    """Whether some window's average of a constant is not the constant."""
    if getattr(module, "divisor_override", None) is not None:
        return True
    return module.count_include_pad and _any(module.padding)
