"""Products of tensors, softmax and attention, dropout, embeddings."""

import inspect
import math
from dataclasses import replace
from functools import partial
from types import FunctionType

import numpy as np
import torch
from torch import Tensor, nn

from normprop import rules
from normprop.gaussian import Normal
from normprop.graph import calls, fields
from normprop.graph.calls import Call, Step, by_torch, custom, elementwise, inside, rule, unknown
from normprop.graph.fields import BELOW, GRID, WEIGHTS, Array, Axis, Chain, Dim, Field
from normprop.graph.maps import OF_INPUT, dimensions, linear, of_windows, windows_of
from normprop.graph.normalised import normalised
from normprop.graph.trace import Value, is_value
from normprop.rules.dropout import ALPHA

# Logits below count as hidden.
_HIDDEN = -30.0
_UNKNOWN_MASK = "what its mask hides is not known before it runs; taken for nothing"
_ALPHA = ("alpha_dropout", "feature_alpha_dropout")

# Sums over products.


def contracted(call: Call, left, right, first: str, second: str, out: str) -> Step:
    """A sum over products, in the words of einsum; both tensors are independent."""
    laws, words = (call.law(left), call.law(right)), (first, second)
    if any(law.values is None for law in laws):
        return unknown(call)
    if min(law.variance for law in laws) > 0:
        calls.note_common_roots(call, *laws)
    found: dict[str, Dim] = dict.fromkeys(out, ())
    for law, word in zip(laws, words, strict=True):
        for letter, dim in zip(word, law.dims, strict=True):
            # A dimension of one place is spread over whatever the other has.
            known = found.get(letter, ())
            found[letter] = max(known, dim, key=lambda d: (len(d), any(a.samples for a in d)))
    dims, chains = list(found.values()), []
    for law, word in zip(laws, words, strict=True):
        chain = Chain(law.dims)
        chain.permute([word.index(c) if c in word else None for c in found])
        chains.append(chain.spread(dims))
    seconds = [chain(fields.twos(law.second)) for chain, law in zip(chains, laws, strict=True)]
    summed = Chain(dims)
    for dim in range(len(out), len(dims)):
        summed.sum(dim)
    mean = laws[0].mean * laws[1].mean * math.prod(map(fields.size_of, dims[len(out) :]))
    covariance = fields.compact(fields.plus(summed(fields.product(*seconds)), -(mean**2)))
    made = Field.normal(tuple(dims[: len(out)]), mean, covariance, fields.roots_of(*laws))

    def back(gradients):
        gradient = summed.back(fields.twos(fields.total(gradients[0], made)))
        for value, chain, other in zip((left, right), chains, seconds[::-1], strict=True):
            product = fields.product(gradient, other)
            yield value, fields.gradient_of(fields.compact(chain.back(product)))

    return Step([made], back)


@rule("matmul", "bmm", "mm", "mv")
def _matmul(call: Call, input, other=None, mat2=None, **_) -> Step:
    other = mat2 if other is None else other
    weight, shapes = call.tensor(other), (call.law(input).shape, call.law(other).shape)
    if weight is not None and weight.ndim == 2 and call.tensor(input) is None:
        return linear(call, input, other, weight.T, None)
    batch, count = "abcdefgh", max(max(map(len, shapes)) - 2, 0)
    ends = "i" * (len(shapes[0]) > 1), "j" * (len(shapes[1]) > 1)
    one, two = (batch[8 - max(len(shape) - 2, 0) :] for shape in shapes)
    out = batch[8 - count :] + "".join(ends)
    return contracted(call, input, other, f"{one}{ends[0]}k", f"{two}k{ends[1]}", out)


@rule("einsum")
def _einsum(call: Call, equation, *operands) -> Step:
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = operands[0]
    words, _, out = equation.replace(" ", "").partition("->")
    words = words.split(",")
    plain = all(len(set(w)) == len(w) for w in words) and "." not in equation and "->" in equation
    if len(operands) != 2 or not plain:
        return unknown(call)
    return contracted(call, *operands, *words, out)


