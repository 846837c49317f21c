"""The one place that names what the benchmarks take from ``normprop.graph``."""

from torch import Tensor, nn

import normprop


def batched(model: nn.Module, example: Tensor | None = None) -> nn.Module:
    """The model itself, as ``convert`` leaves one: its weights are made in one call."""
    return normprop.nn.batch_weights_(model)


def fused(model: nn.Module, example: Tensor) -> nn.Module:
    """The model with the constants of its layers kept in its maps, for training."""
    return normprop.fuse(model, example)


def lean(model: nn.Module, example: Tensor) -> nn.Module:
    """The same, where a rectifier in front of zero padding keeps its output alone."""
    return normprop.fuse(model, example, lean=True)


def folded(model: nn.Module, example: Tensor) -> nn.Module:
    """The plain network with the outputs of the model, for inference."""
    return normprop.fold(model, example)


def project_(model: nn.Module) -> None:
    """Put projected weights back on their ball, fused or not.

    Raises:
        RuntimeError: there are none.
    """
    if normprop.nn.project_(model) == 0:
        raise RuntimeError("a projected model must have layers to project; it has none")
