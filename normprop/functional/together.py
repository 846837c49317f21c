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

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from normprop.functional.fused import any_transformed, is_transformed
from normprop.functional.parametric import Absorbed, bias_beside
from normprop.functional.weight import Matrix, has_kernel, on_sphere, ordinary, place_
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


class Maker:
    """Makes V and c of the same layers again and again.

    What follows from shapes and types of W and b, and where they lie, is settled once.
    """

    @torch.no_grad()
    def __init__(
        self,
        layers: Sequence[Layer],
        weights: Sequence[Tensor],
        biases: Sequence[Tensor | None],
    ) -> None:
        self.layers, given = tuple(layers), [*weights, *biases]
        self._there = [t for t in given if t is not None]
        self._traits = traits(self._there)
        #: Of every W, then of every b, whether what runs, or its gradient, is another than itself.
        self.through = [
            layer.over is not None or (layer.size, layer.slope, layer.factors[0]) != (1.0, 0.0, 1.0)
            for layer in layers
        ]
        self.through += [
            layer.makes_bias(bias) or layer.factors[1] != 1.0
            for layer, bias in zip(layers, biases, strict=True)
        ]
        factors = [layer.factors[which] for which in (0, 1) for layer in layers]
        of_each = zip(factors, given, self.through, strict=True)
        self.factors = tuple([f for f, t, passes in of_each if passes and t is not None])
        #: Whether it makes what holds for several passes, of weights that stay on their balls.
        self.lasts = any(layer.over is None for layer in self.layers)
        #: Of what a GPU makes in one call each: the places, and the call.
        self.kernels = []
        able = [i for i, w in enumerate(weights) if _usable(w) and _meet(w, biases[i])]
        for places in _alike({i: weights[i] for i in able}):
            from normprop.kernels import weight as kernel

            own = ([of[i] for i in places] for of in (layers, weights, biases))
            self.kernels.append((places, kernel.batch(*own)))
        self.rest = sorted({*range(len(layers))} - {*able})
        #: What torch's kernel divides: W as a matrix, and the norm of each row or column.
        fit = [i for i in self.rest if _fits(layers[i], weights[i])]
        # Whoever steps on a weight has not written into views of autograd's.
        matrices = {i: Matrix.of(weights[i].detach(), layers[i].over) for i in fit}
        self.divided = [
            {i: (matrices[i], _size(matrices[i], layers[i].size)) for i in places}
            for places in _alike({i: m.rows for i, m in matrices.items()})
        ]

    def serves(self) -> bool:
        """Whether the tensors that it was made for lie where they lay."""
        return traits(self._there) == self._traits

    def learns(self) -> bool:
        """Whether one of them asks for a gradient."""
        return any(t.requires_grad for t in self._there)

    @torch.no_grad()
    def make(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor | None],
        there: "Made | None" = None,
    ) -> "Made":
        """V and c of every layer.

        Where W stays on its ball by itself, the memory of what is ``there`` from before is used
        again, as a graph that was captured reads there.
        """
        made = Made(self, list(weights), list(biases))
        for places, kernel in self.kernels:
            values, of_biases, norms = kernel.forward(
                [weights[i] for i in places], [biases[i] for i in places]
            )
            made.norms.append(norms)
            for i, value, bias in zip(places, values, of_biases, strict=True):
                made.weights[i], made.biases[i] = value, bias
        for alike in self.divided:
            _divide(alike, made)
        for i in self.rest:
            layer, weight = self.layers[i], weights[i]
            if layer.over is not None and i not in made.along:
                with torch.enable_grad():
                    leaf = weight.detach().requires_grad_()
                    made.apart[i] = leaf, weight_of(layer, leaf)
                made.weights[i] = made.apart[i][1].detach()
            elif layer.over is None and layer.size != 1.0:
                old = None if there is None else there.weights[i]
                fits = old is not None and old is not weight and _match(old, weight)
                made.weights[i] = torch.mul(weight, layer.size, out=old if fits else None)
            made.biases[i] = bias_of(layer, biases[i], made.weights[i])
        if there is not None:
            kept = [i for i, layer in enumerate(self.layers) if layer.over is None]
            _again(weights, made.weights, there.weights, kept)
            _again(biases, made.biases, there.biases, kept)
        return made


