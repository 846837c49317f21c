"""What holds for every layer, over the table of battery.py."""

import copy
import inspect
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import normprop
from normprop import moments, simulate
from normprop.functional.scale import Constants
from normprop.nn.twin import Twin
from tests.nn.battery import (
    LAW,
    ROWS,
    VARIANTS,
    first,
    geometry,
    on_ball,
    run,
    same_up_to_order,
)

rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
weighted_rows = pytest.mark.parametrize(
    "row", [r for r in ROWS if r.kind == "weights"], ids=lambda row: row.name
)
variants = pytest.mark.parametrize("variant", VARIANTS, ids=str)
true_gradients = pytest.mark.parametrize(
    "variant", [v for v in VARIANTS if not v.separate], ids=str
)
separate = pytest.mark.parametrize("variant", [v for v in VARIANTS if v.separate], ids=str)
changes = pytest.mark.parametrize(
    ("row", "change"),
    [(row, change) for row in ROWS for change in row.changes],
    ids=lambda value: getattr(value, "name", None) or str(value),
)
# torch has no batching rule for some backward passes of pooling, and says so.
slow_vmap = pytest.mark.filterwarnings("ignore:There is a performance drop")
# Forward mode makes torch load decompositions that it wrote in its own deprecated TorchScript.
forward_mode = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


def default(row):
    """The variant of a row with the defaults that a reader gets, at a law that shows."""
    return next(v for v in VARIANTS if v.row is row and v.options["scaling"] == "backward")


# The table and the signatures


def test_every_layer_has_a_row():
    # What has no twin in torch, or takes more than one tensor or integers, has tests of its own.
    several = (
        nn.modules.loss._Loss, nn.MultiheadAttention, nn.Bilinear, nn.Embedding,
        nn.modules.pooling._MaxUnpoolNd,
        # Random windows that compiled code, or another batch, draws otherwise.
        nn.FractionalMaxPool2d, nn.FractionalMaxPool3d,
    )  # fmt: skip
    types = {n: getattr(nn, n, None) for n in normprop.nn.__all__}
    twins = {n for n, t in types.items() if inspect.isclass(t) and not issubclass(t, several)}
    assert twins == {row.name for row in ROWS}


@rows
def test_a_layer_is_its_twin_with_more_arguments(row):
    ours, theirs = getattr(normprop.nn, row.name), getattr(nn, row.name)
    assert issubclass(ours, theirs)
    mine = list(inspect.signature(ours).parameters.values())
    # Sigmoid and Tanh take their arguments from nn.Module, which takes none.
    theirs = inspect.signature(theirs).parameters.values()
    defaults = {p.name: p.default for p in theirs if p.kind == p.POSITIONAL_OR_KEYWORD}
    shared = [p for p in mine if p.kind != p.KEYWORD_ONLY]
    assert [p.name for p in shared] == list(defaults)
    assert {p.name: p.default for p in shared} == defaults


@rows
def test_a_call_asks_for_no_signature(row, monkeypatch):
    layer, x = row.layer().double(), row.input()
    monkeypatch.setattr(inspect, "signature", None)
    layer(x)


# Outputs


@variants
def test_the_output_is_the_documented_formula(variant):
    layer, x = variant.layer(), variant.row.input()
    y = run(layer, x)[0]
    wanted, bound = variant.formula(x, layer)
    assert y.dtype == torch.float64
    assert ((y - wanted).abs() <= bound).all()


@changes
def test_every_argument_of_the_twin_has_its_effect(row, change):
    variant = default(row)
    layer, x = variant.layer(**change), row.input()
    torch.manual_seed(0)
    y = layer(x)
    wanted, bound = variant.formula(x, layer, **change)
    assert ((first(y) - wanted).abs() <= bound).all()
    if change.get("return_indices"):
        assert torch.equal(y[1], row.plain(**change)(x)[1])
        return
    before = run(variant.layer(), x)[0]
    assert y.shape != before.shape or not torch.equal(y, before)