@rule("addmm", "baddbmm", "addbmm")
def _added_product(
    call: Call, input, mat1=None, mat2=None, *, batch1=None, batch2=None, beta=1, alpha=1, **_
) -> Step:
    left, right = batch1 if mat1 is None else mat1, batch2 if mat2 is None else mat2
    weight, bias = call.tensor(right), call.tensor(input)
    plain = weight is not None and bias is not None and alpha == beta == 1
    if plain and weight.ndim == 2:
        return linear(call, left, right, weight.T, bias.expand(weight.shape[1]))

    def apply(b, x, y):
        product = (x @ y).sum(0) if call.name == "addbmm" else x @ y
        scaled = [t if n == 1 else t * n for t, n in ((b, beta), (product, alpha))]
        return scaled[0] + scaled[1]

    return inside(call, apply, input, left, right)


@rule("bilinear")
def _bilinear(call: Call, input1, input2, weight, bias=None) -> Step:
    """A map with weights of all products of an entry of the one and one of the other."""
    if call.tensor(weight) is None:
        return unknown(call, OF_INPUT)
    call.weights[weight.number] = call.weight(weight)

    def apply(input1, input2, weight, bias):
        rest = "abcdefg"[: input1.ndim - 1]
        pairs = torch.einsum(f"{rest}i,{rest}j->{rest}ij", input1, input2)
        return nn.functional.linear(pairs.flatten(-2), weight.flatten(1), bias)

    return inside(call, apply, input1, input2, weight, bias)


# Masks.


@rule("add", "sub", "rsub")
def _sum(call: Call, input, other=None, *_, **__) -> Step:
    """A sum, which hides logits where a constant is far below."""
    for value, added in ((input, other), (other, input)):
        mask = call.tensor(added)
        if mask is not None and mask.is_floating_point() and bool((mask < _HIDDEN).any()):
            return _hiding(call, value, mask < _HIDDEN)
    return elementwise(call) or unknown(call)


@rule("masked_fill")
def _masked_fill(call: Call, input, mask, value) -> Step:
    return _where(call, mask, value, input)


@rule("where")
def _where(call: Call, condition, input=None, other=None) -> Step:
    """Numbers of the one where a mask is, of the other elsewhere."""
    chosen, parts = call.tensor(condition), (input, other)
    if chosen is None or None in parts:
        return unknown(call, "which numbers are taken is not known before it runs")
    for fill, kept, hidden in ((*parts, chosen), (*parts[::-1], ~chosen)):
        numbers = call.tensor(fill) if is_value(fill) else torch.tensor(float(fill), device="cpu")
        if numbers is not None and bool((numbers < _HIDDEN).all()):
            return _hiding(call, kept, hidden)
    return _mixed(call, chosen.double(), *parts)


@rule(Tensor.where)
def _kept_where(call: Call, input, condition, other) -> Step:
    return _where(call, condition, input, other)


def _mixed(call: Call, chosen: Tensor, yes, no) -> Step:
    """A mixture: with m for the mask, E mm' x₁x₁' + E (1-m)(1-m') x₂x₂', and what is across."""
    mask = Value(("mask", next(fields.fresh)))
    call.tensors[mask.number] = chosen
    dims = calls.common_dims(call, [v for v in (yes, no, mask) if is_value(v)])
    if dims is None:
        return unknown(call)
    chains = [Chain(call.law(v).dims).spread(dims) for v in (yes, no, mask)]
    *laws, there = (call.law(v).moved(c) for v, c in zip((yes, no, mask), chains, strict=True))
    first, second, both = fields.agreeing(*(law.second for law in (*laws, there)))
    share = float(chosen.mean())
    across = 2.0 * (share - both) * laws[0].mean * laws[1].mean
    mean = share * laws[0].mean + (1.0 - share) * laws[1].mean
    neither = 1.0 - 2.0 * share + both
    covariance = both * first + neither * second + across - mean**2
    made = calls.mixture(laws, (share, 1.0 - share), covariance, dims)

    def back(gradients):
        for i, (value, kept) in enumerate(((yes, both), (no, neither))):
            found = calls.portion(gradients[0], laws[i], made, i)
            found = fields.shifted(found, partial(fields.product, kept))
            yield value, fields.shifted(found, chains[i].back)

    return Step([made], back)


