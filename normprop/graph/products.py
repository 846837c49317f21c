"""Products of tensors, softmax and attention, dropout, embeddings."""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import FunctionType

import numpy as np
import torch
from torch import Tensor, nn

from normprop import rules
from normprop.gaussian import Normal
from normprop.graph.calls import (
    Call,
    Spread,
    Step,
    by_torch,
    common_dims,
    custom,
    elementwise,
    inside,
    portion,
    rule,
    unknown,
)
from normprop.graph.laws import (
    WEIGHTS,
    Array,
    Axis,
    Chain,
    Law,
    agreeing,
    at,
    at_zero,
    average,
    compact,
    dims_of,
    elsewhere,
    fresh,
    gradient_of,
    middle,
    ones,
    plus,
    quantiles,
    shifted,
    total,
    twos,
)
from normprop.graph.maps import dimensions, linear, steps_of
from normprop.graph.mixes import normalised, of_windows
from normprop.graph.trace import Value, is_value
from normprop.rules.dropout import ALPHA

# Sums over products.


def contracted(call: Call, left, right, first: str, second: str, out: str) -> Step:
    """A sum over products, in the words of einsum; both tensors are independent."""
    laws = call.law(left), call.law(right)
    if any(law.values is None for law in laws):
        return unknown(call)
    if laws[0].roots & laws[1].roots and min(law.variance for law in laws) > 0:
        call.notes.append(f"the inputs of {call.name} have a source in common; taken for unrelated")
    axes: dict[str, tuple[Axis, ...]] = dict.fromkeys(out, ())
    words = first, second
    for law, word in zip(laws, words, strict=True):
        for letter, dim in zip(word, law.dims, strict=True):
            # A dimension of one place is spread over whatever the other has.
            known = axes.get(letter, ())
            axes[letter] = max(known, dim, key=lambda d: (len(d), any(a.samples for a in d)))
    dims = tuple(axes.values())
    chains, seconds = [], []
    for law, word in zip(laws, words, strict=True):
        chain = Chain()
        chain.transpose([k for c in axes if c in word for k in law.along(word.index(c))])
        own = tuple(law.dims[word.index(c)] if c in word else () for c in axes)
        spread = Spread(replace(law, dims=own, rho=twos(chain(law.second))), dims)
        chain.then(lambda array: array, spread.back)
        chains.append(chain)
        seconds.append(spread.law.rho)
    seconds = agreeing(seconds, [a for dim in dims for a in dim])
    summed, k = Chain(), sum(map(len, dims[: len(out)]))
    sizes = [a.size for dim in dims[len(out) :] for a in dim]
    for size in sizes:
        summed.sum(size, k)
    mean = laws[0].mean * laws[1].mean * math.prod(sizes)
    covariance = compact(plus(summed(math.prod(seconds)), -(mean**2)))
    roots = laws[0].roots | laws[1].roots
    made = Law.normal(dims[: len(out)], mean, covariance, roots)

    def back(gradients):
        gradient = summed.back(twos(total(gradients[0], made)))
        for which, value in enumerate((left, right)):
            if laws[which].variance > 0 or is_value(value):
                factors = agreeing([gradient, seconds[1 - which]], [a for dim in dims for a in dim])
                yield value, gradient_of(compact(chains[which].back(math.prod(factors))))

    return Step([made], back)


@rule("matmul", "bmm", "mm", "mv")
def _matmul(call: Call) -> Step:
    left, right = call.input, call.get(1, "other", call.get(1, "mat2"))
    weight, tensor = call.tensor(right), call.law(left)
    if weight is not None and weight.ndim == 2 and call.tensor(left) is None:
        return linear(call, left, right, weight.T, None)
    return contracted(call, left, right, *_letters(tensor.shape, call.law(right).shape))


