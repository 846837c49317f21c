r"""Weights on the unit ℓ2 ball.

For a weight of shape (out, in/groups, k…) with T = ∏stride, the forward ball has
:math:`\sum W_{i\cdot}^2 = 1` for every output neuron i, over its fan-in; the backward ball
has :math:`\sum W_{\cdot j}^2 = T` for every input channel j, over the group's outputs and
taps, because a stride lets only one position in T pass a gradient.

A transposed convolution stores (in, out/groups, k…) and swaps the roles: the forward ball has
Σ W² = T for every output channel, over the group's inputs and taps, because only one position
in T of what the stride spreads out holds a value; the backward ball has Σ W² = 1 for every
input channel.

Norms are right for every weight that the type holds.  Squares of float32 leave its range for norms
below 1e-19 or above 1e19; outside the middle of the range each neuron is therefore multiplied by a
power of two of its own first.  On a CPU the norms that came out say whether that is needed.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from normprop.functional.fused import Backend, is_transformed, wants_triton
from normprop.functional.scale import (
    check_option,
    is_differentiated,
    literal,
    transforms_active,
    upcast,
)

__all__ = ["normalize_weight"]

_aten = torch.ops.aten

Ball = Literal["forward", "backward"]
Per = Literal["neuron", "layer"]
Method = Literal["normalize", "project"]
Norms = tuple[Tensor, Tensor | None, Tensor]
"""A weight times powers of two, these, or None for 1, and one over the norms of the product.

