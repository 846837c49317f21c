"""What may be set of a layer, and by which name: over all twins and all functions."""

import copy
import inspect
import pickle

import pytest
import torch
from torch import nn

import normprop
from normprop import functional, moments, rules
from tests.nn.battery import LAW, ROWS, SCALINGS, fill, run

rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
LAYERS = sorted(n for n in normprop.nn.__all__ if inspect.isclass(getattr(normprop.nn, n)))
FUNCTIONS = sorted(n for n in functional.__all__ if inspect.isfunction(getattr(functional, n)))
OTHERS = {
    "after": "tanh", "backend": "eager", "eval": "mean", "method": "project", "per": "layer",
    "mean": -0.25, "std": 1.5,
}  # fmt: skip
# What torch's own layers read once, when they are made.
AT_BIRTH = {
    "in_features", "out_features", "in_channels", "out_channels", "kernel_size", "bias", "init",
    "padding_mode", "groups", "num_parameters", "device", "dtype", "inplace",
}  # fmt: skip


def changes(row):
    """One argument each, with another value than the row has."""
    layer = getattr(normprop.nn, row.name)
    known = inspect.signature(layer).parameters
    yield from ({"scaling": scaling} for scaling in SCALINGS)
    yield from ({name: value} for name, value in OTHERS.items() if name in known)
    born = AT_BIRTH if row.kind == "weights" else AT_BIRTH - {"kernel_size", "init"}
    for change in row.changes:
        # Where several belong together torch's constructor would want them at once.
        if not set(change) & born and "padding" not in change:
            yield change
    if row.name == "PReLU":
        yield {"init": 0.5}


def made(row, **options):
    law = {} if row.kind == "weights" else LAW
    layer = row.layer(**{**law, **options})
    if row.kind == "weights":
        fill(layer)
        if layer.method == "project":
            layer.project_()
    return layer


@pytest.mark.parametrize(
    "clone",
    [lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))],
    ids=["itself", "copy", "pickle"],
)
@rows
def test_what_is_set_is_as_if_it_had_been_given(row, clone):
    x = row.input()
    for change in changes(row):
        first = made(row)
        before = run(first, x)
        layer, wanted = clone(first), made(row, **change)
        for name in inspect.signature(type(layer)).parameters:
            # A stride that was not given is the window's size, as torch sees it when it makes both.
            value = wanted.__dict__.get(name, change.get(name))
            if name in change or value != layer.__dict__.get(name):
                setattr(layer, name, change[name] if name in ("after", "eval") else value)
        if row.name == "PReLU" and "init" in change:
            # A slope that is learnt stays what it is.
            wanted.weight.data.copy_(layer.weight)
        got = run(layer, x)
        assert all(torch.equal(a, b) for a, b in zip(got, run(wanted, x), strict=True)), change
        assert repr(layer) == repr(wanted)
        if layer is not first:
            assert all(torch.equal(a, b) for a, b in zip(run(first, x), before, strict=True))


@pytest.mark.parametrize(
    "row",
    [r for r in ROWS if r.name in ("Tanh", "Softmax", "MaxPool2d", "AdaptiveAvgPool2d", "Linear")],
    ids=lambda row: row.name,
)
@pytest.mark.filterwarnings("ignore:.*should not be instantiated")
def test_compiled_code_sees_what_is_set(row):
    torch.compiler.reset()
    layer, x = made(row), row.input()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for scaling in ("separate", "forward"):
        layer.scaling = scaling
        wanted = run(made(row, scaling=scaling), x)[0]
        assert torch.allclose(run(compiled, x)[0], wanted, rtol=1e-12, atol=1e-12)
    torch.compiler.reset()


