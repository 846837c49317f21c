"""All weights of a network in one call, before it runs."""

import threading
from collections.abc import Collection

import torch
from torch import Tensor, nn

from normprop.functional.parametric import Absorbed
from normprop.functional.scale import saving, scale_gradient, transforms_active
from normprop.functional.together import Layer, Made, Maker, Placed, again, asked, together
from normprop.nn.parametric import AtHand, MapFromWeight, version_of

__all__ = ["batch_weights_"]


class Together:
    """Makes the weights that the maps of a network run with, when the network is called.

    It hangs on the network by its hooks, is copied and pickled with it, and keeps what it made
    with ``method="project"`` while weights are what they were, from one step to the next.  Inside
    ``torch.compile``, ``torch.jit.trace``, transforms and checkpoints, and where a map is called
    by itself or something else makes its parameters, the map makes its own.

    A map with two weights makes them itself, and so does one whose weight is made when it is
    called, by a hook or a parametrization, and one that another network inside of this one serves.

    Args:
        network: gets the hooks.
        fused: whether constants of neighbours are in these weights.
        given: by place or keyword, the factor of the gradient of a tensor that the network is
            called with.
    """

    def __init__(
        self,
        network: nn.Module,
        fused: bool,
        given: dict[int | str, float] | None = None,
    ) -> None:
        self.layers, self.fused, self.given = _maps(network), fused, given or {}
        self.__dict__.update(dict.fromkeys(_OWN))
        network.__dict__["_normprop_together"] = self
        # Kept, as a handle that is read from a file keeps its number from others.
        self.handles = (
            network.register_forward_pre_hook(self.before, with_kwargs=True),
            network.register_forward_hook(self.after, always_call=True),
        )

    def leave(self, network: nn.Module) -> None:
        """Take the hooks off it."""
        del network.__dict__["_normprop_together"]
        for handle in self.handles:
            handle.remove()

    def before(self, network: nn.Module, inputs: tuple, keywords: dict) -> tuple | None:
        """Give every map what it runs with."""
        if not (torch.compiler.is_compiling() or transforms_active()):
            self._hand_out()
        return self._multiplied(inputs, keywords) if self.given else None

    def _multiplied(self, inputs: tuple, keywords: dict) -> tuple[tuple, dict]:
        inputs = tuple(_learnt(x, self.given.get(i, 1.0)) for i, x in enumerate(inputs))
        return inputs, {k: _learnt(x, self.given.get(k, 1.0)) for k, x in keywords.items()}

    def _hand_out(self) -> None:
        layers, weights, biases = self._ready()
        if not layers:
            return
        # Not by way of self: a network may run in several threads.
        made = self._looked(layers, weights, biases)
        pairs = zip(made.weights, made.biases, strict=True)
        if torch.is_grad_enabled() and any(t.requires_grad for t in _there(weights, biases)):
            pairs = together(weights, biases, made)
        now = saving(), threading.get_ident(), torch.is_grad_enabled()
        for layer, pair, weight, bias in zip(layers, pairs, weights, biases, strict=True):
            versions = version_of(weight), version_of(bias)
            layer.__dict__["made"] = AtHand(*pair, weight, bias, versions, *now)

    def after(self, network: nn.Module, inputs: tuple, output) -> None:
        """Take it back: it belongs to this pass."""
        # Compiled code was given none, and older torch cannot trace this.
        if not torch.compiler.is_compiling():
            for layer in self.layers:
                layer.__dict__["made"] = None

    def asked(self) -> dict[MapFromWeight, Placed]:
        """What is to be made where it was, of weights that are put on their balls."""
        layers, weights, biases = self._ready()
        if self.made is None or self._last(layers, weights, biases) is None:
            return {}
        if self.placed is None:
            pairs = zip(self.made.weights, self.made.biases, strict=True)
            self.placed = {
                layer: again(part, layer.sphere(), weight, bias, pair)
                for layer, part, weight, bias, pair in zip(
                    layers, self.made.maker.layers, weights, biases, pairs, strict=True
                )
                if part.over is None
            }
            self.placed = {k: placed for k, placed in self.placed.items() if placed is not None}
        return self.placed

    def refresh(self, done: Collection[nn.Module] = ()) -> None:
        """Make again what hangs on weights that were put on their ball, where it was.

        Args:
            done: layers for which that was done already.
        """
        layers, weights, biases = self._ready()
        kept = [layer for layer in layers if layer.method == "project"]
        if kept:
            if not all(layer in done for layer in kept):
                self._make(layers, weights, biases, self.made)
            now = _versions(_there(weights, biases))
            self.seen = None if now is None else (now, self.made)

    def _ready(self) -> tuple[list, list, list]:
        """The maps that do not run as they are, whose parameters are their own now, and these."""
        layers, weights, biases = [], [], []
        for layer in self.layers:
            own = layer._parameters
            # No hook or parametrization makes them before the map runs.
            if "weight" in own and "bias" in own and not layer._forward_pre_hooks:
                if layer.runs_as_it_is or (layer.scaling == "separate" and not self.fused):
                    continue
                layers.append(layer)
                weights.append(own["weight"])
                biases.append(own["bias"])
        return layers, weights, biases

    def _looked(self, layers, weights, biases) -> Made:
        """What was made last, or is made again where something has changed."""
        now = None
        # Whoever writes past the version counters, into ``.data``, is seen.
        if all(layer.method == "project" for layer in layers):
            now, (seen, kept) = _versions(_there(weights, biases)), self.seen or (None, None)
            if now is not None and now == seen:
                return kept
        made = self._make(layers, weights, biases)
        self.seen = None if now is None else (now, made)
        return made

    def _last(self, layers, weights, biases) -> Maker | None:
        """Who made the last, where it was of these tensors, and asked for alike."""
        chosen, maker = self.maker or (None, None)
        same = chosen == _choices(layers) and maker.serves(weights, biases)
        return maker if same else None

    def _make(self, layers, weights, biases, there: Made | None = None) -> Made:
        if there is None:
            # Its memory can serve again.
            self.made = self.seen = self.placed = None
        # What is made to be kept may serve a pass that learns.
        inference = any(t.is_inference() for t in _there(weights, biases))
        with torch.inference_mode(inference):
            maker = self._last(layers, weights, biases)
            if maker is None:
                maker, there = Maker([_asked(layer) for layer in layers], weights, biases), None
                # What a graph made is not held longer than by the graph.
                leaves = all(t.is_leaf for t in _there(weights, biases))
                self.maker = (_choices(layers), maker) if leaves else None
            made = maker.make(weights, biases, there)
        # The others are made anew in each pass.
        kept = any(layer.method == "project" for layer in layers)
        self.made, self.placed = made if kept else None, None
        return made

    def __getstate__(self) -> dict:
        # What was made belongs to the parameters of one process.
        return vars(self) | dict.fromkeys(_OWN)