OWN = {
    # The mean of the input drops out of softmax.
    "group": [{"scaling": "forward"}, {"scaling": "separate"}, {"std": 1.0}],
    "map": [{"scaling": "forward"}, {"scaling": "separate"}, {"mean": -0.5}, {"std": 1.0}],
    "pool": [
        {"scaling": "forward"}, {"scaling": "separate"}, {"mean": -0.5},
        {"scaling": "forward", "std": 1.0}, {"after": "relu"}, {"after": "tanh"},
    ],
    "dropout": [
        {"scaling": "forward"}, {"scaling": "separate"}, {"mean": -0.5},
        {"scaling": "forward", "std": 1.0},
    ],
    "fitted": [
        {"scaling": "forward"}, {"scaling": "separate"}, {"mean": -0.5},
        {"scaling": "forward", "std": 1.0}, {"after": "relu"}, {"after": "tanh"},
    ],
    **{
        kind: [
            {"scaling": "forward"}, {"scaling": "separate"}, {"mean": -1.5},
            {"scaling": "forward", "std": 1.5},
        ]
        for kind in ("moved", "border", "resized")
    },
    "weights": [
        {"scaling": "forward"}, {"scaling": "separate"}, {"per": "layer"},
        {"scaling": "separate", "per": "layer"},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("row", "option"),
    # The slope of a line is the same whatever the law.
    [
        (row, option)
        for row in ROWS
        for option in OWN[row.kind]
        if (row.name, option) != ("Identity", {"std": 1.0})
    ],
    ids=lambda value: getattr(value, "name", None) or str(value),
)
def test_every_argument_of_the_layer_has_an_effect(row, option):
    variant = default(row)
    before = run(variant.layer(), row.input())
    after = run(variant.layer(**option), row.input())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    text = repr(variant.layer(**option))
    for name, value in option.items():
        shown = f"{value:g}" if isinstance(value, float) else value
        assert f"{name}={shown}" in text.replace("'", "")


@rows
def test_the_repr_shows_the_arguments_of_both(row):
    text = repr(default(row).layer())
    assert row.plain().extra_repr() in text
    names = ["scaling", "per", "method"] if row.kind == "weights" else ["scaling", "mean", "std"]
    names += ["eval"] if row.kind == "dropout" else []
    assert all(f"{name}=" in text for name in names)


# Parameters


@weighted_rows
def test_device_and_type_are_arguments(row):
    make = getattr(normprop.nn, row.name)
    assert make(**row.arguments, dtype=torch.float64).weight.dtype == torch.float64
    assert make(**row.arguments, device="meta").weight.is_meta
    assert make(**row.arguments).weight.dtype == torch.get_default_dtype()


@rows
def test_checkpoints_go_both_ways(row):
    ours, theirs = default(row).layer(), row.plain()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict(), strict=True)
    for key, value in theirs.state_dict().items():
        assert torch.equal(value, ours.state_dict()[key])
    theirs = row.plain()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    for key, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[key])


@variants
@pytest.mark.parametrize(
    "clone",
    [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
    ids=["copy", "pickle"],
)
def test_a_copy_is_the_same_layer(variant, clone):
    layer, x = variant.layer(), variant.row.input()
    other = clone(layer)
    assert repr(other) == repr(layer)
    assert all(torch.equal(a, b) for a, b in zip(run(other, x), run(layer, x), strict=True))
    if variant.row.kind == "weights":
        other.weight.data.mul_(2).add_(1)
        assert not torch.equal(other.weight, layer.weight)


# Inputs of every kind


@variants
def test_a_batch_of_nothing(variant):
    x = variant.row.input((0, *variant.row.shape[1:]))
    y, dx, *_ = run(variant.layer(), x)
    assert y.shape == first(variant.row.plain()(x)).shape
    assert dx.shape == x.shape


@variants
def test_a_strided_input(variant):
    row = variant.row
    wide = row.input((*row.shape[:-1], 2 * row.shape[-1]))
    x = wide[..., ::2]
    assert not x.is_contiguous()
    layer = variant.layer()
    assert same_up_to_order(run(layer, x), run(layer, x.contiguous()), x.numel())


@variants
def test_an_odd_size(variant):
    row = variant.row
    # What Linear and Fold take of a sample is given; their batch is odd instead.
    given = row.name in ("Linear", "Fold")
    shape = (1023, *row.shape[1:]) if given else (1, *row.shape[1:-1], 1023)
    x, layer = row.input(shape), variant.layer()
    wanted, bound = variant.formula(x, layer)
    assert ((run(layer, x)[0] - wanted).abs() <= bound).all()


@pytest.mark.parametrize(
    "variant",
    [v for v in VARIANTS if v.row.kind in ("pool", "fitted", "border", "weights")],
    ids=str,
)
def test_a_single_sample_needs_no_batch(variant):
    layer, x = variant.layer(), variant.row.input()
    whole, single = first(layer(x)), first(layer(x[0]))
    assert same_up_to_order([single], [whole[0]], layer_terms(layer, x))


def layer_terms(layer, x):
    return x.numel() + sum(p.numel() for p in layer.parameters())


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.row.dims in (2, 3)], ids=str)
def test_channels_last(variant):
    row, layer = variant.row, variant.layer()
    form = torch.channels_last if row.dims == 2 else torch.channels_last_3d
    x = row.input()
    other = x.to(memory_format=form)
    assert same_up_to_order(run(layer, other), run(layer, x), layer_terms(layer, x))
    if row.kind != "weights":
        plain = first(row.plain()(other)).is_contiguous(memory_format=form)
        assert first(layer(other)).is_contiguous(memory_format=form) == plain


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.row.kind != "weights"], ids=str)
def test_half_precision_is_rounded_once(variant, dtype):
    layer, x = variant.layer(), variant.row.input(dtype=dtype)
    y, dx, *_ = run(layer, x)
    assert y.dtype == dx.dtype == dtype
    generator = torch.Generator().manual_seed(11)
    dy = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(dtype)
    wide_y, wide_dx, *_ = run(layer, x.float(), dy.float())
    assert torch.equal(y, wide_y.to(dtype))
    assert torch.equal(dx, wide_dx.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.row.kind == "weights"], ids=str)
