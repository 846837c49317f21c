"""Max unpooling: values at the places that the indices say, zeros elsewhere."""

from torch import nn

from normprop.gaussian import Law
from normprop.rules.adaptive import spatial
from normprop.rules.arguments import window_of
from normprop.rules.axis import Axis, grid, places
from normprop.rules.registry import Moments, register


def max_unpool(
    window: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    law: Law,
    sizes: tuple[int, ...] | None = None,
    output_size: tuple[int, ...] | None = None,
) -> Moments:
    r"""Moments of max unpooling to places that all differ.

    .. math:: \mu = r m, \qquad \sigma_f^2 = r s^2 + r(1-r) m^2, \qquad \sigma_b = 1,

    r the inputs for each output: 1/∏stride without sizes.

    Raises:
        ValueError: the output is smaller than the input.
    """
    if sizes is None:
        return grid([places(t, 1, 1) for t in stride], law)
    if output_size is None:
        output_size = tuple(
            (n - 1) * t - 2 * p + k
            for n, k, t, p in zip(sizes, window, stride, padding, strict=True)
        )
    if any(o < n for o, n in zip(output_size, sizes, strict=True)):
        raise ValueError(
            f"the output must have a place for every input; it was {output_size} for {sizes}"
        )
    axes: list[Axis] = [places(o, n, n) for o, n in zip(output_size, sizes, strict=True)]
    return grid(axes, law)


def unpool_geometry(layer: nn.Module, dims: int) -> tuple[tuple[int, ...], ...]:
    """Window, stride and padding of an unpooling module, one entry a dimension."""
    padding = layer.padding if isinstance(layer.padding, tuple) else (layer.padding,) * dims
    return (
        window_of(layer.kernel_size, dims, "kernel_size"),
        window_of(layer.stride, dims, "stride"),
        padding * (dims if len(padding) == 1 else 1),
    )


def _rule(dims: int):
    def rule(layer: nn.Module, law: Law, shape: tuple[int, ...] | None = None) -> Moments:
        sizes = None if shape is None else spatial(layer, shape, dims)
        return max_unpool(*unpool_geometry(layer, dims), law, sizes)

    return rule


for _dims in (1, 2, 3):
    register(
        getattr(nn, f"MaxUnpool{_dims}d"),
        _rule(_dims),
        shaped=True,
        family="resizing",
        note="for indices that all differ; of the interior, or with a shape over the whole output",
    )
