"""Where branches meet: sums with a skip connection, and concatenations."""

import math
from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from normprop import rules
from normprop.functional.keywords import LawsOfParts, takes
from normprop.functional.scale import (
    Constants,
    Scaling,
    check_real,
    constant_when_compiled,
    literal,
    upcast,
)
from normprop.functional.shape import moved

__all__ = ["cat", "residual"]

OneOrEach = float | Sequence[float]


def residual(branch: Tensor, skip: Tensor, *, weight: float = math.sqrt(0.5)) -> Tensor:
    r"""A sum that keeps unit scale.

    .. math:: y = \sqrt{1 - w^2}\;\mathrm{skip} + w\;\mathrm{branch}

    Of two uncorrelated inputs of mean 0 and standard deviation 1, y has them too; the gradients
    of the two are the same multiples of dy, so that what they bring back to a common input, again
    uncorrelated, adds up to standard deviation 1.  Nothing here could be scaled for one pass alone:
    at a join both passes must use one weight, or what comes back is no multiple of the gradient.
    :func:`normprop.residual` has the figures of paths of any scale.

    Over L such blocks (1 - w²)^(L/2) of the first input is left: w of the order of 1/√L keeps a
    share of it, whatever the depth.

    float16 and bfloat16 are computed in float32 and rounded once.

    Args:
        branch: any shape.
        skip: the same shape.
        weight: w, between 0 and 1.

    Returns:
        Tensor of that shape.

    Raises:
        TypeError: an input does not hold real numbers.
        ValueError: the shapes differ, or the weight is out of its range.
    """
    check_real(skip)
    check_real(branch)
    if skip.shape != branch.shape:
        raise ValueError(
            "skip and branch must have the same shape; they had "
            f"{tuple(skip.shape)} and {tuple(branch.shape)}"
        )
    rules.check_weight(weight)
    kept = math.sqrt((1.0 - weight) * (1.0 + weight))
    wanted = torch.promote_types(skip.dtype, branch.dtype)
    output = torch.add(upcast(skip) * kept, upcast(branch), alpha=weight)
    return output.to(wanted)


@takes(LawsOfParts)
def cat(tensors: Sequence[Tensor], dim: int = 0, **law: Unpack[LawsOfParts]) -> Tensor:
    r"""Normalised concatenation: one shift and one scale for all parts.

    .. math:: \mu = \sum_k r_k\,\mathrm{mean}_k, \qquad
        \sigma_f^2 = \sum_k r_k\bigl(\mathrm{std}_k^2 + (\mathrm{mean}_k - \mu)^2\bigr), \qquad
        \sigma_b = 1,

    r the share of a part in the whole.  Parts of one law keep it; at mean 0 and std 1 it is torch's
    own concatenation.  The scalings choose σ as in :func:`relu`; under ``"separate"`` the parts'
    gradients are scaled alike, and that of a tensor that also goes elsewhere is no multiple of the
    true one.

    Args:
        tensors: the parts, of shapes that differ in ``dim`` alone.
        dim: the dimension that they are joined in.

    Returns:
        Tensor.

    Raises:
        TypeError: a part does not hold real numbers.
        ValueError: an argument is out of its range, or there is no part.
    """
    tensors = tuple(tensors)
    if not tensors:
        raise ValueError("there must be at least 1 tensor; there was none")
    for tensor in tensors:
        check_real(tensor)
    sizes = tuple(int(t.shape[dim]) for t in tensors)
    laws = _literals(law["mean"]), _literals(law["std"])
    constants = constants_of_parts(sizes, law["scaling"], *laws)
    return moved(lambda x: x, torch.cat(tensors, dim), constants)


def _literals(figures: OneOrEach) -> OneOrEach:
    if isinstance(figures, Sequence):
        return tuple(literal(figure) for figure in figures)
    return literal(figures)


@constant_when_compiled
def constants_of_parts(
    sizes: tuple[int, ...], scaling: Scaling, mean: OneOrEach, std: OneOrEach
) -> Constants:
    means, stds = (_each(name, f, len(sizes)) for name, f in (("mean", mean), ("std", std)))
    filled = [(n, m, s) for n, m, s in zip(sizes, means, stds, strict=True) if n]
    laws = [rules.check_law(m, s) for _, m, s in filled] or [rules.check_law(means[0], stds[0])]
    parts = [rules.copied(law) for law in laws]
    figures = rules.concatenation(parts, [n for n, *_ in filled] or [1])
    return Constants.of(figures, scaling)


def _each(name: str, figures: OneOrEach, parts: int) -> Sequence[float]:
    each = figures if isinstance(figures, Sequence) else (figures,) * parts
    if len(each) != parts:
        raise ValueError(f"{name} must have 1 entry or {parts}, one a part; it was {figures}")
    return each