def test_half_precision_weights_are_normalised_in_single(variant, dtype):
    layer, x = variant.layer().to(dtype), variant.row.input(dtype=dtype)
    results = run(layer, x)
    assert all(result.dtype == dtype for result in results)
    assert all(result.isfinite().all() for result in results)
    if variant.options.get("method") == "project":
        return
    # float32 norms differ from float64 ones by less than the rounding to half precision, so
    # that a weight is the wanted one or a neighbour: one ulp.
    ball = "backward" if variant.options["scaling"] == "backward" else "forward"
    wanted = on_ball(layer.weight, ball, variant.options["per"], *geometry(layer))
    used = layer._on_ball(layer.weight, ball)
    assert used.dtype == dtype
    assert ((used.double() - wanted).abs() <= torch.finfo(dtype).eps * wanted.abs()).all()


@variants
def test_autocast(variant):
    layer, plain = variant.layer().float(), variant.row.plain().float()
    x = variant.row.input(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = run(layer, x)
        torch.manual_seed(0)
        assert results[0].dtype == first(plain(x)).dtype
    assert results[1].dtype == torch.float32
    assert all(g.dtype == torch.float32 for g in results[2:])
    # Every product and every sum of it is rounded to bfloat16 at worst.
    terms = layer_terms(layer, x)
    for got, wanted in zip(results, run(layer, x), strict=True):
        bound = terms * torch.finfo(torch.bfloat16).eps * wanted.abs().max()
        assert ((got.float() - wanted).abs() <= bound).all()


# Gradients


@true_gradients
def test_the_gradient_is_the_derivative(variant):
    layer = variant.layer()
    names = [name for name, _ in layer.named_parameters()]
    x = variant.row.input()[:1].requires_grad_()
    # One random direction, rather than each entry of the Jacobian, where there are thousands.
    fast = (variant.row.kind == "weights" and variant.row.dims > 0) or variant.row.dims == 3

    def call(x, *parameters):
        torch.manual_seed(0)
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    inputs = (x, *layer.parameters())
    assert torch.autograd.gradcheck(call, inputs, fast_mode=fast)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


@separate
def test_separate_is_not_the_derivative(variant):
    # Same output as "forward", whose gradient is the derivative; so another gradient is not.
    x = variant.row.input()
    y, dx, *_ = run(variant.layer(), x)
    wanted_y, wanted_dx, *_ = run(variant.layer(scaling="forward"), x)
    assert same_up_to_order([y], [wanted_y], x.numel())
    if abs(variant.factor - 1) > 1e-3 or variant.asymmetric:
        assert (dx - wanted_dx).abs().max() > 1e-3 * wanted_dx.abs().max()


@separate
def test_separate_is_forward_times_the_documented_factor(variant):
    x = variant.row.input()
    forward = variant.layer(scaling="forward")
    got, wanted = run(variant.layer(), x), run(forward, x)
    if variant.asymmetric:
        # dx is that of the same weight on the backward ball, for the same dy.
        backward = variant.layer(scaling="backward", method="normalize")
        backward.load_state_dict(forward.state_dict())
        wanted[1] = run(backward, x)[1]
    else:
        wanted[1] = wanted[1] * variant.factor
    assert same_up_to_order(got, wanted, layer_terms(forward, x))


@separate
def test_separate_differentiates_twice(variant):
    # The backward pass is linear in dy, by the same factor or the same weight.
    layer = variant.layer()
    x = variant.row.input()[:1].requires_grad_()
    y = first(layer(x))
    dy = torch.ones_like(y).requires_grad_()
    torch.manual_seed(0)
    (dx,) = torch.autograd.grad(first(layer(x)), x, dy, create_graph=True)
    (ddy,) = torch.autograd.grad(dx.sum(), dy)
    torch.manual_seed(0)
    assert torch.isfinite(ddy).all()
    # A linear map has <dx, 1> = <dy, ddy>.
    assert abs(dx.sum() - (dy * ddy).sum()) <= 1e-15 * x.numel() * layer_terms(layer, x)


@forward_mode
@separate
def test_forward_mode_raises_where_there_is_no_derivative(variant):
    layer, x = variant.layer(), variant.row.input()
    if abs(variant.factor - 1) < 1e-15 and not variant.asymmetric:
        return
    said = "'separate' has no derivative in forward mode"
    if variant.row.kind == "weights":
        said = "jvp|forward.mode"
    with pytest.raises((NotImplementedError, RuntimeError), match=said):
        torch.func.jvp(lambda x: layer(x), (x,), (torch.ones_like(x),))


@forward_mode
@true_gradients
def test_forward_mode_works_where_there_is_one(variant):
    layer, x = variant.layer(), variant.row.input()

    def call(x):
        torch.manual_seed(0)
        return layer(x)

    _, tangent = torch.func.jvp(call, (x,), (x,))
    y, dx, *_ = run(layer, x, torch.ones_like(tangent))
    bound = 4e-16 * layer_terms(layer, x) * (1 + y.numel()) * (1 + tangent.abs().max())
    assert abs(tangent.sum() - (dx * x).sum()) <= bound


@slow_vmap
@variants
def test_functional_transforms(variant):
    layer, x = variant.layer().eval(), variant.row.input()

    def loss(x):
        return layer(x).square().sum()

    leaf = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(loss(leaf), leaf)
    terms = layer_terms(layer, x)
    assert same_up_to_order([torch.func.grad(loss)(x)], [wanted], terms)
    each = torch.func.vmap(torch.func.grad(lambda sample: loss(sample[None])))(x)
    assert same_up_to_order([each], [wanted], terms)


@slow_vmap
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.row.kind == "weights"], ids=str)
def test_gradients_of_the_weights_by_sample(variant):
    layer, x = variant.layer(), variant.row.input()
    parameters = dict(layer.named_parameters())

    def loss(parameters, x):
        return torch.func.functional_call(layer, parameters, (x,)).square().sum()

    each = torch.func.vmap(
        torch.func.grad(lambda p, sample: loss(p, sample[None])), in_dims=(None, 0)
    )(parameters, x)
    wanted = torch.autograd.grad(loss(parameters, x), list(parameters.values()))
    got = [each[name].sum(0) for name in parameters]
    assert same_up_to_order(got, wanted, layer_terms(layer, x))


