"""Where branches meet, as layers."""

import math
from collections.abc import Sequence
from typing import ClassVar, Unpack

from torch import Tensor, nn

from normprop import functional, rules
from normprop.functional.keywords import LawsOfParts
from normprop.nn.settings import Settings

__all__ = ["Concat", "Residual"]


class Residual(nn.Module):
    r"""A branch and a way around it, in a sum that keeps unit scale.

    .. math:: y = \sqrt{1-w^2}\;\mathrm{skip}(x) + w\;\mathrm{branch}(x)

    See :func:`normprop.functional.residual`.

    Args:
        branch: a module that keeps unit scale both ways, and the shape, or gives that of ``skip``.
        skip: a module where the shapes differ; by default the input itself.
        weight: w, between 0 and 1.
    """

    def __init__(
        self, branch: nn.Module, skip: nn.Module | None = None, *, weight: float = math.sqrt(0.5)
    ) -> None:
        super().__init__()
        if not isinstance(branch, nn.Module):
            raise TypeError(f"branch must be a module; it was {branch!r}")
        if not isinstance(skip, nn.Module | None):
            raise TypeError(f"skip must be a module or None; it was {skip!r}")
        rules.check_weight(weight)
        self.branch, self.skip, self.weight = branch, skip, float(weight)

    def forward(self, input: Tensor) -> Tensor:
        """Add what the branch makes of the input to what passes by."""
        passed = input if self.skip is None else self.skip(input)
        return functional.residual(self.branch(input), passed, weight=self.weight)

    def extra_repr(self) -> str:
        """The arguments."""
        return f"weight={self.weight:g}"


class Concat(Settings, nn.Module):
    """Normalised concatenation: see :func:`normprop.functional.cat`."""

    _keywords: ClassVar[type] = LawsOfParts

    def __init__(self, dim: int = 1, **law: Unpack[LawsOfParts]) -> None:
        nn.Module.__init__(self)
        self.dim = dim
        super().__init__(**law)
        means, stds = (len(f) if isinstance(f, tuple) else 1 for f in (self.mean, self.std))
        if means != stds and 1 not in (means, stds):
            raise ValueError(
                f"mean and std must have as many entries, one a part; they had {means} and {stds}"
            )

    def _checked(self, name: str, value):
        if name in ("mean", "std") and isinstance(value, Sequence):
            return tuple(super(Concat, self)._checked(name, each) for each in value)
        return super()._checked(name, value)

    def forward(self, *tensors: Tensor) -> Tensor:
        """Join the tensors and normalise."""
        return functional.cat(tensors, self.dim, **self._chosen())

    def extra_repr(self) -> str:
        """The arguments."""
        return f"dim={self.dim}, scaling={self.scaling!r}, mean={self.mean}, std={self.std}"


rules.refuse(
    Residual,
    "what its two paths put out depends on one input, so that only rules.residual can join the "
    "figures of paths that are known to be uncorrelated",
)
rules.refuse(Concat, "it has several inputs; rules.concatenation joins their figures")