def _hiding(call: Call, value, hidden: Tensor) -> Step:
    law = call.law(value)
    seen = (~hidden).expand(torch.broadcast_shapes(hidden.shape, law.shape[-2:])).sum(-1)
    return Step.curve(value, replace(law, seen=seen.flatten().double().cpu().numpy()))


# Softmax.


@by_torch("softmin")
def _softmin(input, dim=None, _stacklevel=3, dtype=None):
    return nn.functional.softmax(-input, dim)


@rule("softmax", "log_softmax")
def _softmax(call: Call, input, dim=None, *_, **__) -> Step:
    law = call.law(input)
    if dim is None:
        dim = 0 if len(law.dims) in (0, 1, 3) else 1
    kind = _log_probabilities if call.name == "log_softmax" else _probabilities
    return kind(call, input, dim % len(law.dims))


def _probabilities(call: Call, value, dim: int) -> Step:
    r"""Softmax over a dimension of n.

    Logits of another row have E Σ_j p_j q_j = e^{v r}/n as n grows, v the variance of logits in a
    row and r the correlation of the two rows; what a row has in common has no effect.
    """
    law, chain = call.law(value), Chain(call.law(value).dims)
    n, k = law.shape[dim], chain.place(dim)
    if n == 1:
        return Step([Field.constant(law.dims, 1.0)])
    chain.regroup(dim, (Axis(n),))

    def within(array: Array) -> Array:
        """What is left of an array without what a row has in common."""
        array = chain(array)
        same = fields.at(array, k)
        return same - fields.elsewhere(same, fields.average(array, k, n), n)

    logits = within(law.covariance)
    variance = max(fields.at_zero(logits), 0.0)
    seen = np.full(1, float(n)) if law.seen is None else np.maximum(law.seen, 1.0)
    squares, slope = _of_rows(call, seen, n, math.sqrt(variance))
    correlations = fields.twos(logits / variance if variance else 0.0 * logits)
    shared = np.full(correlations.shape, float((1.0 / seen).mean()))
    if law.seen is not None and dim > 0 and law.along(dim - 1):
        # Of two rows of other lengths, the longer one sees all that the shorter one does.
        rows, row = np.sort(seen), law.along(dim - 1)[0]
        pairs = max(len(rows) * (len(rows) - 1) / 2.0, 1.0)
        if shared.shape[row] == 2:
            np.moveaxis(shared, row, 0)[1:] = (np.arange(len(rows)) / rows).sum() / pairs
    found = np.minimum(shared * np.exp(variance * correlations), 1.0)
    found[fields.middle(found.shape)] = squares
    second = np.stack([found / n, (1.0 - found) / (n * (n - 1.0))], axis=k)
    covariance = chain.back(second) - 1.0 / n**2
    made = Field.normal(law.dims, 1.0 / n, covariance, law.roots)
    if variance:
        with np.errstate(over="ignore"):
            form = np.exp(np.minimum(law.values - law.values.mean(), 700.0))
        made = law.image(form).rescaled(1.0 / n, covariance)
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


@rule("scaled_dot_product_attention")
def _attention(call: Call, *args, **kwargs) -> Step:
    """Softmax(κ q kᵀ) v."""

    def attend(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None,
               enable_gqa=False):  # fmt: skip
        if enable_gqa and query.shape[-3] != key.shape[-3]:
            count = query.shape[-3] // key.shape[-3]
            key, value = (x.repeat_interleave(count, -3) for x in (key, value))
        logits = (query @ key.mT) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device="cpu").tril()
        if attn_mask is not None and attn_mask.is_meta:
            call.notes.append(_UNKNOWN_MASK)
        elif attn_mask is not None:
            hidden = ~attn_mask if attn_mask.dtype == torch.bool else attn_mask < _HIDDEN
            logits = logits.masked_fill(hidden, -math.inf)
        return nn.functional.dropout(torch.softmax(logits, -1), dropout_p) @ value

    return inside(call, attend, *args, **kwargs)


_heads = nn.functional.multi_head_attention_forward
# The code of torch, which would else be told to be what its callers override.
_code_of_heads = FunctionType(
    _heads.__code__,
    {**_heads.__globals__, "has_torch_function": lambda _: False},
    argdefs=_heads.__defaults__,
)


