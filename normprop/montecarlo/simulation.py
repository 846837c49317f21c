"""The entrance: a layer, a law and a number of samples in; estimates out."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from normprop.checks import finite, is_whole, positive, whole
from normprop.montecarlo.schedule import planned
from normprop.montecarlo.statistics import Simulation, merge
from normprop.names import CLASSES, NAMED, arguments_of, canonical
from normprop.process import ALONE

_LAUNCH = 1 << 34
"""Samples of a kernel's launch at most, unless one replicate has more: a fraction of a second."""


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
    with ALONE, torch.random.fork_rng(devices=devices), _one_thread():
        run = planned(function, before, n, mean, std, seed, shape, replicates, device, dtype)
        rank, world = _process()
        stacks = [
            range(first, min(first + run.stacked, replicates))
            for first in range(0, replicates, run.stacked)
        ][rank::world]
        sums = run.sums(replicates)
        total = run.elements * sum(map(len, stacks))
        with _progress_bar(progress if rank == 0 else False, total) as bar:
            for stack, elements, figures in run.blocks(stacks, chunk):
                merge(sums[stack.start : stack.stop], figures)
                bar.update(elements)
    return _estimates(_all_reduced(sums, device), run.elements, run.widths)


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
    return _estimates(_all_reduced(sums, device), samples)


def _estimates(sums: np.ndarray, elements: int, widths=None) -> Simulation:
    """Estimates and standard errors from replicates of so many elements, with or without channels.

    The sums have the shape (replicates, 2, 3, channels).
    """
    replicates = len(sums)
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

    figures = {}
    for row, pass_name in enumerate(("fwd", "bwd")):
        named = {"mean": mean, "std": std, "mean_se": mean_se, "std_se": std_se}
        for name, values in named.items():
            entry = values[row]
            figures[f"{pass_name}_{name}"] = entry[: widths[row]] if widths else float(entry[0])
    return Simulation(n=elements * replicates, replicates=replicates, **figures)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let the other cores draw: blocks are too small for a layer to share among threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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


def _check(n, mean, std, seed, replicates, chunk, shape) -> None:
    for name, value, least in (
        ("n", n, 1), ("seed", seed, 0), ("replicates", replicates, 2), ("chunk", chunk, 1)
    ):  # fmt: skip
        whole(name, value, least)
    finite("mean", mean)
    positive("std", std)
    if shape is not None and not all(map(is_whole, shape)):
        raise ValueError(f"shape must be made of integers of at least 1; it was {shape}")