_OWN = ("maker", "seen", "made", "placed")


def batch_weights_(network: nn.Module, *, on: bool = True) -> nn.Module:
    r"""Have all weights of a network of normalised maps made in one call when it is called.

    Each map by itself divides its weight W by its norm n when it runs, :math:`V = size\, W/n`, and
    pays for a few calls of its own, which is most of what a small map costs, and on a GPU of what
    any map costs.  The network then makes V of every map before its own ``forward``, by few
    operators for all, or on CUDA by one kernel, with one node of autograd for all of them.  Outputs
    and gradients are the same but for rounding; parameters and the keys of the ``state_dict`` are
    what they were.  While the network runs, all V are there at once.

    What :func:`normprop.convert` and :func:`normprop.fuse` return does so already.  Maps with
    ``scaling="separate"``, or whose weight a parametrization or a hook makes, go on by themselves,
    and so does a map that is called outside of the network's call, and all of them in compiled
    code, under transforms and in checkpoints.

    One node has all weights, so that their gradients come at the end of the backward pass, those
    of maps that were not called too, as ``None``: who steps on each gradient as it comes, or sends
    it to other processes meanwhile, gains by ``on=False``.

    Args:
        network: gets two hooks, in place.  Where it has them, maps that came since are served too.
        on: whether it is to be so, or every map is to make its own weight again, but in fused
            parts, which need the call.

    Returns:
        The network.  It gets no hooks where there is nothing to serve, as in a map alone.

    Raises:
        TypeError: the network is no module.

    Example:
        >>> net = batch_weights_(nn.Sequential(Linear(8, 8), ReLU(), Linear(8, 1)))
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"network must be a torch.nn.Module; it was {network!r}")
    own = together_of(network)
    if own is not None and own.fused:
        return network
    if own is not None:
        own.leave(network)
    if not on:
        return alone(network, fused=False)
    if _maps(network):
        Together(network, fused=False)
    return network


def together_of(module: nn.Module) -> Together | None:
    """Who makes the weights of this network, if anybody does."""
    return vars(module).get("_normprop_together")


def alone(model: nn.Module, fused: bool = True) -> nn.Module:
    """The model, of which every map makes its own weight again, or all but the ``fused`` ones."""
    for module in model.modules():
        own = together_of(module)
        if own is None or (own.fused and not fused):
            continue
        own.leave(module)
    return model


def _maps(network: nn.Module) -> list[MapFromWeight]:
    """Those that it can serve."""
    others = [together_of(module) for module in network.modules()]
    served = {id(layer) for other in others if other is not None for layer in other.layers}
    maps = [m for m in network.modules() if isinstance(m, MapFromWeight) and m is not network]
    maps = [m for m in maps if m.scaling != "separate" and "weight" in m._parameters]
    return [m for m in maps if id(m) not in served]


def _learnt(value, factor: float):
    learns = isinstance(value, Tensor) and value.requires_grad and factor != 1.0
    return scale_gradient(value, factor) if learns else value


def _choices(layers: list[MapFromWeight]) -> list[tuple]:
    return [(layer, layer.choice()) for layer in layers]


def _asked(layer: MapFromWeight) -> Layer:
    if layer.scaling == "separate":
        raise ValueError(f"scales must be chosen before the model is fused; {layer} chose after")
    own, absorbed = layer.method == "normalize", layer.absorbed or Absorbed()
    return asked(*layer.sphere(), own, absorbed, layer.outputs)


def _there(weights: list, biases: list) -> list[Tensor]:
    return [t for t in (*weights, *biases) if t is not None]


def _versions(tensors: list[Tensor]) -> tuple | None:
    """What tells whether parameters have been exchanged or written; ``None`` where nothing does."""
    if any(t.is_inference() for t in tensors):
        return None
    return tuple([(id(t), t._version, t.data_ptr()) for t in tensors])
