"""All weights of a network in one call, before it runs."""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from normprop.functional.parametric import Absorbed
from normprop.functional.scale import saving, scale_gradient, transforms_active
from normprop.functional.together import Layer, Made, Placed, again, asked, make, together
from normprop.nn.parametric import AtHand, MapFromWeight


class Together:
    """Makes the weights that the maps of a network run with, when the network is called.

    It hangs on the network by its hooks, is copied and pickled with it, and keeps what it made
    with ``method="project"`` while weights are what they were, from one step to the next.  Inside
    ``torch.compile``, ``torch.jit.trace``, transforms and checkpoints, and where a map is called
    by itself or something else makes its parameters, the map makes its own.

    Args:
        network: gets the hooks.
        layers: its maps, each once.
        given: by place or keyword, the factor of the gradient of a tensor that the network is
            called with.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: list[MapFromWeight],
        given: dict[int | str, float] | None = None,
    ) -> None:
        self.layers, self.given = layers, given or {}
        self.chosen, self.seen, self.made, self.held = None, None, None, None
        network.__dict__["_normprop_together"] = self
        network.register_forward_pre_hook(self.before, with_kwargs=True)
        network.register_forward_hook(self.after, always_call=True)

    @staticmethod
    def take_off(network: nn.Module) -> None:
        """Take its hooks off a network that has them: every map makes its own weight again."""
        own = vars(network).pop("_normprop_together", None)
        if own is None:
            return
        for hooks in (network._forward_pre_hooks, network._forward_hooks):
            for key in [k for k, hook in hooks.items() if getattr(hook, "__self__", None) is own]:
                del hooks[key]
                network._forward_hooks_always_called.pop(key, None)

    def before(self, network: nn.Module, inputs: tuple, keywords: dict) -> tuple | None:
        """Give every map what it runs with."""
        watched = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if not (watched or transforms_active()):
            self._hand_out()
        return self._multiplied(inputs, keywords) if self.given else None

    def _multiplied(self, inputs: tuple, keywords: dict) -> tuple[tuple, dict]:
        inputs = tuple(_learnt(x, self.given.get(i, 1.0)) for i, x in enumerate(inputs))
        return inputs, {k: _learnt(x, self.given.get(k, 1.0)) for k, x in keywords.items()}

    def _hand_out(self) -> None:
        layers, weights, biases = self._ready()
        self._look(layers, weights, biases)
        tensors = [t for t in (*weights, *biases) if t is not None]
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            pairs = together(self._parts, weights, biases, self.made)
        else:
            pairs = list(zip(self.made.weights, self.made.biases, strict=True))
        through = saving()
        for layer, pair, own in zip(layers, pairs, zip(weights, biases, strict=True), strict=True):
            seen = tuple((t, t._version) for t in own if t is not None and not t.is_inference())
            layer.__dict__["made"] = AtHand(pair, seen, through)

    def after(self, network: nn.Module, inputs: tuple, output) -> None:
        """Take it back: it belongs to this pass."""
        for layer in self.layers:
            layer.__dict__.pop("made", None)

    def asked(self) -> dict[MapFromWeight, Placed]:
        """What is to be made where it was, of weights that are put on their balls."""
        layers, weights, biases = self._ready()
        if self.made is None or self.chosen != self._choices(layers):
            return {}
        found = {}
        for layer, part, given, held, made in zip(
            layers,
            self._parts,
            zip(weights, biases, strict=True),
            zip(*self.held, strict=True),
            zip(self.made.weights, self.made.biases, strict=True),
            strict=True,
        ):
            same = all(new is old for new, old in zip(given, held, strict=True))
            placed = None
            if same and part.over is None:
                placed = again(part, layer.sphere(), *given, made)
            if placed is not None:
                found[layer] = placed
        return found

    def refresh(self, done: Collection[nn.Module] = ()) -> None:
        """Make again what hangs on weights that were put on their ball, where it was.

        Args:
            done: layers for which that was done already.
        """
        kept = [layer for layer in self.layers if layer.method == "project"]
        if kept:
            layers, weights, biases = self._ready()
            if not all(layer in done for layer in kept):
                self._make(layers, weights, biases, self.made)
            self.seen = _versions(weights, biases)

    def _ready(self) -> tuple[list, list, list]:
        """The maps whose parameters are their own now, and these."""
        layers = [layer for layer in self.layers if _has_its_own(layer)]
        return layers, [layer.weight for layer in layers], [layer.bias for layer in layers]

    def _look(self, layers, weights, biases) -> None:
        """Make again what has changed."""
        now = None
        # Whoever writes past the version counters, into ``.data``, is seen.
        if all(layer.method == "project" for layer in layers):
            now = _versions(weights, biases)
            if now is not None and now == self.seen:
                return
        self._make(layers, weights, biases)
        self.seen = now

    def _choices(self, layers) -> list[tuple]:
        names = ("scaling", "per", "gain", "method", "absorbed")
        return [(m, *(getattr(m, n) for n in names), m.weight.shape) for m in layers]

    def _make(self, layers, weights, biases, there: Made | None = None) -> None:
        chosen = self._choices(layers)
        if chosen != self.chosen:
            self._parts, there = [_asked(layer) for layer in layers], None
            self.chosen = chosen
        if there is None:
            # Its memory can serve again.
            self.made = self.seen = None
        # What is made to be kept may serve a pass that learns.
        inference = any(t is not None and t.is_inference() for t in (*weights, *biases))
        with torch.inference_mode(inference):
            self.made = make(self._parts, weights, biases, there)
        # Nothing else may have their ids meanwhile.
        self.held = weights, biases

    def __getstate__(self) -> dict:
        # What was made belongs to the parameters of one process.
        return vars(self) | dict.fromkeys(("chosen", "seen", "made", "held"))


def _learnt(value, factor: float):
    learns = isinstance(value, Tensor) and value.requires_grad and factor != 1.0
    return scale_gradient(value, factor) if learns else value


def _has_its_own(layer: MapFromWeight) -> bool:
    """Whether its parameters are there before it runs: no hook or parametrization makes them."""
    own = layer._parameters
    return "weight" in own and "bias" in own and not layer._forward_pre_hooks


def _asked(layer: MapFromWeight) -> Layer:
    if layer.scaling == "separate":
        raise ValueError(f"scales must be chosen before the model is fused; {layer} chose after")
    own, absorbed = layer.method == "normalize", layer.absorbed or Absorbed()
    return asked(*layer.sphere(), own, absorbed, layer.outputs)


def _versions(weights, biases) -> tuple | None:
    """What tells whether parameters have been exchanged or written; ``None`` where nothing does."""
    tensors = [t for t in (*weights, *biases) if t is not None]
    if any(t.is_inference() for t in tensors):
        return None
    return tuple((id(t), t._version, t.data_ptr()) for t in tensors)
