"""What check() says of every layer is what its gradient under separate scales is measured to be."""

import inspect
import itertools

import pytest
import torch
from torch import nn

import normprop
import normprop.nn as nnp
from tests.nn.battery import LAW, ROWS, fill, first

EPS = torch.finfo(torch.float64).eps


class Fed(nn.Module):
    """A layer that gets its inputs times a weight each; joined, they also pass beside it."""

    def __init__(self, layer, shapes, joined):
        super().__init__()
        self.layer, self.joined = layer, joined
        drawn = torch.Generator().manual_seed(5)
        self.weights = nn.ParameterList(
            0.5 + torch.rand(shape, generator=drawn, dtype=torch.float64) for shape in shapes
        )

    def forward(self, *inputs):
        fed = [x * weight for x, weight in zip(inputs, self.weights, strict=False)]
        output = first(self.layer(*fed, *inputs[len(fed) :]))
        return torch.cat([t.flatten() for t in (*fed, output)]) if self.joined else output


class Case:
    """A layer of each scaling, with the same weights, and its inputs."""

    def __init__(self, name, make, shapes, further=()):
        self.name, self.make, self.shapes = name, make, shapes
        drawn = torch.Generator().manual_seed(7)
        self.inputs = [
            torch.randn(shape, generator=drawn, dtype=torch.float64) for shape in shapes
        ] + list(further)

    def model(self, scaling, joined, training=True):
        layer = self.make(scaling).double()
        if any(True for _ in layer.parameters()):
            fill(layer)
        return Fed(layer, self.shapes, joined).train(training)

    def gradients(self, model):
        torch.manual_seed(0)
        y = model(*self.inputs)
        drawn = torch.Generator().manual_seed(11)
        dy = torch.randn(y.shape, generator=drawn, dtype=torch.float64)
        names = [name for name, _ in model.named_parameters()]
        found = torch.autograd.grad(y, list(model.parameters()), dy, allow_unused=True)
        return dict(zip(names, found, strict=True))


def _of_battery():
    for row in ROWS:
        grains = ({"per": "layer"}, {"per": "neuron"}) if row.kind == "weights" else (LAW,)
        for options in grains:
            name = "-".join([row.name, *map(str, options.values() if "per" in options else ())])

            def make(scaling, row=row, options=options):
                return row.layer(scaling=scaling, **options)

            yield Case(name, make, [row.shape])


def _layer(name, shapes, further=(), /, *arguments, **options):
    def make(scaling):
        return getattr(nnp, name)(*arguments, scaling=scaling, **options)

    return Case(name, make, shapes, further)


def _places(*sizes):
    """What max pooling with windows of 2 and a stride of 2 gives as the places of its maxima."""
    pool = getattr(nn, f"MaxPool{len(sizes)}d")(2, return_indices=True)
    drawn = torch.Generator().manual_seed(3)
    return pool(torch.randn((2, 3, *sizes), generator=drawn))[1]


CLASSES = torch.tensor([0, 2, 1, 4])
SIGNS = torch.tensor([[1.0, -1.0, 1.0], [-1.0, -1.0, 1.0]], dtype=torch.float64)
OTHERS = [
    _layer("Bilinear", [(4, 3), (4, 5)], (), 3, 5, 2),
    _layer("MultiheadAttention", [(5, 2, 8)] * 3, (), 8, 2, per="layer"),
    _layer("MultiheadAttention", [(5, 2, 8)] * 3, (), 8, 2, per="neuron"),
    _layer("ScaledDotProductAttention", [(2, 5, 4)] * 3),
    _layer("Calibrated", [(4, 7)], (), "tanh", depth=10),
    _layer("Elementwise", [(4, 7)], (), torch.sin, **LAW),
    _layer("GatedLinear", [(4, 6)], (), "silu", **LAW),
    _layer("Concat", [(4, 2), (4, 6)], (), 1, std=(1.0, 3.0)),
    _layer("FractionalMaxPool2d", [(2, 3, 9, 7)], (), 2, output_size=4, **LAW),
    _layer("FractionalMaxPool3d", [(2, 3, 7, 6, 5)], (), 2, output_size=3, **LAW),
    _layer("MaxUnpool1d", [(2, 3, 4)], (_places(8),), 2, **LAW),
    _layer("MaxUnpool2d", [(2, 3, 4, 3)], (_places(8, 6),), 2, **LAW),
    _layer("MaxUnpool3d", [(2, 3, 2, 3, 2)], (_places(4, 6, 4),), 2, **LAW),
    _layer("CrossEntropyLoss", [(4, 5)], (CLASSES,)),
    _layer("NLLLoss", [(4, 5)], (CLASSES,)),
    _layer("MSELoss", [(4, 5), (4, 5)]),
    _layer("L1Loss", [(4, 5), (4, 5)]),
    _layer("SmoothL1Loss", [(4, 5), (4, 5)]),
    _layer("HuberLoss", [(4, 5), (4, 5)]),
    _layer("BCEWithLogitsLoss", [(2, 3), (2, 3)]),
    _layer("SoftMarginLoss", [(2, 3)], (SIGNS,)),
    _layer("MultiLabelSoftMarginLoss", [(2, 3), (2, 3)]),
    _layer("HingeEmbeddingLoss", [(2, 3)], (SIGNS,)),
]
CASES = [*_of_battery(), *OTHERS]
cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def test_every_layer_that_can_be_separate_is_here():
    separable = {
        name
        for name in nnp.__all__
        if isinstance(getattr(nnp, name), type)
        and "scaling" in inspect.signature(getattr(nnp, name)).parameters
    }
    assert separable == {case.name.partition("-")[0] for case in CASES}