def _letters(left: Sequence[int], right: Sequence[int]) -> tuple[str, str, str]:
    one, other = (max(len(shape) - 2, 0) for shape in (left, right))
    batch, row, column = "abcdefgh", "i" * (len(left) > 1), "j" * (len(right) > 1)
    out = batch[8 - max(one, other) :] + row + column
    return batch[8 - one :] + row + "k", batch[8 - other :] + "k" + column, out


@rule("einsum")
def _einsum(call: Call) -> Step:
    equation, *operands = call.args
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = list(operands[0])
    words, _, out = equation.replace(" ", "").partition("->")
    words = words.split(",")
    plain = all(len(set(w)) == len(w) for w in words) and "." not in equation and "->" in equation
    if len(operands) != 2 or not plain:
        return unknown(call)
    return contracted(call, *operands, *words, out)


@rule("addmm", "baddbmm", "addbmm")
def _added_product(call: Call) -> Step:
    bias, left, right = call.args[:3]
    weight = call.tensor(right)
    scaled = {"alpha", "beta"} & set(call.kwargs)
    if weight is not None and weight.ndim == 2 and call.tensor(bias) is not None and not scaled:
        return linear(call, left, right, weight.T, call.tensor(bias).expand(weight.shape[1]))
    alpha, beta = (_times(call.kwargs.get(name, 1)) for name in ("alpha", "beta"))
    total = (lambda x: x.sum(0)) if call.name == "addbmm" else (lambda x: x)
    return inside(call, lambda b, x, y: beta(b) + alpha(total(x @ y)), bias, left, right)


