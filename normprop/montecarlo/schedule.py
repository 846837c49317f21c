"""What is drawn, in which blocks, and who measures them: threads that work ahead, in one order."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from normprop.montecarlo.geometry import geometry_of
from normprop.montecarlo.statistics import spread
from normprop.names import NAMED

_BLOCK = 1 << 17
"""Input elements a block holds at most, unless one sample is larger: small enough for the
caches, large enough that a layer call costs nothing beside its numbers."""


@dataclass(frozen=True)
class Plan:
    """What a simulation draws and which elements of it count."""

    sample: tuple[int, ...]  # shape of an input of the layer, without the batch dimension
    output: tuple[int, ...]  # shape of an output
    rows: tuple[int, ...]  # samples of each block of a replicate
    stacked: int  # replicates that share a block
    # The input's places that count, of the dimensions after the channels.
    inside_x: tuple[slice, ...]
    inside_y: tuple[slice, ...]  # the output's
    by_channel: bool  # whether figures are one a channel
    channels: int  # entries of a figure
    mean: float  # of the input
    std: float  # of the input
    alone: bool = True  # whether blocks have to run one after the other, in order
    writes: bool = True  # whether the layer may write on its input

    @property
    def elements(self) -> int:
        """Input elements of a replicate."""
        return sum(self.rows) * math.prod(self.sample)


def planned(function, before, n, mean, std, shape, replicates, device, dtype) -> Plan:
    """What a simulation of these arguments draws; a trial tells the rest."""
    sample, inside_x, inside_y, by_channel = geometry_of(function, shape)
    trial = torch.zeros(3, *sample, device=device, dtype=dtype).normal_() * std + mean
    output, draws = _forward(function, before, trial, sample, shape)
    size = math.prod(sample)
    rows = math.ceil(n / (replicates * size))
    most = max(1, _BLOCK // size)
    counts = (most,) * (rows // most) + ((rows % most,) if rows % most else ())
    # With a shape, samples of a batch may depend on one another, as statistics of batches do.
    stacked = max(1, min(replicates, most // rows)) if shape is None else 1
    # Forward figures have an entry an output channel, backward ones an input channel.
    channels = max(sample[0], output[0]) if by_channel else 1
    parts = [function] if before is None else [function, before]
    alone = draws or torch.is_autocast_enabled("cpu") or not all(map(_is_pure, parts))
    writes = not _is_pure(function) or any(getattr(m, "inplace", 0) for m in _modules(function))
    inside, law = (inside_x, inside_y), (float(mean), float(std))
    return Plan(sample, output, counts, stacked, *inside, by_channel, channels, *law, alone, writes)


def _is_pure(function) -> bool:
    """Whether calls from several threads cannot meet, and none leaves anything behind."""
    modules = _modules(function)
    if not modules:
        return any(function is named for named in NAMED.values())
    return all(
        type(m).__module__.startswith(("torch.nn.modules.", "normprop."))
        # It may hold a function of the caller's.
        and all(_is_pure(held) for held in vars(m).values() if callable(held))
        and not (m.training and any(True for _ in m.buffers(recurse=False)))
        and not (m._forward_hooks or m._forward_pre_hooks or m._backward_hooks)
        for m in modules
    )


def _modules(function) -> list[nn.Module]:
    return list(function.modules()) if isinstance(function, nn.Module) else []


def _forward(function, before, trial, sample, shape) -> tuple[tuple[int, ...], bool]:
    """Shape of an output sample, and whether random numbers were drawn for it.

    Refuses a module that mixes what it was guessed not to mix.
    """
    drawn = []

    def seeded(call, *inputs):
        seed_generator(0, trial.device)
        state = _state(trial.device)
        result = call(*inputs)
        drawn.append(not torch.equal(state, _state(trial.device)))
        return result

    try:
        with torch.no_grad():
            x = trial if before is None else seeded(before, trial)
            y = _tensor(seeded(function, x.clone()))
            # Who draws may draw otherwise for another number of samples.
            other = x.clone() if drawn[-1] else x[:2].clone()
            other[2:] = 7.0 * x.std() + x.mean()
            again = _tensor(seeded(function, other))
    except Exception as problem:
        if shape is None:
            raise ValueError(
                f"shape must be given for {_name(function)}: it does not run on samples of the "
                f"shape {sample} that was guessed ({problem})"
            ) from problem
        raise
    if y.shape[:1] != trial.shape[:1] or (
        not sample and (y.shape != trial.shape or not torch.equal(y[:2], again[:2]))
    ):
        raise ValueError(
            f"shape must be given for {_name(function)}: the samples of a batch must not "
            f"depend on one another; an input of shape {tuple(trial.shape)} gave {tuple(y.shape)}"
        )
    return tuple(y.shape[1:]), any(drawn)


@dataclass(frozen=True)
class Jobs:
    """The blocks of a simulation."""

    function: Callable[[Tensor], Tensor]
    before: Callable[[Tensor], Tensor] | None
    plan: Plan
    seed: int
    device: torch.device
    dtype: torch.dtype

    def run(self, stacks: list[range], chunk: int) -> Iterator[tuple[range, int, np.ndarray]]:
        """Replicates, number of elements drawn and figures of each block, in order.

        Threads work ahead: NumPy draws without holding Python's lock, and torch computes so.
        """
        keys = ((stack, k, rows) for stack in stacks for k, rows in enumerate(self.plan.rows))
        if self.device.type == "cuda":
            for key in keys:
                yield self._measured(*self._drawn(*key))
            return
        ahead: deque = deque()

        def job(*key):
            drawn = self._drawn(*key)
            return drawn if self.plan.alone else self._measured(*drawn)

        def first():
            found = ahead.popleft().result()
            return self._measured(*found) if self.plan.alone else found

        workers = min(chunk, os.cpu_count() or 1)
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for key in keys:
                ahead.append(pool.submit(job, *key))
                if len(ahead) >= chunk:
                    yield first()
            while ahead:
                yield first()

    def _drawn(self, stack: range, index: int, rows: int):
        plan = self.plan
        sequence = np.random.SeedSequence(self.seed, spawn_key=(stack.start, index))
        numbers_seed, layer_seed = sequence.spawn(2)
        x, dy = _normals(numbers_seed, len(stack) * rows, plan, self.device, self.dtype)
        if plan.std != 1.0:
            x.mul_(plan.std)
        if plan.mean != 0.0:
            x.add_(plan.mean)
        return stack, layer_seed, x, dy

    def _measured(self, stack: range, layer_seed, x: Tensor, dy: Tensor):
        if self.plan.alone:
            # torch's CPU generator keeps 32 bits of a seed.
            seed_generator(int(layer_seed.generate_state(1)[0]), self.device)
        elements = x.numel()
        return stack, elements, _measure(self.function, self.before, x, dy, len(stack), self.plan)


def _normals(sequence, rows, plan, device, dtype) -> tuple[Tensor, Tensor]:
    shapes = ((rows, *plan.sample), (rows, *plan.output))
    if device.type == "cuda":
        generator = torch.Generator(device)
        generator.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1)))
        x, dy = (torch.randn(s, generator=generator, device=device, dtype=dtype) for s in shapes)
        return x, dy
    generator = np.random.Generator(np.random.SFC64(sequence))
    x, dy = (torch.from_numpy(np.asarray(generator.standard_normal(s))) for s in shapes)
    return x.to(device, dtype), dy.to(device, dtype)


class _Arriving(torch.autograd.Function):
    """A number whose gradient at y is dy.

    So is that of Σ y·dy, at the cost of two passes more.  Handing dy over to
    ``torch.autograd.grad`` would make torch import SymPy, half a second, to compare two shapes.
    """

    # What arrives has no say.
    gradient_factors = (math.nan,)

    @staticmethod
    def forward(ctx, y, dy):
        ctx.save_for_backward(dy)
        return y.new_zeros(())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, _):
        return ctx.saved_tensors[0], None


def _measure(function, before, x: Tensor, dy: Tensor, stacked: int, plan: Plan) -> np.ndarray:
    """Count, mean and sum of squared deviations of y and of dx: (stacked, 2, 3, channels)."""
    x = x if before is None else before(x).detach()
    x.requires_grad_()
    with torch.enable_grad():
        # A layer may write on its input, but not on a leaf.
        y = _tensor(function(x.clone() if plan.writes else x))
        arriving = _Arriving.apply(y, dy)
    (dx,) = torch.autograd.grad(arriving, x, materialize_grads=True)
    figures = np.zeros((stacked, 2, 3, plan.channels))
    for row, (tensor, inside) in enumerate(((y.detach(), plan.inside_y), (dx, plan.inside_x))):
        tensor = tensor[(slice(None), slice(None), *inside)] if inside else tensor
        tensor = tensor.double()
        if plan.by_channel:
            by_channel = tensor.unflatten(0, (stacked, -1)).movedim(2, 1).flatten(2)
        else:
            by_channel = tensor.reshape(stacked, 1, -1)
        average, squares = spread(by_channel)
        channels = squares.shape[1]
        figures[:, row, 0] = by_channel.shape[2]
        figures[:, row, 1, :channels] = average
        figures[:, row, 2, :channels] = squares
    return figures


def seed_generator(seed: int, device: torch.device) -> None:
    """Seed the generator that the layer itself draws from, on this device alone.

    ``torch.manual_seed`` would seed all devices, and keeps a stack trace of each call until
    CUDA starts.
    """
    if device.type == "cuda":
        # Seeds the current device, which need not be this one.
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def _state(device: torch.device) -> Tensor:
    """Of the generator that :func:`seed_generator` seeds."""
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.default_generator.get_state()


def _tensor(output) -> Tensor:
    # Pooling with return_indices gives a pair.
    output = output[0] if isinstance(output, tuple) else output
    if not isinstance(output, Tensor):
        raise TypeError(f"layer must return a tensor; it returned {type(output).__name__}")
    return output


def _name(function) -> str:
    return getattr(function, "__name__", type(function).__name__)
