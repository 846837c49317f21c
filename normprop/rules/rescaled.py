"""What shifting and scaling do to figures."""

from dataclasses import replace

from normprop.gaussian.normal import EPS
from normprop.rules.registry import Moments

__all__ = ["rescaled"]


def rescaled(figures: Moments, shift: float, forward: float, backward: float) -> Moments:
    """Moments of (y - shift)/forward whose gradient is divided by ``backward``."""
    mean = (figures.fwd_mean - shift) / forward
    error = figures.error / min(abs(forward), abs(backward))
    error += 2.0 * EPS * ((abs(figures.fwd_mean) + abs(shift)) / abs(forward) + 1.0)
    return replace(
        figures,
        fwd_mean=mean,
        fwd_std=figures.fwd_std / abs(forward),
        bwd_std=figures.bwd_std / abs(backward),
        error=error,
    )
