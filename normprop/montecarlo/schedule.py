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
class Run:
    """What a simulation runs, what it draws, and which elements of it count."""

    function: Callable[[Tensor], Tensor]
    before: Callable[[Tensor], Tensor] | None
    mean: float  # of the input
    std: float  # of the input
    seed: int
    device: torch.device
    dtype: torch.dtype
    sample: tuple[int, ...]  # shape of an input of the layer, without the batch dimension
    output: tuple[int, ...]  # shape of an output
    rows: tuple[int, ...]  # samples of each block of a replicate
    stacked: int  # replicates that share a block
    # The input's places that count, of the dimensions after the channels.
    inside_x: tuple[slice, ...]
    inside_y: tuple[slice, ...]  # the output's
    by_channel: bool  # whether figures are one a channel
    alone: bool  # whether blocks have to run one after the other, in order
    writes: bool  # whether the layer may write on its input

    @property
    def elements(self) -> int:
        """Input elements of a replicate."""
        return sum(self.rows) * math.prod(self.sample)

    @property
    def widths(self) -> tuple[int, int] | None:
        """Channels of the output and of the input, where figures are one a channel."""
        return (self.output[0], self.sample[0]) if self.by_channel else None

    def sums(self, replicates: int) -> np.ndarray:
        """Nothing yet: count, mean and sum of squared deviations, forward and backward."""
        return np.zeros((replicates, 2, 3, max(self.widths or (1,))))

    def blocks(self, stacks: list[range], chunk: int) -> Iterator[tuple[range, int, np.ndarray]]:
        """Replicates, number of elements drawn and figures of each block, in order.

        Threads work ahead: NumPy draws without holding Python's lock, and torch computes so.
        """
        keys = ((stack, k, rows) for stack in stacks for k, rows in enumerate(self.rows))
        if self.device.type == "cuda":
            for key in keys:
                yield self._measured(*self._drawn(*key))
            return
        ahead: deque = deque()

        def job(*key):
            drawn = self._drawn(*key)
            return drawn if self.alone else self._measured(*drawn)

        def first():
            found = ahead.popleft().result()
            return self._measured(*found) if self.alone else found

        workers = min(chunk, os.cpu_count() or 1)
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for key in keys:
                ahead.append(pool.submit(job, *key))
                if len(ahead) >= chunk:
                    yield first()
            while ahead:
                yield first()

    def _drawn(self, stack: range, index: int, rows: int):
        sequence = np.random.SeedSequence(self.seed, spawn_key=(stack.start, index))
        numbers_seed, layer_seed = sequence.spawn(2)
        x, dy = self._normals(numbers_seed, len(stack) * rows)
        if self.std != 1.0:
            x.mul_(self.std)
        if self.mean != 0.0:
            x.add_(self.mean)
        return stack, layer_seed, x, dy

    def _normals(self, sequence, rows: int) -> tuple[Tensor, Tensor]:
        shapes = ((rows, *self.sample), (rows, *self.output))
        given = {"device": self.device, "dtype": self.dtype}
        if self.device.type == "cuda":
            generator = torch.Generator(self.device)
            generator.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1)))
            x, dy = (torch.randn(shape, generator=generator, **given) for shape in shapes)
            return x, dy
        generator = np.random.Generator(np.random.SFC64(sequence))
        x, dy = (torch.from_numpy(np.asarray(generator.standard_normal(s))) for s in shapes)
        return x.to(**given), dy.to(**given)

    def _measured(self, stack: range, layer_seed, x: Tensor, dy: Tensor):
        """Count, mean and sum of squared deviations of y and of dx, as :meth:`sums` has them."""
        if self.alone:
            # torch's CPU generator keeps 32 bits of a seed.
            seed_generator(int(layer_seed.generate_state(1)[0]), self.device)
        elements = x.numel()
        x = x if self.before is None else self.before(x).detach()
        x.requires_grad_()
        with torch.enable_grad():
            # A layer may write on its input, but not on a leaf.
            y = _tensor(self.function(x.clone() if self.writes else x))
            total = y.sum()
        if y.requires_grad:
            # Handing dy over to ``torch.autograd.grad`` would make torch import SymPy, half a
            # second, to compare two shapes.
            y.register_hook(lambda ones: dy.to(ones.dtype))
        (dx,) = torch.autograd.grad(total, x, materialize_grads=True)
        figures = self.sums(len(stack))
        for row, (tensor, inside) in enumerate(((y.detach(), self.inside_y), (dx, self.inside_x))):
            tensor = tensor[(slice(None), slice(None), *inside)] if inside else tensor
            tensor = tensor.double()
            if self.by_channel:
                by_channel = tensor.unflatten(0, (len(stack), -1)).movedim(2, 1).flatten(2)
            else:
                by_channel = tensor.reshape(len(stack), 1, -1)
            average, squares = spread(by_channel)
            channels = squares.shape[1]
            figures[:, row, 0] = by_channel.shape[2]
            figures[:, row, 1, :channels] = average
            figures[:, row, 2, :channels] = squares
        return stack, elements, figures


def planned(function, before, n, mean, std, seed, shape, replicates, device, dtype) -> Run:
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
    parts = [function] if before is None else [function, before]
    alone = draws or torch.is_autocast_enabled("cpu") or not all(map(_is_pure, parts))
    writes = not _is_pure(function) or any(getattr(m, "inplace", 0) for m in _modules(function))
    given = function, before, float(mean), float(std), seed, device, dtype
    inside = inside_x, inside_y
    return Run(*given, sample, output, counts, stacked, *inside, by_channel, alone, writes)


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
