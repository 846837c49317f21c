"""What is done to figures: shifting and scaling them, and where branches meet."""

import math
from collections.abc import Sequence

import numpy as np

from normprop.checks import number
from normprop.gaussian import Figures
from normprop.gaussian.law import mixture
from normprop.gaussian.normal import EPS
from normprop.rules.arguments import window_of
from normprop.rules.registry import Moments

__all__ = ["check_weight", "concatenation", "rescaled", "residual"]


def rescaled(figures: Moments, shift: float, forward: float, backward: float) -> Moments:
    """Moments of (y - shift)/forward whose gradient is divided by ``backward``."""
    mean = (figures.fwd_mean - shift) / forward
    error = figures.error / min(abs(forward), abs(backward))
    error += 2.0 * EPS * ((abs(figures.fwd_mean) + abs(shift)) / abs(forward) + 1.0)
    stds = figures.fwd_std / abs(forward), figures.bwd_std / abs(backward)
    return Moments(mean, *stds, error, figures.method)


def check_weight(weight: float) -> None:
    """Refuse a weight of a branch outside [0, 1]."""
    number("weight", weight)
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"weight of the branch must lie in [0, 1]; it was {weight}")


def residual(skip: Moments, branch: Moments, weight: float) -> Moments:
    r"""Moments of y = √(1 - w²)·skip + w·branch, for two paths from one input.

    .. math::
        \mu = \sqrt{1-w^2}\,\mu_1 + w\,\mu_2, \qquad
        \sigma^2 = (1-w^2)\,\sigma_1^2 + w^2 \sigma_2^2,

    forward and backward: what the paths put out must be uncorrelated, and what they send back.
    That holds where the branch ends, or begins, with independent weights of mean 0; it does not
    for an elementwise function of the skip.  Figures of one in both paths stay 1.

    Args:
        skip: figures of the path around the branch.
        branch: figures of the branch.
        weight: w.

    Raises:
        ValueError: the weight is out of its range.
    """
    check_weight(weight)
    keep = math.sqrt((1.0 - weight) * (1.0 + weight))
    mean = keep * skip.fwd_mean + weight * branch.fwd_mean
    fwd_std = np.hypot(keep * skip.fwd_std, weight * branch.fwd_std)
    bwd_std = np.hypot(keep * skip.bwd_std, weight * branch.bwd_std)
    size = np.max(np.abs(skip.fwd_mean)) + np.max(np.abs(branch.fwd_mean))
    size = float(max(size, np.max(fwd_std), np.max(bwd_std)))
    error = skip.error + branch.error + 8.0 * EPS * size
    figures = (mean, fwd_std, bwd_std)
    if all(np.ndim(figure) == 0 for figure in figures):
        figures = tuple(map(float, figures))
    return Moments(*figures, error, joint_method(skip, branch))


def concatenation(parts: Sequence[Moments], sizes: Sequence[int]) -> Moments:
    r"""Moments of one element of a concatenation, of parts of these sizes.

    .. math::
        \mu = \sum_k r_k \mu_k, \qquad \sigma_f^2 = \sum_k r_k(\sigma_k^2 + (\mu_k - \mu)^2),
        \qquad \sigma_b^2 = \sum_k r_k \sigma_{b,k}^2,

    r the share of a part.  A part's own gradient has its own figure, whatever it is joined with.

    Raises:
        ValueError: there are not as many sizes as parts, or none, or a size is no positive
            integer.
    """
    if len(parts) != len(sizes) or not parts:
        raise ValueError(
            f"there must be a size for each of at least 1 part; there were {len(sizes)} for "
            f"{len(parts)}"
        )
    sizes = window_of(tuple(sizes), len(sizes), "sizes")
    whole = sum(sizes)
    figures = [Figures(p.fwd_mean, p.fwd_std, p.bwd_std, p.error, p.method) for p in parts]
    found = mixture(figures, [n / whole for n in sizes])
    return Moments(found.mean, found.std, found.slope, found.error, joint_method(*parts))


def joint_method(*parts: Moments) -> str:
    """The least exact of the methods of several figures."""
    methods = [part.method for part in parts]
    asymptotic = [method for method in methods if method.startswith("asymptotic")]
    if asymptotic:
        return asymptotic[0]
    return "quadrature" if "quadrature" in methods else methods[0]
