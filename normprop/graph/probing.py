"""The scales of a network, measured: one pass forward and one back, and sums of them alone."""

import copy
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from normprop.graph.anatomy import joined, single_layers
from normprop.graph.prediction import UNFILLED, has_scale, predict
from normprop.graph.rewrite import check_arguments, copied
from normprop.graph.scales import Fault, Measured, Row, Scales
from normprop.graph.trace import Node, Watcher, returned, watched
from normprop.graph.wrappers import (
    dice_of_its_own,
    held_by,
    no_reentrant_checkpoints,
    other_dice_kept,
    run_as_written,
    tensors_in,
)
from normprop.nn.together import together_of

# A seed that a user's own numbers are not likely to come from.
_SEED = 28032016
# Elements that are looked at together, in float64.
_AT_ONCE = 2**20
_LEFT_OUT = "infinite elements, which the model itself writes, are left out"
_KINDS = {"NaN": torch.isnan, "infinity": torch.isinf}


def probe(model: nn.Module, /, *inputs, **keywords) -> Scales:
    """Measure the scale of every tensor, forward and backward, beside what is predicted.

    The model runs once forward, and once backward from a gradient of independent N(0, 1) at its
    floating-point outputs.  Of every tensor that a layer, or a function outside layers, puts out,
    this takes mean, standard deviation, standard deviation across samples (along the first
    dimension, where that is as long as the first input's) and the root of the mean square of its
    gradient, in float64, and keeps nothing else of it.  Complex numbers count as the two that
    they hold.  NaN and infinity are located at the operation that made them first, so that it
    serves in the middle of a training that diverges.

    A copy of the model runs, in the mode that it is in, so that nothing of the model changes;
    parameters that are frozen pass gradients on like any other.  What ``torch.compile`` or data
    parallelism put around it is taken off, and a reentrant checkpoint runs as one that is not.
    The states of the dice of torch, numpy and Python are what they were.

    Args:
        model: runs on the devices that it is on.
        inputs: what it is called with.
        keywords: what else it is called with.

    Returns:
        :class:`Scales` of :class:`Measured` rows, beside the prediction of :func:`predict` where
        that can be made, else with a note that says why not.

    Raises:
        TypeError: the model is no module, cannot be looked into or copied, or returns no tensor.
        ValueError: no tensor is given, or a tensor holds no numbers.
    """
    check_arguments(model, inputs, keywords)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        # It would raise where this is to say what there is.
        stack.enter_context(torch.autograd.set_detect_anomaly(False))
        stack.enter_context(run_as_written())
        seen = copied(model)
        for together in filter(None, map(together_of, seen.modules())):
            # Each map is to be seen making its own.
            together.layers = []
        held = held_by(seen, inputs, keywords)
        if any(tensor.is_meta for tensor in held):
            raise ValueError(
                "model and inputs must hold numbers to be measured; a tensor of theirs is on the "
                "meta device"
            )
        stack.enter_context(dice_of_its_own(held, _SEED))
        stack.enter_context(other_dice_kept())
        found = _measured(seen, inputs, keywords)
    scales = Scales(tuple(found.rows), tuple(found.faults.values()), tuple(found.notes))
    try:
        predicted = predict(model, *inputs, **keywords)
    except Exception as problem:
        note = f"no prediction: {type(problem).__name__}: {problem}"
        return replace(scales, notes=(*scales.notes, note))
    return beside(scales, predicted, found.depends)


def _measured(model: nn.Module, inputs: tuple, keywords: Mapping[str, object]) -> "_Probe":
    if any(is_lazy(p) for p in model.parameters()):
        # Lazy layers make themselves in their first run, which is like no other.
        with torch.no_grad():
            args, kwargs = _fresh((inputs, keywords), differentiable=False)
            model(*args, **kwargs)
    for parameter in filter(has_scale, model.parameters()):
        parameter.requires_grad_()
        # Nobody asks for its gradient.
        parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    args, kwargs = _fresh((inputs, keywords))
    leaves = single_layers(model)
    watcher = _Probe(model, leaves, tensors_in((args, kwargs)))
    try:
        with no_reentrant_checkpoints():
            with watched(model, leaves, watcher):
                result = model(*args, **kwargs)
            watcher.run_backward(returned(result))
    finally:
        # Let the graph go, which holds hooks that hold the watcher.
        watcher.steps.clear()
        watcher.ends.clear()
    return watcher


