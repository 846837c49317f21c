"""The witness: run the real layer on random numbers and count.

No formula of :mod:`normprop.gaussian` is used here, nor imported: a figure that both roads
reach was reached twice.  On CUDA a kernel may stand for torch's layer, with functions of its own.

A simulation is a fixed number of independent replicates, each a fixed number of blocks, each
block with random numbers of its own, a function of (seed, replicate, block) alone; replicates too
small to be worth a call share a block, always the same ones.  So the result depends neither on
how many blocks are in flight nor on which process runs which replicate; and the scatter of the
replicates is the standard error, whatever the dependence among the elements of one tensor.
"""

import copy
import math
import numbers
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from normprop.names import CLASSES, NAMED, arguments_of, canonical

_BLOCK = 1 << 17
"""Input elements a block holds at most, unless one sample is larger: small enough for the
caches, large enough that a layer call costs nothing beside its numbers."""

_LAUNCH = 1 << 34
"""Samples of a kernel's launch at most, unless one replicate has more: a fraction of a second."""

_WINDOWS = {
    1: (nn.MaxPool1d, nn.AvgPool1d, nn.Conv1d),
    2: (nn.MaxPool2d, nn.AvgPool2d, nn.Conv2d),
    3: (nn.MaxPool3d, nn.AvgPool3d, nn.Conv3d),
}
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_FEATURE_DROPOUT = {
    nn.Dropout1d: 1,
    nn.Dropout2d: 2,
    nn.Dropout3d: 3,
    nn.FeatureAlphaDropout: 1,
}
# How many windows a side of a sample has beyond those that an overlap spoils.
_WINDOWS_A_SIDE = {1: 64, 2: 12, 3: 6}


@dataclass(frozen=True)
class Simulation:
    """Estimates with their standard errors, floats or one float64 entry a channel.

    Attributes:
        fwd_mean: mean of an output element.
        fwd_std: standard deviation of an output element.
        bwd_mean: mean of the gradient at an input element.
        bwd_std: standard deviation of the gradient at an input element.
        fwd_mean_se: standard error of ``fwd_mean``; likewise the other three.
        n: input elements drawn.
        replicates: independent replicates that the standard errors were taken from.
    """

    fwd_mean: float | np.ndarray
    fwd_std: float | np.ndarray
    bwd_mean: float | np.ndarray
    bwd_std: float | np.ndarray
    fwd_mean_se: float | np.ndarray
    fwd_std_se: float | np.ndarray
    bwd_mean_se: float | np.ndarray
    bwd_std_se: float | np.ndarray
    n: int
    replicates: int

    def z(self, exact) -> dict[str, float | np.ndarray]:
        """How many standard errors each estimate lies from ``exact``.

        Args:
            exact: anything with ``fwd_mean``, ``fwd_std`` and ``bwd_std``, such as what
                ``normprop.moments`` returns.

        Returns:
            (estimate - exact)/standard error by name of the figure; 0 where both the
            difference and the standard error vanish.
        """
        scores = {}
        for name in ("fwd_mean", "fwd_std", "bwd_std"):
            difference = np.asarray(getattr(self, name) - getattr(exact, name), dtype=float)
            error = np.asarray(getattr(self, f"{name}_se"), dtype=float)
            with np.errstate(divide="ignore", invalid="ignore"):
                score = np.where((difference == 0) & (error == 0), 0.0, difference / error)
            scores[name] = float(score) if score.ndim == 0 else score
        return scores


