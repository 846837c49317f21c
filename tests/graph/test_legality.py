"""What check() says of a network is what autograd does, on chains and on joins."""

import copy
import math
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.autograd.graph import get_gradient_edge
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

import normprop
import normprop.functional as F
import normprop.nn as nnp
from normprop.functional import scale_gradient
from normprop.graph import check, separate_on_bridges_

WIDTH = 12
EPS = torch.finfo(torch.float64).eps


class Residual(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return x + self.block(x)


class Concatenated(nn.Module):
    def __init__(self, left, right):
        super().__init__()
        self.left, self.right = left, right

    def forward(self, x):
        return torch.cat([self.left(x), self.right(x)], -1)


def block(per="layer", activation=nnp.ReLU, inputs=WIDTH):
    linear = nnp.Linear(inputs, WIDTH, scaling="separate", per=per)
    return nn.Sequential(linear, activation(scaling="separate"))


def chain():
    return nn.Sequential(block(), block(activation=nnp.Sigmoid), block(activation=nnp.Tanh))


def residual():
    return nn.Sequential(block(), Residual(block()), block())


def concatenated():
    branches = Concatenated(block(activation=nnp.Sigmoid), block(activation=nnp.Tanh))
    return nn.Sequential(block(), branches, block(inputs=2 * WIDTH))


def shared():
    twice = block()
    return nn.Sequential(twice, nn.Tanh(), twice)


def forward_scaled(model):
    """The same network with the true gradient."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if getattr(module, "scaling", None) == "separate":
            module.scaling = "forward"
            if hasattr(module, "constants"):
                constants = module.constants
                module.constants = constants._replace(backward=constants.forward)
    return model


def gradients(model, x):
    y = model(x)
    dy = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
    names = [name for name, _ in model.named_parameters()]
    return dict(zip(names, torch.autograd.grad(y, list(model.parameters()), dy), strict=True))


def case(make):
    torch.manual_seed(0)
    model = make().double()
    x = torch.randn(7, WIDTH, dtype=torch.float64)
    return model, x, gradients(model, x), gradients(forward_scaled(model), x)


@pytest.mark.parametrize("make", [chain, residual, concatenated, shared])
def test_where_there_is_a_factor_the_gradient_is_that_times_the_true_one(make):
    model, x, separate, true = case(make)
    found = check(model, x)
    assert set(found.factors) == set(separate)
    for name, factor in found.factors.items():
        if factor.legal:
            # A few roundings for each of the layers that the gradient came through.
            bound = 200 * EPS * true[name].abs().max()
            assert (separate[name] - factor.value * true[name]).abs().max() <= bound, name


@pytest.mark.parametrize(
    ("make", "illegal"),
    [
        (chain, set()),
        (residual, {"0.0"}),
        (concatenated, {"0.0"}),
        (shared, {"0.0"}),
    ],
)
def test_where_there_is_none_the_gradient_is_turned(make, illegal):
    model, x, separate, true = case(make)
    found = check(model, x)
    turned = {name.rpartition(".")[0] for name, f in found.factors.items() if not f.legal}
    assert turned == illegal
    assert found.legal == (not illegal)
    for name, factor in found.factors.items():
        cosine = nn.functional.cosine_similarity(
            separate[name].flatten(), true[name].flatten(), dim=0
        )
        if not factor.legal:
            assert factor.low < factor.high
            assert cosine < 1 - 1e-6
        else:
            assert cosine == pytest.approx(1, abs=100 * EPS)


def test_a_chain_s_factor_is_the_product_over_the_later_layers():
    torch.manual_seed(0)
    model = chain().double()
    found = check(model, torch.randn(3, WIDTH, dtype=torch.float64))
    ratios = [m.constants.forward / m.constants.backward for m in (b[1] for b in model)]
    for k in range(3):
        assert found.factors[f"{k}.0.weight"].value == pytest.approx(
            math.prod(ratios[k:]), rel=8 * EPS
        )


def test_per_neuron_weights_are_legal_nowhere():
    torch.manual_seed(0)
    model = nn.Sequential(block(), block(per="neuron"), block())
    found = check(model, torch.randn(3, WIDTH))
    assert found.factors["0.0.weight"].asymmetric
    assert not found.factors["0.0.weight"].legal
    # Its own weight gradient is the forward-normalised weight's.
    assert found.factors["1.0.weight"].legal
    assert not found.layers["1.0"].legal
    assert "backward weights are not its forward ones" in str(found)
    with pytest.raises(ValueError, match="paths must agree"):
        _ = found.factors["0.0.weight"].value


@pytest.mark.parametrize("make", [residual, concatenated, shared])
def test_the_bridge_rule_repairs_it(make):
    model, x, _, true = case(make)
    found = separate_on_bridges_(model, x)
    assert found.legal
    repaired = gradients(model, x)
    for name, factor in found.factors.items():
        bound = 200 * EPS * true[name].abs().max()
        assert (repaired[name] - factor.value * true[name]).abs().max() <= bound, name


def test_what_was_legal_keeps_its_scales():
    torch.manual_seed(0)
    model = residual()
    separate_on_bridges_(model, torch.randn(3, WIDTH))
    assert [m[1].scaling for m in (model[0], model[1].block, model[2])] == [
        "separate",
        "forward",
        "separate",
    ]


def test_a_model_without_parameters_is_refused():
    with pytest.raises(ValueError, match="must depend on a parameter"):
        check(nnp.ReLU(), torch.randn(3, 4))


# What stands around a model, or in it


def compiled(model):
    return torch.compile(model, backend="aot_eager")


def compiled_in_place(model):
    model.compile(backend="aot_eager")
    return model


@pytest.mark.parametrize("wrap", [compiled, compiled_in_place, nn.DataParallel, AveragedModel])
def test_what_stands_around_a_model_is_looked_through(wrap):
    torch.manual_seed(0)
    model, x = residual(), torch.randn(3, WIDTH)
    wanted = check(model, x)
    wrapper = wrap(model)
    found = check(wrapper, x)
    names = [name for name, _ in wrapper.named_parameters()]
    assert list(found.factors) == names
    assert list(found.factors.values()) == list(wanted.factors.values())
    assert list(found.layers.values()) == list(wanted.layers.values())
    assert set(found.layers) <= {name for name, _ in wrapper.named_modules()}
    assert separate_on_bridges_(wrapper, x).legal
    assert check(wrapper, x).legal


def test_compiled_parts_are_looked_through():
    torch.manual_seed(0)
    x = torch.randn(3, WIDTH)
    part = nn.Sequential(block(), compiled(Residual(block())))
    found = check(part, x)
    # Of a square weight both balls are one.
    assert [bridge.legal for bridge in found.layers.values()] == [True, True, True, False]
    assert found.layers.keys() == {"0.0", "0.1", "1._orig_mod.block.0", "1._orig_mod.block.1"}


class Checkpointed(nn.Module):
    def __init__(self, body, use_reentrant):
        super().__init__()
        self.first, self.body, self.use_reentrant = nn.Linear(WIDTH, WIDTH), body, use_reentrant

    def forward(self, x):
        return checkpoint(self.body, self.first(x), use_reentrant=self.use_reentrant)


def test_a_checkpoint_that_leaves_its_graph_is_looked_through():
    torch.manual_seed(0)
    x = torch.randn(3, WIDTH)
    found = check(Checkpointed(residual(), False), x)
    assert not found.factors["first.weight"].legal
    assert len(found.factors) == 2 + 3 * 2


class Straight(torch.autograd.Function):
    """A function from elsewhere, which rounds and lets the gradient through."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Stated(Straight):
    gradient_factors = (1.0,)


class Turned(Straight):
    gradient_factors = (math.nan,)


class Forgotten(Straight):
    """One of ours that states nothing."""


Forgotten.__module__ = "normprop.functional.new"


class Hidden(torch.autograd.Function):
    """A layer inside a function, which runs autograd of its own."""

    @staticmethod
    def forward(ctx, x, layer):
        ctx.layer = layer
        ctx.save_for_backward(x)
        return layer(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(ctx.layer(x), x, gradient)[0], None


class Through(nn.Module):
    def __init__(self, function, *more):
        super().__init__()
        self.first, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.function, self.more = function, more

    def forward(self, x):
        return self.last(self.function(self.first(x), *self.more))


def scripted():
    return torch.jit.script(_curve)


def _curve(x):
    return torch.tanh(x) * x


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Checkpointed(residual(), True), r"CheckpointFunction .* use_reentrant=False"),
        (lambda: Through(Straight.apply), r"test_legality\.Straight does not"),
        (lambda: Through(Forgotten.apply), r"normprop\.functional\.new\.Forgotten does not"),
        (lambda: Through(Hidden.apply, block()), r"test_legality\.Hidden does not"),
        (lambda: Through(scripted()), "TorchScript"),
        (lambda: Through(lambda x: x + torch.autograd.grad(x.sum(), x)[0]), r"autograd\.grad"),
        (lambda: Through(torch.func.grad(lambda x: block()(x).sum())), r"autograd\.grad"),
        (lambda: Through(_backward), "by backward"),
        (lambda: Through(_grad_of_leaf), "the attribute grad"),
    ],
)
def test_what_cannot_be_looked_through_is_named(make, named):
    torch.manual_seed(0)
    model, x = make(), torch.randn(3, WIDTH)
    for _ in range(3):
        # TorchScript makes a graph of its own once it has seen some runs.
        model(x)
    with pytest.raises(ValueError, match=named):
        check(model, x)


