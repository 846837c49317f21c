"""What a call does to the laws of tensors, and to the gradients at them."""

import math
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from normprop.graph.laws import (
    GRID,
    Array,
    Dims,
    Gradient,
    Law,
    Pair,
    added,
    agreeing,
    at_zero,
    average,
    dims_of,
    gradient_of,
    measured,
    regrouped,
    shifted,
    times,
    total,
)
from normprop.graph.trace import Value, is_value

Back = Callable[[list[Gradient]], Iterable[tuple[object, Gradient]]]
"""From the gradients of what came out to those of arguments."""


@dataclass
class Step:
    """What a call does: the laws of what comes out, and the way back."""

    laws: list[Law]
    back: Back


class Call:
    """A call, with the laws of what goes in.

    Attributes:
        name: of the function, without what marks it as working in place.
        shapes: of what comes out.
        notes: what had to be assumed, in short sentences.
    """

    def __init__(
        self,
        name: str,
        args: tuple,
        kwargs: dict,
        shapes: Sequence[tuple[int, ...]],
        laws: dict[int, Law],
        tensors: dict[int, Tensor],
        function: Callable | None = None,
        real: Sequence[bool] = (),
        looked: Container[int] = (),
    ):
        self.name, self.args, self.kwargs, self.shapes = name, args, kwargs, shapes
        self.laws, self.tensors, self.function, self.real = laws, tensors, function, real
        self.looked, self.notes = looked, []

    def get(self, place: int, name: str, default=None):
        """An argument."""
        if name in self.kwargs:
            return self.kwargs[name]
        return self.args[place] if place < len(self.args) else default

    def law(self, argument) -> Law:
        """The law of an argument, which may be a number."""
        if not isinstance(argument, Value):
            return Law.constant((), float(argument))
        value = argument.number
        if value not in self.laws:
            self.laws[value] = measured(self.tensors[value], value in self.looked)
        return self.laws[value]

    def tensor(self, argument) -> Tensor | None:
        """A tensor that is at hand: a parameter, a buffer, or what was made of such."""
        return self.tensors.get(argument.number) if isinstance(argument, Value) else None

    def values(self) -> list[Value]:
        """The tensors among the arguments."""
        leaves = tree_leaves((self.args, self.kwargs), is_leaf=is_value)
        return [leaf for leaf in leaves if is_value(leaf)]


TABLE: dict[str, Callable[[Call], Step]] = {}
"""By name of a function of torch, what it does; others are tried as functions of one place."""


def rule(*names: str):
    """Enter what functions of these names do."""

    def enter(does: Callable[[Call], Step]) -> Callable[[Call], Step]:
        TABLE.update(dict.fromkeys(names, does))
        return does

    return enter


def step_of(call: Call) -> Step:
    """What a call does; where nothing is known of it, what is assumed."""
    does = TABLE.get(call.name)
    if does is not None:
        return does(call)
    step = elementwise(call) if call.function is not None and any(call.real[:1]) else None
    return step or unknown(call)


def unknown(call: Call, why: str = "") -> Step:
    """The law of its first input where the shapes agree, else N(0, 1)."""
    reason = why or f"what {call.name} does to a law is not known"
    inputs = [v for v in call.values() if call.law(v).values is not None]
    alike = [v for v in inputs if call.law(v).shape == call.shapes[0]]
    first = (alike or inputs or [None])[0]
    laws = []
    for shape in call.shapes:
        if alike and shape == call.shapes[0]:
            own = call.law(first)
            laws.append(own.with_covariance(np.sort(own.values), own.covariance))
        else:
            dims = dims_of(shape)
            laws.append(Law.normal(dims, 0.0, np.ones([1] * sum(map(len, dims)))))
    given = "the law of its input" if alike else "N(0, 1)"
    call.notes.append(f"{reason}; its output is taken for {given}, its gradient for what arrives")

    def back(gradients):
        if first is None:
            return
        own = call.law(first)
        arriving = sum(at_zero(total(g, law)) for g, law in zip(gradients, laws, strict=True))
        yield first, gradient_of(np.full([1] * len(own.axes), arriving))

    return Step(laws, back)