def simulate(
    layer: str | nn.Module | Callable[[Tensor], Tensor],
    n: int = 1_000_000,
    *,
    mean: float = 0.0,
    std: float = 1.0,
    seed: int = 0,
    after: str | nn.Module | Callable[[Tensor], Tensor] | None = None,
    shape: tuple[int, ...] | None = None,
    replicates: int = 256,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float64,
    chunk: int = 4,
    backend: Literal["auto", "torch", "triton"] = "auto",
    progress: bool | None = None,
) -> Simulation:
    r"""Mean and standard deviation of a layer, forward and backward, by running it.

    Draws :math:`x \sim N(m, s^2)`, runs ``layer`` on it, draws :math:`dy \sim N(0, 1)`, lets
    autograd find dx, and accumulates both in constant memory.

    For pooling and convolution, transposed ones too, only the interior counts: outputs that
    see no padding, and whole stride periods of inputs all of whose windows exist.  With
    ``shape`` everything counts, borders too.

    Under ``torch.distributed``, once initialised, the processes share the replicates and
    all return the same result.

    Args:
        layer: a name (``"relu"``), a module, or a function on tensors.  A module is copied
            to ``device`` and ``dtype``; its training flag is respected.
        n: input elements to draw in all, rounded up to whole replicates of at least one
            sample each.
        mean: mean m of the input.
        std: standard deviation s of the input, greater than 0.
        seed: the same seed gives the same estimates, on one kind of device, to the rounding
            of a sum, for any ``chunk`` and any number of processes.
        after: what stands before the layer; the normal input goes through it first.
        shape: shape of one sample, without the batch dimension.  Needed for modules whose
            input cannot be guessed; each figure is then one over all elements.
        replicates: how many independent parts the standard errors are taken from.
        device: where the layer runs.  On the CPU the numbers come from NumPy's SFC64, on
            CUDA from Philox, torch's or Triton's by ``backend``: same seed, other numbers.
        dtype: float64 by default; sums are float64 always.
        chunk: blocks in flight, on as many threads as there are cores.  Layers of torch and of
            this package that draw no numbers run there too; others run one block at a time.
        backend: ``"torch"`` runs the layer itself, whatever it is.  ``"triton"`` runs a kernel
            that draws, maps and sums in registers, without traffic to memory: for an elementwise
            activation of torch alone, in float32 or float64, on CUDA.  Its functions and its
            normals are its own; the normals are made in float32 and good for 10¹² samples.
            ``"auto"`` takes the kernel where it can serve.
        progress: show a bar on standard error; by default only on a terminal, and only
            for runs longer than two seconds.

    Returns:
        :class:`Simulation`; for Linear and convolution one entry a channel.

    Raises:
        TypeError: ``layer`` is no name, module or function.
        ValueError: an argument is out of its range, ``shape`` is needed, or ``backend`` asks for
            a kernel that cannot serve.
        ImportError: it does, and triton is not installed.
    """
    _check(n, mean, std, seed, replicates, chunk, shape)
    device = torch.device(device)
    known = _kernel(layer, after, shape, device, dtype, backend)
    if known is not None:
        law = float(mean), float(std)
        return _by_kernel(known, n, law, seed, replicates, device, dtype, progress)
    function = _prepared(layer, "layer", device, dtype)
    before = None if after is None else _prepared(after, "after", device, dtype)

    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), _one_thread():
        plan = _plan(function, before, n, mean, std, shape, replicates, device, dtype)
        rank, world = _process()
        stacks = [
            range(first, min(first + plan.stacked, replicates))
            for first in range(0, replicates, plan.stacked)
        ][rank::world]
        sums = np.zeros((replicates, 2, 3, plan.channels))
        total = plan.elements * sum(map(len, stacks))
        with _progress_bar(progress if rank == 0 else False, total) as bar:
            jobs = _Jobs(function, before, plan, seed, device, dtype)
            for stack, elements, figures in jobs.run(stacks, chunk):
                _merge(sums[stack.start : stack.stop], figures)
                bar.update(elements)
    sums = _all_reduced(sums, device)
    return _estimates(sums, plan, replicates)


def _kernel(layer, after, shape, device, dtype, backend) -> tuple[str, tuple[float, ...]] | None:
    """Name and parameters of the kernel that shall serve, None for the layer itself."""
    if backend not in ("auto", "torch", "triton"):
        raise ValueError(f"backend must be 'auto', 'torch' or 'triton'; it was {backend!r}")
    if backend == "torch" or (backend == "auto" and device.type != "cuda"):
        return None
    known = _known(layer)
    fits = known is not None and after is None and shape is None
    fits = fits and dtype in (torch.float32, torch.float64)
    if backend == "triton":
        if not fits:
            raise ValueError(
                "backend='triton' needs an activation of torch.nn by name or as a module, without "
                "after and shape, in float32 or float64; it was asked for "
                f"{layer!r}, after = {after!r}, shape = {shape!r}, {dtype}"
            )
        return known
    from normprop import kernels

    if not fits or not kernels.usable(torch.empty(0, device=device, dtype=dtype)):
        return None
    from normprop.kernels.activation import FUNCTIONS

    return known if known[0] in FUNCTIONS else None


def _known(layer) -> tuple[str, tuple[float, ...]] | None:
    if isinstance(layer, str):
        return canonical(layer), ()
    if type(layer) is nn.GELU:
        return ("gelu_tanh" if layer.approximate == "tanh" else "gelu", ())
    if type(layer) is nn.PReLU and layer.weight.numel() == 1:
        return "prelu", (layer.weight.item(),)
    if type(layer) is nn.RReLU and not layer.training:
        return "rrelu", (layer.lower, layer.upper)
    # A subclass is something else.
    name = CLASSES.get(type(layer))
    if name not in NAMED and name != "threshold":
        return None
    return name, tuple(float(getattr(layer, own)) for own in arguments_of(type(layer)))


