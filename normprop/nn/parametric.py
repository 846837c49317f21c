"""What the twins with weights share: the ball, and how they stay on it."""

import inspect
import math
import threading
import warnings
import weakref
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from normprop import functional, rules
from normprop.functional.keywords import Ball
from normprop.functional.parametric import (
    Absorbed,
    RowsPlaced,
    absorbing_bias,
    check_bilinear,
    factors,
    refuse_max_norm,
    sphere_of,
)
from normprop.functional.scale import saving, upcast
from normprop.functional.together import Layer, Placed, Placer, traits
from normprop.functional.weight import Method, normalize_weight_, on_sphere, separate_factor, sphere
from normprop.gaussian import Law
from normprop.nn.settings import Settings

__all__ = [
    "Bilinear", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d",
    "ConvTranspose3d", "Embedding", "Linear", "project_",
]  # fmt: skip


class Pass(NamedTuple):
    """A pass of a network.

    Attributes:
        saving: what tensors that are saved go through.
        thread: whose it is.
        recorded: whether gradients reach what weights are made from, where that learns.
    """

    saving: object
    thread: int
    recorded: bool

    def goes_on(self) -> bool:
        """Whether this is it."""
        if self.thread != threading.get_ident() or self.saving != saving():
            return False
        return self.recorded or not torch.is_grad_enabled()


class AtHand(NamedTuple):
    """What a network has made for one of its maps.

    Attributes:
        used: the weight that runs.
        beside: the bias that runs.
        weight: what they were made from.
        bias: the same.
        version: of the weight then, or 0.
        bias_version: of the bias.
        run: the pass that it was made for.
    """

    used: Tensor
    beside: Tensor | None
    weight: Tensor
    bias: Tensor | None
    version: int
    bias_version: int
    run: Pass

    def serves(self, parameters: dict[str, Tensor | None]) -> bool:
        """Whether a map that has these runs with it.

        Not in a checkpoint inside of the network, which runs this layer alone once more and
        has to save the same; nor where parameters were written since, or are others, in another
        thread, or where gradients are recorded that were not.
        """
        weight, bias = self.weight, self.bias
        if parameters.get("weight") is not weight or parameters.get("bias") is not bias:
            return False
        if _version(weight) != self.version or _version(bias) != self.bias_version:
            return False
        return self.run.goes_on()


CHOICES = ("scaling", "per", "gain", "method", "absorbed", "stride", "groups")