class Tape:
    """Calls inside of a call, one after the other, and the way back through all of them."""

    def __init__(self, call: Call):
        self.call, self.steps = call, []

    def law(self, value: Value) -> Law:
        """Of something in between."""
        return self.call.law(value)

    def __call__(self, name: str, *args, shape, function=None, **kwargs) -> Value:
        """Call a function."""
        return self.several(name, *args, shapes=[shape], function=function, **kwargs)[0]

    def several(self, name: str, *args, shapes, function=None, **kwargs) -> list[Value]:
        """Call a function that gives several tensors."""
        own = self.call
        shapes = [tuple(shape) for shape in shapes]
        real = [True] * len(shapes)
        inner = Call(name, args, kwargs, shapes, own.laws, own.tensors, function, real, own.looked)
        step = step_of(inner)
        own.notes += inner.notes
        return self._ran(step)

    def run(self, does: Callable[[Call], Step]) -> Value:
        """Run a rule on the call itself."""
        return self._ran(does(self.call))[0]

    def scaled(self, value, factor: float):
        """Times a number."""
        if factor == 1 or not isinstance(value, Value):
            return value * factor if not isinstance(value, Value) else value
        shape = self.law(value).shape
        return self("mul", value, factor, shape=shape, function=torch.mul)

    def with_gradient(self, value: Value, factor: float) -> Value:
        """The same, whose gradient is multiplied by a factor."""
        if factor == 1:
            return value
        step = Step([self.law(value)], lambda g: [(value, times(g[0], factor))])
        return self._ran(step)[0]

    def constant(self, tensor: Tensor) -> Value:
        """A tensor that is at hand."""
        value = Value(("tape", id(self), len(self.steps), id(tensor)))
        self.call.tensors[value.number] = tensor
        return value

    def _ran(self, step: Step) -> list[Value]:
        values = [Value(("tape", id(self), len(self.steps), i)) for i in range(len(step.laws))]
        self.call.laws.update(zip((v.number for v in values), step.laws, strict=True))
        self.steps.append((values, step))
        return values

    def end(self, *values: Value) -> Step:
        """What the whole does, which gives these values."""

        def back(gradients):
            found: dict = {}
            for value, gradient in zip(values, gradients, strict=True):
                _add(found, value, gradient, self.call)
            for made, step in reversed(self.steps):
                arriving = [found.pop(value, {}) for value in made]
                if any(arriving):
                    for target, gradient in step.back(arriving):
                        if isinstance(target, Value):
                            _add(found, target, gradient, self.call)
            yield from found.items()

        return Step([self.call.law(v) for v in values], back)


def _add(found: dict, value: Value, gradient: Gradient, call: Call) -> None:
    if not gradient:
        return
    law = call.law(value)
    found[value] = added(found[value], gradient, law) if value in found else gradient


# Functions of one number a place.


def elementwise(call: Call) -> Step | None:
    """A function of its tensors, place by place; None where it is no such function."""
    values = call.values()
    if not values or any(call.law(v).values is None for v in values):
        return None
    dims = common_dims(call, values)
    if dims is None:
        return None
    spreads = {v: Spread(call.law(v), dims) for v in values}
    moving = {v: s for v, s in spreads.items() if s.law.variance > 0}
    if len({(s.law.source, s.trivial) for s in moving.values()}) > 1:
        return _independent(call, values, spreads)
    found = _on_grid(call, [spreads[v].law.values for v in values])
    if found is None:
        return None
    made, slopes = found
    first = next(iter((moving or spreads).values())).law
    if not np.isfinite(made).all() or not all(np.isfinite(s).all() for s in slopes):
        return unknown(call, f"{call.name} is not finite for every input of this law")
    law = first.image(made) if moving else Law.constant(dims, float(made[0]))

    def back(gradients):
        for value, slope in zip(values, slopes, strict=True):
            yield value, shifted(times(gradients[0], slope), spreads[value].back)

    return Step([law], back)


def _on_grid(call: Call, arrays: Sequence[Array]) -> tuple[Array, list[Array]] | None:
    """Values and slopes; None of what is no function of one place."""
    leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
    try:
        with torch.enable_grad(), torch.random.fork_rng(()):
            result = _run(call, leaves)
            if result.shape != leaves[0].shape or not result.is_floating_point():
                return None
            slopes = torch.autograd.grad(result.sum(), leaves, allow_unused=True)
        some = torch.arange(_POINT, len(GRID), 7).flip(0)
        with torch.no_grad(), torch.random.fork_rng(()):
            if not torch.allclose(
                _run(call, [x[some] for x in leaves]), result[some], equal_nan=True
            ):
                return None
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, NotImplementedError):
        return None
    empty = np.zeros_like(GRID)
    return result.detach().numpy(), [empty if s is None else s.numpy() for s in slopes]


_POINT = 3


def _run(call: Call, leaves: Sequence[Tensor]):
    places = iter(leaves)
    # A copy of each, into which a function may write.
    args, kwargs = tree_map(
        lambda leaf: next(places) * 1.0 if is_value(leaf) else leaf,
        (call.args, {**call.kwargs, **({"inplace": False} if "inplace" in call.kwargs else {})}),
        is_leaf=is_value,
    )
    return call.function(*args, **kwargs)


def common_dims(call: Call, values: Sequence[Value]) -> Dims | None:
    """The dimensions of what comes out: those of the inputs, of each the one with most to say."""
    shape, found = call.shapes[0], []
    if any(len(call.law(v).dims) > len(shape) for v in values):
        return None
    for place, size in enumerate(reversed(shape)):
        best = ()
        for value in values:
            law = call.law(value)
            own = law.dims[-1 - place] if place < len(law.dims) else ()
            count = math.prod(axis.size for axis in own)
            if count not in (1, size):
                return None
            if count == size and size > 1:
                rank = (law.variance > 0, any(a.samples for a in own), len(own))
                best = max(best, (rank, own)) if best else (rank, own)
        found.append(best[1] if best else dims_of([size])[0])
    return tuple(reversed(found))