@rule("multi_head_attention_forward")
def _multi_head(call: Call, *args, **kwargs) -> Step:
    given = inspect.signature(_heads).bind(*args, **kwargs).arguments
    for name in ("attn_mask", "key_padding_mask"):
        if is_value(given.get(name)) and call.tensor(given[name]) is None:
            call.notes.append(_UNKNOWN_MASK)
            given |= {name: None, "is_causal": False}
    return inside(call, _code_of_heads, **given)


# Dropout and embeddings.


@rule("dropout", "dropout1d", "dropout2d", "dropout3d", *_ALPHA)
def _dropout(call: Call, input, p=0.5, training=None, *_, train=None, **__) -> Step:
    """A mask of elements, or of channels, times what is kept."""
    law, keep, alpha = call.law(input), 1.0 - p, call.name in _ALPHA
    training = train if training is None else training
    if not p or not (not alpha if training is None else training):
        return Step.curve(input, law)
    if p == 1:
        return Step([Field.constant(law.dims, 0.0)])
    channels = call.name[-1] == "d" or call.name.startswith("feature")
    gain, put = (rules.alpha_gain(p), -ALPHA) if alpha else (1.0 / keep, 0.0)
    shared = law.along(*range(2, len(law.dims))) if channels else ()

    def masked(array: Array, same: float, other: float) -> Array:
        array = fields.twos(array)
        factor = np.full(array.shape, other)
        zero = fields.middle(array.shape)
        factor[tuple(slice(None) if k in shared else n for k, n in enumerate(zero))] = same
        return array * factor

    # Around what stands in the place of what is dropped.
    mean = law.mean - put
    second = fields.plus(law.covariance, mean**2)
    covariance = gain**2 * fields.plus(masked(second, keep, keep**2), -((keep * mean) ** 2))
    centre = gain * keep * law.mean if alpha else law.mean
    made = law.rescaled(centre, fields.compact(covariance))
    factors = gain**2 * keep, (gain * keep) ** 2
    return Step.curve(input, made, array=lambda array: fields.compact(masked(array, *factors)))


@rule("embedding")
def _embedding(call: Call, input, weight, padding_idx=None, *_, **__) -> Step:
    """Rows that tokens look up, any of them alike; the same token has the same row."""
    rows, law = call.numbers(weight), call.law(input)
    if rows is None or law.values is not None:
        return unknown(call, OF_INPUT if rows is None else "")
    if padding_idx is not None and padding_idx >= 0 and len(rows) > 1:
        rows = torch.cat([rows[:padding_idx], rows[padding_idx + 1 :]])
    mean, variance = float(rows.mean()), float(rows.var(correction=0))
    common = float(rows.mean(0).var(correction=0)) if len(rows) > 1 else variance
    array, width = law.rho * variance, fields.dims_of([rows.shape[1]])
    if common > 1e-9 * variance:
        array = fields.twos(array) + (1.0 - fields.twos(law.rho)) * common
    array = array.reshape(*array.shape, *[1] * len(width[0]))
    return Step([Field.normal((*law.dims, *width), mean, array, call.weight(weight)[0])])


@rule(torch.embedding)
def _looked_up(call: Call, weight, indices, padding_idx=None, *_, **__) -> Step:
    return _embedding(call, indices, weight, padding_idx)


# Gates, and activations that are more than a function.


@by_torch("glu")
def _glu(input, dim=-1):
    passing, gate = input.chunk(2, dim)
    return passing * torch.sigmoid(gate)


@rule("rrelu")
def _rrelu(call: Call, input, lower=1.0 / 8.0, upper=1.0 / 3.0, training=False, *_, **__) -> Step:
    """Slopes that are drawn on the left: their spread adds to the variance."""
    law, mean = call.law(input), (lower + upper) / 2.0
    left, spread = np.minimum(law.values, 0.0), (upper - lower) ** 2 / 12.0 if training else 0.0
    made = law.image(np.maximum(law.values, 0.0) + mean * left)
    if spread:
        covariance = np.array(fields.twos(made.covariance))
        covariance[fields.middle(covariance.shape)] += spread * float(WEIGHTS @ left**2)
        made = made.rescaled(made.mean, fields.compact(covariance))
    return Step.curve(input, made, np.where(law.values > 0, 1.0, math.sqrt(mean**2 + spread)))


