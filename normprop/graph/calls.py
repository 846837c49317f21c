"""What a call does to the laws of tensors, and to the gradients at them."""

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function
from torch.utils._pytree import tree_map_only

from normprop.graph import fields
from normprop.graph.fields import GRID, WEIGHTS, Array, Chain, Dims, Field, Gradient, Map, Part
from normprop.graph.trace import Value, in_place_of_values, is_value, values_in
from normprop.graph.wrappers import forked_dice, tensors_in

Back = Callable[[list[Gradient]], Iterable[tuple[object, Gradient]]]
"""From the gradients of what came out to those of arguments."""


@dataclass
class Step:
    """What a call does: the laws of what comes out, and the way back."""

    laws: list[Field]
    back: Back = lambda gradients: ()

    @classmethod
    def curve(cls, value, made: Field, slope: Array | float = 1.0, array: Map | None = None):
        """A function, place by place, and what places do to the noise of the gradient."""

        def back(gradients):
            gradient = fields.times(gradients[0], slope)
            yield value, gradient if array is None else fields.shifted(gradient, array)

        return cls([made], back)

    @classmethod
    def linear(cls, value, made: Field, array: Map):
        """A map that mixes places, by what it makes of the array of the gradient."""
        return cls([made], lambda g: [(value, fields.gradient_of(array(fields.total(g[0], made))))])


@dataclass
class Call:
    """A call, with the laws of what goes in.

    Attributes:
        name: of the function, without what marks it as working in place.
        args: positional arguments, a :class:`Value` in the place of every tensor.
        kwargs: the others.
        shapes: of what comes out.
        laws: by value, and likewise the next three.
        tensors: those that are at hand: parameters, buffers, and what was made of such.
        weights: of what a layer runs with, what all of its results have in common, and the weight
            of the backward pass where that is another.
        looked: those that follow from the inputs.
        function: what was called.
        real: which of what comes out is real numbers.
        notes: what had to be assumed, in short sentences.
    """

    name: str
    args: tuple
    kwargs: dict
    shapes: Sequence[tuple[int, ...]]
    laws: dict[int, Field]
    tensors: dict[int, Tensor]
    weights: dict[int, tuple[frozenset, Tensor | None]]
    looked: Container[int] = ()
    function: Callable | None = None
    real: Sequence[bool] = ()
    notes: list[str] = field(default_factory=list)

    def law(self, argument) -> Field:
        """The law of an argument, which may be a number."""
        if not is_value(argument):
            return Field.constant((), float(argument))
        value = argument.number
        if value not in self.laws:
            self.laws[value] = fields.measured(self.tensors[value], value in self.looked)
        return self.laws[value]

    def tensor(self, argument) -> Tensor | None:
        """A tensor that is at hand."""
        return self.tensors.get(argument.number) if is_value(argument) else None

    def numbers(self, argument) -> Tensor | None:
        """Its numbers, to compute with."""
        tensor = self.tensor(argument)
        return None if tensor is None else tensor.detach().double().cpu()

    def weight(self, argument: Value) -> tuple[frozenset, Tensor | None]:
        """What all results of a weight have in common, and the weight of the backward pass."""
        return self.weights.get(argument.number, (frozenset({("weight", argument.number)}), None))

    def values(self) -> list[Value]:
        """The tensors among the arguments."""
        return values_in((self.args, self.kwargs))


_OPERATORS = {"add", "sub", "mul", "truediv", "pow", "matmul", "div"}
_OTHERWISE = {
    "truediv": "div", "true_divide": "div", "divide": "div", "multiply": "mul", "subtract": "sub",
}  # fmt: skip
# Names that arguments have in NumPy, and that torch takes, too.
_IN_NUMPY = {"axis": "dim", "keepdims": "keepdim", "x": "input", "x2": "other"}
_SUMS = {"add": 1.0, "sub": -1.0, "rsub": -1.0}
_OF_TWO = {"maximum": np.maximum, "minimum": np.minimum}
_NEGLIGIBLE = 1e-3

TABLE: dict[str | Callable, Callable[..., Step]] = {}
"""By name of a function of torch, what it does; others are tried as functions of one place.

One that takes its arguments in another order than its namesakes is there itself.
"""


def rule(*names: str | Callable):
    """Enter what functions of these names do: called with the call, and with its arguments."""

    def enter(does: Callable[..., Step]) -> Callable[..., Step]:
        TABLE.update(dict.fromkeys(names, does))
        return does

    return enter


def step_of(call: Call) -> Step:
    """What a call does; where nothing is known of it, what is assumed."""
    known = TABLE.get(call.function) or TABLE.get(call.name)
    does = getattr(call.function, "rule", known)
    if does is not None:
        kwargs = {_IN_NUMPY.get(name, name): given for name, given in call.kwargs.items()}
        return does(call, *call.args, **kwargs)
    step = elementwise(call) if call.function is not None and any(call.real[:1]) else None
    return step or unknown(call)


