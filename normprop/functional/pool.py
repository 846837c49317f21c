"""Normalised pooling in one to three dimensions, over windows of any kind, and its inverse."""

from collections.abc import Sequence
from typing import Unpack

from torch import Tensor

from normprop.functional.constants import constants_of, sample_of
from normprop.functional.keywords import Given, LawBehind, OfTorch, in_dimensions
from normprop.functional.scale import normalized

__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d",
    "adaptive_max_pool2d", "adaptive_max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "fractional_max_pool2d", "fractional_max_pool3d", "lp_pool1d", "lp_pool2d", "lp_pool3d",
    "max_pool1d", "max_pool2d", "max_pool3d", "max_unpool1d", "max_unpool2d", "max_unpool3d",
]  # fmt: skip

Size = int | tuple[int, ...]
OutputSize = int | None | Sequence[int | None]
WithIndices = Tensor | tuple[Tensor, Tensor]


def _max_pool(
    torch: OfTorch,
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    **law: Unpack[LawBehind],
) -> WithIndices:
    r"""Normalised max pooling over windows of K = ∏kernel_size elements.

    .. math:: y = \frac{\max(x_1, \dots, x_K) - \mu}{\sigma}

    For x ~ N(mean, std²), independent, μ and σ_f are the mean and the standard deviation of
    the largest of K draws, and σ_b = (∏stride)^(-1/2).  The scalings choose σ as in
    :func:`relu`.  The constants are those of the interior: padding, ``ceil_mode`` and
    borders leave fewer elements in a window, and fewer windows over an element.
    """
    own = kernel_size, stride, padding, dilation
    constants = constants_of(torch.layer, law, kernel_size=kernel_size, stride=stride)
    more = {"ceil_mode": ceil_mode, "return_indices": return_indices}
    return normalized(lambda x: torch.run(x, *own, **more), input, constants)