class Spread:
    """A tensor, broadcast to dimensions, and the way back: sums over what it was spread over."""

    def __init__(self, law: Law, dims: Dims):
        self.own = ((),) * (len(dims) - len(law.dims)) + law.dims
        self.dims = dims
        self.trivial = True
        array, k = law.rho, 0
        for own, wanted in zip(self.own, dims, strict=True):
            sizes = [axis.size for axis in own], [axis.size for axis in wanted]
            if sizes[0] != sizes[1]:
                self.trivial = False
                if own:
                    array = regrouped(array, *sizes, k)
                else:
                    for at in range(k, k + len(wanted)):
                        array = np.stack([array, array], axis=at)
            k += len(wanted)
        self.law = law if self.trivial else replace(law, rho=array)
        self.law = replace(self.law, dims=dims)

    def back(self, array: Array) -> Array:
        """From an array of noise over the wide dimensions to one over those that were."""
        k = 0
        for own, wanted in zip(self.own, self.dims, strict=True):
            sizes = [axis.size for axis in own], [axis.size for axis in wanted]
            if sizes[0] != sizes[1]:
                if own:
                    array = regrouped(array, sizes[1], sizes[0], k)
                else:
                    for size in sizes[1]:
                        array = average(array, k, size) * size**2
            k += len(own)
        return array


_SUMS = {"add": 1.0, "sub": -1.0, "rsub": -1.0}
_OF_TWO = {"maximum": np.maximum, "minimum": np.minimum}


def _independent(call: Call, values: Sequence[Value], spreads) -> Step | None:
    """A function of two tensors that have nothing in common."""
    if len(values) != 2 or call.name not in (*_SUMS, *_OF_TWO, "mul", "div"):
        return unknown(call, f"what {call.name} does to several laws is not known")
    left, right = (spreads[v].law for v in values)
    roots = left.roots | right.roots
    if left.roots & right.roots and _share(left, right) > _NEGLIGIBLE:
        call.notes.append(f"the inputs of {call.name} have a source in common; taken for unrelated")
    factor = 1.0
    if call.name in _SUMS:
        factor = _SUMS[call.name] * call.kwargs.get("alpha", 1)
        pair = Pair(left, right, lambda a, b: a + factor * b)
        mean = left.mean + factor * right.mean
        first, second = agreeing([left.covariance, right.covariance], left.axes)
        covariance = first + factor**2 * second
    elif call.name in _OF_TWO:
        pair = Pair(left, right, _OF_TWO[call.name])
        call.notes.append(f"correlations behind {call.name} are taken for those of a sum")
        found = pair.values(None)
        law = left.with_covariance(found, np.ones(left.rho.shape), roots)
        first, second = agreeing([left.covariance, right.covariance], left.axes)
        mean, covariance = law.mean, law.variance * (first + second) / at_zero(first + second)
    else:
        if call.name == "div":
            with np.errstate(all="ignore"):
                inverse = 1.0 / right.values
            if not np.isfinite(inverse).all() or np.ptp(np.sign(right.values)):
                return unknown(call, "what is divided by may be 0 under this law")
            right = right.image(inverse)
        pair = Pair(left, right, lambda a, b: a * b)
        mean = left.mean * right.mean
        first, second = agreeing([left.second, right.second], left.axes)
        covariance = first * second - mean**2
    if call.name in _SUMS and left.is_normal and right.is_normal:
        law = Law.normal(left.dims, mean, covariance, roots)
    else:
        law = left.with_covariance(pair.values(mean, at_zero(covariance)), covariance, roots)

    def back(gradients):
        for which, (value, other) in enumerate(zip(values, (right, left), strict=True)):
            found: Gradient = {}
            for noise, part in gradients[0].items():
                found = added(found, _through(noise, part, which, other), law)
            yield value, shifted(found, spreads[value].back)

    def _through(noise, part, which, other) -> Gradient:
        if call.name in _SUMS:
            size = abs(factor) if which else 1.0
            if not np.ndim(part.amplitude):
                return {noise: replace(part, amplitude=part.amplitude * size)}
            amplitude = size * pair.given(which, law.values, part.amplitude)
            return {noise: replace(part, amplitude=amplitude)}
        if call.name in _OF_TWO:
            amplitude = pair.given(which, law.values, part.amplitude, pair.wins(which))
            return {noise: replace(part, amplitude=amplitude)}
        # The derivative of the quotient is that of the product, once more times 1/b².
        slope = (lambda a, b: b) if which == 0 else (lambda a, b: a)
        if call.name == "div" and which == 1:
            slope = lambda a, b: a * b * b  # noqa: E731
        amplitude = pair.given(which, law.values, part.amplitude, slope(*pair.few))
        rho, own = agreeing([part.rho, other.second], other.axes)
        found = gradient_of(rho * own / at_zero(other.second))
        return times(found, amplitude)

    return Step([law], back)


_NEGLIGIBLE = 1e-3


def _share(left: Law, right: Law) -> float:
    """How much of a sum or a product the smaller part can change."""
    sizes = [law.variance / (law.variance + law.mean**2) for law in (left, right)]
    ends = sorted((left.variance, right.variance))
    return min(ends[0] / ends[1], min(sizes))