def _backward(x):
    x.sum().backward(retain_graph=True)
    return x


def _grad_of_leaf(x):
    leaf = torch.ones_like(x, requires_grad=True)
    torch.autograd.backward(leaf.square().sum())
    return x * leaf.grad


def test_a_function_from_elsewhere_may_say_what_it_does():
    x = torch.randn(3, WIDTH)
    assert check(Through(Stated.apply), x).legal
    assert check(Through(Turned.apply), x).factors["first.weight"].asymmetric
    assert check(Through(Turned.apply), x).factors["last.weight"].legal


def mortal(node, tensor):
    """A node whose edges are gone when the tensor is, as a custom function's are in torch 2.11."""
    alive = weakref.ref(tensor)

    class Mortal:
        _forward_cls = getattr(type(node), "_forward_cls", None)
        behind = node

        def __eq__(self, other):
            return node is other.behind

        def __hash__(self):
            return hash(node)

        def __getattr__(self, name):
            return getattr(node, name)

        @property
        def next_functions(self):
            if alive() is None:
                raise RuntimeError("its tensor is gone")
            edges = node.next_functions
            return tuple((child and mortal(child, alive()), place) for child, place in edges)

    return Mortal()


class Forgetful(nn.Module):
    """What a part of it has made is gone when another runs."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = block(), block()

    def forward(self, x):
        self.unused(x)
        return self.used(x).square()


@pytest.mark.parametrize("make", [chain, residual, concatenated, shared, Forgetful])
def test_the_graph_is_read_while_the_tensors_are_there(make, monkeypatch):
    model, x = make(), torch.randn(7, WIDTH)
    wanted = check(model, x)
    asked = []

    def edge(tensor):
        asked.append(tensor.shape)
        return SimpleNamespace(node=mortal(get_gradient_edge(tensor).node, tensor))

    monkeypatch.setattr("normprop.graph.legality.get_gradient_edge", edge)
    found = check(model, x)
    assert asked
    assert repr(found) == repr(wanted)


def test_functions_of_torch_give_the_derivative():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.CrossMapLRN2d(2))
    assert check(model, torch.randn(2, 3, 5, 4)).factors["0.weight"].value == 1.0


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_model_of_torchscript_is_refused():
    x = torch.randn(3, WIDTH)
    with pytest.raises(TypeError, match="its 1 is a model of TorchScript"):
        check(nn.Sequential(nn.Linear(WIDTH, WIDTH), torch.jit.trace(nn.Tanh(), x)), x)


# Inputs and outputs


class Reads(nn.Module):
    """Two heads, one of which separate scales reach, in whatever is made of their outputs."""

    def __init__(self, make):
        super().__init__()
        self.trunk, self.head, self.make = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), make

    def forward(self, x, *, also=None):
        h = self.trunk(x if also is None else x + also)
        return self.make(h, F.tanh(self.head(h), scaling="separate"))


@dataclass
class Plain:
    states: list
    loss: torch.Tensor = None


@dataclass
class Output(OrderedDict):
    loss: torch.Tensor = None
    states: tuple = None

    def __post_init__(self):
        self.update(vars(self).copy())


@pytest.mark.parametrize(
    "make",
    [
        lambda h, y: (y, h),
        lambda h, y: [[h], (y,)],
        lambda h, y: {"out": y, "more": {"hidden": (h,)}},
        lambda h, y: Plain([{"h": h}], y),
        lambda h, y: Output(loss=y, states=(h, Plain([]))),
        lambda h, y: torch.distributions.Normal(y, h.exp(), validate_args=False),
    ],
)
def test_every_output_counts(make):
    x = torch.randn(3, WIDTH)
    found = check(Reads(make), x)
    assert not found.factors["trunk.weight"].legal
    assert found.factors["head.weight"].legal
    assert check(Reads(lambda h, y: y), x).legal


def test_keywords_reach_the_model():
    x = torch.randn(3, WIDTH)
    model = Reads(lambda h, y: y)
    with pytest.raises(RuntimeError, match="size"):
        check(model, x=x, also=torch.randn(2, WIDTH))
    assert check(model, x=x, also=x).legal
    assert separate_on_bridges_(residual(), input=x).legal


# What is not reached


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused, self.frozen = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.frozen.requires_grad_(False)
        self.aside, self.never = (nnp.Tanh(scaling="separate") for _ in range(2))

    def forward(self, x):
        self.aside(self.unused(x))
        return self.used(self.frozen(x))


def test_what_no_gradient_reaches_is_listed_and_not_judged():
    model, x = Unused(), torch.randn(3, WIDTH)
    found = check(model, x)
    assert list(found.factors) == ["used.weight", "used.bias"]
    unreached = [f"{name}.{kind}" for name in ("unused", "frozen") for kind in ("weight", "bias")]
    assert list(found.unreached) == unreached
    for name in unreached:
        (line,) = [line for line in str(found).splitlines() if line.startswith(f"{name} ")]
        assert line.endswith("  not reached")
    assert found.layers == {}
    # Nobody knows where it stands.
    separate_on_bridges_(model, x)
    assert model.aside.scaling == model.never.scaling == "forward"


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_it_looks_where_gradients_are_switched_off(context):
    torch.manual_seed(0)
    model, x = nn.Sequential(residual(), nn.BatchNorm1d(WIDTH)), torch.randn(3, WIDTH)
    wanted = check(model, x)
    with context():
        assert check(model, x) == wanted
        assert separate_on_bridges_(model, x).legal


def test_looking_changes_nothing():
    torch.manual_seed(0)
    layers = nn.BatchNorm1d(WIDTH), nnp.Dropout(scaling="separate"), nn.Linear(WIDTH, WIDTH)
    model, x = nn.Sequential(*layers), torch.randn(3, WIDTH)
    state = copy.deepcopy(model.state_dict())
    drawn = torch.get_rng_state()
    check(model, x)
    separate_on_bridges_(model, x)
    assert torch.equal(torch.get_rng_state(), drawn)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


# Factors of any sign, and of several paths


class Scaled(nn.Module):
    def __init__(self, factor, around=False):
        super().__init__()
        self.first, self.factor, self.around = nn.Linear(WIDTH, WIDTH), factor, around

    def forward(self, x):
        h = self.first(x)
        y = scale_gradient(h, self.factor)
        return torch.cat([h, y]) if self.around else y


@pytest.mark.parametrize("factor", [-0.5, 0.0, 3.0])
def test_a_factor_may_have_any_sign(factor):
    x = torch.randn(3, WIDTH)
    assert check(Scaled(factor), x).factors["first.weight"].value == factor
    ends = check(Scaled(factor, around=True), x).factors["first.weight"]
    assert (ends.low, ends.high) == (min(factor, 1.0), max(factor, 1.0))
    assert not ends.legal


def test_a_layer_s_factor_is_its_own():
    torch.manual_seed(0)
    found = check(chain(), torch.randn(3, WIDTH)).layers
    moments = normprop.moments("relu")
    assert found["0.1"].factor == moments.fwd_std / moments.bwd_std
    # The weight is square: forward and backward ball are one.
    assert found["0.0"].factor == 1.0


def test_the_repair_is_all_or_nothing():
    torch.manual_seed(0)
    x = torch.randn(3, WIDTH)

    class Outside(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = residual()

        def forward(self, x):
            h = self.body(x)
            return h + F.tanh(h, scaling="separate")

    model = Outside()
    before = [getattr(m, "scaling", None) for m in model.modules()]
    constants = [getattr(m, "constants", None) for m in model.modules()]
    with pytest.raises(
        ValueError, match=r"outside layers turn the gradients of body\.0\.0\.weight"
    ):
        separate_on_bridges_(model, x)
    assert before == [getattr(m, "scaling", None) for m in model.modules()]
    assert constants == [getattr(m, "constants", None) for m in model.modules()]


def test_dropout_in_evaluation_is_judged_as_it_trains():
    x = torch.randn(3, WIDTH)
    branch = nn.Sequential(nn.Linear(WIDTH, WIDTH), nnp.Dropout(0.3, scaling="separate", mean=1.0))
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), Residual(branch)).eval()
    assert check(model, x).legal
    assert separate_on_bridges_(model, x).legal
    assert not model.training
    assert not branch[1].training
    assert check(model.train(), x).legal


# Other roads of the same layers


@pytest.mark.parametrize("make", [chain, residual, concatenated, shared])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_type_has_no_say(make, dtype):
    torch.manual_seed(0)
    model, x = make(), torch.randn(3, WIDTH)
    wanted = check(model, x)
    assert check(model.to(dtype), x.to(dtype)) == wanted


class Mapped(nn.Module):
    """The model, one sample at a time."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return torch.vmap(self.model)(x)


class Own(torch.Tensor):
    """A tensor of another class."""


@pytest.mark.parametrize("make", [chain, residual, concatenated, shared])
def test_transforms_and_tensors_of_other_classes_have_no_say(make):
    torch.manual_seed(0)
    model, x = make(), torch.randn(3, WIDTH)
    wanted = list(check(model, x).factors.values())
    for found in (check(Mapped(model), x), check(model, x.as_subclass(Own))):
        for factor, same in zip(found.factors.values(), wanted, strict=True):
            assert (factor.low, factor.high) == pytest.approx((same.low, same.high), rel=8 * EPS)


@pytest.mark.parametrize("depth", [1, 5])
def test_its_table_is_as_narrow_as_the_names_allow(depth):
    net = nnp.Linear(2, 2, scaling="separate", per="layer")
    for _ in range(depth):
        net = nn.Sequential(nn.Sequential(net), nnp.Tanh(scaling="separate"))
    found = check(net, torch.randn(3, 2))
    head, *rows = str(found).splitlines()
    width = max(map(len, ("parameter", *found.factors)))
    assert head.index("factor of the true gradient") == width + 2
    assert {row[: width + 2].strip() for row in rows} == set(found.factors)