@rows
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scaling", "nonsense", "scaling must be one of forward, backward, separate"),
        ("std", 0.0, "std must be finite and greater than 0; it was 0.0"),
        ("mean", float("nan"), "mean must be finite; it was nan"),
        ("mean", "0", "mean must be a real number; it was '0'"),
        ("per", "row", "per must be 'neuron' or 'layer'; it was 'row'"),
        ("method", "clip", "method must be 'normalize' or 'project'; it was 'clip'"),
        ("eval", "median", "eval must be 'variance' or 'mean'; it was 'median'"),
        ("backend", "gpu", "backend must be one of auto, eager, triton"),
        ("inplace", True, "inplace must be False"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_set(row, name, value, message):
    layer = made(row)
    if name not in inspect.signature(type(layer)).parameters:
        return
    before = repr(layer)
    with pytest.raises((TypeError, ValueError), match=message):
        setattr(layer, name, value)
    assert repr(layer) == before


@pytest.mark.parametrize("name", LAYERS)
def test_a_scaling_by_position_is_told_so(name):
    layer = getattr(normprop.nn, name)
    if "scaling" not in inspect.signature(layer).parameters and name != "Embedding":
        assert name == "Residual"
        return
    for before in range(4):
        with pytest.raises(TypeError, match=rf"given by name: {name}\(scaling='forward'\)"):
            layer(*[2] * before, "forward")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_takes_a_scaling_by_name_alone(name):
    function = getattr(functional, name)
    parameters = inspect.signature(function).parameters
    assert "constants" not in parameters
    for keyword in ("scaling", "mean", "std"):
        assert keyword not in parameters or parameters[keyword].kind is inspect._ParameterKind(3)
    if "scaling" in parameters:
        for before in range(1, 4):
            with pytest.raises(TypeError, match=rf"given by name: {name}\(scaling='separate'\)"):
                function(*[torch.ones(2, 2)] * before, "separate")
        with pytest.raises(TypeError, match="no argument 'scalling'"):
            function(torch.ones(2, 2), scalling="forward")


@pytest.mark.parametrize("name", LAYERS)
def test_the_signature_names_every_keyword(name):
    layer = getattr(normprop.nn, name)
    kinds = [p.kind for p in inspect.signature(layer).parameters.values()]
    assert inspect._ParameterKind.VAR_KEYWORD not in kinds
    assert inspect._ParameterKind.VAR_POSITIONAL not in kinds


@pytest.mark.parametrize("name", [n for n in LAYERS if hasattr(nn, n)])
def test_a_subclass_with_a_forward_of_its_own_is_not_known(name):
    layer = getattr(normprop.nn, name)
    own = type("Own", (layer,), {"forward": lambda self, *inputs: inputs[0]})
    kept = type("Kept", (layer,), {})
    assert rules.entry_that_applies(own) is None
    assert rules.entry_that_applies(kept) is rules.entry_of_type(layer)
    assert rules.entry_of_type(layer).rule is not rules.entry_of_type(layer.torch_type).rule
    for entry in (rules.entry_of_type(layer), rules.entry_of_type(getattr(nn, name))):
        assert entry.family is not None


def test_a_subclass_shows_its_own_arguments():
    class Warm(normprop.nn.Softplus):
        def __init__(self, warmth, **law):
            super().__init__(beta=warmth, **law)

    assert list(inspect.signature(Warm).parameters) == ["warmth", "law"]
    assert moments(Warm(2.0)) == moments(normprop.nn.Softplus(2.0))


def test_torchs_own_positions_stay_torchs():
    x, t = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    with pytest.raises(ValueError, match="weight must be None"):
        functional.cross_entropy(x, t, torch.ones(3))
    with pytest.raises(ValueError, match="inplace must be False"):
        functional.dropout(x, 0.5, True, True)
    for name in ("cross_entropy", "nll_loss", "mse_loss", "huber_loss", "dropout", "dropout2d",
                 "alpha_dropout", "embedding", "relu", "softplus"):  # fmt: skip
        torchs = getattr(nn.functional, name)
        try:
            theirs = list(inspect.signature(torchs).parameters)
        except ValueError:
            continue
        ours = inspect.signature(getattr(functional, name)).parameters.values()
        assert [p.name for p in ours if p.kind is p.POSITIONAL_OR_KEYWORD] == theirs


def test_heads_of_keys_may_be_shared():
    q, k = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 6, 8)
    y = functional.scaled_dot_product_attention(q, k, k, enable_gqa=True, scaling="forward")
    wide = k.repeat_interleave(2, 1)
    wanted = functional.scaled_dot_product_attention(q, wide, wide, scaling="forward")
    assert torch.allclose(y, wanted, atol=1e-6)
    with pytest.raises(ValueError, match="enable_gqa must be False"):
        functional.scaled_dot_product_attention(q, k, k, enable_gqa=True)


def test_a_setting_that_fails_is_not_forgotten():
    x = torch.linspace(-2.0, 2.0, 5)
    layer = normprop.nn.LeakyReLU(0.1)
    layer(x)
    with pytest.raises(OverflowError):
        layer.negative_slope = 10**400
    # It has it now, and does not run with what it had.
    with pytest.raises(OverflowError):
        layer(x)