class Parametric(Settings):
    """Options, projection, printing and moments of a layer with weights.

    Attributes:
        absorbed: what its neighbours left to it, see :func:`normprop.fuse`.
    """

    _keywords: ClassVar[type] = Ball
    absorbed: Absorbed | None = None
    gain: float = 1.0
    # Until the layer says otherwise: torch's constructor draws its weights first.
    method: Method = "normalize"
    # The weight that was put on its ball, and its version then.
    _placed: tuple[weakref.ref, int] | None = None
    # What the network has made for this pass: normprop.nn.together.
    made: "AtHand | None" = None

    def _forget(self) -> None:
        # Of the options, which a constructor sets one by one, the method is the last.
        if self.method == "project":
            self.project_()

    @torch.no_grad()
    def project_(self) -> None:
        """Put the weight on its ball, in place: the forward one under ``"separate"``.

        With ``method="project"`` call this after each step of the optimiser, and after writing
        into the weight.  ``load_state_dict`` and ``reset_parameters`` do so themselves, a weight
        that is on its ball but for rounding staying as it was saved; whatever else writes, such
        as a step or :mod:`torch.nn.init`, is seen by the next forward pass, which warns.  Not
        seen are steps of fused optimisers, writes through ``weight.data`` or NumPy, a weight in
        the place of another, and, in compiled code, anything.
        """
        self._put_on_ball()
        self._note_place()

    def _put_on_ball(self) -> None:
        self.weight.copy_(self._on_ball(self.weight, self._ball()))

    def _note_place(self) -> None:
        weight = self.weight
        if not weight.is_inference():
            # Past the setters, which have nothing to check of it.
            self.__dict__["_placed"] = weakref.ref(weight), weight._version

    def _check_place(self) -> None:
        """Warn, once after each time that it was put there, of a weight that has left its ball."""
        # Compiled code would be compiled anew after each projection.
        if torch.compiler.is_compiling() or self._placed is None or self.method != "project":
            return
        weight = self.weight
        if self._placed[0]() is weight and self._placed[1] != weight._version:
            self._placed = None
            warnings.warn(
                f"the weight of {self} was written since it was put on its ball; with "
                "method='project', call normprop.nn.project_(model) after each step and after "
                "writing weights",
                stacklevel=4,
            )

    def __getstate__(self) -> dict:
        # A copy holds another weight.
        return {k: value for k, value in vars(self).items() if k not in ("_placed", "made")}

    def reset_parameters(self) -> None:
        """As in torch; then onto the ball, with ``method="project"``."""
        super().reset_parameters()
        if self.method == "project":
            self.project_()

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)
        if self.method == "project" and f"{prefix}weight" in state_dict:
            self._take_back(local_metadata.get("assign_to_params_buffers", False))

    @torch.no_grad()
    def _take_back(self, assigned: bool) -> None:
        """Put a weight that was loaded on its ball, unless it is there but for rounding."""
        weight = self.weight
        if weight.is_meta:
            return
        wanted = self._on_ball(weight, self._ball())
        own, computed = torch.finfo(weight.dtype), torch.finfo(upcast(weight[:0]).dtype)
        # A norm is a sum in blocks, which rounds far less often than it has terms.
        near = 2.0 * own.eps + 64.0 * computed.eps
        if not torch.allclose(wanted, weight, rtol=near, atol=own.tiny):
            if assigned:
                # The tensor is the caller's.
                self.weight = nn.Parameter(wanted, weight.requires_grad)
            else:
                weight.copy_(wanted)
        self._note_place()

    def _ball(self) -> str:
        return "backward" if self.scaling == "backward" else "forward"

    def _on_ball(self, weight: Tensor, ball: str) -> Tensor:
        return on_sphere(weight, *self.sphere(ball))

    def sphere(self, ball: str | None = None) -> tuple[str, float, int]:
        """What the norm of the weight goes over on its ball, what it has to be, and groups."""
        raise NotImplementedError

    def choice(self) -> tuple:
        """What is chosen of the layer, on which its ball and what is made of its weight hang."""
        return tuple([self.__dict__.get(name) for name in CHOICES])

    def extra_repr(self) -> str:
        """The arguments."""
        own = super().extra_repr()
        return own if self.absorbed is None else f"{own}, absorbed={self.absorbed}"


class MapFromWeight(Parametric):
    """Where the weight is a matrix of inputs and outputs, with taps or without."""

    def _moments(self, law: Law) -> rules.Moments:
        """Moments of a linear map or a convolution as it is."""
        return rules.parametric(self, law, weights_that_run(self))

    def _run(self, name: str, input: Tensor, *geometry) -> Tensor:
        """The function of that name, of torch where the weight that runs is there."""
        # A part alone may be compiled, and traces how it makes its own.
        made = None if torch.compiler.is_compiling() else self.made
        if made is not None and made.serves(self._parameters):
            return getattr(nn.functional, name)(input, made.used, made.beside, *geometry)
        self._check_place()
        if self.runs_as_it_is:
            return getattr(nn.functional, name)(input, self.weight, self.bias, *geometry)
        run = getattr(functional, name)
        return run(input, self.weight, self.bias, *geometry, **self._options())

    def _options(self) -> dict:
        """What its function takes besides torch's arguments."""
        return {**self._chosen(), "absorbed": self.absorbed}

    def _put_on_ball(self) -> None:
        # Without a copy of the weight.
        normalize_weight_(self.weight, self._ball(), self.per, **self._geometry())

    @property
    def runs_as_it_is(self) -> bool:
        """Whether weight and bias are those that run, both ways."""
        if self.method != "project" or self.scaling == "separate":
            return False
        if self.absorbed is None:
            return True
        # A scale alone that goes through it is its bias's affair.
        before, after, rates = self.absorbed
        alone = before == after == (before.scale, 0.0, 1.0) and rates == (1.0, 1.0)
        return alone and self.bias is None

    def sphere(self, ball: str | None = None) -> tuple[str, float, int]:
        """What the norm of the weight goes over on its ball, what it has to be, and groups."""
        geometry = self._geometry()
        return *sphere(self.weight, ball or self._ball(), self.per, **geometry), geometry["groups"]

    @property
    def outputs(self) -> int:
        """Number of output channels."""
        return self.out_features if hasattr(self, "out_features") else self.out_channels

    def _geometry(self) -> dict:
        return {
            "stride": getattr(self, "stride", 1),
            "groups": getattr(self, "groups", 1),
            "transposed": getattr(self, "transposed", False),
            "gain": self.gain,
        }