@dataclass
class Made:
    """What a call made, and what its gradient takes.

    Attributes:
        maker: who made it.
        weights: V of every layer.
        biases: c of every layer, or ``None``.
        norms: of what each of the maker's kernels made.
        along: by place, n of each row or column of what torch's kernel divided.
        apart: by place, W and V of a layer with a graph of its own.
    """

    maker: Maker
    weights: list[Tensor]
    biases: list[Tensor | None]
    norms: list[Tensor] = field(default_factory=list)
    along: dict[int, Tensor] = field(default_factory=dict)
    apart: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def given_away(self, parameters: Sequence[Tensor | None]) -> tuple[list, list]:
        """V and c as tensors that are to have a history, made of these W and b; those that do."""
        found, count = [*self.weights, *self.biases], len(self.weights)
        of_each = zip(found, self.maker.through, strict=True)
        found = [t if passes else None for t, passes in of_each]
        lasts = self.maker.lasts
        pairs = zip(found, parameters, strict=True)
        found = [t.detach() if t is not None and (lasts or t is p) else t for t, p in pairs]
        if not lasts:
            # The history holds this, and is not to hold itself.
            self.weights = self.biases = ()
        return found[:count], found[count:]


def make(
    layers: Sequence[Layer], weights: Sequence[Tensor], biases: Sequence[Tensor | None]
) -> Made:
    """V and c of every layer, made once."""
    return Maker(layers, weights, biases).make(weights, biases)


def traits(tensors: Sequence[Tensor]) -> list[list]:
    """What tensors can change, without becoming others, of what is settled once."""
    return [
        [t.data_ptr() for t in tensors],
        [t.shape for t in tensors],
        [t.stride() for t in tensors],
        [t.dtype for t in tensors],
    ]


def _again(given, made, there, places) -> None:
    """Take what was made to where it was before."""
    for i in places:
        new, old = made[i], there[i]
        own = new is not given[i] and old is not given[i] and old is not new
        if own and old is not None and _match(old, new):
            made[i] = old.copy_(new)


def _alike(tensors: dict[int, Tensor]) -> list[list[int]]:
    """The places of those of one type on one device."""
    found = {}
    for i, tensor in tensors.items():
        found.setdefault((tensor.device, tensor.dtype), []).append(i)
    return list(found.values())


class Placed(NamedTuple):
    """A weight that is to be put on its ball, in place.

    Attributes:
        layer: the ball as norm and size; what is made of W besides, of which ``gain`` is a part.
        weight: W.
        bias: b.
        value: memory of an earlier V; ``None`` where V is W.
        made: memory of an earlier c; ``None`` where c is b.
    """

    layer: Layer
    weight: Tensor
    bias: Tensor | None = None
    value: Tensor | None = None
    made: Tensor | None = None


class Placer:
    """Puts the same weights on their balls again and again, those that fit.

    All of one type at once; V and c are made in the same call.

    Attributes:
        asked: what it was made for.
        done: the places of those weights.
    """

    def __init__(self, asked: Sequence[Placed]) -> None:
        able, end = {}, 0
        # Weights that share memory are left for later: each would move what the other reads.
        for i in sorted(range(len(asked)), key=lambda i: asked[i].weight.data_ptr()):
            weight, start = asked[i].weight, asked[i].weight.data_ptr()
            how = _ByKernel if _by_kernel(weight) else _InRows if _in_rows(asked[i]) else None
            if start >= end and how is not None:
                able.setdefault(how, {})[i] = weight
                end = start + weight.numel() * weight.itemsize
        self.asked, self.done = list(asked), [i for weights in able.values() for i in weights]
        self._parts = [
            how([asked[i] for i in places])
            for how, weights in able.items()
            for places in _alike(weights)
        ]

    @torch.no_grad()
    def place_(self) -> None:
        """Put them there."""
        for part in self._parts:
            part.place_()


