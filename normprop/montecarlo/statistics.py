"""Estimates with their errors, and the sums that they are made of, which lose no digits."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Simulation:
    """Estimates with their standard errors, floats or one float64 entry a channel.

    Attributes:
        fwd_mean: mean of an output element.
        fwd_std: standard deviation of an output element.
        bwd_mean: mean of the gradient at an input element.
        bwd_std: standard deviation of the gradient at an input element.
        fwd_mean_se: standard error of ``fwd_mean``; likewise the other three.
        n: input elements drawn.
        replicates: independent replicates that the standard errors were taken from.
    """

    fwd_mean: float | np.ndarray
    fwd_std: float | np.ndarray
    bwd_mean: float | np.ndarray
    bwd_std: float | np.ndarray
    fwd_mean_se: float | np.ndarray
    fwd_std_se: float | np.ndarray
    bwd_mean_se: float | np.ndarray
    bwd_std_se: float | np.ndarray
    n: int
    replicates: int

    def z(self, exact) -> dict[str, float | np.ndarray]:
        """How many standard errors each estimate lies from ``exact``.

        Args:
            exact: anything with ``fwd_mean``, ``fwd_std`` and ``bwd_std``, such as what
                ``normprop.moments`` returns.

        Returns:
            (estimate - exact)/standard error by name of the figure; 0 where both the
            difference and the standard error vanish.
        """
        scores = {}
        for name in ("fwd_mean", "fwd_std", "bwd_std"):
            difference = np.asarray(getattr(self, name) - getattr(exact, name), dtype=float)
            error = np.asarray(getattr(self, f"{name}_se"), dtype=float)
            with np.errstate(divide="ignore", invalid="ignore"):
                score = np.where((difference == 0) & (error == 0), 0.0, difference / error)
            scores[name] = float(score) if score.ndim == 0 else score
        return scores


def spread(numbers: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sum of squared deviations over the last dimension."""
    average = numbers.mean(-1, keepdim=True)
    around_zero = torch.linalg.vector_norm(numbers, dim=-1).square_().cpu().numpy()
    mean = average[..., 0].cpu().numpy()
    moved = numbers.shape[-1] * mean**2
    if (moved <= 0.99 * around_zero).all():
        # At most two digits of sixteen are lost.
        return mean, around_zero - moved
    return mean, torch.linalg.vector_norm(numbers - average, dim=-1).square_().cpu().numpy()


def merge(total: np.ndarray, part: np.ndarray) -> None:
    """Add a block's counts, means and sums of squared deviations to its replicates', in place.

    The pairwise rule for sums of squared deviations cancels nothing, however large the mean
    is beside the spread.
    """
    before, count = total[:, :, 0].copy(), part[:, :, 0]
    after = before + count
    gap = part[:, :, 1] - total[:, :, 1]
    total[:, :, 2] += part[:, :, 2] + gap**2 * (before * count / after)
    total[:, :, 1] += gap * (count / after)
    total[:, :, 0] = after
