r"""The gate before the clock: only an implementation that is right is timed.

Each is held against a reference in float64.  Two kinds of bound, both from the epsilon ε of the
type that is timed:

- *Element by element*, for activations: a computation of a few roundings of numbers no larger
  than A is off by at most a few εA.
- *By condition*, for networks: a sum of n products is the exact one for factors that are off by
  nε at most, and in the mean by √n ε (Higham and Mary 2019).  So the error of a network is what
  such a change of all weights and inputs would do to it, and that is measured: with a random
  change of relative size δ in float64, the answer moves by D, so that it moves by about
  D √n ε/δ for rounding.

A GPU multiplies float32 in TF32 wherever torch lets it, in convolutions by default, with eleven
bits of 24.  The gate asks for true float32; the clock runs with what a user has.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

ROUNDINGS = 8
"""An elementwise computation has at most so many: the function itself to two or three units in
the last place, a shift, a scale, and as much for the slope."""


@contextmanager
def true_float32() -> Iterator[None]:
    """Products of float32 in float32, on a GPU too."""
    places = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    try:
        for place in places:
            place.allow_tf32 = False
        yield
    finally:
        for place, allowed in zip(places, before, strict=True):
            place.allow_tf32 = allowed


def tf32(device: torch.device) -> dict[str, str]:
    """In what the gate and the clock multiply float32, in words, for the results."""
    user = "float32"
    if device.type == "cuda":
        allowed = {
            "convolutions": torch.backends.cudnn.allow_tf32,
            "matrix products": torch.backends.cuda.matmul.allow_tf32,
        }
        user = ", ".join(f"{k} in {'TF32' if v else 'float32'}" for k, v in allowed.items())
    return {"gate": "float32", "clock": user}


def elementwise(
    name: str, got: Tensor, reference: Tensor, size: Tensor | float, roundings: float = ROUNDINGS
) -> str | None:
    """What is wrong with an elementwise result, or ``None``.

    Args:
        name: of the result, for the message.
        got: the result, in the type that is timed.
        reference: the same in float64.
        size: largest number that enters each element's computation.
        roundings: how many units in the last place of it the result may be off.
    """
    if got.shape != reference.shape:
        return f"{name} must have the shape {tuple(reference.shape)}; it has {tuple(got.shape)}"
    bound = roundings * torch.finfo(got.dtype).eps * size
    off = (got.double() - reference).abs() / bound
    # A comparison that a NaN fails.
    if not bool((off <= 1).all()):
        return f"{name} is off by {float(off.max()):.3g} times its error bound"
    return None


def network(
    names: list[str],
    got: list[Tensor],
    reference: list[Tensor],
    sensitivity: list[float],
    terms: int,
) -> str | None:
    """What is wrong with the results of a network, or ``None``.

    Args:
        names: of the results, for the message.
        got: the results, in the type that is timed.
        reference: the same in float64.
        sensitivity: by how much each result moves, in norm, for a relative change of weights
            and inputs, divided by that change: see :func:`sensitivities`.
        terms: n, the largest number of products in one sum.
    """
    for name, ours, right, moves in zip(names, got, reference, sensitivity, strict=True):
        if ours.shape != right.shape:
            return f"{name} must have the shape {tuple(right.shape)}; it has {tuple(ours.shape)}"
        eps = torch.finfo(ours.dtype).eps
        bound = ROUNDINGS * eps * (math.sqrt(terms) * moves + float(right.norm()))
        off = float((ours.double() - right).norm())
        if not off <= bound:
            return (
                f"{name} is off by {off / bound if bound else math.inf:.3g} times its error bound"
            )
    return None


def sensitivities(
    model: nn.Module,
    inputs: Tensor,
    results: Callable[[nn.Module, Tensor], list[Tensor]],
    seed: int = 0,
    change: float = 1e-7,
) -> list[float]:
    """How far each result moves for a random relative change of all weights and inputs.

    Args:
        model: in float64.
        inputs: in float64, or integers, which stay as they are.
        results: what the model gives for inputs.
        seed: of the change.
        change: its relative size δ, far above rounding in float64, far below 1.

    Returns:
        Norm of each result's change, divided by δ.
    """
    before = results(model, inputs)
    generator = torch.Generator().manual_seed(seed)

    def moved(tensor: Tensor) -> Tensor:
        signs = torch.randint(0, 2, tensor.shape, generator=generator).to(tensor) * 2 - 1
        return tensor * (1 + change * signs)

    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.copy_(moved(parameter))
    after = results(other, moved(inputs) if inputs.is_floating_point() else inputs)
    return [float((a - b).norm()) / change for a, b in zip(after, before, strict=True)]
