r"""Weights on the unit ℓ2 ball and the biases beside them, of many layers at once.

With n = ‖W‖ over what belongs to one neuron, G_V and G_c the gradients that arrive,

.. math:: V = \frac{size}{n} W, \qquad c = \frac{b - shift}{scale} + slope\, V 1,

.. math:: G = G_V + slope\, G_c \otimes 1, \qquad
    dW = \frac{size}{n}\left(G - \frac{\langle W, G\rangle}{n^2} W\right), \qquad
    db = \frac{G_c}{scale}

Where n is 0 it counts as 1: a neuron of zeros stays zero, and its gradient passes.

What belongs together, ``over``, for a weight of shape (out, in/groups, k…): a row, ``"fan-in"``;
the taps of one input channel in all the rows of its group, ``"fan-out"``; everything, ``"all"``;
with ``None`` nothing is divided, and V = size·W.

A call starts a kernel once for all layers of one type: for sums in parts, where a sum is more than
one program takes, for what is scaled, and for biases.  A table in the device's memory has a line
for each layer, and names for each program the layer that it works for and the part of it.  To a
program a weight is a matrix of neurons and their elements, whatever belongs together: neuron n
begins at ``n // within * group + n % within * run``, and its element k lies ``k // run * step + k %
run`` behind.  Where each layer's tensors lie is a second table, of distances from the first
layer's, so that one line needs no new one.  What is made lies in one piece of memory.  Tables are
copied to the device when they are new, without waiting.

Sums are taken in float32, or float64 for float64, in a fixed order: no atomics, so the same
weight gives the same bits.  The norms are kept, not recomputed, for the backward pass: two numbers
a neuron, a power of two p and 1/‖pW‖.

Squares leave the range of float32 for norms below 1e-19 or above 1e19.  So three sums are taken at
once, of the squares of W and of two multiples of it, as Blue (1978) does, and p is 1 or the factor
of the multiple whose sum is in range.  An entry of dW too large for the weight's type is the
largest number of the type.
"""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from normprop.kernels import check_usable
from normprop.kernels.launch import launch
from normprop.kernels.layer import Layer
from normprop.kernels.layout import as_dense, like
from normprop.kernels.scalar import bits, full, kernel, load, number
from normprop.kernels.table import Numbers, shared

Weights = Sequence[Tensor]
Biases = Sequence[Tensor | None]

# A program's tile: so many neurons by so many elements, or the other way where elements that
# follow each other lie apart.
_SHORT, _LONG, _WARPS = 8, 256, 8
# Tiles that a program takes before another gets some, and programs of one sum at most.
_SPAN = 8
_MOST, _MOST_OF_ALL = 64, 128
# Elements of a weight from which its indices, and twice as much, do not fit into 32 bits.
_WIDE = 1 << 30
# What is made begins at multiples of so many bytes.
_ALIGNMENT = 256


def serves(weight: Tensor) -> bool:
    """Whether a weight is read where it lies, neurons and all."""
    return weight.is_contiguous() or _is_channels_last(weight)


def batch(layers: Sequence[Layer], weights: Weights, biases: Biases) -> "Batch":
    """What runs for weights of these shapes, types and places in memory: the same while in use."""
    traits = [(w.shape, w.stride(), w.dtype, w.device) for w in weights]
    key = (_SHORT, _LONG, *layers, *traits, *[b is None for b in biases])
    found = _BATCHES.get(key)
    if found is None:
        if len(_BATCHES) >= _MOST_BATCHES:
            _BATCHES.clear()
        found = _BATCHES[key] = Batch(layers, weights, biases)
    return found


