"""Rectifiers with a slope that is learnt or drawn: whose constants, and which gradients."""

import copy

import pytest
import torch
from torch import nn

import normprop
from normprop import functional
from normprop.functional import Constants
from normprop.functional.activation import with_draws, with_slopes

TRUE, SEPARATE = Constants(0.3, 0.7, 0.7), Constants(0.3, 0.7, 1.3)


def plain(x, weight, constants):
    return (torch.prelu(x, weight) - constants.shift) / constants.forward


def gradients(call, x, weight, dy):
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = call(x, weight)
    return y.detach(), *torch.autograd.grad(y, (x, weight), dy)


@pytest.mark.parametrize("slopes", [1, 5])
@pytest.mark.parametrize("constants", [TRUE, SEPARATE], ids=["true", "separate"])
@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 7), (3, 5, 4, 2), (5, 5)])
def test_prelu(slopes, constants, shape):
    x, dy = torch.randn(2, *shape, dtype=torch.float64)
    weight = torch.randn(slopes, dtype=torch.float64)
    got = gradients(lambda x, w: with_slopes(x, w, constants), x, weight, dy)
    y, dx, slope = gradients(lambda x, w: plain(x, w, constants), x, weight, dy)
    # dx is scaled, the slope's gradient is not.
    wanted = y, dx * constants.forward / constants.backward, slope
    for a, b in zip(got, wanted, strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("shape", [(), (4,)])
def test_fewer_than_two_dimensions_have_one_channel(shape):
    x, weight = torch.randn(shape), torch.tensor([0.3])
    wanted = plain(x, weight, TRUE)
    assert torch.allclose(with_slopes(x, weight, TRUE), wanted, atol=1e-6)
    with pytest.raises(
        ValueError, match=r"one for each of the 1 channels; it had the shape \(4,\)"
    ):
        functional.prelu(x, torch.ones(4))


def test_slopes_that_fit_no_channel_are_refused():
    with pytest.raises(
        ValueError, match=r"one for each of the 3 channels; it had the shape \(4,\)"
    ):
        functional.prelu(torch.ones(2, 3), torch.ones(4))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("slopes", [1, 4])
def test_prelu_differentiates_in_every_way(slopes):
    x = torch.randn(3, 4, dtype=torch.float64).requires_grad_()
    weight = torch.rand(slopes, dtype=torch.float64).requires_grad_()

    def call(x, weight):
        return with_slopes(x, weight, TRUE)

    options = {"check_forward_ad": True, "check_batched_grad": True}
    assert torch.autograd.gradcheck(call, (x, weight), **options)
    assert torch.autograd.gradgradcheck(call, (x, weight))


def test_prelu_keeps_what_torch_keeps():
    x = torch.randn(64, 1023, requires_grad=True)
    weight = torch.tensor([0.25], requires_grad=True)
    sizes = []
    for call in (torch.prelu, lambda x, w: with_slopes(x, w, TRUE)):
        found = {}

        def pack(tensor, found=found):
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            call(x, weight)
        sizes.append(sum(found.values()))
    assert sizes[1] <= sizes[0]


def test_autocast_does_to_prelu_what_torch_does():
    x, weight = torch.randn(3, 5), torch.tensor([0.25])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.prelu(x, weight).dtype == torch.bfloat16
        y = with_slopes(x, weight, TRUE)
    assert torch.equal(y, with_slopes(x.bfloat16(), weight.bfloat16(), TRUE))
    wanted = plain(x.bfloat16().double(), weight.double(), TRUE)
    eps = torch.finfo(torch.bfloat16).eps
    assert ((y - wanted).abs() <= eps * wanted.abs() + 1e-6).all()


def test_constants_are_those_of_the_first_slope_until_declared_anew():
    layer = normprop.nn.PReLU(3, init=0.5, scaling="forward", mean=0.2, std=1.5)
    law = {"mean": 0.2, "std": 1.5}
    before = layer.constants
    assert before.forward == normprop.moments(nn.LeakyReLU(0.5), **law).fwd_std
    layer.weight.data.fill_(-0.25)
    assert layer.constants == before
    # Measured as it has become.
    figures = normprop.moments(layer, **law)
    wanted = normprop.moments(nn.LeakyReLU(-0.25), **law).fwd_std / before.forward
    assert abs(figures.fwd_std - wanted) <= 4 * figures.error
    assert abs(figures.fwd_std - 1) > 0.1
    copy.deepcopy(layer).declare_()
    assert layer.constants == before
    layer.declare_()
    assert layer.constants.forward == normprop.moments(nn.LeakyReLU(-0.25), **law).fwd_std
    layer.weight.data[0] = 0.0
    with pytest.raises(ValueError, match="PReLU must have one slope"):
        layer.declare_()


def test_a_layer_on_no_device_has_its_constants():
    assert normprop.nn.PReLU(3, device="meta").constants == normprop.nn.PReLU(3).constants


def test_kernels_take_one_slope(monkeypatch):
    monkeypatch.setattr("normprop.kernels.check_usable", lambda tensor: None)
    with pytest.raises(ValueError, match="backend='triton' takes one slope; there were 3"):
        functional.prelu(torch.ones(2, 3), torch.ones(3), backend="triton")


@pytest.mark.parametrize("constants", [TRUE, SEPARATE], ids=["true", "separate"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_factors_of_rrelu_are_drawn_and_kept(constants, dtype):
    x = torch.randn(64, 1023).to(dtype).requires_grad_()
    found = {}

    def pack(tensor):
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def count(call):
        found.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            return call(x), sum(found.values())

    y, ours = count(lambda x: with_draws(x, 0.1, 0.4, True, constants))
    _, theirs = count(lambda x: nn.functional.rrelu(x, 0.1, 0.4, True))
    assert ours <= theirs
    (dx,) = torch.autograd.grad(y.sum(), x)
    slope = dx.double() * constants.backward
    eps = torch.finfo(dtype).eps
    assert (slope[x > 0] - 1).abs().max() <= 2 * eps
    drawn = slope[x < 0]
    assert drawn.min() >= 0.1 * (1 - 2 * eps)
    assert drawn.max() <= 0.4 * (1 + 2 * eps)
    # Uniform: its mean and variance within 4.5 standard errors; the kurtosis is 9/5.
    n, variance = drawn.numel(), 0.3**2 / 12
    assert abs(drawn.mean() - 0.25) < 4.5 * (variance / n) ** 0.5
    assert abs(drawn.var() - variance) < 4.5 * variance * (0.8 / n) ** 0.5 + eps * variance
    # The function that was run is the one whose slope it is.
    wanted = (slope * x.double() - constants.shift) / constants.forward
    bound = 8 * eps * (x.double().abs() + constants.shift) / constants.forward
    assert ((y.double() - wanted).abs() <= bound).all()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_rrelu_differentiates_in_every_way():
    x = torch.randn(3, 4, dtype=torch.float64).requires_grad_()

    def call(x):
        torch.manual_seed(1)
        return with_draws(x, 1 / 8, 1 / 3, True, TRUE)

    assert torch.autograd.gradcheck(call, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, x)


def test_rrelu_has_the_constants_of_its_mode():
    layer = normprop.nn.RReLU(-0.5, 0.9, scaling="separate")
    x = torch.randn(1001, dtype=torch.float64)
    for mode in (True, False, True):
        layer.train(mode)
        figures = normprop.moments(nn.RReLU(-0.5, 0.9).train(mode))
        assert layer.constants == (figures.fwd_mean, figures.fwd_std, figures.bwd_std)
        ours = normprop.moments(layer)
        assert abs(ours.fwd_std - 1) <= 4 * ours.error
        assert abs(ours.bwd_std - 1) <= 4 * ours.error
    # In evaluation it is the leaky ReLU of the mean slope.
    layer.eval()
    leaky = normprop.nn.LeakyReLU(0.2, scaling="separate")
    assert torch.allclose(layer(x), leaky(x), rtol=1e-14, atol=1e-14)
    assert torch.equal(functional.rrelu(x, -0.5, 0.9, scaling="separate"), layer(x))
    assert layer.constants != layer.train().constants


def test_no_kernel_draws_slopes():
    with pytest.raises(ValueError, match="backend='triton' must come with training=False"):
        functional.rrelu(torch.ones(3), training=True, backend="triton")
    with pytest.raises(ValueError, match="backend must be one of auto, eager, triton"):
        functional.rrelu(torch.ones(3), training=True, backend="gpu")
    with pytest.raises(ValueError, match="inplace must be False"):
        functional.rrelu(torch.ones(3), inplace=True)
