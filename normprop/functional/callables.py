"""Any elementwise function, normalised."""

from collections.abc import Callable
from typing import Unpack

from torch import Tensor

from normprop import rules
from normprop.functional.constants import constants_by
from normprop.functional.keywords import Law, takes
from normprop.functional.scale import literal, normalized
from normprop.gaussian import Normal

__all__ = ["elementwise"]


@takes(Law)
def elementwise(input: Tensor, function: Callable[[Tensor], Tensor], **law: Unpack[Law]) -> Tensor:
    r"""An elementwise function of your own, normalised.

    .. math:: y = \frac{f(x) - \mu}{\sigma}

    with the figures that :func:`normprop.moments` integrates for f at N(mean, std²).  They are
    found anew at each call; :class:`normprop.nn.Elementwise` finds them once.

    Args:
        function: maps a tensor to one of the same shape, each element on its own, the same
            result each time; differentiable by autograd.
        scaling: which standard deviation divides in which pass, as in :func:`relu`.

    Returns:
        Tensor of the shape and type of ``input``.

    Raises:
        TypeError: the function does not take or return one tensor of real numbers.
        ValueError: it is not elementwise, not finite or not differentiable, its integrals do
            not converge, or an argument is out of its range.
    """
    base = law["scaling"], literal(law["mean"]), literal(law["std"])
    return normalized(function, input, constants_by(_figures, function, *base))


def _figures(function: Callable[[Tensor], Tensor], law: Normal) -> rules.Moments:
    return rules.moments(function, law.mean, law.std)