class Batch:
    """Layers whose weights are of one type, on one device: what is asked of them, ready to run.

    Who runs it in every step pays once for what follows from shapes and memory formats, which are
    those of the ``weights`` that it is made for; of ``biases`` it matters which are ``None``.
    """

    def __init__(self, layers: Sequence[Layer], weights: Weights, biases: Biases) -> None:
        for layer, weight in zip(layers, weights, strict=True):
            _check(layer, weight)
        first = weights[0]
        self.layers, self._none = tuple(layers), (None,) * len(layers)
        self._type, self._size = {"dtype": first.dtype, "device": first.device}, first.itemsize
        wide = first.dtype == torch.float64
        self._sums = {**self._type, "dtype": torch.float64 if wide else torch.float32}
        self._constants = {
            "LARGEST": torch.finfo(first.dtype).max, "SHORT": _SHORT, "LONG": _LONG,
            "WIDE": any(w.numel() >= _WIDE for w in weights),
        }  # fmt: skip
        self._copied = [i for i, weight in enumerate(weights) if not serves(weight)]
        read = self._read(weights)
        self._forms = [(w.shape, w.stride()) for w in read]
        self._shapes = tuple(
            (*w.shape[:2], math.prod(w.shape[2:]), not w.is_contiguous()) for w in read
        )
        scaled = (layer.over is not None or layer.size != 1.0 for layer in layers)
        self._forward = self._plan(scaled, map(Layer.makes_bias, layers, biases))
        # By what is asked for, its plan; by mode, where everything lay last.
        self._plans: dict[tuple, _Plan] = {}
        self._places: dict[int, tuple[list[int], Numbers]] = {}

    def forward(
        self, weights: Weights, biases: Biases
    ) -> tuple[list[Tensor], list[Tensor | None], Tensor]:
        """V and c of every layer, and the norms, for :meth:`backward`.

        Each V has its weight's shape, type and memory format, and is W itself where it is the
        same; so with c and b.
        """
        read, plan = self._read(weights), self._forward
        values, made = self._memory(plan)
        kept = self._run(_FORWARD, plan, read, biases, self._none, values, made)
        return _filled(self._returned(values, weights), weights), _filled(made, biases), kept

    def backward(
        self, weights: Weights, kept: Tensor, grads: Biases, bias_grads: Biases
    ) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """The gradients of W and b from those of V and c, given ``None`` where none arrives.

        ``kept`` is the last result of :meth:`forward`.  Each dW has its weight's shape, type and
        memory format; it is ``None`` where nothing arrives, and what arrived where that is the
        same.
        """
        read = self._read(weights)
        grads = [
            g if g is None or g.stride() == stride else like(g, w)
            for g, w, (_, stride) in zip(grads, read, self._forms, strict=True)
        ]
        arrives = tuple([g is not None for g in (*grads, *bias_grads)])
        plan = self._plans.get(arrives)
        if plan is None:
            plan = self._plans[arrives] = self._plan(*self._arriving(arrives))
        made, of_biases = self._memory(plan)
        self._run(_BACKWARD, plan, read, bias_grads, grads, made, of_biases, kept)
        return _filled(self._returned(made, weights), grads), _filled(of_biases, bias_grads)

    def project_(self, weights: Weights, biases: Biases, values: Biases, made: Biases) -> None:
        """Put every W on its ball, in place, and make V = gain·W and c in memory of earlier ones.

        That memory is ``values``, in the order of W's, and ``made``: ``None`` where V is W or c is
        b, or where they are not wanted.  Each W is such as :func:`serves` tells.
        """
        if self._copied:
            raise ValueError("a weight is put on its ball in place where it is contiguous")
        biased = tuple([c is not None for c in made])
        plan = self._plans.get(biased)
        if plan is None:
            plan = self._plans[biased] = self._plan((True,) * len(biased), biased)
        self._run(_IN_PLACE, plan, weights, biases, self._none, values, made)

    def _arriving(self, arrives: tuple[bool, ...]) -> tuple[list[bool], list[bool]]:
        """Of which layers a gradient of W is made, and of which one of b, where these arrive."""
        count, scaled, biased = len(self.layers), [], []
        for layer, own, of_bias in zip(self.layers, arrives, arrives[count:], strict=False):
            factor = layer.factors[0] * (layer.size if layer.over is None else 1.0)
            changed = own and (layer.over is not None or factor != 1.0)
            scaled.append(changed or (of_bias and layer.slope != 0.0))
            biased.append(of_bias and layer.factors[1] != layer.scale)
        return scaled, biased

    def _plan(self, scaled: Iterable, biased: Iterable) -> "_Plan":
        step = _ALIGNMENT // self._size
        places = (tuple(i for i, flag in enumerate(flags) if flag) for flags in (scaled, biased))
        return _plan(self.layers, self._shapes, *places, _SHORT, _LONG, step)

    def _read(self, weights: Weights) -> Weights:
        """The weights, in an order of memory that a program follows."""
        if self._copied:
            weights = list(weights)
            for i in self._copied:
                weights[i] = weights[i].contiguous()
        return weights

    def _returned(self, made: list, weights: Weights) -> list:
        """What was made, in the memory order of a weight that had to be copied."""
        for i in self._copied:
            if made[i] is not None:
                made[i] = like(made[i], as_dense(weights[i]))
        return made

    def _memory(self, plan: "_Plan") -> tuple[list, list]:
        """Tensors for V and c, or for their gradients, in one piece of memory."""
        values, made = list(self._none), list(self._none)
        part = torch.empty(plan.starts[-1], **self._type).as_strided
        for i, start in zip(plan.scaled, plan.starts, strict=False):
            values[i] = part(*self._forms[i], start)
        for i, start in zip(plan.biased, plan.starts[len(plan.scaled) :], strict=False):
            made[i] = part((self.layers[i].outputs,), (1,), start)
        return values, made

    def _run(self, mode, plan, weights, biases, grads, values, made, kept=None) -> Tensor:
        """Start the kernels; returns the norms."""
        sums = torch.empty(plan.sums, **self._sums)
        if kept is None:
            kept = torch.empty(plan.kept, **self._sums)
        if not (plan.scaled or plan.biased):
            return kept
        biases = [b if b is None or b.is_contiguous() else b.contiguous() for b in biases]
        columns = (weights, biases, grads, values, made)
        bases = [next((t for t in column if t is not None), weights[0]) for column in columns]
        numbers, places = plan.table.on(kept.device), self._lie(mode, columns, bases)
        for stage, (start, programs) in enumerate(plan.launches):
            if programs:
                arguments = (numbers, places, *bases, kept, sums, start)
                constants = {"STAGE": stage, "MODE": mode, **self._constants}
                launch(_weights_kernel, (programs,), arguments, constants, kept.device, _WARPS)
        return kept

    def _lie(self, mode, columns, bases) -> Tensor:
        """How far each tensor lies from the first of its kind, in the device's memory."""
        # Where what is made lies in one piece of memory follows from what it is made of.
        own = columns if mode == _IN_PLACE else columns[:3]
        if len(self.layers) == 1:
            # Of one alone each is the first of its kind.
            there = [t is None for (t,) in own]
        else:
            there = [0 if t is None else t.data_ptr() for column in own for t in column]
        last, found = self._places.get(mode, (None, None))
        if there != last:
            starts = [base.data_ptr() for base in bases]
            found = shared(tuple([
                _ABSENT.value if t is None else (t.data_ptr() - start) // self._size
                for row in zip(*columns, strict=True)
                for t, start in zip(row, starts, strict=True)
            ]))  # fmt: skip
            self._places[mode] = there, found
        return found.on(bases[0].device)


