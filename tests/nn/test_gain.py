"""The radius of a ball: every layer with weights, both ways to stay on it, every verb."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

import normprop
import normprop.nn as nnp
from normprop import functional

GAIN = 0.4
SCALINGS = ("forward", "backward", "separate")


def _convolution(name):
    return lambda **o: getattr(nnp, name)(4, 6, 3, groups=2, stride=2, bias=False, **o)


LAYERS = {
    "Linear": (lambda **o: nnp.Linear(4, 6, bias=False, **o), (3, 4)),
    **{
        f"{name}{dims}d": (_convolution(f"{name}{dims}d"), (2, 4, *(9, 7, 5)[:dims]))
        for name in ("Conv", "ConvTranspose")
        for dims in (1, 2, 3)
    },
}
MAPS = [
    (name, scaling, per, method)
    for name in LAYERS
    for scaling in SCALINGS
    for per in ("neuron", "layer")
    for method in ("normalize", "project")
]


def _random(shape):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _run(layer, *inputs):
    """The output, and the gradients of inputs and weight for a fixed one that arrives."""
    inputs = [x.clone().requires_grad_(x.is_floating_point()) for x in inputs]
    output = layer(*inputs)
    output = output[0] if isinstance(output, tuple) else output
    wanted = [*(x for x in inputs if x.requires_grad), *layer.parameters()]
    return output, torch.autograd.grad(output, wanted, _random(output.shape))


def _pair(make, *inputs, **options):
    torch.manual_seed(0)
    unit = make(**options).double()
    wide = make(gain=GAIN, **options).double()
    # Onto their balls in float64.
    unit.load_state_dict(unit.state_dict())
    wide.load_state_dict(unit.state_dict())
    return _run(unit, *inputs), _run(wide, *inputs), unit, wide


@pytest.mark.parametrize(("name", "scaling", "per", "method"), MAPS)
def test_signal_and_gradient_have_the_factor(name, scaling, per, method):
    make, shape = LAYERS[name]
    options = {"scaling": scaling, "per": per, "method": method}
    (y, grads), (y_wide, grads_wide), unit, wide = _pair(make, _random(shape), **options)
    torch.testing.assert_close(y_wide, GAIN * y)
    torch.testing.assert_close(grads_wide[0], GAIN * grads[0])
    # What is projected learns as it is; what is normalised learns through its factor.
    factor = GAIN if method == "normalize" else 1.0
    torch.testing.assert_close(grads_wide[1], factor * grads[1])
    if method == "project":
        torch.testing.assert_close(wide.weight.detach(), GAIN * unit.weight.detach())
    for figure in ("fwd_std", "bwd_std"):
        found, wanted = (getattr(normprop.moments(m), figure) for m in (wide, unit))
        torch.testing.assert_close(torch.as_tensor(found), GAIN * torch.as_tensor(wanted))


@pytest.mark.parametrize("method", ["normalize", "project"])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_bilinear_map_has_it(scaling, method):
    options = {"scaling": scaling, "method": method}
    pair = _pair(lambda **o: nnp.Bilinear(3, 4, 5, False, **o), _random((2, 3)), _random((2, 4)),
                 **options)  # fmt: skip
    (y, grads), (y_wide, grads_wide), _, _ = pair
    torch.testing.assert_close(y_wide, GAIN * y)
    torch.testing.assert_close(grads_wide[0], GAIN * grads[0])


@pytest.mark.parametrize("method", ["normalize", "project"])
def test_an_embedding_has_it(method):
    rows = torch.tensor([1, 0, 3])
    pair = _pair(lambda **o: nnp.Embedding(4, 6, **o), rows, method=method)
    (y, _), (y_wide, _), unit, wide = pair
    found, wanted = (normprop.moments(m).fwd_std for m in (wide, unit))
    assert found == pytest.approx(GAIN * wanted, rel=1e-12)
    torch.testing.assert_close(y_wide, GAIN * y)
    norms = y_wide.norm(dim=-1)
    torch.testing.assert_close(norms, torch.full_like(norms, GAIN * math.sqrt(6)))


@pytest.mark.parametrize("per", ["neuron", "layer"])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_attention_has_it_at_its_end(scaling, per):
    x = _random((2, 5, 8))
    options = {"scaling": scaling, "per": per}
    pair = _pair(
        lambda **o: nnp.MultiheadAttention(8, 2, batch_first=True, **o), x, x, x, **options
    )
    (y, _), (y_wide, _), unit, wide = pair
    torch.testing.assert_close(y_wide, GAIN * y)
    found, wanted = (normprop.moments(m, shape=(5, 8)) for m in (wide, unit))
    torch.testing.assert_close(
        torch.as_tensor(found.fwd_std), GAIN * torch.as_tensor(wanted.fwd_std)
    )
    if scaling == "forward" and per == "neuron":
        plain = normprop.fold(wide.eval(), x, x, x)
        torch.testing.assert_close(plain(x, x, x)[0], y_wide)


def _network(**options):
    torch.manual_seed(1)
    return nn.Sequential(
        nnp.Conv2d(3, 8, 3, padding=1, gain=1.3, **options),
        nnp.ReLU(scaling=options["scaling"]),
        nnp.Conv2d(8, 8, 3, stride=2, groups=2, gain=GAIN, **options),
        nnp.GELU(scaling=options["scaling"]),
        nnp.ConvTranspose2d(8, 4, 3, gain=0.7, **options),
        nn.Flatten(),
        nnp.Linear(64, 5, gain=0.2, **options),
    ).double()


@pytest.mark.parametrize("method", ["normalize", "project"])
@pytest.mark.parametrize("per", ["neuron", "layer"])
@pytest.mark.parametrize("scaling", ["forward", "backward"])
def test_it_goes_through_every_verb(scaling, per, method):
    net = _network(scaling=scaling, per=per, method=method)
    x = _random((2, 3, 6, 6))
    y, grads = _run(net, x)
    fused, plain = normprop.fuse(net, x), normprop.fold(net, x)
    y_fused, grads_fused = _run(fused, x)
    torch.testing.assert_close(y_fused, y)
    torch.testing.assert_close(grads_fused, grads)
    torch.testing.assert_close(plain(x), y)
    assert normprop.check(net, x).legal
    # Set afterwards, as any other argument: what is fused makes its weights anew.
    for made in (net, fused):
        made[6].gain = 2.0 * made[6].gain
        if method == "project":
            made[6].project_()
            nnp.project_(made)
    torch.testing.assert_close(fused(x), net(x))
    assert not torch.allclose(net(x), y)


def test_it_is_kept_where_the_layer_goes():
    layer = nnp.Linear(3, 2, gain=GAIN)
    for made in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert made.gain == GAIN
    assert "gain=0.4" in str(layer)
    assert "gain" not in str(nnp.Linear(3, 2))
    assert list(layer.state_dict()) == list(nn.Linear(3, 2).state_dict())
    old = nnp.Linear(3, 2)
    # Of a file that was written before there was one.
    del vars(old)["gain"]
    assert old(torch.zeros(3)).shape == (2,)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_gains_in_compiled_code():
    nets = [nnp.Linear(3, 2, gain=g).double() for g in (1.0, GAIN, 3.0)]
    x = _random((4, 3))
    for net in nets:
        compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), net(x))
    torch.compiler.reset()


@pytest.mark.parametrize("gain", [0.0, -1.0, math.inf, math.nan])
def test_others_are_refused(gain):
    x, w = torch.zeros(2, 2), torch.eye(2)
    for call in (
        lambda: nnp.Linear(2, 2, gain=gain),
        lambda: nnp.Embedding(2, 2, gain=gain),
        lambda: nnp.Bilinear(2, 2, 2, gain=gain),
        lambda: nnp.MultiheadAttention(2, 1, gain=gain),
        lambda: functional.linear(x, w, gain=gain),
        lambda: functional.conv1d(x[None], w[..., None], gain=gain),
        lambda: functional.conv_transpose1d(x[None], w[..., None], gain=gain),
        lambda: functional.embedding(torch.tensor([0]), w, gain=gain),
        lambda: functional.bilinear(x, x, w[None], gain=gain),
        lambda: functional.normalize_weight(w, gain=gain),
    ):
        with pytest.raises(ValueError, match="gain must be finite and greater than 0; it was"):
            call()