# Compilation


@pytest.fixture
def compiler():
    """Forget what was compiled before: the layers of one class share their code."""
    torch.compiler.reset()
    yield torch.compile
    torch.compiler.reset()


# Dynamo makes an instance of torch.autograd.Function to trace one, which torch warns of.
traced_functions = pytest.mark.filterwarnings("ignore:.*should not be instantiated")


@traced_functions
@pytest.mark.parametrize(
    "row", [r for r in ROWS if r.kind != "dropout" and r.dims != 3], ids=lambda row: row.name
)
def test_compiled_is_eager(row, compiler):
    # All variants of a row in one graph, each with an input of its own: most of what a compilation
    # costs is paid for each graph anew.
    layers = [variant.layer() for variant in VARIANTS if variant.row is row]
    x = row.input()
    inputs = [x.clone().requires_grad_() for _ in layers]
    leaves = [[x, *layer.parameters()] for x, layer in zip(inputs, layers, strict=True)]

    def outputs(inputs):
        return [first(layer(x)) for layer, x in zip(layers, inputs, strict=True)]

    def tensors(outputs):
        """By layer, its output and the gradients of input and parameters."""
        torch.manual_seed(0)
        ys = outputs(inputs)
        dys = [torch.randn_like(y) for y in ys]
        gradients = iter(torch.autograd.grad(ys, list(itertools.chain(*leaves)), dys))
        return [
            [y.detach(), *itertools.islice(gradients, len(own))]
            for y, own in zip(ys, leaves, strict=True)
        ]

    compiled = tensors(compiler(outputs, backend="aot_eager", fullgraph=True))
    for layer, got, wanted in zip(layers, compiled, tensors(outputs), strict=True):
        assert same_up_to_order(got, wanted, layer_terms(layer, x)), layer