_BATCHES: dict[tuple, Batch] = {}
_MOST_BATCHES = 256
_FORWARD, _BACKWARD, _IN_PLACE = 0, 1, 2


def _filled(made: list, others: Sequence) -> list:
    """What was made, or what is the same already."""
    return [b if a is None else a for a, b in zip(made, others, strict=True)]


def _check(layer: Layer, weight: Tensor) -> None:
    check_usable(weight)
    if weight.ndim < 2 or layer.groups < 1 or weight.shape[0] % layer.groups:
        raise ValueError(
            "the weight must have the shape (out, in/groups, k…), out a multiple of groups; "
            f"it has {tuple(weight.shape)} with groups = {layer.groups}"
        )


def _is_channels_last(weight: Tensor) -> bool:
    form = {4: torch.channels_last, 5: torch.channels_last_3d}.get(weight.ndim)
    return form is not None and weight.is_contiguous(memory_format=form)


# Numbers of a line, and how many there are of places.
(
    _NEURONS, _ELEMENTS, _WITHIN, _RUN, _GROUP, _STEP, _ROWS, _PER_ROW, _ACROSS, _WHOLE, _BLOCKS,
    _STRIPS, _STRIP, _PARTS, _STRIDE, _NORMS, _OUTPUTS, _WIDTH, _SIZE, _GAIN, _FACTOR, _SLOPE,
    _SHIFT, _SCALE, _BIAS_FACTOR, _SUMS, _KEPT, _FIELDS,
) = map(tl.constexpr, range(28))  # fmt: skip
_COLUMNS = tl.constexpr(5)
_ABSENT = tl.constexpr(-(2**62))


