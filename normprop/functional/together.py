r"""The weights and biases of a whole network, made in one call.

A map whose neighbours left it their constants runs with V and c instead of its parameters W and b.
With s = ``size``/n, n the norm of W that its ball is about, or s = ``size`` where W stays on its
ball by itself,

.. math:: V = s W, \qquad c = \frac{b - \beta}{a} + \lambda V 1,

where a and β are scale and shift that the output is to stand for, and λ is shift over scale of what
the input stands for.  The gradients of V and c come back as

.. math:: G = G_V + \lambda\, G_c \otimes 1, \qquad
    G_W = s\left(G - \frac{\langle G, V\rangle}{size^2} V\right), \qquad G_b = G_c/a,

without the second term where W stays on its ball by itself.  Each gradient may have a factor of its
own: on a chain, separate scales are no more than that.

What every layer does to a few numbers a channel is done to all layers' numbers at once, so that
small layers do not pay for calls.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from normprop.functional.fused import is_transformed
from normprop.functional.parametric import Absorbed, bias_beside
from normprop.functional.weight import Matrix, has_kernel, on_sphere, ordinary
from normprop.kernels import usable
from normprop.kernels.layer import Layer

_aten = torch.ops.aten


def asked(
    over: str, radius: float, groups: int, normalize: bool, absorbed: Absorbed, outputs: int
) -> Layer:
    """What is asked of a layer on this ball, where ``normalize`` says whether W is divided by n.

    ``absorbed`` is what input and output stand for, with factors of the gradients.
    """
    before, after, factors = absorbed
    gain, slope = before.scale / after.scale, before.shift / before.scale
    own = (over, gain * radius) if normalize else (None, gain)
    return Layer(*own, groups, slope, after.shift, after.scale, outputs, factors)


def weight_of(layer: Layer, weight: Tensor) -> Tensor:
    """V, in operations that autograd knows."""
    if layer.over is not None:
        return on_sphere(weight, layer.over, layer.size, layer.groups)
    return weight if layer.size == 1.0 else weight * layer.size


def bias_of(layer: Layer, bias: Tensor | None, made: Tensor) -> Tensor | None:
    """c, likewise."""
    return bias_beside(made, bias, layer.slope, layer.shift, layer.scale, layer.outputs)


@dataclass
class Made:
    """What a call made, and what its gradient takes.

    Attributes:
        weights: V of every layer.
        biases: c of every layer, or ``None``.
        divided: by place, what torch's kernel divided: W as a matrix, and for each of its rows or
            columns n and ``size``.
        apart: by place, W and V of a layer with a graph of its own.
        kernels: what was made on a GPU in one call: the places, what was asked for, the norms.
    """

    weights: list[Tensor]
    biases: list[Tensor | None]
    divided: dict[int, tuple[Matrix, Tensor, Tensor]] = field(default_factory=dict)
    apart: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    kernels: list[tuple[list[int], list, Tensor]] = field(default_factory=list)


@torch.no_grad()
def make(
    layers: Sequence[Layer],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    there: Made | None = None,
) -> Made:
    """V and c of every layer.

    Where W stays on its ball by itself, the memory of what is ``there`` from before is used again,
    as a graph that was captured reads there.
    """
    made = Made(list(weights), list(biases))
    rest = _by_kernels(layers, weights, biases, made)
    _divide({i: layers[i] for i in rest}, weights, made)
    for i in rest:
        layer, weight = layers[i], weights[i]
        if layer.over is not None and i not in made.divided:
            with torch.enable_grad():
                leaf = weight.detach().requires_grad_()
                made.apart[i] = leaf, weight_of(layer, leaf)
            made.weights[i] = made.apart[i][1].detach()
        elif layer.over is None and layer.size != 1.0:
            old = None if there is None else there.weights[i]
            fits = old is not None and old is not weight and _alike(old, weight)
            made.weights[i] = torch.mul(weight, layer.size, out=old if fits else None)
        made.biases[i] = bias_of(layer, biases[i], made.weights[i])
    if there is not None:
        kept = {i for i, layer in enumerate(layers) if layer.over is None}
        _again(weights, made.weights, there.weights, kept)
        _again(biases, made.biases, there.biases, kept)
    return made


def _again(given, made, there, places) -> None:
    """Take what was made to where it was before."""
    for i in places:
        new, old = made[i], there[i]
        own = new is not given[i] and old is not given[i] and old is not new
        if own and old is not None and _alike(old, new):
            made[i] = old.copy_(new)


def _by_kernels(layers, weights, biases, made) -> list[int]:
    """Make what a GPU can, all layers of one type at once; returns the places of the others."""
    alike = {}
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if _usable(weight) and _meet(weight, bias):
            alike.setdefault((weight.device, weight.dtype), []).append(i)
    for places in alike.values():
        from normprop.kernels import weight as kernel

        some = [layers[i] for i in places]
        made_here, biases_here, norms = kernel.forward(
            some, [weights[i] for i in places], [biases[i] for i in places]
        )
        for i, value, bias in zip(places, made_here, biases_here, strict=True):
            made.weights[i], made.biases[i] = value, bias
        made.kernels.append((places, some, norms))
    done = {i for places in alike.values() for i in places}
    return [i for i in range(len(layers)) if i not in done]


class Placed(NamedTuple):
    """A weight that is to be put on its ball, in place.

    Attributes:
        weight: W.
        layer: the ball as norm and size; what is made of W besides, of which ``gain`` is a part.
        bias: b.
        value: memory of an earlier V; ``None`` where V is W.
        made: memory of an earlier c; ``None`` where c is b.
    """

    weight: Tensor
    layer: Layer
    bias: Tensor | None = None
    value: Tensor | None = None
    made: Tensor | None = None


@torch.no_grad()
def place_(asked: Sequence[Placed]) -> list[int]:
    """Put on their balls the weights that a GPU can, all of one type at once.

    V and c are made in the same call.  Returns the places of those weights.
    """
    alike, end = {}, 0
    able = [i for i, one in enumerate(asked) if _usable(one.weight)]
    # Weights that share memory are left for later: each would move what the other reads.
    for i in sorted(able, key=lambda i: asked[i].weight.data_ptr()):
        weight, start = asked[i].weight, asked[i].weight.data_ptr()
        from normprop.kernels import weight as kernel

        if start >= end and kernel.serves(weight):
            alike.setdefault((weight.device, weight.dtype), []).append(i)
            end = start + weight.numel() * weight.element_size()
    for places in alike.values():
        weights, layers, biases, values, made = zip(*(asked[i] for i in places), strict=True)
        kernel.project_(layers, weights, biases, values, made)
        for written in (*weights, *values, *made):
            if written is not None and not written.is_inference():
                torch.autograd.graph.increment_version(written)
    return [i for places in alike.values() for i in places]


def _usable(weight: Tensor) -> bool:
    """Whether kernels can read a weight."""
    return not is_transformed(weight) and usable(weight)


def _meet(weight: Tensor, bias: Tensor | None) -> bool:
    return bias is None or (bias.device, bias.dtype) == (weight.device, weight.dtype)


def again(
    layer: Layer,
    ball: tuple[str, float, int],
    weight: Tensor,
    bias: Tensor | None,
    made: tuple[Tensor, Tensor | None],
) -> Placed | None:
    """Of a weight that is to be put on its ball, where V and c are to be made; ``None`` for new.

    They were made of W and b before.
    """
    value, biased = made
    fits = value is weight or (_alike(value, weight) and value.stride() == weight.stride())
    fits = fits and _meet(weight, bias) and (value is weight) == (layer.size == 1.0)
    over, radius, _ = ball
    placed = Placed(
        weight,
        layer._replace(over=over, size=radius, gain=layer.size),
        bias,
        value=None if value is weight else value,
        made=None if biased is bias else biased,
    )
    return placed if fits and _meet(weight, placed.made) else None


def _alike(a: Tensor, b: Tensor) -> bool:
    return (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)


def _divide(layers, weights, made):
    """Divide by norms, where torch has a kernel and they lie in the middle of their range."""
    fit = [i for i, layer in layers.items() if _fits(layer, weights[i])]
    for matrices in _by_type({i: Matrix.of(weights[i], layers[i].over) for i in fit}):
        _divide_alike(matrices, {i: layers[i].size for i in matrices}, made)


def _by_type(matrices: dict[int, Matrix]) -> list[dict[int, Matrix]]:
    """Those whose numbers may meet."""
    types = dict.fromkeys(m.rows.dtype for m in matrices.values())
    return [{i: m for i, m in matrices.items() if m.rows.dtype == dtype} for dtype in types]


def _divide_alike(matrices, sizes, made):
    scaled, norms, along = {}, {}, {}
    for i, matrix in matrices.items():
        sizes[i] = _size(matrix, sizes[i])
        scaled[i], along[i] = _aten._weight_norm_interface(matrix.rows, sizes[i], matrix.dim)
        norms[i] = along[i].view(-1)
    found = torch.cat(list(norms.values()))
    several = {i: m for i, m in matrices.items() if m.taps > 1}
    if several:
        # Its columns are single taps: from their norms to those of the channels.
        of_taps = torch.cat([norms[i] for i in several])
        of_channels = _over_taps(of_taps.square(), several).sqrt_()
        shapes = [len(norms[i]) for i in several]
        for i, factor, norm in zip(
            several, (of_taps / of_channels).split(shapes), of_channels.split(shapes), strict=True
        ):
            scaled[i].mul_(factor)
            norms[i], along[i] = norm, matrix.along(norm)
        found = torch.cat([found, of_channels])
    usual = ordinary(found)
    for i, matrix in matrices.items():
        if usual or (matrix.taps == 1 and ordinary(norms[i])):
            made.weights[i] = scaled[i].view_as(made.weights[i])
            made.divided[i] = matrix, along[i], sizes[i]


def _fits(layer: Layer, weight: Tensor) -> bool:
    """Whether torch's kernels divide the weight as it is."""
    wide = weight.dtype in (torch.float32, torch.float64)
    return wide and weight.is_contiguous() and has_kernel(weight, layer.over, layer.groups)


