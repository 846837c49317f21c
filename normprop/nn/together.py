"""All weights of a network in one call, before it runs."""

import operator
import threading
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from normprop.functional.parametric import Absorbed
from normprop.functional.scale import saving, scale_gradient, transforms_active
from normprop.functional.together import Layer, Made, Maker, Placed, again, asked, together
from normprop.nn.parametric import CHOICES, AtHand, MapFromWeight, Pass

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

    served: "_Served | None" = None
    made: Made | None = None
    # What was made last, and of which versions; what is to be made where it was.
    seen: tuple[Made, list[int]] | None = None
    placed: dict[MapFromWeight, Placed] | None = None

    def __init__(
        self,
        network: nn.Module,
        fused: bool,
        given: dict[int | str, float] | None = None,
    ) -> None:
        self.layers, self.fused, self.given = _maps(network), fused, given or {}
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
        # Not by way of self: a network may run in several threads.
        served = self._served()
        if not served.layers:
            return
        made, versions = self._looked(served)
        weights, biases, recorded = served.weights, served.biases, torch.is_grad_enabled()
        pairs = zip(made.weights, made.biases, strict=True)
        if recorded and made.maker.learns():
            pairs = together(weights, biases, made)
        run = Pass(saving(), threading.get_ident(), recorded)
        count = len(weights)
        of_each = zip(
            served.layers, pairs, weights, biases, versions[:count], versions[count:], strict=True
        )
        for layer, (used, beside), *own in of_each:
            layer.__dict__["made"] = AtHand(used, beside, *own, run)

    def after(self, network: nn.Module, inputs: tuple, output) -> None:
        """Take it back: it belongs to this pass."""
        # Compiled code was given none, and older torch cannot trace this.
        if not torch.compiler.is_compiling():
            for layer in self.layers:
                layer.__dict__["made"] = None

    def asked(self) -> dict[MapFromWeight, Placed]:
        """What is to be made where it was, of weights that are put on their balls."""
        served, made = self._served(), self.made
        if made is None or made.maker is not served.maker or not made.maker.serves():
            return {}
        if self.placed is None:
            pairs = zip(made.weights, made.biases, strict=True)
            found = {
                layer: again(part, layer.sphere(), weight, bias, pair)
                for layer, part, weight, bias, pair in zip(
                    served.layers,
                    made.maker.layers,
                    served.weights,
                    served.biases,
                    pairs,
                    strict=True,
                )
                if part.over is None
            }
            self.placed = {k: placed for k, placed in found.items() if placed is not None}
        return self.placed

    def refresh(self, done: Collection[nn.Module] = ()) -> None:
        """Make again what hangs on weights that were put on their ball, where it was.

        Args:
            done: layers for which that was done already.
        """
        served = self._served()
        if served.projected:
            versions = served.versions()
            if not all(layer in done for layer in served.projected):
                self._make(served, self.made)
            self.seen = (self.made, versions) if served.told else None

    def _served(self) -> "_Served":
        """The maps that it serves as they are now."""
        served = self.served
        if served is None or not served.holds():
            served = _Served(self.layers, self.fused)
            self.served = served if served.lasts else None
            self.made = self.seen = self.placed = None
        return served

    def _looked(self, served: "_Served") -> tuple[Made, list[int]]:
        """What was made last, or is made again where something has changed; of which versions."""
        # Before it is made: what another thread writes meanwhile is seen by the next pass.
        now, kept, own = served.versions(), _kept(), (id(self), __name__)
        if torch.is_grad_enabled():
            # What has a history is one pass's; the step behind it need not move version counters.
            kept.pop(own, None)
        made, versions = self.seen or kept.get(own, (None, None))
        # Whoever puts other memory in the place of ``.data`` is seen, where versions tell nothing.
        same = made is not None and made.maker is served.maker and made.maker.serves()
        if same and now == versions:
            return made, now
        for layer in served.projected:
            layer._check_place()
        made = self._make(served)
        self.seen = (made, now) if served.told else None
        if not torch.is_grad_enabled():
            kept[own] = made, now
        return made, now

    def _make(self, served: "_Served", there: Made | None = None) -> Made:
        if there is None:
            # Its memory can serve again.
            self.made = self.seen = self.placed = None
        # What is made to be kept may serve a pass that learns.
        with torch.inference_mode(any(t.is_inference() for t in served.parameters)):
            maker = served.maker
            if maker is None or not maker.serves():
                asked, there = [_asked(layer) for layer in served.layers], None
                maker = served.maker = Maker(asked, served.weights, served.biases)
            made = maker.make(served.weights, served.biases, there)
        # The others are made anew in each pass.
        self.made, self.placed = made if served.projected and served.lasts else None, None
        return made

    def __getstate__(self) -> dict:
        # What was made belongs to the parameters of one process.
        return {k: value for k, value in vars(self).items() if k not in _OWN}