class _Plan(NamedTuple):
    """How programs are shared out to layers.

    Attributes:
        table: a line for each layer; then, for each launch, layer and part of every program.
        launches: for sums, scaling and biases, where their programs begin, and how many they are.
        sums: how many numbers the sums in parts are.
        kept: how many the norms are.
        scaled: the layers whose V is made.
        biased: those whose c is.
        starts: where each V begins in one piece of memory, then each c; then the size of all.
    """

    table: Numbers
    launches: tuple[tuple[int, int], ...]
    sums: int
    kept: int
    scaled: tuple[int, ...]
    biased: tuple[int, ...]
    starts: tuple[int, ...]


@lru_cache(maxsize=256)
def _plan(layers, shapes, scaled, biased, short, long, step) -> _Plan:
    """Shares out what is asked of weights of these shapes."""
    lines, shares, summed = [], [], set()
    sums = kept = 0
    for i, (layer, shape) in enumerate(zip(layers, shapes, strict=True)):
        line, programs = _line(layer, shape, short, long)
        lines += [*line, sums, kept]
        shares.append(programs)
        if line[_PARTS.value] > 1:
            summed.add(i)
            sums += 3 * line[_PARTS.value] * line[_STRIDE.value]
        kept += 2 * line[_NORMS.value]
    summed = [i for i in scaled if i in summed]
    by_rows = [triton.cdiv(layer.outputs, short) for layer in layers]
    numbers, launches = lines, []
    for chosen, programs in ((summed, shares), (scaled, shares), (biased, by_rows)):
        if len(layers) == 1:
            launches.append((-1, sum(programs[i] for i in chosen)))
            continue
        own = [i << 32 | part for i in chosen for part in range(programs[i])]
        launches.append((len(numbers), len(own)))
        numbers += own
    numels = [math.prod(shapes[i][:3]) for i in scaled] + [layers[i].outputs for i in biased]
    starts = accumulate((step * triton.cdiv(numel, step) for numel in numels), initial=0)
    table = Numbers(tuple(numbers))
    return _Plan(table, tuple(launches), sums, kept, scaled, biased, tuple(starts))