def _functions(kind=torch.autograd.Function):
    for function in kind.__subclasses__():
        yield function
        yield from _functions(function)


def test_every_function_of_ours_states_its_factors():
    own = {f for f in _functions() if f.__module__.startswith("normprop.")}
    # One that states none is made by the tests of check.
    own = {f for f in own if f.__module__ != "normprop.functional.new"}
    assert {"_Fused", "_PReLU", "_Dropped", "_Scaled", "_TwoWeights"} <= {f.__name__ for f in own}
    silent = []
    for function in own:
        makers = (function.forward, function.setup_context)
        says = any("gradient_factors" in make.__code__.co_names for make in makers)
        if not says and not hasattr(function, "gradient_factors"):
            silent.append(function.__qualname__)
    assert silent == []


@cases
def test_the_factor_is_what_is_measured(case):
    for training, joined in itertools.product((True, False), (True, False)):
        model = case.model("separate", joined, training)
        separate = case.gradients(model)
        true = case.gradients(case.model("forward", joined, training))
        found = normprop.check(model, *case.inputs)
        assert set(found.factors) | set(found.unreached) == set(true)
        for name, wanted in true.items():
            where = f"{name}, training={training}, joined={joined}"
            if name in found.unreached:
                assert wanted is None, where
                continue
            got = separate[name]
            ratio = ((got * wanted).sum() / wanted.square().sum()).item()
            off = (got - ratio * wanted).abs().max()
            factor = found.factors[name]
            assert factor.legal == (off <= 1e-6 * wanted.abs().max()), where
            if factor.legal:
                # Some hundreds of roundings, of sums and products of a few numbers each.
                assert factor.value == pytest.approx(ratio, rel=1000 * EPS), where
                assert off <= 1000 * EPS * max(abs(ratio), 1.0) * wanted.abs().max(), where


@cases
def test_where_a_layer_must_not_be_separate_it_takes_the_forward_scale(case):
    true = case.gradients(case.model("forward", True))
    for training in (True, False):
        model = case.model("separate", True, training)
        found = normprop.separate_on_bridges_(model, *case.inputs)
        assert found.legal
        assert all(module.training == training for module in model.modules())
        separate = case.gradients(model.train())
        for name, wanted in true.items():
            if name in found.factors:
                bound = 1000 * EPS * wanted.abs().max()
                value = found.factors[name].value
                assert (separate[name] - value * wanted).abs().max() <= bound, name


class Own(torch.Tensor):
    """A tensor of another class."""


@cases
def test_half_precision_and_other_tensors_have_the_same_factors(case):
    model = case.model("separate", False)
    wanted = normprop.check(model, *case.inputs)
    others = [x.as_subclass(Own) for x in case.inputs]
    halves = [x.bfloat16() if x.is_floating_point() else x for x in case.inputs]
    found = [normprop.check(model, *others), normprop.check(model.bfloat16(), *halves)]
    for factors in (f.factors for f in found):
        assert factors.keys() == wanted.factors.keys()
        for name, factor in wanted.factors.items():
            got = factors[name]
            assert got.asymmetric == factor.asymmetric
            if not factor.asymmetric:
                ends = pytest.approx((factor.low, factor.high), rel=8 * EPS)
                assert (got.low, got.high) == ends, name