def _kept() -> dict:
    """Where torch keeps weights for as long as its user says that nobody writes them."""
    return parametrize._cache if parametrize._cache_enabled else {}


_OWN = ("served", "seen", "made", "placed")
_GONE = object()
# A tensor that nobody writes, in the place of those that are not there or do not count.
with torch.inference_mode(False):
    _STILL = torch.empty(0, device="cpu")


class _Served:
    """The maps that do not run as they are, whose parameters are their own, and these.

    Attributes:
        layers: those of all maps.
        weights: of each.
        biases: of each, or ``None``.
        projected: those whose weights stay on their balls by themselves.
        lasts: whether it may be held: what a graph made is not held longer than by the graph.
        told: whether versions tell that what is made can be made no other way than it was.
        maker: who makes what they run with.
    """

    def __init__(self, maps: list[MapFromWeight], fused: bool) -> None:
        self._settings = [(vars(layer), name) for layer in maps for name in CHOICES]
        self._own = [(layer._parameters, name) for layer in maps for name in ("weight", "bias")]
        self._hooks = [layer._forward_pre_hooks for layer in maps]
        self._chosen, self._hooked = self._choices(), [*map(bool, self._hooks)]
        self._there = self._found()
        self.maker: Maker | None = None
        self.layers, self.weights, self.biases = [], [], []
        pairs = zip(self._there[::2], self._there[1::2], strict=True)
        for layer, pair, hooked in zip(maps, pairs, self._hooked, strict=True):
            if _GONE in pair or hooked or layer.runs_as_it_is:
                # By themselves, or by what a hook or a parametrization makes before they run.
                continue
            if _turns(layer):
                # The gradient to its input has another factor than that to its weight.
                continue
            if layer.scaling != "separate" or fused:
                self.layers.append(layer)
                self.weights.append(pair[0])
                self.biases.append(pair[1])
        self.parameters = [t for t in (*self.weights, *self.biases) if t is not None]
        self.projected = [layer for layer in self.layers if layer.method == "project"]
        self.lasts = all(t.is_leaf for t in self._there if isinstance(t, Tensor))
        self.told = self.lasts and len(self.projected) == len(self.layers)
        self.told = self.told and not any(t.is_inference() for t in self.parameters)
        given = (*self.weights, *self.biases)
        self._counted = [_STILL if t is None or t.is_inference() else t for t in given]

    def holds(self) -> bool:
        """Whether they are the same still, chosen as they were."""
        same = all(map(operator.is_, self._found(), self._there))
        same = same and [*map(bool, self._hooks)] == self._hooked
        return same and self._choices() == self._chosen

    def versions(self) -> list[int]:
        """What tells whether they were written: 0 of weights, then biases, where nothing does."""
        return [t._version for t in self._counted]

    def _choices(self) -> list:
        return [own.get(name) for own, name in self._settings]

    def _found(self) -> list:
        return [own.get(name, _GONE) for own, name in self._own]


def batch_weights_(network: nn.Module, *, on: bool = True) -> nn.Module:
    r"""Have all weights of a network of normalised maps made in one call when it is called.

    Each map by itself divides its weight W by its norm n when it runs, :math:`V = size\, W/n`, and
    pays for a few calls of its own, which is most of what a small map costs, and on a GPU of what
    any map costs.  The network then makes V of every map before its own ``forward``, by few
    operators for all, or on CUDA by one kernel, with one node of autograd for all of them.  Outputs
    and gradients are the same but for rounding; parameters and the keys of the ``state_dict`` are
    what they were.  While the network runs, all V are there at once.

    V of a map that divides by a norm is made anew in each pass, as nothing tells that a weight was
    written through ``.data``, or by a fused optimiser.  Where no gradients are recorded,
    ``with torch.nn.utils.parametrize.cached():`` promises that none is: then V is made once, and
    again after a pass that records them, or where a version counter says that a weight was written.

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


def _turns(layer: MapFromWeight) -> bool:
    before, after, _ = layer.absorbed or Absorbed()
    return (before.gradient, after.gradient) != (1.0, 1.0)


def _learnt(value, factor: float):
    learns = isinstance(value, Tensor) and value.requires_grad and factor != 1.0
    return scale_gradient(value, factor) if learns else value


def _asked(layer: MapFromWeight) -> Layer:
    if layer.scaling == "separate":
        raise ValueError(f"scales must be chosen before the model is fused; {layer} chose after")
    own, absorbed = layer.method == "normalize", layer.absorbed or Absorbed()
    return asked(*layer.sphere(), own, absorbed, layer.outputs)