def _line(layer, shape, short, long) -> tuple[list[int], int]:
    """The line of a layer, and how many programs share its weight."""
    outputs, inputs, taps, last = shape
    width = inputs * taps
    if layer.over == "fan-out":
        rows = outputs // layer.groups
        neurons, elements = layer.groups * inputs, rows * taps
        # With channels last, every tap of every row is a run of its own.
        run, step = (1, inputs) if last else (taps, width)
        order = (inputs, run, rows * width, step, rows, taps)
    else:
        neurons, elements = outputs, width
        order = (1, width, width, 0, 1, width)
    across = order[1] < 4 and neurons >= 4 * short
    block, edge = (long, short) if across else (short, long)
    blocks = triton.cdiv(neurons, block)
    # Every program adds up the sums of all parts, which must cost less than its own part.
    strips = min(triton.cdiv(elements, _SPAN * edge), math.isqrt(elements) // 2, _MOST)
    strip = edge * triton.cdiv(triton.cdiv(elements, edge), max(1, strips))
    strips = triton.cdiv(elements, strip) if elements else 0
    whole = layer.over == "all"
    parts, stride, norms = strips, neurons, neurons
    if whole:
        alone = neurons * elements <= _SPAN * short * long
        strip, strips = (elements, min(strips, 1)) if alone else (strip, strips)
        blocks = 1 if alone else min(blocks, max(1, _MOST_OF_ALL // max(1, strips)))
        parts, stride, norms = blocks * strips, block, 1
    elif layer.over is None:
        parts = norms = 0
    # Of runs of no length nothing is read, but they divide.
    order = (max(1, order[0]), max(1, order[1]), *order[2:5], max(1, order[5]))
    numbers = (layer.size, layer.gain, layer.factors[0], layer.slope, layer.shift, layer.scale)
    line = [
        neurons, elements, *order, across, whole, blocks, strips, strip, parts, stride, norms,
        layer.outputs, width, *map(bits, (*numbers, layer.factors[1] / layer.scale)),
    ]  # fmt: skip
    return line, blocks * strips


# A factor for norms below the first limit, a limit for what it is applied to, and one for what
# squares are taken of as it is; the powers of two for large norms are the inverses.
_UP_SINGLE, _UP_DOUBLE = tl.constexpr(2.0**86), tl.constexpr(2.0**700)
_LOW_SINGLE, _LOW_DOUBLE = tl.constexpr(2.0**-40), tl.constexpr(2.0**-400)
_CAP_SINGLE, _CAP_DOUBLE = tl.constexpr(2.0**50), tl.constexpr(2.0**450)


@triton.jit
def _squares(w):
    """Squares of small, middle and large entries, of which no sum overflows in its range."""
    up: tl.constexpr = _UP_DOUBLE if w.dtype == tl.float64 else _UP_SINGLE
    low: tl.constexpr = _LOW_DOUBLE if w.dtype == tl.float64 else _LOW_SINGLE
    cap: tl.constexpr = _CAP_DOUBLE if w.dtype == tl.float64 else _CAP_SINGLE
    size = tl.abs(w)
    small = tl.minimum(size, full(w, low)) * full(w, up)
    middle = tl.minimum(size, full(w, cap))
    large = w * full(w, 1.0 / up)
    return small * small, middle * middle, large * large


@triton.jit
def _norm(small, middle, large):
    """1/‖pW‖ and p from the sums of the three squares, both 1 where there is nothing."""
    up: tl.constexpr = _UP_DOUBLE if middle.dtype == tl.float64 else _UP_SINGLE
    low: tl.constexpr = _LOW_DOUBLE if middle.dtype == tl.float64 else _LOW_SINGLE
    one = full(middle, 1.0)
    below = middle < full(middle, low * low)
    above = middle > full(middle, 1.0 / (low * low))
    power = tl.where(below, full(middle, up), tl.where(above, full(middle, 1.0 / up), one))
    squares = tl.where(below, small, tl.where(above, large, middle))
    empty = small == 0
    return 1.0 / tl.sqrt(tl.where(empty, one, squares)), tl.where(empty, one, power)


@kernel
def _weights_kernel(
    table, places, w, b, g, v, c, kept, sums, start: tl.int64, STAGE: tl.constexpr,
    MODE: tl.constexpr, LARGEST: tl.constexpr, SHORT: tl.constexpr, LONG: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    # One layer alone has no list of programs.
    entry = tl.load(table + start + program, mask=start >= 0, other=program)
    line, places = table + (entry >> 32) * _FIELDS, places + (entry >> 32) * _COLUMNS
    part = entry & 0xFFFFFFFF
    w, _ = _place(w, places + 0)
    b, has_b = _place(b, places + 1)
    g, has_g = _place(g, places + 2)
    v, has_v = _place(v, places + 3)
    if STAGE == 2:
        c, _ = _place(c, places + 4)
        _rows(line, part, w, b, has_b, v, has_v, c, sums.dtype.element_ty, MODE, SHORT, LONG)
    else:
        if tl.load(line + _ACROSS) != 0:
            _strip(
                line, part, w, b, has_b, g, has_g, v, has_v, kept, sums,
                STAGE, MODE, LARGEST, True, SHORT, LONG, WIDE,
            )  # fmt: skip
        else:
            _strip(
                line, part, w, b, has_b, g, has_g, v, has_v, kept, sums,
                STAGE, MODE, LARGEST, False, SHORT, LONG, WIDE,
            )  # fmt: skip


@triton.jit
def _place(base, place):
    """Where a layer's tensor lies, and whether there is one."""
    distance = tl.load(place)
    there = distance != _ABSENT
    return base + tl.where(there, distance, 0), there


@triton.jit
def _strip(
    line, part, w, b, has_b, g, has_g, v, has_v, kept, sums, STAGE: tl.constexpr,
    MODE: tl.constexpr, LARGEST: tl.constexpr, ACROSS: tl.constexpr, SHORT: tl.constexpr,
    LONG: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Sums over a block of neurons and a strip of their elements; or V or dW there."""
    COMPUTE: tl.constexpr = sums.dtype.element_ty
    BLOCK: tl.constexpr = LONG if ACROSS else SHORT
    EDGE: tl.constexpr = SHORT if ACROSS else LONG
    AXIS: tl.constexpr = 0 if ACROSS else 1
    # A division by a number of 64 bits takes longer than what it is made for.
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    short, long = (
        tl.arange(0, SHORT).to(INDEX)[:, None],
        tl.arange(0, LONG).to(INDEX)[None, :],
    )
    if ACROSS:
        neurons, elements = long, short
    else:
        neurons, elements = short, long
    part = part.to(INDEX)
    strips, strip = tl.load(line + _STRIPS).to(INDEX), tl.load(line + _STRIP).to(INDEX)
    block, first = part // strips * BLOCK, part % strips * strip
    last = tl.minimum(first + strip, tl.load(line + _ELEMENTS).to(INDEX))
    count, whole = tl.load(line + _NEURONS).to(INDEX), tl.load(line + _WHOLE) != 0
    within, run = tl.load(line + _WITHIN).to(INDEX), tl.load(line + _RUN).to(INDEX)
    group, step = tl.load(line + _GROUP).to(INDEX), tl.load(line + _STEP).to(INDEX)
    rows, per_row = tl.load(line + _ROWS).to(INDEX), tl.load(line + _PER_ROW).to(INDEX)
    slope, blocks = tl.load(line + _SLOPE), tl.load(line + _BLOCKS).to(INDEX)
    # Where sums lie: of one norm for all, the neurons of every program are parts.
    parts, stride = tl.load(line + _PARTS).to(INDEX), tl.load(line + _STRIDE).to(INDEX)
    sums, plane = sums + tl.load(line + _SUMS), parts * stride
    n = block + neurons
    inside = whole | (n < count)
    # Where norms lie, which are 1 for a layer that has none.
    norms = tl.load(line + _NORMS)
    norm = kept + tl.load(line + _KEPT) + tl.where(whole, 0, n)
    if MODE == 1:
        inverse = tl.load(norm, mask=inside & (norms != 0), other=1.0)
        power = tl.load(norm + norms, mask=inside & (norms != 0), other=1.0)
    small = tl.zeros((SHORT, LONG), dtype=COMPUTE)
    middle, large = small, small
    for PASS in tl.static_range(STAGE + 1):
        end = count
        if PASS == 1:
            # The same order in every program.
            own = sums + tl.where(whole, neurons, n) + elements * stride
            for at in range(0, tl.where(parts == 1, 0, parts), EDGE):
                mask, there = inside & (at + elements < parts), own + at * stride
                middle += tl.load(there, mask=mask, other=0.0)
                if MODE != 1:
                    small += tl.load(there + plane, mask=mask, other=0.0)
                    large += tl.load(there + 2 * plane, mask=mask, other=0.0)
            middle = _total(middle, whole, AXIS)
            if MODE != 1:
                small, large = _total(small, whole, AXIS), _total(large, whole, AXIS)
                inverse, power = _norm(small, middle, large)
            if MODE == 0:
                once = (first == 0) & (norms != 0) & tl.where(whole, n == 0, inside)
                tl.store(norm, inverse, mask=once)
                tl.store(norm + norms, power, mask=once)
            factor = inverse * number(tl.load(line + _SIZE), COMPUTE)
            gain = number(tl.load(line + _FACTOR if MODE == 1 else line + _GAIN), COMPUTE)
        elif STAGE == 1:
            # Who is alone with a sum takes it here.
            end = tl.where(parts == 1, count, 0)
        for at_neuron in range(block, end, blocks * BLOCK):
            m = at_neuron + neurons
            outer = m // within
            begin = outer * group + (m - outer * within) * run
            for at in range(first, last, EDGE):
                k = at + elements
                mask, jump = (m < count) & (k < last), k // run
                offsets = begin + (jump * step + (k - jump * run))
                x = load(w + offsets, mask)
                if MODE == 1:
                    x = x * power * inverse
                    y = load(g + offsets, mask & has_g)
                    if slope != 0:
                        row = b + (outer * rows + k // per_row)
                        y += number(slope, COMPUTE) * load(row, mask & has_b)
                if PASS == 0 and MODE == 1:
                    middle += x * y
                elif PASS == 0:
                    more = _squares(x)
                    small, middle, large = small + more[0], middle + more[1], large + more[2]
                else:
                    if MODE == 1:
                        # The power of two comes last, as it may overflow.
                        y = (y - middle * x) * (factor * gain) * power
                        y = tl.where(y > full(y, LARGEST), full(y, LARGEST), y)
                        y = tl.where(y < full(y, -LARGEST), full(y, -LARGEST), y)
                    else:
                        y = x * power * factor
                    if MODE == 2:
                        y = y.to(w.dtype.element_ty)
                        tl.store(w + offsets, y, mask=mask)
                        y = y.to(COMPUTE) * gain
                    tl.store(v + offsets, y.to(v.dtype.element_ty), mask=mask & has_v)
    if STAGE == 0:
        own = sums + tl.where(whole, part * BLOCK, part % strips * stride + block) + neurons
        tl.store(own, tl.sum(middle, axis=AXIS, keep_dims=True), mask=inside)
        if MODE != 1:
            tl.store(own + plane, tl.sum(small, axis=AXIS, keep_dims=True), mask=inside)
            tl.store(own + 2 * plane, tl.sum(large, axis=AXIS, keep_dims=True), mask=inside)


@triton.jit
def _total(parts, whole, AXIS: tl.constexpr):
    total = tl.sum(parts, axis=AXIS, keep_dims=True)
    return tl.where(whole, tl.sum(total, axis=1 - AXIS, keep_dims=True), total)


@triton.jit
def _rows(
    line, part, w, b, has_b, v, has_v, c, COMPUTE: tl.constexpr, MODE: tl.constexpr,
    SHORT: tl.constexpr, LONG: tl.constexpr,
):  # fmt: skip
    """Biases of some rows, or the gradients of biases."""
    row = part * SHORT + tl.arange(0, SHORT).to(tl.int64)[:, None]
    inside = row < tl.load(line + _OUTPUTS)
    y = load(b + row, inside & has_b)
    if MODE == 1:
        y = y * number(tl.load(line + _BIAS_FACTOR), COMPUTE)
    else:
        slope, width = tl.load(line + _SLOPE), tl.load(line + _WIDTH)
        y = (y - number(tl.load(line + _SHIFT), COMPUTE)) / number(tl.load(line + _SCALE), COMPUTE)
        total = tl.zeros((SHORT, LONG), dtype=COMPUTE)
        for at in range(0, tl.where(slope != 0, width, 0), LONG):
            k = at + tl.arange(0, LONG).to(tl.int64)[None, :]
            mask = inside & (k < width)
            # V is W where it has no memory of its own.
            total += load(v + row * width + k, mask & has_v)
            total += load(w + row * width + k, mask & (has_v == 0))
        y += number(slope, COMPUTE) * tl.sum(total, axis=1, keep_dims=True)
    tl.store(c + row, y.to(c.dtype.element_ty), mask=inside)
