"""Normalised layers that move elements, copy them, pad them, or add copies up.

The constants of padding are those of the interior, where it is the identity.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Unpack

from torch import Tensor, nn

from normprop import functional, rules
from normprop.functional.constants import sizes_of
from normprop.functional.keywords import LawsOfParts
from normprop.functional.shape import any_batch, moved
from normprop.nn.settings import Settings
from normprop.nn.twin import Twin

__all__ = [
    "ChannelShuffle", "CircularPad1d", "CircularPad2d", "CircularPad3d", "Concat", "ConstantPad1d",
    "ConstantPad2d", "ConstantPad3d", "Flatten", "Fold", "PixelShuffle", "PixelUnshuffle",
    "ReflectionPad1d", "ReflectionPad2d", "ReflectionPad3d", "ReplicationPad1d", "ReplicationPad2d",
    "ReplicationPad3d", "Residual", "Unflatten", "Unfold", "Upsample", "UpsamplingBilinear2d",
    "UpsamplingNearest2d", "ZeroPad1d", "ZeroPad2d", "ZeroPad3d",
]  # fmt: skip


class Moving(Twin):
    """A layer that moves elements or copies them: where it has nothing to scale, torch's alone."""

    _run: ClassVar = staticmethod(moved)


class _Shuffle(Moving):
    def _compute(self, input: Tensor) -> Tensor:
        return any_batch(super()._compute)(input)


class Flatten(Moving, nn.Flatten):
    """Normalised flattening: y = (x - mean)/σ in another shape, σ_f = std and σ_b = 1."""


class Unflatten(Moving, nn.Unflatten):
    """Normalised inverse of flattening; figures as of :class:`Flatten`."""


class _Upsample(Twin):
    """Upsampling, whose constants follow from the shape of its input where they must."""

    def _shape_for(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return sizes_of(shape[1:])


# fmt: off
class PixelShuffle(_Shuffle, nn.PixelShuffle): ...
class PixelUnshuffle(_Shuffle, nn.PixelUnshuffle): ...
class ChannelShuffle(Moving, nn.ChannelShuffle): ...
class Unfold(Moving, nn.Unfold): ...
class Fold(Twin, nn.Fold): ...
class ZeroPad1d(Moving, nn.ZeroPad1d): ...
class ZeroPad2d(Moving, nn.ZeroPad2d): ...
class ZeroPad3d(Moving, nn.ZeroPad3d): ...
class ConstantPad1d(Moving, nn.ConstantPad1d): ...
class ConstantPad2d(Moving, nn.ConstantPad2d): ...
class ConstantPad3d(Moving, nn.ConstantPad3d): ...
class ReflectionPad1d(Moving, nn.ReflectionPad1d): ...
class ReflectionPad2d(Moving, nn.ReflectionPad2d): ...
class ReflectionPad3d(Moving, nn.ReflectionPad3d): ...
class ReplicationPad1d(Moving, nn.ReplicationPad1d): ...
class ReplicationPad2d(Moving, nn.ReplicationPad2d): ...
class ReplicationPad3d(Moving, nn.ReplicationPad3d): ...
class CircularPad1d(Moving, nn.CircularPad1d): ...
class CircularPad2d(Moving, nn.CircularPad2d): ...
class CircularPad3d(Moving, nn.CircularPad3d): ...
class Upsample(_Upsample, nn.Upsample): ...
class UpsamplingNearest2d(_Upsample, nn.UpsamplingNearest2d): ...
# fmt: on


class UpsamplingBilinear2d(_Upsample, nn.UpsamplingBilinear2d):
    """Normalised upsampling of images that keeps corners: :func:`normprop.functional.interpolate`.

    As torch's it sets ``align_corners``, so that its constants follow from the input's shape.
    """


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