def _size(matrix: Matrix, size: float) -> Tensor:
    """The norm that comes out, for each row or column."""
    rows, dim, _ = matrix
    return matrix.along(_full(rows.shape[dim], size, rows.dtype, rows.device))


@lru_cache(maxsize=4096)
def _full(count: int, value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full((count,), value, dtype=dtype, device=device)


def _over_taps(columns: Tensor, matrices: dict[int, Matrix]) -> Tensor:
    """Sums over the taps of each channel, once for every tap."""
    which = _channels(tuple((m.rows.shape[1], m.taps) for m in matrices.values()))
    sums = columns.new_zeros(which[-1] + 1).index_add_(0, which, columns)
    return sums[which]


@lru_cache(maxsize=64)
def _channels(shapes: tuple[tuple[int, int], ...]) -> Tensor:
    """The channel of every column, those of later matrices behind those of earlier ones."""
    counts = [torch.arange(columns // taps).repeat_interleave(taps) for columns, taps in shapes]
    start = 0
    for (columns, taps), count in zip(shapes, counts, strict=True):
        count.add_(start)
        start += columns // taps
    return torch.cat(counts)


def together(
    layers: Sequence[Layer], weights: Sequence[Tensor], biases: Sequence[Tensor | None], made: Made
) -> list[tuple[Tensor, Tensor | None]]:
    """What :func:`make` gave for these, of which gradients reach W and b: one node for all."""
    found = _Together.apply(layers, made, *weights, *biases)
    return list(zip(found[: len(layers)], found[len(layers) :], strict=True))


class _Together(torch.autograd.Function):
    @staticmethod
    def forward(ctx, layers, made, *parameters):
        count = len(layers)
        ctx.layers, ctx.made = layers, made
        factors = _factors(layers)
        ctx.gradient_factors = tuple(
            f for f, tensor in zip(factors, parameters, strict=True) if tensor is not None
        )
        ctx.save_for_backward(*parameters)
        ctx.set_materialize_grads(False)
        # They may outlive this pass: what is given away is new, the memory is not.
        weights = [v.detach() for v in made.weights]
        biases = [None if c is None else c.detach() for c in made.biases]
        learnt = ctx.needs_input_grad[2:]
        fixed = [v for v, learns in zip(weights, learnt, strict=False) if not learns]
        fixed += [
            c
            for c, *learns in zip(biases, learnt, learnt[count:], strict=False)
            if c is not None and not any(learns)
        ]
        ctx.mark_non_differentiable(*fixed)
        return (*weights, *biases)

    @staticmethod
    def backward(ctx, *gradients):
        parameters, count = ctx.saved_tensors, len(ctx.layers)
        of_weights = dict(enumerate(gradients[:count]))
        of_biases = dict(enumerate(gradients[count:]))
        given = (
            ctx.layers, ctx.made, parameters[:count], parameters[count:],
            {i: g for i, g in of_weights.items() if g is not None},
            {i: g for i, g in of_biases.items() if g is not None},
        )  # fmt: skip
        again = torch.is_grad_enabled()
        # Many gradients at once are for neither kernels nor operators on lists.
        if again or any(is_transformed(g) for g in gradients if g is not None):
            with torch.enable_grad():
                found = _differentiable(*given, again)
        else:
            found = _backward(*given)
        asked = zip(found, ctx.needs_input_grad[2:], strict=True)
        return None, None, *(g if needed else None for g, needed in asked)


def _factors(layers: Sequence[Layer]) -> list[float]:
    """Of the gradients of weights, then of biases."""
    return [layer.factors[which] for which in (0, 1) for layer in layers]


def _backward(layers, made, weights, biases, of_weights, of_biases):
    """Gradients of weights and biases, few operators for all of them."""
    done = {}, {}
    for places, some, norms in made.kernels:
        from normprop.kernels import weight as kernel

        own = kernel.backward(
            some, [weights[i] for i in places], norms,
            [of_weights.pop(i, None) for i in places], [of_biases.pop(i, None) for i in places],
        )  # fmt: skip
        for of_kind, gradients in zip(done, own, strict=True):
            of_kind.update(zip(places, gradients, strict=True))
    gains = [own.factors[0] * (own.size if own.over is None else 1.0) for own in layers]
    both = [i for i in of_weights if i in of_biases and layers[i].slope]
    shares = {i: layers[i].slope * gains[i] for i in both}
    factors = {i: layers[i].factors[1] / layers[i].scale for i in of_biases}
    factors = {i: factor for i, factor in factors.items() if factor != 1.0}
    if shares or factors:
        scaled = torch._foreach_mul(
            [of_biases[i] for i in (*shares, *factors)], [*shares.values(), *factors.values()]
        )
        shares = dict(zip(shares, scaled, strict=False))
        of_biases = of_biases | dict(zip(factors, scaled[len(shares) :], strict=True))
    changed = [i for i in of_weights if i in shares or gains[i] != 1.0]
    if changed:
        found = torch._foreach_addcmul(
            [_rows(shares.get(i), of_weights[i]) for i in changed],
            [of_weights[i] for i in changed],
            [_full(1, 1.0, of_weights[i].dtype, of_weights[i].device) for i in changed],
            [gains[i] for i in changed],
        )
        of_weights.update(zip(changed, found, strict=True))
    _project(layers, made, of_weights)
    places, of_weights, of_biases = range(len(layers)), of_weights | done[0], of_biases | done[1]
    return [of_weights.get(i) for i in places] + [of_biases.get(i) for i in places]


def _rows(share: Tensor | None, gradient: Tensor) -> Tensor:
    """A number for each row of the gradient of a weight, 0 where there is none."""
    if share is None:
        return _full(1, 0.0, gradient.dtype, gradient.device)
    return share.view(-1, *[1] * (gradient.ndim - 1))


def _project(layers, made, gradients):
    """Take G to G_W where W is divided by its norm, in place of it."""
    for i, (leaf, weight) in made.apart.items():
        if i in gradients:
            (gradients[i],) = torch.autograd.grad(weight, leaf, gradients[i], retain_graph=True)
    there = {i: given for i, given in made.divided.items() if i in gradients}
    for alike in _by_type({i: given[0] for i, given in there.items()}):
        along, norms = {}, {}
        for i, matrix in alike.items():
            gradient, (_, norms[i], size) = gradients[i], there[i]
            rows = gradient.reshape(matrix.rows.shape)
            found, along[i] = _aten._weight_norm_interface_backward(
                rows, matrix.rows, size, norms[i], matrix.dim
            )
            gradients[i] = found.view_as(gradient)
        several = {i: m for i, m in alike.items() if m.taps > 1}
        if not several:
            continue
        # Each column has lost its own share ⟨W, G⟩/n of the channel's; now the others' shares.
        norms = torch.cat([norms[i].view(-1) for i in several])
        shares = torch.cat([along[i].flatten() for i in several])
        others = _over_taps(shares, several).sub_(shares).div_(norms.square_())
        parted = others.split([m.rows.shape[1] for m in several.values()])
        for (i, matrix), other in zip(several.items(), parted, strict=True):
            gradients[i].flatten(1).addcmul_(matrix.rows, other, value=-layers[i].size)


def _differentiable(layers, made, weights, biases, of_weights, of_biases, again):
    """The same by autograd, for somebody who differentiates it again, or many times at once."""
    outputs, arriving = [], []
    for i, (layer, weight, bias) in enumerate(zip(layers, weights, biases, strict=True)):
        used = weight_of(layer, weight)
        for tensor, gradient in (
            (used, of_weights.get(i)),
            (bias_of(layer, bias, used), of_biases.get(i)),
        ):
            if gradient is not None and tensor.requires_grad:
                outputs.append(tensor)
                arriving.append(gradient)
    inputs = [p for p in (*weights, *biases) if p is not None and p.requires_grad]
    found = torch.autograd.grad(outputs, inputs, arriving, create_graph=again, allow_unused=True)
    gradients = {id(p): g for p, g in zip(inputs, found, strict=True)}
    result = []
    for parameter, factor in zip((*weights, *biases), _factors(layers), strict=True):
        gradient = gradients.get(id(parameter))
        result.append(gradient if gradient is None or factor == 1.0 else gradient * factor)
    return result