def _fresh(given, differentiable: bool = True):
    """Copies of inputs, into which the model may write, and which get gradients."""
    made = {}
    for tensor in tensors_in(given):
        known = tensor.detach().clone() if tensor.is_inference() else tensor.detach()
        if differentiable and has_scale(tensor):
            # The clone is no leaf, which could not be written into.
            known.requires_grad_()
        made[id(tensor)] = known.clone()
    return copy.deepcopy(given, made)


class _Probe(Watcher):
    """Takes the figures of every tensor that it is shown, and holds none of them."""

    def __init__(self, model: nn.Module, leaves: set[str], inputs: list[Tensor]):
        super().__init__()
        self.rows: list[Measured] = []
        # By row, whether it depends on the input.
        self.depends: list[bool] = []
        self.faults: dict[tuple[str, str], Fault] = {}
        self.notes: list[str] = []
        # Steps of the backward pass that are known already, and leaves that they end in.
        self.steps: set = set()
        self.ends: list[Tensor] = []
        # Tensors that depend on the input: a dimension of them may stand for samples.
        self.dependent = WeakTensorKeyDictionary()
        self.infinite = WeakTensorKeyDictionary()
        self.samples = next((len(tensor) for tensor in inputs if tensor.dim()), 1)
        names = ["input", *(f"input {place}" for place in range(1, len(inputs)))]
        for name, tensor in zip(names, inputs, strict=True):
            self.dependent[tensor] = True
            for what in self._look(name, "input", tensor, lambda: False):
                self._fault("given", what, name, "input")
        self._watch_steps(inputs, Node("input"))
        self._look_at_what_is_held(model, leaves)

    def _look_at_what_is_held(self, model: nn.Module, leaves: set[str]) -> None:
        """Note parameters and buffers that are not finite before anything runs."""
        counts: Counter[str] = Counter()
        held = [
            (path, op, name, tensor)
            for path, module in model.named_modules()
            for op, own in (("parameter", module._parameters), ("buffer", module._buffers))
            for name, tensor in own.items()
            if tensor is not None and has_scale(tensor)
        ]
        for path, op, name, tensor in held:
            for what in _not_finite(tensor):
                # A buffer of what is no layer may be a mask.
                if what == "NaN" or op == "parameter" or path in leaves:
                    counts[what] += 1
                    self._fault("given", what, joined(path, name), op)
        for what, count in counts.items():
            self.notes.append(f"{what} in {count} of {len(held)} parameters and buffers")

    def called(self, node: Node, args, kwargs, result, changed) -> None:
        """Take the figures of what came out."""
        # Where a function of autograd's gives back its input, torch makes that a view.
        unseen = node.name == "view_as" and _called_by(torch.autograd.Function.apply)
        results = tensors_in(result)
        results += [t for t in changed if not any(t is r for r in results)]
        arguments = tensors_in((args, kwargs))
        depends = any(tensor in self.dependent for tensor in arguments)
        # Infinity comes from where it was, or from a number that the model wrote, as in masks.
        was_there = any(tensor in self.infinite for tensor in arguments)

        def makes_infinity():
            if ("forward", "infinity") in self.faults:
                return True
            others = [t for t in arguments if not any(t is r for r in results)]
            return not (was_there or _writes_infinity(args, kwargs) or _hold_infinity(others))

        for tensor in results:
            if depends:
                self.dependent[tensor] = True
            if unseen:
                continue
            not_finite = self._look(node.path, node.op, tensor, makes_infinity)
            if "infinity" in not_finite:
                self.infinite[tensor] = True
            for what in not_finite:
                if what == "NaN" or makes_infinity():
                    self._fault("forward", what, node.path, node.op, node.where)
        self._watch_steps(results, node)

    def _fault(self, direction: str, what: str, path: str, op: str, where: str = "") -> None:
        self.faults.setdefault((direction, what), Fault(direction, what, path, op, where))

    def _look(
        self, path: str, op: str, tensor: Tensor, makes_infinity: Callable[[], bool]
    ) -> set[str]:
        """Add the row of a tensor; returns what it holds that is not finite."""
        if not has_scale(tensor):
            return set()
        if tensor.is_nested:
            self.notes.append(f"{path} puts out a nested tensor, which is not looked at")
            return set()
        depends, place = tensor in self.dependent and op not in UNFILLED, len(self.rows)
        self.depends.append(depends)
        self.rows.append(Measured(path, op, tuple(tensor.shape), None, None, None, None))
        if op in UNFILLED or _is_transformed(tensor):
            return set()
        of_samples = depends and tensor.dim() and len(tensor) == self.samples
        samples = self.samples if of_samples else 1
        *figures, not_finite = _figures(tensor, samples)
        said = ()
        if not_finite == {"infinity"} and not makes_infinity():
            # As masks have it, which say with it what is not looked at.
            *figures, _ = _figures(tensor, samples, masked=True)
            said = () if figures[0] is None else (_LEFT_OUT,)
        self.rows[place] = Measured(path, op, tuple(tensor.shape), *figures, None, said)
        if tensor.requires_grad:
            tensor.register_hook(partial(self._take_gradient, place))
        return not_finite

    # The way back

    def _take_gradient(self, place: int, gradient: Tensor) -> None:
        mean, std, *_ = _figures(gradient)
        root = 0.0 if mean is None else math.sqrt(std**2 + mean**2)
        self.rows[place] = replace(self.rows[place], bwd_std=root)

    def _watch_steps(self, results: list[Tensor], node: Node) -> None:
        """Have each step of the backward pass that this call has added say what it makes."""
        waiting = [tensor.grad_fn for tensor in results if tensor.grad_fn is not None]
        while waiting:
            step = waiting.pop()
            if step in self.steps:
                continue
            self.steps.add(step)
            if step.name() == "torch::autograd::AccumulateGrad":
                self.ends.append(step.variable)
            else:
                step.register_hook(partial(self._stepped, node))
                waiting += [before for before, _ in step.next_functions if before is not None]

    def _stepped(self, node: Node, made: tuple, given: tuple) -> None:
        found = _not_finite(*made)
        if found:
            for what in found - _not_finite(*given):
                self._fault("backward", what, node.path, node.op, node.where)

    def run_backward(self, results: list[Tensor]) -> None:
        """Send independent N(0, 1) back from the outputs."""
        outputs = {id(t): t for t in results if has_scale(t) and t.requires_grad}.values()
        if not outputs:
            self.notes.append("no gradient: no floating-point output of the model has one")
            return
        generator = torch.Generator("cpu").manual_seed(_SEED)
        gradients = [_normal_like(tensor, generator) for tensor in outputs]
        # What is not the model's, but read by it, gets no gradient from here.
        kept = [(end, end.grad) for end in self.ends]
        for end, _ in kept:
            end.grad = None
        try:
            torch.autograd.backward(list(outputs), gradients)
        finally:
            for end, gradient in kept:
                end.grad = gradient