def unknown(call: Call, why: str = "") -> Step:
    """The law of its first input where the shapes agree, else N(0, 1)."""
    reason = why or f"what {call.name} does to a law is not known"
    inputs = [v for v in call.values() if call.law(v).values is not None]
    alike = [v for v in inputs if call.law(v).shape == call.shapes[0]]
    first = (alike or inputs or [None])[0]
    laws = [Field.standard(fields.dims_of(shape)) for shape in call.shapes]
    if alike:
        own = call.law(first)
        same = own.with_covariance(np.sort(own.values), own.covariance)
        laws = [same if s == own.shape else law for s, law in zip(call.shapes, laws, strict=True)]
    given = "the law of its input" if alike else "N(0, 1)"
    call.notes.append(f"{reason}; its output is taken for {given}, its gradient for what arrives")

    def back(gradients):
        if first is not None:
            arriving = map(fields.at_zero, map(fields.total, gradients, laws))
            yield first, fields.gradient_of(fields.ones(call.law(first).dims) * sum(arriving))

    return Step(laws, back)


def name_of(name: str, function: Callable | None) -> str:
    """The name of a function, without what marks operators and what works in place."""
    if name == "__get__":
        return getattr(function.__self__, "__name__", name)
    plain = name.strip("_")
    if name.startswith(("__i", "__r")) and plain[1:] in _OPERATORS:
        plain = plain[1:]
    home, _, own = plain.partition("_")
    if home in ("special", "linalg") and own in TABLE:
        plain = own
    return _OTHERWISE.get(plain, plain)


class _Inside(TorchFunctionMode):
    """Functions of torch that a rule is made of, one after the other, and the way back.

    Tensors that are at hand are what they are, and others are on the meta device.
    """

    def __init__(self, call: Call):
        super().__init__()
        self.call, self.steps = call, []
        self.held: dict[int, tuple[Tensor, Value]] = {}

    def stand_in(self, leaf: Value) -> Tensor:
        """The tensor in the place of a value, another in each place."""
        tensor = self.call.tensor(leaf)
        if tensor is None:
            law = self.call.law(leaf)
            kind = torch.int64 if law.values is None else torch.float32
            tensor = torch.empty(law.shape, dtype=kind, device="meta")
        self.held[id(tensor)] = tensor, leaf
        return tensor

    def value_of(self, tensor: Tensor) -> Value:
        """What a tensor stands for; one that nobody has seen is at hand."""
        if id(tensor) not in self.held:
            value = Value(("inside", next(fields.fresh)))
            self.call.tensors[value.number] = tensor
            self.held[id(tensor)] = tensor, value
        return self.held[id(tensor)][1]

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if str(kwargs.get("device")) == "meta":
            # Made beside a stand-in, with numbers of its own.
            kwargs["device"] = "cpu"
        call, given = self.call, (args, kwargs)
        tensors = tensors_in(given)
        known = [self.held[id(tensor)][1] for tensor in tensors if id(tensor) in self.held]
        # What weights make of an input is for its law to say.
        at_work = len({value.number in call.weights for value in known}) == 2
        if not at_work and not any(tensor.is_meta for tensor in tensors):
            made = func(*args, **kwargs)
            if isinstance(made, Tensor) and known and known[0].number in call.weights:
                call.weights[self.value_of(made).number] = call.weight(known[0])[0], None
            return made
        args, kwargs = tree_map_only(Tensor, _empty, given)
        made = func(*args, **kwargs)
        results = tensors_in(made)
        if results:
            args, kwargs = tree_map_only(Tensor, self.value_of, given)
            shapes = [tuple(tensor.shape) for tensor in results]
            real = [tensor.is_floating_point() for tensor in results]
            name = name_of(getattr(func, "__name__", str(func)), func)
            inner = replace(
                call, name=name, args=args, kwargs=kwargs, shapes=shapes, function=func, real=real
            )
            step = step_of(inner)
            numbers = [("inside", next(fields.fresh)) for _ in results]
            for tensor, number, law in zip(results, numbers, step.laws, strict=True):
                call.laws[number] = law
                self.held[id(tensor)] = tensor, Value(number)
            self.steps.append((numbers, step))
        return made


def _empty(tensor: Tensor) -> Tensor:
    kind = torch.float32 if tensor.is_floating_point() else tensor.dtype
    # A stand-in stays itself, so that whatever writes into it gives it back.
    return tensor if tensor.is_meta else torch.empty(tensor.shape, dtype=kind, device="meta")