def _times(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x if factor == 1 else x * factor


@rule("bilinear")
def _bilinear(call: Call) -> Step:
    """A map with weights of all products of an entry of the one and one of the other."""
    own = call.get(2, "weight")
    if call.tensor(own) is None:
        return unknown(call, "its weight is made of what the model is given")
    call.weights[own.number] = call.weight(own)

    def apply(input1, input2, weight, bias=None):
        rest = "abcdefg"[: input1.ndim - 1]
        pairs = torch.einsum(f"{rest}i,{rest}j->{rest}ij", input1, input2)
        return nn.functional.linear(pairs.flatten(-2), weight.flatten(1), bias)

    return inside(call, apply, *call.args, **call.kwargs)


# Softmax.

_HIDDEN = -30.0
"""Logits below count as hidden."""


@rule("add", "sub", "rsub")
def _sum(call: Call) -> Step:
    """A sum, which hides logits where a constant is far below."""
    for value, other in (call.args[:2], call.args[1::-1]) if len(call.args) > 1 else ():
        mask = call.tensor(other)
        if mask is not None and mask.is_floating_point() and bool((mask < _HIDDEN).any()):
            return _hiding(call, value, mask < _HIDDEN)
    return elementwise(call) or unknown(call)


@rule("where", "masked_fill")
def _where(call: Call) -> Step:
    """Numbers of the one where a mask is, of the other elsewhere."""
    if call.name == "where":
        mask, *parts = (call.get(i, n) for i, n in enumerate(("condition", "input", "other")))
    else:
        mask, *parts = (call.get(i, n) for i, n in ((1, "mask"), (2, "value"), (0, "input")))
    chosen = call.tensor(mask)
    if chosen is None or None in parts:
        return unknown(call, "which numbers are taken is not known before it runs")
    for fill, kept, hidden in ((*parts, chosen), (*parts[::-1], ~chosen)):
        numbers = call.tensor(fill) if is_value(fill) else torch.tensor(float(fill))
        if numbers is not None and bool((numbers < _HIDDEN).all()):
            return _hiding(call, kept, hidden)
    return _mixed(call, chosen, *parts)


def _mixed(call: Call, chosen: Tensor, yes, no) -> Step:
    """A mixture: with m for the mask, E mm' x₁x₁' + E (1-m)(1-m') x₂x₂', and what is across."""
    mask = Value(("mask", next(fresh)))
    call.tensors[mask.number] = chosen.double()
    parts, wanted = (yes, no), [v for v in (yes, no, mask) if is_value(v)]
    dims = common_dims(call, wanted)
    if dims is None:
        return unknown(call)
    spreads = [Spread(call.law(v), dims) for v in (*parts, mask)]
    axes = spreads[0].law.axes
    first, second, both = agreeing([s.law.second for s in spreads], axes)
    laws, share = [s.law for s in spreads[:2]], float(chosen.double().mean())
    across = 2.0 * (share - both) * laws[0].mean * laws[1].mean
    mean = share * laws[0].mean + (1.0 - share) * laws[1].mean
    neither = 1.0 - 2.0 * share + both
    covariance = both * first + neither * second + across - mean**2
    chances = np.concatenate([share * WEIGHTS, (1.0 - share) * WEIGHTS])
    values = quantiles(np.concatenate([law.values for law in laws]), chances)
    roots = laws[0].roots | laws[1].roots
    made = laws[0].with_covariance(values, covariance, roots, dims)

    def back(gradients):
        for i, (value, kept) in enumerate(zip(parts, (both, neither), strict=True)):
            if is_value(value):
                found = portion(gradients[0], laws[i], made, i)
                found = shifted(found, lambda rho, own=kept: math.prod(agreeing([rho, own], axes)))
                yield value, shifted(found, spreads[i].back)

    return Step([made], back)


def _hiding(call: Call, value, hidden: Tensor) -> Step:
    law = call.law(value)
    seen = (~hidden).expand(torch.broadcast_shapes(hidden.shape, law.shape[-2:])).sum(-1)
    return Step.curve(value, replace(law, seen=seen.flatten().double().cpu().numpy()))


@by_torch("softmin")
def _softmin(input, dim=None, _stacklevel=3, dtype=None):
    return nn.functional.softmax(-input, dim)


@rule("softmax", "log_softmax")
def _softmax(call: Call) -> Step:
    law, dim = call.law(call.input), call.get(1, "dim")
    if dim is None:
        dim = 0 if len(law.dims) in (0, 1, 3) else 1
    kind = _log_probabilities if call.name == "log_softmax" else _probabilities
    return kind(call, call.input, dim % len(law.dims))


def _probabilities(call: Call, value, dim: int) -> Step:
    r"""Softmax over a dimension of n.

    Logits of another row have E Σ_j p_j q_j = e^{v r}/n as n grows, v the variance of logits in a
    row and r the correlation of the two rows; what a row has in common has no effect.
    """
    law = call.law(value)
    n, k = law.shape[dim], law.along(dim).start
    if n == 1:
        return Step([Law.constant(law.dims, 1.0)])
    chain = Chain()
    chain.regroup(law.dims[dim], [Axis(n)], k)

    def within(array: Array) -> Array:
        """What is left of an array without what a row has in common."""
        array = chain(array)
        same = at(array, k)
        return same - elsewhere(same, average(array, k, n), n)

    logits = within(law.covariance)
    variance = max(at_zero(logits), 0.0)
    seen = np.full(1, float(n)) if law.seen is None else np.maximum(law.seen, 1.0)
    squares, slope = _of_rows(call, seen, n, math.sqrt(variance))
    correlations = twos(logits / variance if variance else 0.0 * logits)
    shared = np.full(correlations.shape, float((1.0 / seen).mean()))
    if law.seen is not None and dim > 0 and law.along(dim - 1):
        # Of two rows of other lengths, the longer one sees all that the shorter one does.
        rows, row = np.sort(seen), law.along(dim - 1)[0]
        pairs = max(len(rows) * (len(rows) - 1) / 2.0, 1.0)
        if shared.shape[row] == 2:
            np.moveaxis(shared, row, 0)[1:] = (np.arange(len(rows)) / rows).sum() / pairs
    found = np.minimum(shared * np.exp(variance * correlations), 1.0)
    found[middle(found.shape)] = squares
    second = np.stack([found / n, (1.0 - found) / (n * (n - 1.0))], axis=k)
    covariance = chain.back(second) - 1.0 / n**2
    with np.errstate(over="ignore"):
        form = np.exp(np.minimum(law.values - law.values.mean(), 700.0))
    shape = Law(law.dims, law.rho, form, -1)
    made = Law.normal(law.dims, 1.0 / n, covariance, law.roots)
    if variance:
        made = shape.rescaled(1.0 / n, covariance, law.roots)
    places = tuple(law.along(dim))
    return Step.linear(value, made, lambda array: np.expand_dims(within(array) * slope, places))


def _of_rows(call: Call, seen: Array, n: int, std: float) -> tuple[float, float]:
    """E Σ p² and the mean square of the slope of an element, over rows of these lengths."""
    # Their multiples by the length and by its square hardly depend on it.
    ends = float(seen.min()), float(seen.max())
    sizes = np.unique(np.round(np.geomspace(*ends, 12)).astype(int))
    figures = [_of_row(call, int(size), std) for size in sizes]
    squares, slopes = (np.interp(seen, sizes, column) for column in zip(*figures, strict=True))
    return float((squares / seen).mean()), float((slopes / seen).mean()) / n


def _of_row(call: Call, size: int, std: float) -> tuple[float, float]:
    if size == 1:
        return 1.0, 0.0
    try:
        row = rules.softmax(size, Normal(0.0, max(std, 1e-6)))
    except ValueError:
        call.notes.append("its logits spread so far that one of them is taken to win")
        return float(size), 0.0
    return size**2 * row.fwd_std**2 + 1.0, (size * row.bwd_std) ** 2


def _log_probabilities(call: Call, value, dim: int) -> Step:
    law = call.law(value)
    kind, given = nn.LogSoftmax, Normal(0.0, max(math.sqrt(law.variance), 1e-6))
    try:
        row = rules.entry_of_type(kind).rule(kind(-1), given, law.shape[dim : dim + 1])
    except ValueError:
        return unknown(call, "its logits spread too far")
    covariance = law.covariance * (row.fwd_std**2 / law.variance if law.variance else 1.0)
    return Step.curve(value, law.rescaled(row.fwd_mean, covariance), row.bwd_std)


# Attention.

_UNKNOWN_MASK = "what its mask hides is not known before it runs; taken for nothing"


@rule("scaled_dot_product_attention")
def _attention(call: Call) -> Step:
    """Softmax(κ q kᵀ) v."""

    def attend(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None,
               enable_gqa=False):  # fmt: skip
        if enable_gqa and query.shape[-3] != key.shape[-3]:
            count = query.shape[-3] // key.shape[-3]
            key, value = (x.repeat_interleave(count, -3) for x in (key, value))
        logits = (query @ key.mT) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            hidden = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
            logits = logits.masked_fill(hidden, -math.inf)
        elif attn_mask is not None and attn_mask.is_meta:
            call.notes.append(_UNKNOWN_MASK)
        elif attn_mask is not None:
            hidden = ~attn_mask if attn_mask.dtype == torch.bool else attn_mask < _HIDDEN
            logits = logits.masked_fill(hidden, -math.inf)
        return nn.functional.dropout(torch.softmax(logits, -1), dropout_p) @ value

    return inside(call, attend, *call.args, **call.kwargs)


_heads = nn.functional.multi_head_attention_forward
# The code of torch, which would else be told to be what its callers override.
_code_of_heads = FunctionType(
    _heads.__code__,
    {**_heads.__globals__, "has_torch_function": lambda _: False},
    argdefs=_heads.__defaults__,
)


@rule("multi_head_attention_forward")
def _multi_head(call: Call) -> Step:
    given = inspect.signature(_heads).bind(*call.args, **call.kwargs).arguments
    for name in ("attn_mask", "key_padding_mask"):
        if is_value(given.get(name)) and call.tensor(given[name]) is None:
            call.notes.append(_UNKNOWN_MASK)
            given |= {name: None, "is_causal": False}
    return inside(call, _code_of_heads, **given)


# Dropout and embeddings.

_ALPHA = ("alpha_dropout", "feature_alpha_dropout")


@rule("dropout", "dropout1d", "dropout2d", "dropout3d", *_ALPHA)
def _dropout(call: Call) -> Step:
    """A mask of elements, or of channels, times what is kept."""
    value, p = call.input, call.get(1, "p", call.get(1, "train", 0.5))
    alpha = call.name in _ALPHA
    training = call.get(2, "training", call.get(2, "train", not alpha))
    law, keep = call.law(value), 1.0 - p
    if not training or not p:
        return Step.curve(value, law)
    if p == 1:
        return Step([Law.constant(law.dims, 0.0)])
    channels = call.name[-1] == "d" or call.name.startswith("feature")
    gain, put = (rules.alpha_gain(p), -ALPHA) if alpha else (1.0 / keep, 0.0)
    shared = {k for d in range(2, len(law.dims)) for k in law.along(d)} if channels else set()

    def masked(array: Array, same: float, other: float) -> Array:
        array = twos(array)
        factor = np.full(array.shape, other)
        zero = middle(array.shape)
        factor[tuple(slice(None) if k in shared else n for k, n in enumerate(zero))] = same
        return array * factor

    # Around what stands in the place of what is dropped.
    mean = law.mean - put
    second = plus(law.covariance, mean**2)
    covariance = gain**2 * plus(masked(second, keep, keep**2), -((keep * mean) ** 2))
    centre = gain * keep * law.mean if alpha else law.mean
    made = law.rescaled(centre, compact(covariance))
    factors = gain**2 * keep, (gain * keep) ** 2
    return Step.curve(value, made, array=lambda array: compact(masked(array, *factors)))


@rule("embedding")
def _embedding(call: Call) -> Step:
    """Rows that tokens look up, any of them alike; the same token has the same row."""
    tokens, own = call.input, call.get(1, "weight")
    rows = call.tensor(own)
    if rows is None:
        return unknown(call, "its weight is made of what the model is given")
    blank = call.get(2, "padding_idx")
    rows = rows.detach().double().cpu()
    if blank is not None and blank >= 0 and len(rows) > 1:
        rows = torch.cat([rows[:blank], rows[blank + 1 :]])
    law = call.law(tokens)
    if law.values is not None:
        return unknown(call)
    mean, variance = float(rows.mean()), float(rows.var(correction=0))
    common = float(rows.mean(0).var(correction=0)) if len(rows) > 1 else variance
    array = law.rho * variance
    if common > 1e-9 * variance:
        array = twos(array) + (1.0 - twos(law.rho)) * common
    width = rows.shape[1]
    array = np.expand_dims(array, array.ndim) if width > 1 else array
    dims = (*law.dims, *dims_of((width,)))
    return Step([Law.normal(dims, mean, array, call.weight(own)[0])])


# Gates, and activations that are more than a function.


@by_torch("glu")
def _glu(input, dim=-1):
    passing, gate = input.chunk(2, dim)
    return passing * torch.sigmoid(gate)


@rule("rrelu")
def _rrelu(call: Call) -> Step:
    """Slopes that are drawn on the left: their spread adds to the variance."""
    value = call.input
    low, high = call.get(1, "lower", 1.0 / 8.0), call.get(2, "upper", 1.0 / 3.0)
    law, mean = call.law(value), (low + high) / 2.0
    left = np.minimum(law.values, 0.0)
    made = law.image(np.maximum(law.values, 0.0) + mean * left)
    square = mean**2
    if call.get(3, "training", False):
        spread = (high - low) ** 2 / 12.0
        square += spread
        covariance = np.array(twos(made.covariance))
        covariance[middle(covariance.shape)] += spread * float(WEIGHTS @ left**2)
        made = made.rescaled(made.mean, compact(covariance))
    return Step.curve(value, made, np.where(law.values > 0, 1.0, math.sqrt(square)))


@rule("prelu")
def _prelu(call: Call) -> Step:
    value, slopes = call.input, call.tensor(call.get(1, "weight"))
    if slopes is None:
        return unknown(call, "its slopes are made of what the model is given")
    if slopes.numel() > 1 and bool((slopes != slopes.flatten()[0]).any()):
        call.notes.append("its slopes are taken for their mean")
    slope = float(slopes.detach().double().mean())
    return inside(call, lambda x: nn.functional.leaky_relu(x, slope), value)


# Tensors that are made.


_MADE_OF = {"zeros": 0.0, "ones": 1.0}


@rule("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")
def _filled_like(call: Call) -> Step:
    what = call.name.replace("new_", "").replace("_like", "")
    given = call.get(2 if call.name == "new_full" else 1, "fill_value")
    number = _MADE_OF.get(what, given)
    if not isinstance(number, int | float):
        return unknown(call)
    return Step([Law.constant(dims_of(call.shapes[0]), float(number))])


@rule("randn", "randn_like", "rand", "rand_like")
def _thrown(call: Call) -> Step:
    dims = dims_of(call.shapes[0])
    made = Law.normal(dims, 0.0, ones(dims))
    if not call.name.startswith("randn"):
        made = made.image(np.cumsum(WEIGHTS) - 0.5 * WEIGHTS)
    return Step([made])


@rule("bernoulli")
def _tossed(call: Call) -> Step:
    """Ones, of chances that are a number or those of a tensor, and zeros."""
    in_place = call.function.__name__.endswith("_")
    chance = call.law(call.get(1, "p", 0.5 if in_place else call.input)).mean
    dims = dims_of(call.shapes[0])
    if not 0.0 < chance < 1.0:
        return Step([Law.constant(dims, chance)])
    heads = np.cumsum(WEIGHTS) - 0.5 * WEIGHTS > 1.0 - chance
    made = Law.normal(dims, 0.0, ones(dims)).image(heads.astype(float))
    return Step([made.rescaled(chance, ones(dims) * chance * (1.0 - chance))])


@rule("normalize")
def _unit_length(call: Call) -> Step:
    """Division by the length along a dimension, of which every entry has its share."""
    value, dim = call.input, call.get(2, "dim", 1)
    law = call.law(value)
    if call.get(1, "p", 2.0) != 2.0 or law.values is None:
        return unknown(call)
    over = list(law.along(dim % len(law.dims)))
    unit = custom(lambda c: normalised(c, c.args[0], over, 0.0, centred=False))
    return inside(call, lambda x: unit(x) * law.shape[dim] ** -0.5, value)


@rule("amax", "amin", "max", "min")
def _extreme(call: Call) -> Step:
    """The largest, or smallest, over dimensions: a window of all their places."""
    value, named = call.input, call.get(1, "dim", call.kwargs.get("other"))
    law = call.law(value)
    if law.values is None:
        return unknown(call)
    if is_value(named):
        two = torch.maximum if call.name == "max" else torch.minimum
        return inside(call, two, value, named)
    over = dimensions(named, len(law.dims))
    order = [*(d for d in range(len(law.dims)) if d not in over), *over]
    first, sign = len(order) - len(over), -1.0 if call.name.endswith("min") else 1.0
    sizes = [law.shape[d] for d in over]
    steps = steps_of(sizes, [1] * len(sizes), sizes, sizes, 0, 1)
    largest = custom(lambda c: of_windows(c, c.args[0], first, steps))

    def extreme(x):
        moved = (x * sign if sign < 0 else x).permute(order)
        made = largest(moved, shape=(*moved.shape[:first], *[1] * len(over)))
        made = made.reshape(call.shapes[0])
        return made * sign if sign < 0 else made

    step = inside(call, extreme, value)
    return Step([*step.laws, *map(Law.tokens, call.shapes[1:])], step.back)