class _ByKernel:
    """Weights of one type on a GPU."""

    def __init__(self, asked: Sequence[Placed]) -> None:
        from normprop.kernels import weight as kernel

        layers, *self.tensors = zip(*asked, strict=True)
        self.batch = kernel.batch(layers, *self.tensors[:2])
        weights, _, *made = self.tensors
        written = (t for tensors in (weights, *made) for t in tensors if t is not None)
        self.written = [t for t in written if not t.is_inference()]

    def place_(self) -> None:
        self.batch.project_(*self.tensors)
        # One by one, as older torch takes no list.
        for tensor in self.written:
            torch.autograd.graph.increment_version(tensor)


class _InRows:
    """Weights of one type on a CPU, by few operators for all of them."""

    def __init__(self, asked: Sequence[Placed]) -> None:
        self.asked, matrices = asked, self._matrices(asked)
        self.counts = [matrix.kept for matrix in matrices]
        sizes = [_size(m, a.layer.size) for m, a in zip(matrices, asked, strict=True)]
        self.sizes = torch.cat([size.view(-1) for size in sizes])

    @staticmethod
    def _matrices(asked: Sequence[Placed]) -> list[Matrix]:
        # Not kept: they would keep the memory of a weight that has moved.  Autograd has no part in
        # it, and is asked nothing.
        return [Matrix.of(a.weight.detach(), a.layer.over) for a in asked]

    def place_(self) -> None:
        matrices = self._matrices(self.asked)
        squares = _squares(matrices)
        usual, factors = ordinary(squares, 0.4), squares.rsqrt().mul_(self.sizes)
        of_each = zip(
            self.asked,
            matrices,
            squares.split(self.counts),
            factors.split(self.counts),
            strict=True,
        )
        for (layer, weight, bias, value, made), matrix, square, factor in of_each:
            if usual or ordinary(square, 0.4):
                matrix.rows.mul_(matrix.along(factor))
            else:
                place_(weight, layer.over, layer.size, layer.groups)
            if value is not None:
                torch.mul(weight, layer.gain, out=value)
            if made is not None:
                made.copy_(bias_of(layer, bias, weight if value is None else value))


def _in_rows(placed: Placed) -> bool:
    layer, written = placed.layer, (placed.weight, placed.value, placed.made)
    rows = layer if layer.over == "fan-out" else layer._replace(over="fan-in")
    fixed = any(t is not None and t.is_inference() for t in written)
    return _fits(rows, placed.weight) and not fixed


def _by_kernel(weight: Tensor) -> bool:
    if not _usable(weight):
        return False
    from normprop.kernels import weight as kernel

    return kernel.serves(weight)


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
    fits = value is weight or (_match(value, weight) and value.stride() == weight.stride())
    fits = fits and _meet(weight, bias) and (value is weight) == (layer.size == 1.0)
    over, radius, _ = ball
    placed = Placed(
        layer._replace(over=over, size=radius, gain=layer.size),
        weight,
        bias,
        value=None if value is weight else value,
        made=None if biased is bias else biased,
    )
    return placed if fits and _meet(weight, placed.made) else None


def _match(a: Tensor, b: Tensor) -> bool:
    return (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)


def _divide(alike: dict[int, tuple[Matrix, Tensor]], made: Made) -> None:
    """Divide by norms that lie in the middle of their range."""
    scaled, norms, factors = {}, {}, {}
    for i, (matrix, size) in alike.items():
        if matrix.taps == 1:
            scaled[i], along = _aten._weight_norm_interface(matrix.rows, size, matrix.dim)
            norms[i] = along.view(-1)
    # Of these torch's kernel knows the norms of single taps alone.
    several = {i: matrix for i, (matrix, _) in alike.items() if matrix.taps > 1}
    if several:
        found = _squares(several.values()).sqrt_()
        counts = [matrix.kept for matrix in several.values()]
        norms |= zip(several, found.split(counts), strict=True)
        sizes = torch.cat([alike[i][1].view(-1) for i in several])
        factors |= zip(several, (sizes / found).split(counts), strict=True)
    usual = ordinary(torch.cat(list(norms.values())))
    for i, (matrix, _) in alike.items():
        if usual or ordinary(norms[i]):
            value = matrix.rows * factors[i] if i in factors else scaled[i]
            made.weights[i] = value.view_as(made.weights[i])
            made.along[i] = matrix.along(norms[i])