def inside(call: Call, does: Callable, *args, weights: Sequence = (), **kwargs) -> Step:
    """What code of torch does that is called with these arguments, values for tensors.

    ``weights`` are tensors that it brings along, each with what :meth:`Call.weight` says of it.
    """
    run = _Inside(call)
    for tensor, own in weights:
        call.weights[run.value_of(tensor).number] = own
    args, kwargs = in_place_of_values(run.stand_in, (args, kwargs))
    with torch.no_grad(), run:
        values = [run.value_of(tensor) for tensor in tensors_in(does(*args, **kwargs))]
    made = {number for numbers, _ in run.steps for number in numbers}

    def back(gradients):
        found: dict[int, Gradient] = {}
        for value, gradient in zip(values, gradients, strict=False):
            _add(found, value.number, gradient, call.law(value))
        go_back(run.steps, found, call.laws)
        yield from ((Value(n), gradient) for n, gradient in found.items() if n not in made)

    return Step([call.law(value) for value in values], back)


def by_torch(*names: str):
    """Enter code of torch as what functions of these names do."""

    def enter(does: Callable) -> Callable:
        rule(*names)(lambda call, *args, **kwargs: inside(call, does, *args, **kwargs))
        return does

    return enter


def custom(does: Callable[..., Step]) -> Callable[..., Tensor]:
    """A rule as a function for code that runs inside; the shape is kept, or given."""

    def function(*args, shape=None):
        if has_torch_function(args[:1]):
            return handle_torch_function(function, args[:1], *args, shape=shape)
        return args[0].new_empty(args[0].shape if shape is None else shape)

    function.rule = lambda call, *args, shape=None: does(call, *args)
    return function


def go_back(steps: Sequence, gradients: dict[int, Gradient], laws: dict[int, Field]) -> None:
    """Take gradients back through steps, to the values whose laws are given."""
    for made, step in reversed(steps):
        arriving = [gradients.get(number, {}) for number in made]
        if any(arriving):
            for target, gradient in step.back(arriving):
                if is_value(target) and target.number in laws:
                    _add(gradients, target.number, gradient, laws[target.number])


def _add(gradients: dict[int, Gradient], number: int, gradient: Gradient, law: Field) -> None:
    if gradient and law.values is not None:
        gradients[number] = fields.added(gradients.get(number, {}), gradient, law)


# Functions of one number a place.


def elementwise(call: Call) -> Step | None:
    """A function of its tensors, place by place; None where it is no such function."""
    values = call.values()
    if not values or any(call.law(v).values is None for v in values):
        return None
    dims = common_dims(call, values)
    if dims is None:
        return None
    chains = [Chain(call.law(v).dims).spread(dims) for v in values]
    laws = [call.law(v).moved(chain) for v, chain in zip(values, chains, strict=True)]
    moving = [pair for pair in zip(laws, chains, strict=True) if pair[0].variance > 0]
    # The same z has to be in the same places.
    if len({(law.source, not chain.maps) for law, chain in moving}) > 1:
        return _independent(call, values, laws, chains)
    found = _on_grid(call, [law.values for law in laws])
    if found is None:
        return None
    made, slopes = found
    if not all(np.isfinite(array).all() for array in (made, *slopes)):
        return unknown(call, f"{call.name} is not finite for every input of this law")
    law = moving[0][0].image(made) if moving else Field.constant(dims, float(made[0]))

    def back(gradients):
        for value, slope, chain in zip(values, slopes, chains, strict=True):
            yield value, fields.shifted(fields.times(gradients[0], slope), chain.back)

    return Step([law], back)


def _on_grid(call: Call, arrays: Sequence[Array]) -> tuple[Array, list[Array]] | None:
    """Values and slopes; None of what is no function of one place."""
    leaves = [torch.tensor(a, device="cpu", requires_grad=True) for a in arrays]
    some = torch.arange(3, len(GRID), 7, device="cpu").flip(0)
    try:
        with torch.enable_grad(), forked_dice():
            result = _run(call, leaves)
            if result.shape != leaves[0].shape or not result.is_floating_point():
                return None
            slopes = torch.autograd.grad(
                result.sum(), leaves, allow_unused=True, materialize_grads=True
            )
        with torch.no_grad(), forked_dice():
            again = _run(call, [x[some] for x in leaves])
            if not torch.allclose(again, result[some], equal_nan=True):
                return None
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, NotImplementedError):
        return None
    return result.detach().numpy(), [slope.numpy(force=True) for slope in slopes]


def _run(call: Call, leaves: Sequence[Tensor]):
    places = iter(leaves)
    # A copy of each, into which a function may write.
    kwargs = {**call.kwargs, **({"inplace": False} if "inplace" in call.kwargs else {})}
    args, kwargs = in_place_of_values(lambda _: next(places) * 1.0, (call.args, kwargs))
    return call.function(*args, **kwargs)