class ByName(Constants):
    """Of which Dynamo of a torch before 2.13 can be asked what it holds by name alone."""

    def __iter__(self):
        raise NotImplementedError


@pytest.mark.parametrize(
    "variant",
    [v for v in VARIANTS if v.separate and v.row.kind not in ("weights", "group")],
    ids=str,
)
def test_compiled_code_asks_for_constants_by_name(variant, monkeypatch):
    layer, x = variant.layer(), variant.row.input()
    recalled, asked = Twin._recalled, []

    def by_name(self, *call):
        found = recalled(self, *call)
        asked.append(found)
        if isinstance(found, Constants):
            return ByName(found.shift, found.forward, found.backward)
        return found._replace(training=ByName(*found.training))

    monkeypatch.setattr(Twin, "_recalled", by_name)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    layer(x)
    assert asked


@pytest.mark.parametrize(
    "variant", [v for v in VARIANTS if v.separate and v.row.dims in (0, 2)], ids=str
)
def test_compiled_functional_gradients_are_eager(variant, compiler):
    # The trap of pytorch issue 193279: Dynamo drops a custom backward under torch.func.grad.
    layer, x = variant.layer().eval(), variant.row.input()
    if variant.row.kind == "dropout":
        layer = variant.layer(p=0.0)

    def loss(x):
        return layer(x).square().sum()

    gradient = compiler(torch.func.grad(loss), backend="aot_eager", fullgraph=True)
    assert same_up_to_order([gradient(x)], [torch.func.grad(loss)(x)], layer_terms(layer, x))


@pytest.mark.parametrize(
    "variant", [v for v in VARIANTS if v.row.kind == "dropout" and v.separate], ids=str
)
def test_compiled_dropout_drops_and_scales(variant, compiler):
    # Compiled code may draw other masks than eager code: each element tells what happened to it.
    # In float32, as torch's decomposition of dropout rounds 1/q to float32 whatever the type.
    layer, x = variant.layer(), variant.row.input(dtype=torch.float32)
    compiled = compiler(layer, backend="aot_eager", fullgraph=True)
    dy = torch.ones_like(x)
    y, dx = run(compiled, x, dy)
    shift, forward, backward = layer.constants.training
    keep = 1 - layer.p
    kept = dx != 0
    assert 0 < kept.sum() < kept.numel()
    # A handful of operations, each rounded once.
    eps = 16 * torch.finfo(x.dtype).eps
    if "Alpha" in variant.row.name:
        alpha = 1.7580993408473766
        gain = 1 / math.sqrt(keep * (1 + layer.p * alpha**2))
        plain = torch.where(kept, gain * x, -gain * alpha) + gain * alpha * layer.p
        shift_size = abs(shift) + 2 * gain * alpha
    else:
        gain, plain = 1 / keep, torch.where(kept, x / keep, 0.0)
        shift_size = abs(shift)
    wanted = (plain - shift) / forward
    assert ((y - wanted).abs() <= eps * (wanted.abs() + shift_size / forward)).all()
    wanted = torch.where(kept, gain / backward, 0.0)
    assert ((dx - wanted).abs() <= eps * wanted).all()


# What Inductor imports of torch is written in torch's own deprecated TorchScript.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
@traced_functions
@pytest.mark.parametrize("name", ["ReLU", "MaxPool2d", "Linear", "Conv2d"])
def test_inductor_is_eager(name, compiler):
    variant = next(v for v in VARIANTS if v.row.name == name and v.separate)
    layer, x = variant.layer(), variant.row.input()
    compiled = compiler(layer, fullgraph=True)
    assert same_up_to_order(run(compiled, x), run(layer, x), layer_terms(layer, x))