def _fits(layer: Layer, weight: Tensor) -> bool:
    """Whether torch's kernels divide the weight as it is."""
    wide = weight.dtype in (torch.float32, torch.float64)
    return wide and weight.is_contiguous() and has_kernel(weight, layer.over, layer.groups)


def _size(matrix: Matrix, size: float) -> Tensor:
    """The norm that comes out, for each row or column."""
    rows = matrix.rows
    return matrix.along(_full(matrix.kept, size, rows.dtype, rows.device))


@lru_cache(maxsize=4096)
def _full(count: int, value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full((count,), value, dtype=dtype, device=device)


def _squares(matrices: Collection[Matrix]) -> Tensor:
    """Of each row or column its sum of squares; of taps that of their channel, once for each."""
    columns = torch.cat([matrix.squares() for matrix in matrices])
    shapes = tuple([(m.kept, m.taps) for m in matrices])
    if all(taps == 1 for _, taps in shapes):
        return columns
    which = _channels(shapes)
    sums = columns.new_zeros(which[-1] + 1).index_add_(0, which, columns)
    return sums.index_select(0, which)


@lru_cache(maxsize=64)
def _channels(shapes: tuple[tuple[int, int], ...]) -> Tensor:
    """The channel of every column, those of later matrices behind those of earlier ones."""
    counts = [
        torch.arange(columns // taps, device="cpu").repeat_interleave(taps)
        for columns, taps in shapes
    ]
    start = 0
    for (columns, taps), count in zip(shapes, counts, strict=True):
        count.add_(start)
        start += columns // taps
    return torch.cat(counts)


def together(
    weights: Sequence[Tensor], biases: Sequence[Tensor | None], made: Made
) -> list[tuple[Tensor, Tensor | None]]:
    """What was made of these, of which gradients reach W and b: one node for all.

    What runs as it is has no part in it: a function of Python's costs by the tensors in it.
    """
    given, through = [*weights, *biases], made.maker.through
    passing = [t if passes else None for t, passes in zip(given, through, strict=True)]
    found = _Together.apply(made, *passing)
    of_each = zip(found, given, through, strict=True)
    found = [new if passes else own for new, own, passes in of_each]
    return list(zip(found[: len(weights)], found[len(weights) :], strict=True))


class _Together(torch.autograd.Function):
    @staticmethod
    def forward(ctx, made, *parameters):
        ctx.made, ctx.gradient_factors = made, made.maker.factors
        learnt, count = ctx.needs_input_grad[1:], len(made.maker.layers)
        # No gradient hangs on what a bias is.
        ctx.save_for_backward(*parameters[:count])
        ctx.biases = parameters[count:]
        ctx.set_materialize_grads(False)
        weights, biases = made.given_away(parameters)
        if not all(learnt):
            fixed = [
                v
                for v, learns in zip(weights, learnt, strict=False)
                if v is not None and not learns
            ]
            fixed += [
                c
                for c, own, other in zip(biases, learnt, learnt[count:], strict=False)
                if c is not None and not (own or other)
            ]
            ctx.mark_non_differentiable(*fixed)
        return (*weights, *biases)

    @staticmethod
    def backward(ctx, *gradients):
        made, weights, again = ctx.made, ctx.saved_tensors, torch.is_grad_enabled()
        count = len(weights)
        given = made, weights, ctx.biases, gradients[:count], gradients[count:]
        # Many gradients at once are for neither kernels nor operators on lists.
        if again or any_transformed(gradients):
            with torch.enable_grad():
                found = _differentiable(*given, again)
        else:
            found = _backward(*given)
        asked = zip(found, ctx.needs_input_grad[1:], strict=True)
        return None, *[g if needed else None for g, needed in asked]


def _backward(made, weights, biases, of_weights, of_biases):
    """Gradients of weights and biases, few operators for all of them."""
    layers, rest = made.maker.layers, made.maker.rest
    of_weights, of_biases = list(of_weights), list(of_biases)
    for (places, kernel), norms in zip(made.maker.kernels, made.norms, strict=True):
        grads, bias_grads = ([of[i] for i in places] for of in (of_weights, of_biases))
        # What has no part in it is V itself.
        learnt = [made.weights[i] if weights[i] is None else weights[i] for i in places]
        found = kernel.backward(learnt, norms, grads, bias_grads)
        for i, of_weight, of_bias in zip(places, *found, strict=True):
            of_weights[i], of_biases[i] = of_weight, of_bias
    if rest:
        _scale(layers, rest, of_weights, of_biases)
        _project(made, of_weights)
    return of_weights + of_biases


def _scale(layers, places, of_weights, of_biases) -> None:
    """Take G_V to G times a factor, and G_c to G_b, in the place of them."""
    gains = {i: layers[i].factors[0] for i in places if of_weights[i] is not None}
    gains |= {i: gain * layers[i].size for i, gain in gains.items() if layers[i].over is None}
    arrives = [i for i in places if of_biases[i] is not None]
    shares = {i: layers[i].slope * gains[i] for i in arrives if i in gains and layers[i].slope}
    factors = {i: layers[i].factors[1] / layers[i].scale for i in arrives}
    factors = {i: factor for i, factor in factors.items() if factor != 1.0}
    scales = any(gain != 1.0 for gain in gains.values())
    own = {i: gain for i, gain in gains.items() if scales and (i in shares or gain != 1.0)}
    given = [*(of_biases[i] for i in (*shares, *factors)), *(of_weights[i] for i in own)]
    if not given:
        return
    scalars = [*shares.values(), *factors.values(), *own.values()]
    found = iter(torch._foreach_mul(given, scalars))
    rows = [next(found) for _ in shares]
    for i in factors:
        of_biases[i] = next(found)
    for i in own:
        of_weights[i] = next(found)
    if shares:
        sums = [of_weights[i] for i in shares]
        rows = [row.view(-1, *[1] * (g.ndim - 1)) for row, g in zip(rows, sums, strict=True)]
        # With a number for each row a CPU's addcmul takes five times as long as a sum.  What was
        # multiplied is nobody else's.
        if own:
            torch._foreach_add_(sums, rows)
        else:
            sums = torch._foreach_add(sums, rows)
        for i, gradient in zip(shares, sums, strict=True):
            of_weights[i] = gradient


def _project(made, gradients):
    """Take G to G_W where W is divided by its norm, in place of it."""
    for i, (leaf, weight) in made.apart.items():
        if gradients[i] is not None:
            (gradients[i],) = torch.autograd.grad(weight, leaf, gradients[i], retain_graph=True)
    for i, (matrix, size) in ((i, pair) for part in made.maker.divided for i, pair in part.items()):
        if i in made.along and gradients[i] is not None:
            gradients[i] = matrix.tangent(
                gradients[i], made.along[i], size, made.maker.layers[i].size
            )


def _differentiable(made, weights, biases, of_weights, of_biases, again):
    """The same by autograd, for somebody who differentiates it again, or many times at once."""
    layers, outputs, arriving = made.maker.layers, [], []
    # An alias for each place: a parameter that stands in several gets a gradient in each of them.
    weights, biases = (
        [None if p is None else p.view_as(p) for p in own] for own in (weights, biases)
    )
    for layer, weight, bias, of_weight, of_bias in zip(
        layers, weights, biases, of_weights, of_biases, strict=True
    ):
        used = None if weight is None else weight_of(layer, weight)
        beside = None if of_bias is None else bias_of(layer, bias, used)
        for tensor, gradient in ((used, of_weight), (beside, of_bias)):
            if gradient is not None and tensor.requires_grad:
                outputs.append(tensor)
                arriving.append(gradient)
    inputs = [p for p in (*weights, *biases) if p is not None and p.requires_grad]
    found = torch.autograd.grad(outputs, inputs, arriving, create_graph=again, allow_unused=True)
    found, factors, result = iter(found), iter(made.maker.factors), []
    for parameter in (*weights, *biases):
        factor = 1.0 if parameter is None else next(factors)
        gradient = next(found) if parameter is not None and parameter.requires_grad else None
        result.append(gradient if gradient is None or factor == 1.0 else gradient * factor)
    return result