def _normal_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    numbers = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    shape, kind = numbers.shape, torch.float32
    drawn = torch.randn(shape, generator=generator, dtype=kind, device="cpu").to(numbers)
    return torch.view_as_complex(drawn) if tensor.is_complex() else drawn


def _called_by(function) -> bool:
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(os.path.dirname(__file__)):
        frame = frame.f_back
    return frame.f_code is function.__code__


def _writes_infinity(args, kwargs) -> bool:
    return any(isinstance(n, float) and math.isinf(n) for n in tree_leaves((args, kwargs)))


def _hold_infinity(tensors: list[Tensor]) -> bool:
    held = [t for t in tensors if has_scale(t) and not isinstance(t, nn.Parameter)]
    return "infinity" in _not_finite(*held)


def _is_transformed(tensor: Tensor) -> bool:
    """Whether it is one of many at a time, inside of vmap, say, and has no numbers of its own."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def _not_finite(*tensors: Tensor | None) -> set[str]:
    parts = (part for tensor in tensors if tensor is not None for part in _parts(tensor))
    return {what for part in parts for what in _kinds_in(part)}


def _kinds_in(part: Tensor) -> set[str]:
    if bool(part.isfinite().all()):
        return set()
    return {what for what, holds in _KINDS.items() if bool(holds(part).any())}


def _figures(tensor: Tensor, samples: int = 1, masked: bool = False) -> tuple:
    """Mean, standard deviation, that across samples, and what is there that is not finite.

    Sums run over the parts of a tensor, a row a sample.  With ``masked``, elements that are
    infinite in some sample are left out.
    """
    total, mean, squares, across, columns = 0, 0.0, 0.0, 0.0, 0
    not_finite: set[str] = set()
    for part in _parts(tensor, samples):
        if masked:
            part = part[:, part.isfinite().all(0)]
        count, before = part.numel(), total
        if not count:
            continue
        average = part.mean()
        between = part.var(0).sum() if len(part) > 1 else torch.zeros_like(average)
        sums = torch.stack([average, (part - average).square().sum(), between]).tolist()
        if not math.isfinite(sums[0]):
            not_finite |= _kinds_in(part)
        total = before + count
        apart = sums[0] - mean
        mean += apart * count / total
        squares += sums[1] + apart**2 * before * count / total
        across, columns = across + sums[2], columns + part.shape[1]
    if not total:
        return None, None, None, not_finite
    std_across = math.sqrt(across / columns) if samples > 1 else None
    return mean, math.sqrt(squares / total), std_across, not_finite


def _parts(tensor: Tensor, samples: int = 1) -> Iterator[Tensor]:
    """Columns of numbers in float64, a row a sample."""
    table = tensor.detach()
    if table.is_nested:
        table = torch.cat([part.flatten() for part in table.unbind()])
    if table.layout != torch.strided:
        table = table.to_dense()
    if table.is_complex():
        table = torch.view_as_real(table.resolve_conj())
    # Apple's devices have no float64.
    home = "cpu" if table.device.type == "mps" else table.device
    rows = max(1, samples)
    for part in table.reshape(rows, -1).split(max(1, _AT_ONCE // rows), dim=1):
        yield part.to(home).to(torch.float64)


def beside(scales: Scales, predicted: Scales, depends: Sequence[bool]) -> Scales:
    """Measured rows with the predicted rows of the same calls.

    Where dice or numbers have decided otherwise, so that the calls are not the same, a note says
    so; of a row that does not depend on the input nothing need be predicted.
    """
    waiting: dict[tuple, list[Row]] = {}
    for row in reversed(predicted.rows):
        waiting.setdefault((row.path, row.op, row.shape), []).append(row)
    rows, alone = [], 0
    for row, needed in zip(scales.rows, depends, strict=True):
        known = waiting.get((row.path, row.op, row.shape))
        alone += needed and not known
        rows.append(replace(row, predicted=known.pop() if known else None))
    notes = [*scales.notes, *predicted.notes]
    unmet = sum(row.fwd_std is not None for rest in waiting.values() for row in rest)
    if alone or unmet:
        notes.append(
            f"measured and predicted calls differ: {alone} of {len(scales)} rows have no "
            f"prediction, and {unmet} of {len(predicted)} predicted rows were not measured"
        )
    return replace(scales, rows=tuple(rows), notes=tuple(notes))
