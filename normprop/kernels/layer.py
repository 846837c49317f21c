"""What is asked of the weights of a layer; needs no triton."""

from typing import Literal, NamedTuple

from torch import Tensor

Over = Literal["fan-in", "fan-out", "all"]


class Layer(NamedTuple):
    """What is asked of one layer.

    Attributes:
        over: what has one norm, or ``None``.
        size: the norm that comes out; without a norm, a factor.
        groups: of the convolution.
        slope: of the sums of V's rows in c.
        shift: what is subtracted from b.
        scale: what divides b then.
        outputs: number of elements of c.
        factors: of the gradients of weight and bias.
        gain: V over W, where W itself is put on its ball.
    """

    over: Over | None
    size: float
    groups: int = 1
    slope: float = 0.0
    shift: float = 0.0
    scale: float = 1.0
    outputs: int = 0
    factors: tuple[float, float] = (1.0, 1.0)
    gain: float = 1.0

    def makes_bias(self, bias: Tensor | None) -> bool:
        """Whether there is a c that is not b."""
        return bool(self.slope or self.shift) or (bias is not None and self.scale != 1.0)