def _version(tensor: Tensor | None) -> int:
    """What tells whether a tensor was written; 0 where nothing does."""
    return 0 if tensor is None or tensor.is_inference() else tensor._version


def project_(module: nn.Module) -> int:
    """Put the weights of every layer of ``module`` with ``method="project"`` on their ball.

    Returns:
        How many layers there were.
    """
    modules = _modules(module)
    layers = [m for m in modules if isinstance(m, Parametric) and m.method == "project"]
    networks = [m.__dict__.get("_normprop_together") for m in modules]
    networks = [network for network in networks if network is not None]
    made = {layer: placed for network in networks for layer, placed in network.asked().items()}
    # Where a hook or a parametrization makes the weight, the layer sees to it.
    own = [m for m in layers if "weight" in m._parameters]
    placer = _placer(module, own, made)
    placer.place_()
    done = {own[i] for i in placer.done}
    late = [layer for layer in layers if layer not in done]
    for layer in late:
        layer.project_()
    # Of those that share memory with one that came later, what was made is to be made again.
    moved = {_memory(layer) for layer in late if "weight" in layer._parameters}
    done = {layer for layer in done if not moved or _memory(layer) not in moved}
    for layer in layers:
        layer._note_place()
    for network in networks:
        network.refresh(done & made.keys())
    return len(layers)


def _memory(layer: Parametric) -> int:
    return layer.weight.untyped_storage().data_ptr()


_PLACERS = weakref.WeakKeyDictionary()
"""Of a module, what was chosen of its layers when its weights were placed, and who placed them."""


def _placer(module: nn.Module, layers: list[Parametric], made: dict[Parametric, Placed]) -> Placer:
    """Who puts the weights of these layers on their balls; the same while they are the same."""
    # What it holds, nothing else can have the ids of.
    chosen = [
        id(made[m]) if m in made else (id(m.weight), m.choice(), traits([m.weight])) for m in layers
    ]
    last, placer = _PLACERS.get(module, (None, None))
    if chosen != last:
        asked = [made.get(m) or Placed(Layer(*m.sphere()), m.weight) for m in layers]
        placer = Placer(asked)
        _PLACERS[module] = chosen, placer
    return placer


def _modules(module: nn.Module) -> list[nn.Module]:
    """All modules, each once; their names, which torch's own walk spells out, are not wanted."""
    found, waiting = {}, [module]
    while waiting:
        one = waiting.pop()
        if one is not None and one not in found:
            found[one] = None
            waiting += reversed(one._modules.values())
    return list(found)


def weights_that_run(layer: nn.Module):
    """Forward weight, bias and backward weight of a twin, as it is, as float64 arrays."""
    weight, bias = rules.weights_of(layer)
    plain = torch.from_numpy(weight)
    forward = plain
    if layer.method == "normalize":
        forward = layer._on_ball(plain, layer._ball())
    backward = forward
    if layer.scaling == "separate" and layer.per == "layer":
        # What runs is a multiple of the forward weight, on its ball or not.
        geometry = {k: value for k, value in layer._geometry().items() if k != "gain"}
        backward = forward * separate_factor(plain, **geometry)
    elif layer.scaling == "separate":
        backward = layer._on_ball(plain, "backward")
    before, after, _ = layer.absorbed or Absorbed()
    gain, bias = before.scale / after.scale, None if bias is None else torch.from_numpy(bias)
    forward, backward = forward * gain, backward * (gain * before.gradient / after.gradient)
    bias = absorbing_bias(bias, forward, before, after, layer.outputs)
    return forward.numpy(), None if bias is None else bias.numpy(), backward.numpy()


class Linear(MapFromWeight, nn.Linear):
    """Linear map with weights on the unit ball: see :func:`normprop.functional.linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the map."""
        return self._run("linear", input)