def _avg_pool(
    torch: OfTorch,
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    **law: Unpack[LawBehind],
) -> Tensor:
    r"""Normalised average pooling over windows of K = ∏kernel_size elements.

    .. math:: y = \frac{(x_1 + \dots + x_K)/K - \mu}{\sigma}

    For x ~ N(mean, std²), independent, μ = mean, σ_f = std·K^(-1/2) and
    σ_b = (K ∏stride)^(-1/2).  The scalings choose σ as in :func:`relu`.  The constants are
    those of the interior: padding, ``ceil_mode`` and borders shift them there.

    Args:
        divisor_override: takes the place of K, in two and three dimensions; as in torch.
    """
    own = {"kernel_size": kernel_size, "stride": stride}
    if divisor_override is not None:
        own["divisor_override"] = divisor_override
    more = {"padding": padding, "ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
    constants = constants_of(torch.layer, law, **own)
    return normalized(lambda x: torch.run(x, **own, **more), input, constants)


def _lp_pool(
    torch: OfTorch,
    input: Tensor,
    norm_type: float,
    kernel_size: Size,
    stride: Size | None = None,
    ceil_mode: bool = False,
    **law: Unpack[Given],
) -> Tensor:
    r"""Normalised pooling by a norm over windows of K = ∏kernel_size elements.

    .. math:: y = \frac{(x_1^p + \dots + x_K^p)^{1/p} - \mu}{\sigma}, \qquad
        \sigma_b = (\textstyle\prod\mathrm{stride})^{-1/2} \text{ for } p \neq 1.

    For p = 2 and x ~ N(mean, std²), independent, μ and σ_f are those of the length of a normal
    vector, for p = ±∞ those of its largest or smallest element in absolute value; for p = 1 they
    are those of K times the average, as torch takes no absolute values.
    The constants are those of the interior.

    Args:
        norm_type: p: 1, 2 or infinite.
    """
    own = {"norm_type": norm_type, "kernel_size": kernel_size, "stride": stride}
    constants = constants_of(torch.layer, law, **own)
    return normalized(lambda x: torch.run(x, **own, ceil_mode=ceil_mode), input, constants)


def _adaptive_avg_pool(
    torch: OfTorch, input: Tensor, output_size: OutputSize, **law: Unpack[LawBehind]
) -> Tensor:
    r"""Normalised adaptive average pooling.

    .. math:: y_i = \frac{1}{\sigma}\Bigl(\frac{1}{k_i}\sum x - \mathrm{mean}\Bigr), \qquad
        \sigma_f^2 = \mathrm{std}^2\;\overline{1/k}, \qquad
        \sigma_b^2 = \overline{1/k}\cdot\frac{\text{outputs}}{\text{inputs}},

    over windows of k_i elements that follow from both sizes, a bar for the average over all
    outputs, of which none is a border here.  The constants follow from the shape of the input,
    when it is seen.  The scalings choose σ as in :func:`relu`.
    """
    sample = sample_of(input.shape, torch.dims)
    constants = constants_of(torch.layer, law, sample, output_size=output_size)
    return normalized(lambda x: torch.run(x, output_size), input, constants)


def _adaptive_max_pool(
    torch: OfTorch,
    input: Tensor,
    output_size: OutputSize,
    return_indices: bool = False,
    **law: Unpack[LawBehind],
) -> WithIndices:
    r"""Normalised adaptive max pooling.

    .. math:: y_i = \frac{\max x - \mu}{\sigma}, \qquad
        \sigma_b = \sqrt{\text{outputs}/\text{inputs}},

    over windows that follow from both sizes, as in :func:`adaptive_avg_pool1d`; μ and σ_f are
    those of the mixture of their maxima.
    """
    sample = sample_of(input.shape, torch.dims)
    constants = constants_of(torch.layer, law, sample, output_size=output_size)
    return normalized(lambda x: torch.run(x, output_size, return_indices), input, constants)


def _fractional_max_pool(
    torch: OfTorch,
    input: Tensor,
    kernel_size: Size,
    output_size: Size | None = None,
    output_ratio: float | Sequence[float] | None = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
    **law: Unpack[LawBehind],
) -> WithIndices:
    r"""Normalised max pooling over windows of K = ∏kernel_size elements at random places.

    .. math:: y = \frac{\max(x_1, \dots, x_K) - \mu}{\sigma}, \qquad
        \sigma_b = \sqrt{\text{outputs}/\text{inputs}},

    wherever the windows fall; μ and σ_f are those of the largest of K.  Where ``output_ratio`` is
    given, outputs/inputs is its product, as it is for sizes that it takes to whole numbers.

    Args:
        output_size: size of the output; either it or the ratio.
        output_ratio: size of the output over that of the input, between 0 and 1.
        _random_samples: as in torch.
    """
    # torch's function wants a ratio for each axis, its layer does not.
    single = isinstance(output_ratio, float | int)
    ratios = (output_ratio,) * torch.dims if single else output_ratio
    own = {"kernel_size": kernel_size, "output_size": output_size, "output_ratio": ratios}
    more = {"return_indices": return_indices, "_random_samples": _random_samples}
    constants = constants_of(torch.layer, law, sample_of(input.shape, torch.dims), **own)
    return normalized(lambda x: torch.run(x, **own, **more), input, constants)


def _max_unpool(
    torch: OfTorch,
    input: Tensor,
    indices: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Sequence[int] | None = None,
    **law: Unpack[Given],
) -> Tensor:
    r"""Normalised max unpooling: values at the places that the indices say, zeros elsewhere.

    .. math:: y = \frac{u - \mu}{\sigma}, \qquad \mu = r\,\mathrm{mean}, \qquad
        \sigma_f^2 = r\,\mathrm{std}^2 + r(1-r)\,\mathrm{mean}^2, \qquad \sigma_b = 1,

    u the unpooled input and r = 1/∏stride the part of it that is filled, for indices that all
    differ, as those of windows without overlap do.  What ``padding`` and ``output_size`` change is
    not in the constants.

    Args:
        indices: where the values go, as max pooling returns them.

    Returns:
        Tensor of the shape that torch's unpooling gives.
    """
    constants = constants_of(torch.layer, law, kernel_size=kernel_size, stride=stride)
    own = kernel_size, stride, padding, output_size
    return normalized(lambda x: torch.run(x, indices, *own), input, constants)


_GIVES = "Tensor of the shape that torch's pooling gives"
_POOLED = {"Returns": f"{_GIVES}.", "stride": "step of the window, by default its size."}
_FITTED = {**_POOLED, "output_size": "as in torch; ``None`` keeps a size."}
_INDEXED = {"Returns": f"{_GIVES}; with its indices if they were asked for."}

max_pool1d, max_pool2d, max_pool3d = in_dimensions(_max_pool, LawBehind, said=_POOLED | _INDEXED)
avg_pool2d, avg_pool3d = in_dimensions(_avg_pool, LawBehind, (2, 3), said=_POOLED)
# torch's has no divisor to choose in one dimension.
(avg_pool1d,) = in_dimensions(_avg_pool, LawBehind, (1,), "divisor_override", _POOLED)
lp_pool1d, lp_pool2d, lp_pool3d = in_dimensions(_lp_pool, Given, said=_POOLED)
adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = in_dimensions(
    _adaptive_avg_pool, LawBehind, said=_FITTED
)
adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = in_dimensions(
    _adaptive_max_pool, LawBehind, said=_FITTED | _INDEXED
)
fractional_max_pool2d, fractional_max_pool3d = in_dimensions(
    _fractional_max_pool, LawBehind, (2, 3), said=_INDEXED
)
max_unpool1d, max_unpool2d, max_unpool3d = in_dimensions(_max_unpool, Given, said=_POOLED)