@rule("prelu")
def _prelu(call: Call, input, weight) -> Step:
    slopes = call.numbers(weight)
    if slopes is None:
        return unknown(call, "its slopes are made of what the model is given")
    if slopes.numel() > 1 and bool((slopes != slopes.flatten()[0]).any()):
        call.notes.append("its slopes are taken for their mean")
    return inside(call, lambda x: nn.functional.leaky_relu(x, float(slopes.mean())), input)


# Tensors that are made.


@rule("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")
def _filled_like(call: Call, input, *given, fill_value=None, **_) -> Step:
    what = call.name.replace("new_", "").replace("_like", "")
    if what == "full" and fill_value is None:
        fill_value = given[-1]
    number = {"zeros": 0.0, "ones": 1.0}.get(what, fill_value)
    if not isinstance(number, int | float):
        return unknown(call)
    return Step([Field.constant(fields.dims_of(call.shapes[0]), float(number))])


def _noise(call: Call, values: Array) -> Step:
    """Independent values of a function of z."""
    return Step([Field.standard(fields.dims_of(call.shapes[0])).image(values)])


@rule("randn", "randn_like", "rand", "rand_like")
def _thrown(call: Call, *_, **__) -> Step:
    return _noise(call, GRID if call.name.startswith("randn") else BELOW)


@rule(Tensor.normal_)
def _normal(call: Call, input, mean=0.0, std=1.0, **_) -> Step:
    return _noise(call, mean + std * GRID)


@rule(Tensor.uniform_)
def _uniform(call: Call, input, *ends, **given) -> Step:
    low, high = ends or (given.get("from", 0.0), given.get("to", 1.0))
    return _noise(call, low + (high - low) * BELOW)


@rule("bernoulli")
def _tossed(call: Call, input, p=None, **_) -> Step:
    """Ones, of chances that are a number or those of a tensor, and zeros."""
    if p is None:
        p = 0.5 if call.function.__name__.endswith("_") else input
    chance, dims = call.law(p).mean, fields.dims_of(call.shapes[0])
    if not 0.0 < chance < 1.0:
        return Step([Field.constant(dims, chance)])
    heads = (1.0 - chance < BELOW).astype(float)
    made = Field.standard(dims).image(heads)
    return Step([made.rescaled(chance, fields.ones(dims) * chance * (1.0 - chance))])


@rule("normalize")
def _unit_length(call: Call, input, p=2.0, dim=1, *_, **__) -> Step:
    """Division by the length along a dimension, of which every entry has its share."""
    law = call.law(input)
    if p != 2.0 or law.values is None:
        return unknown(call)
    over = law.along(dim % len(law.dims))
    unit = custom(lambda c, x: normalised(c, x, over, 0.0, centred=False))
    return inside(call, lambda x: unit(x) * law.shape[dim] ** -0.5, input)


@rule("amax", "amin", "max", "min")
def _extreme(call: Call, input, dim=None, *_, other=None, **__) -> Step:
    """The largest, or smallest, over dimensions: a window of all their places."""
    named = other if dim is None else dim
    law = call.law(input)
    if law.values is None:
        return unknown(call)
    if is_value(named):
        two = torch.maximum if call.name == "max" else torch.minimum
        return inside(call, two, input, named)
    over = dimensions(named, len(law.dims))
    order = [*(d for d in range(len(law.dims)) if d not in over), *over]
    first, sign = len(order) - len(over), -1.0 if call.name.endswith("min") else 1.0
    sizes = [law.shape[d] for d in over]
    windows = windows_of(sizes, [1] * len(sizes), sizes, sizes, 0, 1)
    largest = custom(lambda c, x: of_windows(c, x, first, windows))

    def extreme(x):
        moved = (x * sign if sign < 0 else x).permute(order)
        made = largest(moved, shape=(*moved.shape[:first], *[1] * len(over)))
        made = made.reshape(call.shapes[0])
        return made * sign if sign < 0 else made

    step = inside(call, extreme, input)
    return Step([*step.laws, *map(Field.tokens, call.shapes[1:])], step.back)