def common_dims(call: Call, values: Sequence[Value]) -> Dims | None:
    """The dimensions of what comes out: those of the inputs, of each the one with most to say."""
    shape, laws = call.shapes[0], [call.law(v) for v in values]
    if any(len(law.dims) > len(shape) for law in laws):
        return None
    found = []
    for place, size in enumerate(shape, start=-len(shape)):
        own = [(law.dims[place], law) for law in laws if len(law.dims) >= -place]
        if any(fields.size_of(dim) not in (1, size) for dim, _ in own):
            return None
        known = [
            ((law.variance > 0, any(a.samples for a in dim), len(dim)), dim)
            for dim, law in own
            if dim and fields.size_of(dim) == size
        ]
        found.append(max(known)[1] if known else fields.dims_of([size])[0])
    return tuple(found)


# Several laws.


def portion(gradient: Gradient, law: Field, made: Field, which: int) -> Gradient:
    """Of the gradient at a mixture what comes to one of what it was mixed of."""
    found = {}
    for noise, part in gradient.items():
        amplitude = part.amplitude
        if np.ndim(amplitude):
            amplitude = np.interp(law.values, made.values, amplitude)
        found[(noise, "part", which)] = replace(part, amplitude=amplitude)
    return found


def mixture(laws: Sequence[Field], shares: Sequence[float], covariance: Array, dims) -> Field:
    """Of so much of each law, with this array of covariances."""
    values = fields.quantiles(
        np.concatenate([law.values for law in laws]),
        np.concatenate([share * WEIGHTS for share in shares]),
    )
    return laws[0].with_covariance(values, covariance, fields.roots_of(*laws), tuple(dims))


def note_common_roots(call: Call, left: Field, right: Field) -> None:
    """Two laws count as independent: say so where they are not."""
    if left.roots & right.roots:
        call.notes.append(f"the inputs of {call.name} have a source in common; taken for unrelated")


def _independent(call: Call, values, laws: Sequence[Field], chains: Sequence[Chain]) -> Step:
    """A function of two tensors that have nothing in common."""
    name = call.name
    if len(values) != 2 or name not in (*_SUMS, *_OF_TWO, "mul", "div"):
        return unknown(call, f"what {name} does to several laws is not known")
    left, right = laws
    roots = fields.roots_of(left, right)
    if _share(left, right) > _NEGLIGIBLE:
        note_common_roots(call, left, right)
    first, second = fields.agreeing(left.covariance, right.covariance)
    products: tuple[Array, ...] = ()
    if name in _SUMS:
        factor = _SUMS[name] * call.kwargs.get("alpha", 1)
        pair = fields.Pair(left, right, lambda a, b: a + factor * b)
        mean, covariance = left.mean + factor * right.mean, first + factor**2 * second
        slopes = 1.0, abs(factor)
    elif name in _OF_TWO:
        pair = fields.Pair(left, right, _OF_TWO[name])
        call.notes.append(f"correlations behind {name} are taken for those of a sum")
        made = left.with_covariance(pair.increasing, fields.ones(left.dims), roots)
        both = first + second
        mean, covariance = made.mean, made.variance * both / fields.at_zero(both)
        slopes = tuple((pair.table == few).astype(float) for few in pair.few)
    else:
        if name == "div":
            with np.errstate(all="ignore"):
                inverse = 1.0 / right.values
            if not np.isfinite(inverse).all() or np.ptp(np.sign(right.values)):
                return unknown(call, "what is divided by may be 0 under this law")
            right = right.image(inverse)
        pair = fields.Pair(left, right, lambda a, b: a * b)
        products = right.second, left.second
        mean, covariance = left.mean * right.mean, fields.product(*products[::-1])
        covariance = covariance - mean**2
        a, b = pair.few
        # The derivative of the quotient is that of the product, once more times 1/b².
        slopes = b, a * b * b if name == "div" else a
    if name in _SUMS and left.is_normal and right.is_normal:
        law = Field.normal(left.dims, mean, covariance, roots)
    else:
        law = left.with_covariance(pair.values(mean, fields.at_zero(covariance)), covariance, roots)

    def back(gradients):
        for which, (value, slope) in enumerate(zip(values, slopes, strict=True)):
            found: Gradient = {}
            for noise, part in gradients[0].items():
                amplitude, rho = pair.given(which, law.values, part.amplitude, slope), part.rho
                if products:
                    # Times the other one it is another noise.
                    rho, own = fields.agreeing(rho, products[which])
                    noise, rho = next(fields.fresh), rho * own / fields.at_zero(own)
                found = fields.added(found, {noise: Part(amplitude, rho)}, law)
            yield value, fields.shifted(found, chains[which].back)

    return Step([law], back)


def _share(left: Field, right: Field) -> float:
    """How much of a sum or a product the smaller part can change."""
    sizes = [law.variance / (law.variance + law.mean**2) for law in (left, right)]
    ends = sorted((left.variance, right.variance))
    return min(ends[0] / ends[1], min(sizes))