# What normalising is for

UNIT = {"forward": ["fwd_std"], "backward": ["bwd_std"], "separate": ["fwd_std", "bwd_std"]}


@variants
def test_the_layer_has_unit_scale_by_simulation(variant):
    layer = variant.layer()
    law = {k: v for k, v in variant.options.items() if k in ("mean", "std", "after")}
    estimate = simulate(layer, 100_000, seed=4, **law, **variant.simulated())
    # At the border the constants of the interior give what the figures of a sample say.
    whole = moments(layer, **law, **variant.simulated()) if variant.row.kind == "border" else None
    for figure in UNIT[variant.options["scaling"]]:
        value, error = getattr(estimate, figure), getattr(estimate, f"{figure}_se")
        if whole is not None:
            # A layer that puts single gradients in places has a spread of 0 only by rounding.
            assert abs(value - getattr(whole, figure)) < 4.5 * error + 1e-14, figure
            continue
        if variant.options.get("per") == "layer":
            # One factor stands in for all norms: the mean of their squares is 1. Channels of
            # one sample share no random numbers backward, and may forward; the sum of their
            # errors bounds that of the mean.
            error = np.mean(2 * value * error)
            value = np.mean(value**2)
        assert np.abs((value - 1) / error).max() < 4.5, figure
    if variant.row.kind != "weights":
        # The mean of softmax is 0 in every sample, but for rounding.
        mean = 0.0 if whole is None else whole.fwd_mean
        assert abs(estimate.fwd_mean - mean) < 4.5 * estimate.fwd_mean_se + 1e-14


@variants
def test_the_layer_measures_as_what_it_is(variant):
    law = {k: v for k, v in variant.options.items() if k in ("mean", "std", "after")}
    figures = moments(variant.layer(), **law, **variant.sample())
    for figure in UNIT[variant.options["scaling"]]:
        value = getattr(figures, figure)
        value = np.mean(value**2) if variant.options.get("per") == "layer" else value
        # Twice for the square; both roads to a constant have their own rounding.
        assert np.abs(value - 1).max() <= 4 * figures.error + 1e-14


# Refusals


@rows
def test_an_unknown_scaling_is_refused(row):
    with pytest.raises(
        ValueError, match="scaling must be one of forward, backward, separate; it was 'both'"
    ):
        row.layer(scaling="both")


@pytest.mark.parametrize("row", [r for r in ROWS if r.kind != "weights"], ids=lambda r: r.name)
@pytest.mark.parametrize(
    ("law", "error", "message"),
    [
        ({"std": 0.0}, ValueError, "std must be finite and greater than 0; it was 0.0"),
        ({"std": -1}, ValueError, "std must be finite and greater than 0; it was -1"),
        ({"mean": float("nan")}, ValueError, "mean must be finite; it was nan"),
        ({"std": "1"}, TypeError, "std must be a real number; it was '1'"),
        ({"mean": True}, TypeError, "mean must be a real number; it was True"),
    ],
)
def test_a_law_that_is_none_is_refused(row, law, error, message):
    with pytest.raises(error, match=message):
        row.layer(**law)


@weighted_rows
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"per": "row"}, "per must be 'neuron' or 'layer'; it was 'row'"),
        ({"method": "clip"}, "method must be 'normalize' or 'project'; it was 'clip'"),
    ],
)
def test_an_unknown_option_of_weights_is_refused(row, option, message):
    with pytest.raises(ValueError, match=message):
        row.layer(**option)


@pytest.mark.parametrize(
    "row",
    [r for r in ROWS if "inplace" in inspect.signature(getattr(nn, r.name)).parameters],
    ids=lambda r: r.name,
)
def test_working_in_place_is_refused(row):
    assert row.layer(inplace=False).inplace is False
    with pytest.raises(ValueError, match=r"inplace must be False.*it was True"):
        row.layer(inplace=True)


@pytest.mark.parametrize("row", [r for r in ROWS if r.kind != "weights"], ids=lambda r: r.name)
def test_the_input_is_left_alone(row):
    x = row.input()
    before = x.clone()
    row.layer(**LAW)(x)
    assert torch.equal(x, before)