class _Conv(MapFromWeight):
    def forward(self, input: Tensor) -> Tensor:
        """Convolve."""
        padding = self.padding
        if self.padding_mode != "zeros":
            input = nn.functional.pad(
                input, self._reversed_padding_repeated_twice, mode=self.padding_mode
            )
            padding = 0
        geometry = self.stride, padding, self.dilation, self.groups
        return self._run(f"conv{len(self.kernel_size)}d", input, *geometry)


class _ConvTranspose(MapFromWeight):
    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve.

        Args:
            input: shape (N, in, …) or (in, …).
            output_size: as in torch, to choose among the shapes that a stride leaves open.
        """
        dims = len(self.kernel_size)
        output_padding = self._output_padding(
            input, output_size, self.stride, self.padding, self.kernel_size, dims, self.dilation
        )
        geometry = self.stride, self.padding, tuple(output_padding), self.groups, self.dilation
        return self._run(f"conv_transpose{dims}d", input, *geometry)


# fmt: off
class Conv1d(_Conv, nn.Conv1d): ...
class Conv2d(_Conv, nn.Conv2d): ...
class Conv3d(_Conv, nn.Conv3d): ...
class ConvTranspose1d(_ConvTranspose, nn.ConvTranspose1d): ...
class ConvTranspose2d(_ConvTranspose, nn.ConvTranspose2d): ...
class ConvTranspose3d(_ConvTranspose, nn.ConvTranspose3d): ...
# fmt: on


class Bilinear(Parametric, nn.Bilinear):
    """Bilinear map with weights on the unit ball: see :func:`normprop.functional.bilinear`."""

    # No factor of a neuron serves both of its inputs.
    _defaults: ClassVar = {"per": "layer"}
    _only: ClassVar = _defaults

    def _forget(self) -> None:
        if "method" in self.__dict__:
            check_bilinear(self.scaling, self.per, self.method)
        super()._forget()

    def sphere(self, ball: str | None = None) -> tuple[str, float, int]:
        """As of every layer with weights; it has one ball."""
        return *sphere_of(self.weight, self.scaling, self.per, self.gain), 1

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        """Apply the map."""
        self._check_place()
        return functional.bilinear(input1, input2, self.weight, self.bias, **self._chosen())

    def _moments(self, law: Law) -> rules.Moments:
        weight, bias = rules.weights_of(self)
        if self.method == "normalize":
            weight = self._on_ball(torch.from_numpy(weight), self._ball()).numpy()
        backward = factors(self.weight) if self.scaling == "separate" else (1.0, 1.0)
        return rules.bilinear(weight, bias, law, backward)


class Embedding(Parametric, nn.Embedding):
    """Embedding with rows of norm √dim: see :func:`normprop.functional.embedding`.

    It has one scale, as no gradient reaches a token, so that there is no ``scaling`` to choose.

    Args:
        padding_idx: as in torch; its row is zero, and stays.

    Raises:
        ValueError: ``max_norm`` is given, or ``method`` is unknown.
    """

    _keywords: ClassVar[type] = RowsPlaced
    # It has one ball, of one norm a row.
    scaling, per = "forward", "neuron"

    def __init__(self, *args: Any, **options: Any) -> None:
        given = inspect.signature(Embedding).bind(*args, **options)
        refuse_max_norm(given.arguments.get("max_norm"))
        weight = given.arguments.get("_weight")
        if weight is not None and options.get("method") == "project":
            # The caller's tensor is not ours to project.
            given.arguments["_weight"] = weight.clone()
        super().__init__(*given.args, **given.kwargs)

    def _checked(self, name: str, value):
        if name == "max_norm":
            refuse_max_norm(value)
        return super()._checked(name, value)

    def sphere(self, ball: str | None = None) -> tuple[str, float, int]:
        """As of every layer with weights; it has one ball."""
        return "fan-in", self.gain * math.sqrt(self.embedding_dim), 1

    def forward(self, input: Tensor) -> Tensor:
        """Look up."""
        self._check_place()
        own = {"scale_grad_by_freq": self.scale_grad_by_freq, "sparse": self.sparse}
        chosen = self._chosen()
        return functional.embedding(input, self.weight, self.padding_idx, **own, **chosen)

    def _moments(self, law: Law) -> rules.Moments:
        rules.check_no_law(self, law)
        rows = rules.rows_of(self)
        if self.method == "normalize":
            rows = self._on_ball(torch.from_numpy(rows), self._ball()).numpy()
        return rules.embedding(rows)