def _by_kernel(known, n, law, seed, replicates, device, dtype, progress) -> Simulation:
    """The simulation of an activation by a kernel, a few replicates to a launch."""
    from normprop.kernels import montecarlo

    samples = math.ceil(n / replicates)
    plan = _Plan((), (), (samples,), 1, (), (), False, 1, *law)
    key = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> np.uint64(1))
    rank, world = _process()
    mine = range(rank, replicates, world)
    together = max(1, _LAUNCH // samples)
    sums = np.zeros((replicates, 2, 3, 1))
    with _progress_bar(progress if rank == 0 else False, samples * len(mine)) as bar:
        for at in range(0, len(mine), together):
            some = mine[at : at + together]
            figures = montecarlo.figures(*known, *law, key, some, samples, dtype, device)
            sums[some.start : some.stop : some.step, :, :, 0] = figures.numpy()
            bar.update(samples * len(some))
    return _estimates(_all_reduced(sums, device), plan, replicates)


@dataclass(frozen=True)
class _Plan:
    """What a simulation draws and which elements of it count.

    Attributes:
        sample: shape of an input of the layer, without the batch dimension.
        output: shape of an output.
        rows: samples of each block of a replicate.
        stacked: replicates that share a block.
        inside_x: the input's places that count, of the dimensions after the channels.
        inside_y: the output's.
        by_channel: whether figures are one a channel.
        channels: entries of a figure.
        mean: of the input.
        std: of the input.
        alone: whether blocks have to run one after the other, in order.
        writes: whether the layer may write on its input.
    """

    sample: tuple[int, ...]
    output: tuple[int, ...]
    rows: tuple[int, ...]
    stacked: int
    inside_x: tuple[slice, ...]
    inside_y: tuple[slice, ...]
    by_channel: bool
    channels: int
    mean: float
    std: float
    alone: bool = True
    writes: bool = True

    @property
    def elements(self) -> int:
        """Input elements of a replicate."""
        return sum(self.rows) * math.prod(self.sample)


def _plan(function, before, n, mean, std, shape, replicates, device, dtype) -> _Plan:
    sample, inside_x, inside_y, by_channel = _geometry(function, shape)
    trial = torch.zeros(3, *sample, device=device, dtype=dtype).normal_() * std + mean
    output, draws = _forward(function, before, trial, sample, shape)
    size = math.prod(sample)
    rows = math.ceil(n / (replicates * size))
    most = max(1, _BLOCK // size)
    counts = (most,) * (rows // most) + ((rows % most,) if rows % most else ())
    # With a shape, samples of a batch may depend on one another, as statistics of batches do.
    stacked = max(1, min(replicates, most // rows)) if shape is None else 1
    channels = 1
    if by_channel:
        # Forward figures have an entry an output channel, backward ones an input channel.
        channels = max(sample[0], output[0])
    parts = [function] if before is None else [function, before]
    return _Plan(
        sample,
        output,
        counts,
        stacked,
        inside_x,
        inside_y,
        by_channel,
        channels,
        float(mean),
        float(std),
        alone=draws or torch.is_autocast_enabled("cpu") or not all(map(_is_pure, parts)),
        writes=not _is_pure(function) or any(getattr(m, "inplace", 0) for m in _modules(function)),
    )


def _is_pure(function) -> bool:
    """Whether calls from several threads cannot meet, and none leaves anything behind."""
    modules = _modules(function)
    if not modules:
        return any(function is named for named in NAMED.values())
    return all(
        type(m).__module__.startswith(("torch.nn.modules.", "normprop."))
        # Holds a function of the caller's.
        and type(m).__module__ != "normprop.nn.elementwise"
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
        _seed(0, trial.device)
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


def _geometry(function, shape):
    """Sample shape, interior of input and output, and whether figures are one a channel."""
    if shape is not None:
        return tuple(shape), (), (), False
    if isinstance(function, nn.Linear):
        return (function.in_features,), (), (), True
    for dims, types in _WINDOWS.items():
        if isinstance(function, types):
            sides = [_side(function, axis, dims) for axis in range(dims)]
            channels = function.in_channels if isinstance(function, _CONVOLUTIONS) else 1
            return (
                (channels, *(side[0] for side in sides)),
                tuple(side[1] for side in sides),
                tuple(side[2] for side in sides),
                isinstance(function, _CONVOLUTIONS),
            )
    for dims, module_type in _TRANSPOSED.items():
        if isinstance(function, module_type):
            sides = [_transposed_side(function, axis, dims) for axis in range(dims)]
            lengths, inside_x, inside_y = zip(*sides, strict=True)
            return (function.in_channels, *lengths), inside_x, inside_y, True
    for module_type, dims in _FEATURE_DROPOUT.items():
        if isinstance(function, module_type):
            return (8,) + (4,) * dims, (), (), False
    return (), (), (), False


def _side(layer, axis: int, dims: int) -> tuple[int, slice, slice]:
    """Length of an input side, and the slices of its interior in the input and the output.

    Windows start at positions congruent to -padding modulo the stride.  An output is interior
    if its window lies inside the input; an input is interior if every window that would
    contain it does.
    """

    def entry(name, default):
        value = getattr(layer, name, default)
        value = default if value is None else value
        return int(value[axis] if len(value) > 1 else value[0]) if _is_tuple(value) else int(value)

    kernel = entry("kernel_size", 1)
    stride = entry("stride", kernel)
    extent = entry("dilation", 1) * (kernel - 1) + 1
    padding = getattr(layer, "padding", 0)
    if padding == "same":
        padding = (extent - 1) // 2
    elif padding == "valid":
        padding = 0
    else:
        padding = entry("padding", 0)

    windows = _WINDOWS_A_SIDE[dims] + math.ceil(extent / stride)
    start = -padding % stride
    length = start + (windows - 1) * stride + extent
    lowest = max(0, start - stride + extent)
    highest = min(length, start + windows * stride)
    periods = (highest - lowest) // stride
    first = (start + padding) // stride
    return length, slice(lowest, lowest + periods * stride), slice(first, first + windows)


def _transposed_side(layer, axis: int, dims: int) -> tuple[int, slice, slice]:
    """As :func:`_side`, for a transposed convolution: input and output change places.

    Input i reaches the ``extent`` places from i·stride - padding on.  An output is interior if
    every input that would reach it exists, whole periods of them; an input is interior if all
    that it reaches does.
    """
    stride, padding, more, gap, kernel = (
        getattr(layer, name)[axis]
        for name in ("stride", "padding", "output_padding", "dilation", "kernel_size")
    )
    extent = gap * (kernel - 1) + 1
    length = _WINDOWS_A_SIDE[dims] + math.ceil((extent + 2 * padding) / stride)
    output = (length - 1) * stride - 2 * padding + extent + more
    lowest = max(0, extent - stride - padding)
    highest = min(output, length * stride - padding)
    periods = (highest - lowest) // stride
    first, last = -(-padding // stride), (output + padding - extent) // stride
    return length, slice(first, last + 1), slice(lowest, lowest + periods * stride)


def _is_tuple(value) -> bool:
    return isinstance(value, tuple | list)


@dataclass(frozen=True)
class _Jobs:
    """The blocks of a simulation."""

    function: Callable[[Tensor], Tensor]
    before: Callable[[Tensor], Tensor] | None
    plan: _Plan
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
        job = self._drawn if self.plan.alone else self._drawn_and_measured
        workers = min(chunk, os.cpu_count() or 1)

        def first():
            found = ahead.popleft().result()
            return self._measured(*found) if self.plan.alone else found

        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for key in keys:
                ahead.append(pool.submit(job, *key))
                if len(ahead) >= chunk:
                    yield first()
            while ahead:
                yield first()

    def _drawn_and_measured(self, stack: range, index: int, rows: int):
        return self._measured(*self._drawn(stack, index, rows))

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
            _seed(int(layer_seed.generate_state(1)[0]), self.device)
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


def _measure(function, before, x: Tensor, dy: Tensor, stacked: int, plan: _Plan) -> np.ndarray:
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
        average, squares = _spread(by_channel)
        channels = squares.shape[1]
        figures[:, row, 0] = by_channel.shape[2]
        figures[:, row, 1, :channels] = average
        figures[:, row, 2, :channels] = squares
    return figures


def _spread(numbers: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sum of squared deviations over the last dimension."""
    average = numbers.mean(-1, keepdim=True)
    around_zero = torch.linalg.vector_norm(numbers, dim=-1).square_().cpu().numpy()
    mean = average[..., 0].cpu().numpy()
    moved = numbers.shape[-1] * mean**2
    if (moved <= 0.99 * around_zero).all():
        # At most two digits of sixteen are lost.
        return mean, around_zero - moved
    return mean, torch.linalg.vector_norm(numbers - average, dim=-1).square_().cpu().numpy()


def _merge(total: np.ndarray, part: np.ndarray) -> None:
    """Add a block's counts, means and sums of squared deviations to its replicates', in place.

    The pairwise rule for sums of squared deviations cancels nothing, however large the mean
    is beside the spread.
    """
    before, count = total[:, :, 0].copy(), part[:, :, 0]
    after = before + count
    gap = part[:, :, 1] - total[:, :, 1]
    total[:, :, 2] += part[:, :, 2] + gap**2 * (before * count / after)
    total[:, :, 1] += gap * (count / after)
    total[:, :, 0] = after


def _estimates(sums: np.ndarray, plan: _Plan, replicates: int) -> Simulation:
    """Estimates and standard errors from the replicates, shape (replicates, 2, 3, channels)."""
    count, averages, squares = (sums[:, :, k] for k in range(3))
    mean = averages.mean(0)
    # Each replicate's own estimate of the variance around the common mean: their average is
    # the estimate, their scatter its error.
    parts = squares / count + (averages - mean) ** 2
    mean_se = averages.std(0, ddof=1) / math.sqrt(replicates)
    variance = parts.mean(0) + mean_se**2
    std = np.sqrt(variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        std_se = parts.std(0, ddof=1) / math.sqrt(replicates) / (2.0 * std)
    std_se[std == 0] = 0.0

    widths = (plan.output[0], plan.sample[0]) if plan.by_channel else (1, 1)
    figures = {}
    for row, (pass_name, width) in enumerate(zip(("fwd", "bwd"), widths, strict=True)):
        for name, values in (
            ("mean", mean),
            ("std", std),
            ("mean_se", mean_se),
            ("std_se", std_se),
        ):
            entry = values[row, :width]
            figures[f"{pass_name}_{name}"] = entry if plan.by_channel else float(entry[0])
    return Simulation(n=plan.elements * replicates, replicates=replicates, **figures)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let the other cores draw: blocks are too small for a layer to share among threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _seed(seed: int, device: torch.device) -> None:
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
    """Of the generator that :func:`_seed` seeds."""
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.default_generator.get_state()


def _process() -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def _all_reduced(sums: np.ndarray, device: torch.device) -> np.ndarray:
    """Add up what the processes have; each replicate is zero in all of them but one."""
    if _process()[1] == 1:
        return sums
    tensor = torch.from_numpy(sums)
    if dist.get_backend() == "nccl":
        tensor = tensor.to(device)
    dist.all_reduce(tensor)
    return tensor.cpu().numpy()


def _progress_bar(progress: bool | None, total: int):
    # A bar is for people who wait: loaded only when a simulation runs, shown after two
    # seconds, and on a terminal only (disable=None) unless it was asked for.
    from tqdm import tqdm

    return tqdm(
        total=total,
        desc="simulate",
        unit="",
        unit_scale=True,
        leave=False,
        delay=0.0 if progress else 2.0,
        disable=None if progress is None else not progress,
    )


def _prepared(layer, argument: str, device, dtype):
    """The function to run: a named one, a copy of a module, or the function as it is."""
    if isinstance(layer, str):
        return NAMED[canonical(layer, argument)]
    if isinstance(layer, nn.Module):
        return copy.deepcopy(layer).to(device, dtype).requires_grad_(False)
    if isinstance(layer, type) or not callable(layer):
        raise TypeError(
            f"{argument} must be a name, a module or a function on tensors; it was {layer!r}"
        )
    return layer


def _tensor(output) -> Tensor:
    # Pooling with return_indices gives a pair.
    output = output[0] if isinstance(output, tuple) else output
    if not isinstance(output, Tensor):
        raise TypeError(f"layer must return a tensor; it returned {type(output).__name__}")
    return output


def _name(function) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _check(n, mean, std, seed, replicates, chunk, shape) -> None:
    for name, value, least in (
        ("n", n, 1),
        ("seed", seed, 0),
        ("replicates", replicates, 2),
        ("chunk", chunk, 1),
    ):
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not whole or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}; it was {value!r}")
    for name, value in (("mean", mean), ("std", std)):
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"{name} must be a real number; it was {value!r}")
        if not math.isfinite(value) or (name == "std" and value <= 0):
            rule = "finite and greater than 0" if name == "std" else "finite"
            raise ValueError(f"{name} must be {rule}; it was {value}")
    if shape is not None and not all(isinstance(k, int) and k >= 1 for k in shape):
        raise ValueError(f"shape must be made of integers of at least 1; it was {shape}")