The last two are 1 for a neuron of zeros.
"""


def normalize_weight(
    weight: Tensor,
    ball: Ball = "backward",
    per: Per = "neuron",
    *,
    stride: int | tuple[int, ...] = 1,
    groups: int = 1,
    transposed: bool = False,
    gain: float = 1.0,
    backend: Backend = "auto",
) -> Tensor:
    r"""A weight scaled onto the unit ball of one pass, or onto one of radius ``gain``.

    Per neuron, each row (forward) or input channel (backward) has its own factor.  Per
    layer, one factor puts the mean of their squared norms at 1 (forward) or T (backward):
    :math:`\sqrt{\mathrm{out}}/\|W\|_F` or :math:`\sqrt{\mathrm{in}\cdot T}/\|W\|_F`.

    The gradient is the true one, projected onto the tangent of the ball; an entry too large for
    the weight's type, as those of very short neurons are, is the largest number of the type
    instead of an infinity.  A neuron whose weights are all zero has no direction: it stays zero,
    and its gradient passes as if its norm were 1, so that an optimiser can move it off zero.

    Args:
        weight: shape (out, in/groups, k…).
        ball: which pass the weight shall normalise.
        per: one factor a neuron, or one for the layer.
        stride: of the convolution, an integer for all dimensions or one entry for each.
        groups: of the convolution.
        transposed: whether the weight is that of a transposed convolution, of the shape
            (in, out/groups, k…), of which the two passes change places.
        gain: factor of the norms, greater than 0.
        backend: ``"eager"`` for PyTorch's operations, ``"triton"`` for one kernel each way,
            ``"auto"`` for the second wherever it can run.

    Returns:
        Tensor of the shape and type of ``weight``; norms are taken in float32 at least.

    Raises:
        ValueError: ``ball``, ``per`` or ``backend`` is unknown, ``groups`` does not divide,
            ``gain`` is not greater than 0, or ``"triton"`` was asked for elsewhere than on a GPU.
        RuntimeError: ``"triton"`` was asked for in compiled code or under a transform.
    """
    over, size = sphere(weight, ball, per, stride, groups, transposed, checked_gain(gain))
    return on_sphere(weight, over, size, groups, backend)


def on_sphere(
    weight: Tensor, over: str, size: float, groups: int = 1, backend: Backend = "auto"
) -> Tensor:
    """The weight with norms of this size, over what :func:`sphere` says."""
    transformed = is_transformed(weight)
    triton = wants_triton(weight, backend, transformed)
    if weight.numel() == 0 and not triton:
        return weight.clone()
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        # A compiler fuses the passes by itself, and must not meet the projection as a custom
        # backward where torch.func may differentiate it (pytorch issue 193279); no file of a trace
        # holds one.
        return _plainly(_saturating(weight), over, groups, size).to(weight.dtype)
    if transformed or not (triton or weight.is_contiguous()):
        return _Transformed.apply(weight, over, groups, size)
    if is_differentiated(weight):
        return _Scaled.apply(weight, over, groups, size, triton)
    return _scaled(weight, over, groups, size, triton)[0]


@torch.no_grad()
def normalize_weight_(
    weight: Tensor, ball: Ball = "backward", per: Per = "neuron", *, groups: int = 1, **geometry
) -> Tensor:
    """:func:`normalize_weight` in place, without a gradient: the weight is read twice at most."""
    return place_(weight, *sphere(weight, ball, per, groups=groups, **geometry), groups)


def place_(weight: Tensor, over: str, size: float, groups: int) -> Tensor:
    """:func:`on_sphere` in place."""
    in_place = weight.device.type == "cpu" and upcast(weight) is weight and weight.is_contiguous()
    if in_place and weight.numel():
        near, _, inverse = _norms(weight, over, groups)
        torch.mul(_rows(near), _row(size * inverse, weight), out=_rows(weight))
        return weight
    return weight.copy_(on_sphere(weight, over, size, groups))


def sphere(weight, ball, per, stride=1, groups=1, transposed=False, gain=1.0) -> tuple[str, float]:
    """What the norm of a weight goes over, and what it has to be."""
    check_ball(ball, per)
    if weight.shape[0] % groups:
        channels = f"{weight.shape[0]} {'inputs' if transposed else 'outputs'}"
        raise ValueError(f"groups must divide {channels}; it was {groups}")
    if transposed:
        # The transposed map is the convolution's own backward pass.
        ball = "backward" if ball == "forward" else "forward"
    period = stride_period(stride, weight.ndim - 2)
    if per == "layer":
        rows = weight.shape[0] if ball == "forward" else weight.shape[1] * groups * period
        return "all", gain * math.sqrt(rows)
    return ("fan-in", gain) if ball == "forward" else ("fan-out", gain * math.sqrt(period))


class _Scaled(torch.autograd.Function):
    r"""size·W/n with n = ‖W‖ per neuron or in all, in as few passes as there are.

    .. math:: dW = \frac{size}{n}\left(G - \frac{\langle W, G\rangle}{n^2} W\right)

    for the gradient G that arrives.  Where n is 0 it counts as 1.
    """

    gradient_factors = (1.0,)

    @staticmethod
    def forward(ctx, weight, over, groups, size, triton):
        scaled, scale, inverse, ctx.kernel = _scaled(weight, over, groups, size, triton)
        ctx.arguments = over, groups, size, triton
        ctx.save_for_backward(weight, scale, inverse)
        return scaled

    @staticmethod
    def backward(ctx, gradient):
        weight, scale, inverse = ctx.saved_tensors
        over, groups, size, triton = ctx.arguments
        if torch.is_grad_enabled() or (triton and is_transformed(gradient)):
            # Somebody differentiates this backward pass, of which the norm is a part, or wants
            # many of them at once, which a kernel does not do.
            result = _derivative(weight, gradient, over, groups, size)
        elif triton:
            (result,), _ = ctx.kernel.backward((weight,), inverse, (gradient,), (None,))
        else:
            wide, wide_gradient = upcast(weight), upcast(gradient)
            if scale is not None:
                unit = _times(_times(wide, scale), inverse)
                result = _across(unit, scale, inverse, wide_gradient, over, groups, size)
            elif has_kernel(wide_gradient, over, groups):
                result = _tangent_in_one_pass(wide, inverse, wide_gradient, over, size)
            else:
                result = _tangent(wide, inverse, wide_gradient, over, groups, size)
            if scale is not None or wide is not weight:
                result = _saturated(result, weight.dtype)
        return result, None, None, None, None


def _scaled(weight, over, groups, size, triton):
    """size·W/n, the last two of what :func:`_norms` gives, and the kernel that made them."""
    if triton:
        from normprop.kernels import weight as kernel

        # Made once for layers alike.
        batch = kernel.batch((kernel.Layer(over, size, groups),), (weight,), (None,))
        (scaled,), _, inverse = batch.forward((weight,), (None,))
        return scaled, None, inverse, batch
    wide = upcast(weight)
    if has_kernel(wide, over, groups):
        scaled, scale, inverse = _in_one_pass(wide, over, size)
    else:
        near, scale, inverse = _norms(wide, over, groups)
        scaled = _times(near, size * inverse)
    return scaled.to(weight.dtype), scale, inverse, None


class _Transformed(torch.autograd.Function):
    """The same in operations that all transforms know, the norms found anew for the gradient.

    The Jacobian is symmetric, so forward mode is the same.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(weight, over, groups, size):
        return _plainly(upcast(weight), over, groups, size).to(weight.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        weight, *ctx.arguments = inputs
        # On the node, as the class that torch makes of this one for vmap has no attribute of it.
        ctx.gradient_factors = (1.0,)
        ctx.save_for_backward(weight)
        ctx.save_for_forward(weight)

    @staticmethod
    def backward(ctx, gradient):
        return _derivative(*ctx.saved_tensors, gradient, *ctx.arguments), None, None, None

    @staticmethod
    def jvp(ctx, tangent, *_):
        return _derivative(*ctx.saved_tensors, tangent, *ctx.arguments)


def _plainly(weight, over, groups, size):
    near, _, inverse = _norms(weight, over, groups)
    # The product with a number of the neuron's, not two: gradients meet before the power of two.
    return near * (size * inverse)


def _derivative(weight, direction, over, groups, size):
    """Turns G into dW, by operations that can be differentiated again."""
    near, scale, inverse = _norms(upcast(weight), over, groups)
    unit = _times(near, inverse)
    found = _across(unit, scale, inverse, upcast(direction), over, groups, size)
    return _saturated(found, weight.dtype)


def _across(unit, scale, inverse, gradient, over, groups, size):
    """Turns G into dW across the unit vector; the power of two comes last, as it may overflow."""
    result = gradient - _times(unit, _sums(unit, gradient, over, groups))
    result = _times(result, size * inverse)
    return result if scale is None else _times(result, scale)


def _tangent(weight, inverse, gradient, over, groups, size):
    factor = size * inverse
    along = factor * inverse.square() * _sums(weight, gradient, over, groups)
    rows, factor, along = _rows(weight), _row(factor, weight), _row(along, weight)
    return torch.mul(_rows(gradient), factor).addcmul_(rows, along, value=-1).view_as(weight)


def _saturated(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """The gradient in this type, its largest number in the place of what is larger."""
    largest = torch.finfo(dtype).max
    return gradient.clamp(-largest, largest).to(dtype)


def _saturating(weight: Tensor) -> Tensor:
    """The weight in the type that it is computed in, whose gradient will be saturated.

    Under a transform it is left as it is: Dynamo would drop the backward pass without a word
    (pytorch issue 193279).
    """
    return upcast(weight) if transforms_active() else _Saturating.apply(weight)


class _Saturating(torch.autograd.Function):
    gradient_factors = (1.0,)

    @staticmethod
    def forward(weight):
        wide = upcast(weight)
        return weight.view_as(weight) if wide is weight else wide

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.dtype = inputs[0].dtype

    @staticmethod
    def backward(ctx, gradient):
        return _saturated(gradient, ctx.dtype)


class Matrix(NamedTuple):
    """A weight as torch's own kernels of weight normalisation, those of the CPU, see it.

    Attributes:
        rows: two-dimensional.
        dim: the dimension that they keep.
        taps: how many of its rows or columns have one norm.
    """

    rows: Tensor
    dim: int
    taps: int

    @classmethod
    def of(cls, weight: Tensor, over: str) -> "Matrix":
        """The weight, normed over that."""
        rows = _rows(weight)
        if over == "fan-out":
            return cls(rows, 1, _taps(weight))
        return cls(rows if over == "fan-in" else rows.view(1, -1), 0, 1)

    @property
    def kept(self) -> int:
        """Size of the dimension that is kept."""
        return self.rows.shape[self.dim]

    def along(self, vector: Tensor) -> Tensor:
        """A vector of the dimension that is kept, as it broadcasts."""
        return vector.view(-1, 1) if self.dim == 0 else vector.view(1, -1)

    def squares(self) -> Tensor:
        """Their sums along the other dimension."""
        return _products(self.rows, self.rows, 1 - self.dim)

    def tangent(self, gradient: Tensor, norms: Tensor, sizes: Tensor, size: float) -> Tensor:
        """What reaches W of the gradient of size·W/n; norms and sizes as :meth:`along` has them."""
        found, along = _aten._weight_norm_interface_backward(
            _rows(gradient), self.rows, sizes, norms, self.dim
        )
        if self.taps > 1:
            # Each column has lost its own share ⟨W, G⟩/n of the channel's; now the others' shares,
            # while the weight is in the cache.
            along = along.view(-1, self.taps)
            others = (along.sum(1, keepdim=True) - along).view(1, -1).div_(norms.square())
            found.addcmul_(self.rows, others, value=-size)
        return found.view_as(gradient)


def has_kernel(tensor: Tensor, over: str, groups: int) -> bool:
    """Whether those kernels have this norm."""
    fits = over == "fan-in" or (over == "fan-out" and groups == 1)
    # They end the process where there is nothing to norm.
    fits = fits and tensor.numel() > 0
    return fits and tensor.device.type == "cpu" and not is_transformed(tensor)


def _in_one_pass(weight: Tensor, over: str, size: float) -> Norms:
    """size·W/n, and the last two of what :func:`_norms` gives."""
    rows, dim, taps = matrix = Matrix.of(weight, over)
    sizes = matrix.along(rows.new_full((rows.shape[dim],), size))
    scaled, norms = _aten._weight_norm_interface(rows, sizes, dim)
    # Its columns are single taps: from their norms to those of the channels.
    channels = norms.view(-1, taps).square().sum(1).sqrt_() if taps > 1 else norms.flatten()
    scale, inverse = None, channels.reciprocal()
    if taps > 1:
        factor = norms * _each_tap(inverse, taps)
        if not norms.all():
            # The kernel has divided by zeros, some of them norms that underflowed.
            scaled = torch.where(norms == 0, rows * (size * _each_tap(inverse, taps)), scaled)
            factor = factor.where(norms != 0, 1.0)
        scaled.mul_(factor)
    ends = [1] * (weight.ndim - 2)
    shape = (-1, 1, *ends) if over == "fan-in" else (1, -1, *ends)
    inverse, scaled = inverse.view(shape), scaled.view_as(weight)
    if not ordinary(channels):
        low, high = _middle(weight.dtype, 0.2)
        odd = ~((channels >= low) & (channels <= high)).view(shape)
        near, scale, own = _scaled_norms(weight, over, 1)
        scaled = torch.where(odd, _times(near, size * own), scaled)
        scale, inverse = scale.where(odd, 1.0), own.where(odd, inverse)
    return scaled, scale, inverse


def _tangent_in_one_pass(weight, inverse, gradient, over, size):
    """What :func:`_tangent` gives."""
    matrix = Matrix.of(weight, over)
    norms = matrix.along(_each_tap(inverse.flatten(), matrix.taps).reciprocal())
    return matrix.tangent(gradient, norms, torch.full_like(norms, size), size)


def _taps(weight: Tensor) -> int:
    return math.prod(weight.shape[2:])


def _norms(weight: Tensor, over: str, groups: int) -> Norms:
    if weight.device.type == "cpu" and not torch.compiler.is_compiling():
        # Elsewhere a look at the squares would make the processor wait, or cannot be had.
        squares = None if is_transformed(weight) else _sums(weight, weight, over, groups)
        if squares is not None and ordinary(squares, 0.4):
            return weight, None, squares.rsqrt()
    return _scaled_norms(weight, over, groups)


def _scaled_norms(weight: Tensor, over: str, groups: int) -> Norms:
    largest = _largest(weight.detach(), over, groups)
    # Numbers below the smallest normal one become normal by as much as the type allows.
    most = -math.log2(torch.finfo(weight.dtype).tiny)
    scale = largest.log2().floor().clamp(-most, most).neg().exp2()
    near = _times(weight, scale)
    squares = _sums(near, near, over, groups)
    empty = squares == 0
    return near, scale.masked_fill(empty, 1.0), squares.masked_fill(empty, 1.0).rsqrt()


def ordinary(norms: Tensor, power: float = 0.2) -> bool:
    """Whether all of these lie in the middle of their type's range."""
    (low, high), (least, most) = _middle(norms.dtype, power), torch.aminmax(norms)
    return bool(least >= low) and bool(most <= high)


def _middle(dtype: torch.dtype, power: float) -> tuple[float, float]:
    """Between these what norms are made of, up to their fifth power, has its full precision."""
    low = torch.finfo(dtype).tiny ** power
    return low, 1.0 / low


def _largest(weight: Tensor, over: str, groups: int) -> Tensor:
    """The largest size of an entry, in the shape of :func:`_sums`."""
    size, ends = weight.abs(), list(range(2, weight.ndim))
    if over == "all":
        return size.amax().reshape([1] * weight.ndim)
    if over == "fan-in":
        return size.amax([1, *ends], keepdim=True)
    outputs = weight.shape[0] // groups
    found = size.amax(ends, keepdim=True) if ends else size
    found = found.unflatten(0, (groups, outputs)).amax(1)
    return found if groups == 1 else found.repeat_interleave(outputs, 0)


def _sums(left: Tensor, right: Tensor, over: str, groups: int) -> Tensor:
    """Sums of left·right, of the weight's shape, in a shape that broadcasts against it."""
    ones = [1] * (left.ndim - 2)
    outputs, inputs, taps = left.shape[0] // groups, left.shape[1], _taps(left)
    if over == "fan-out" and groups > 1:
        rows = (left * right).reshape(groups, outputs, inputs, taps).sum(1)
        sums = rows.sum(2).reshape(groups, 1, inputs, *ones)
        return sums.expand(groups, outputs, inputs, *ones).reshape(-1, inputs, *ones)
    if over == "fan-out":
        # Whole rows first: they are long, and the taps of one input are few.
        rows = _products(_rows(left), _rows(right), 0)
        return rows.reshape(1, inputs, taps).sum(2).reshape(1, inputs, *ones)
    sums = _products(_rows(left), _rows(right), 1)
    return sums.sum().reshape(1, 1, *ones) if over == "all" else sums.reshape(-1, 1, *ones)


def _products(left: Tensor, right: Tensor, dim: int) -> Tensor:
    """Sums of the products of two matrices along a dimension."""
    if left.numel() <= _BLOCK or left.device.type != "cpu" or torch.compiler.is_compiling():
        return (left * right).sum(dim)
    # Products that stay in the cache: in memory they would cost more than all the rest.
    step = max(1, _BLOCK // left.shape[1])
    blocks = zip(left.split(step), right.split(step), strict=True)
    parts = [(a * b).sum(dim) for a, b in blocks]
    return torch.stack(parts).sum(0) if dim == 0 else torch.cat(parts)


_BLOCK = 2**20


def _rows(weight: Tensor) -> Tensor:
    """A matrix; :meth:`Tensor.flatten` has no rule for batches of gradients."""
    return weight.reshape(weight.shape[0], -1)


def _row(factor: Tensor, weight: Tensor) -> Tensor:
    """What :func:`_sums` gives, in a shape that broadcasts against rows of the weight."""
    taps = _taps(weight)
    factor = _rows(factor)
    return factor if factor.shape[1] == 1 else _each_tap(factor, taps)


def _each_tap(channels: Tensor, taps: int) -> Tensor:
    """Every number of the last dimension as often as there are taps, in their order."""
    if taps == 1:
        return channels
    each = channels.unsqueeze(-1).expand(*channels.shape, taps)
    return each.reshape(*channels.shape[:-1], -1)


def _times(weight: Tensor, factor: Tensor) -> Tensor:
    """The product with what :func:`_sums` gives, in long rows where memory has them."""
    if weight.ndim == 2 or factor.shape[1] == 1 or not weight.is_contiguous():
        return weight * factor
    return (_rows(weight) * _row(factor, weight)).view_as(weight)


def stride_period(stride: int | tuple[int, ...], dims: int) -> int:
    """Number of input positions to one output position, ∏stride."""
    steps = (stride,) if isinstance(stride, int) else stride
    return steps[0] ** dims if len(steps) == 1 else math.prod(steps)


def separate_factor(
    weight: Tensor, stride: int | tuple[int, ...], groups: int, transposed: bool = False
) -> float:
    r"""Backward weight over forward weight, per layer: :math:`\sqrt{in \cdot T/out}`.

    Transposed: :math:`\sqrt{in/(out \cdot T)}`.
    """
    period = stride_period(stride, weight.ndim - 2)
    ratio = weight.shape[1] * groups * period / weight.shape[0]
    return math.sqrt(1.0 / ratio if transposed else ratio)


def checked_gain(gain: float) -> float:
    """The radius of a ball over that of the unit ball, a constant under ``torch.compile``."""
    gain = literal(gain)
    if not (math.isfinite(gain) and gain > 0):
        raise ValueError(f"gain must be finite and greater than 0; it was {gain}")
    return gain


def check_ball(ball: str, per: str) -> None:
    """Refuse a ball or a grain that does not exist."""
    check_option("ball", ball)
    check_option("per", per)
