"""One pair of kernels for every activation: exact to its rounding, in every type and layout."""

import math

import pytest
import torch

pytest.importorskip("triton")

from normprop.functional.fused import MAPS
from normprop.kernels import activation, layout
from tests.kernels.functions import (
    CASES,
    DTYPES,
    READ,
    compute,
    exact,
    points,
    rounding,
    smallest,
    stored_unit,
    unit,
)

pytestmark = pytest.mark.usefixtures("poisoned")

# Constants of which none is a number of a short type.
SHIFT, FORWARD, BACKWARD = 0.3, 0.7, 0.9
NAMES = list(CASES)


def normals(*shape, dtype=torch.float64, device="cpu"):
    return torch.randn(shape, dtype=torch.float64).to(device, dtype)


def plain(name, x, dtype=torch.float64):
    """f and f' by torch."""
    x = x.to(dtype).detach().requires_grad_()
    y = CASES[name][2](x, *CASES[name][0])
    (slope,) = torch.autograd.grad(y.sum(), x)
    return y.detach(), slope


def forward(name, x, **options):
    return activation.forward(name, CASES[name][0], x, SHIFT, FORWARD, **options)


def backward(name, saved, grad, from_output=False):
    return activation.backward(
        name, CASES[name][0], saved, grad, SHIFT, FORWARD, BACKWARD, from_output=from_output
    )


def test_every_function_has_a_case():
    assert set(activation.FUNCTIONS) == set(NAMES)
    kept = {name: row.keeps(*CASES[name][0]) for name, row in MAPS.items() if name != "gelu"}
    assert {name for name, what in kept.items() if what == "output"} == set(READ)
    assert all(activation.FUNCTIONS[name].read is not None for name in READ)


# Values


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_value_and_slope_against_fifty_digits(name, dtype, device):
    xs = torch.tensor([x for x in points(name) if abs(x) < 100 or dtype == torch.float64])
    xs = xs.double().to(dtype).unique()
    xs = xs[[x not in (0.0, *CASES[name][3]) for x in xs.tolist()]]
    value, slope = exact(name, xs.tolist())
    x = xs.to(device)
    wide = xs.double()

    wanted = (value - SHIFT) / FORWARD
    # Shift and scale add three roundings, the store one of the type.
    error = (rounding(wide, dtype) + 4 * unit(compute(dtype)) * (value.abs() + 1)) / FORWARD
    error = error + stored_unit(dtype) * wanted.abs() + smallest(dtype)
    got = forward(name, x)
    assert got.dtype == dtype
    assert ((got.cpu().double() - wanted).abs() <= error).all()

    grad = normals(len(xs)).to(dtype)
    wanted = grad.double() * slope / BACKWARD
    error = grad.double().abs() * rounding(wide, dtype) / BACKWARD
    error = error + (stored_unit(dtype) + 4 * unit(compute(dtype))) * wanted.abs() + smallest(dtype)
    got = backward(name, x, grad.to(device))
    assert got.dtype == dtype
    assert ((got.cpu().double() - wanted).abs() <= error).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", list(READ))
def test_the_slope_can_be_read_from_the_output(name, dtype, device):
    x = torch.cat([normals(1000), normals(200) * 1e-3, normals(23) * 1e-9]).to(dtype)
    for kink in CASES[name][3]:
        x = torch.cat([x, (kink + normals(40) * 10 * unit(dtype)).to(dtype)])
    value, slope = plain(name, x)
    y = forward(name, x.to(device), save_output=True).cpu()
    wanted = (value - SHIFT) / FORWARD
    error = (rounding(x.double(), dtype) + 4 * unit(compute(dtype)) * (value.abs() + 1)) / FORWARD
    # Kept apart from a kink at the price of one unit in the last place.
    error = error + 2 * (unit(dtype) + stored_unit(dtype)) * wanted.abs() + smallest(dtype)
    assert ((y.double() - wanted).abs() <= error).all()

    grad = normals(len(x)).to(dtype)
    got = backward(name, y.to(device), grad.to(device), from_output=True).cpu().double()
    wanted = grad.double() * slope / BACKWARD
    # f is known to the error of y, and the sums that lead back to it.
    known = FORWARD * error + 4 * unit(compute(dtype)) * (value.abs() + 1)
    error = (READ[name] * known + rounding(x.double() * 0, dtype)) * grad.double().abs() / BACKWARD
    error = error + (stored_unit(dtype) + 4 * unit(compute(dtype))) * wanted.abs() + smallest(dtype)
    if name == "hardsigmoid" and dtype == torch.float64:
        # torch's own sixth is one of float32 here.
        error = error + unit(torch.float32) * wanted.abs()
    assert ((got - wanted).abs() <= error).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_small_input_loses_its_gradient(dtype, device):
    tiny = torch.finfo(dtype).smallest_normal
    x = torch.tensor([tiny, 1e-4, 1e-3, 2e-3, 0.0, -tiny, -1.0], dtype=dtype, device=device)
    y = forward("relu", x, save_output=True)
    dx = backward("relu", y, torch.ones_like(y), from_output=True)
    assert dx.ne(0).tolist() == [True] * 4 + [False] * 3
    # What is stored without that care cannot tell these numbers from 0.
    careless = forward("relu", x)
    assert careless[0] == careless[4]
    assert torch.equal(torch.nextafter(careless[4], careless[4] + 1), y[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_at_a_kink_the_derivative_is_that_of_torch(name, dtype, device):
    x = torch.tensor([*CASES[name][3], 0.0], dtype=dtype)
    _, slope = plain(name, x, dtype)
    got = backward(name, x.to(device), torch.ones_like(x).to(device)).cpu() * BACKWARD
    roads = [got]
    if name in READ:
        y = forward(name, x.to(device), save_output=True)
        roads.append(backward(name, y, torch.ones_like(y), from_output=True).cpu() * BACKWARD)
    # torch's sixth of hardsigmoid is one of float32 in every type.
    error = unit(torch.float32) if name == "hardsigmoid" else 64 * unit(dtype)
    for road in roads:
        assert ((road - slope).abs() <= error).all()


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name, device):
    params = CASES[name][0]

    class Normalized(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, from_output):
            y = activation.forward(name, params, x, SHIFT, FORWARD, save_output=from_output)
            ctx.save_for_backward(y if from_output else x)
            ctx.from_output = from_output
            return y

        @staticmethod
        def backward(ctx, grad):
            return backward(
                name, ctx.saved_tensors[0], grad * BACKWARD / FORWARD, ctx.from_output
            ), None

    # Away from every kink by more than the step of the check.
    x = torch.linspace(-4.13, 4.19, 5, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: Normalized.apply(x, False), (x,))
    if name in READ:
        assert torch.autograd.gradcheck(lambda x: Normalized.apply(x, True), (x,))


@pytest.mark.parametrize("name", NAMES)
def test_nan_stays_nan(name, device):
    x = torch.tensor([math.nan, 0.5], device=device)
    assert forward(name, x).isnan().tolist() == [True, False]
    if name in READ:
        assert forward(name, x, save_output=True).isnan().tolist() == [True, False]


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "elu", "selu", "softplus", "hardtanh"])
def test_infinity_goes_where_it_should(name, device):
    x = torch.tensor([math.inf, -math.inf], device=device)
    value, slope = (t.cpu() for t in plain(name, x))
    assert torch.allclose(forward(name, x).cpu().double(), (value - SHIFT) / FORWARD)
    grad = torch.ones_like(x)
    assert torch.allclose(backward(name, x, grad).cpu().double(), slope / BACKWARD)


# Layouts


@pytest.mark.parametrize("from_output", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.permute(3, 0, 2, 1),
        lambda x: x[:, ::2],
        lambda x: x[..., 1:],
        lambda x: x[:, :1].expand(-1, 4, -1, -1),
        lambda x: x[:, :0],
        lambda x: x[0, 0, 0, 0],
        lambda x: x.flatten()[:1023],
        lambda x: x.flatten()[1:2],
    ],
    ids=["flat", "channels_last", "permuted", "strided", "cut", "expanded", "empty", "scalar",
         "odd", "one"],
)  # fmt: skip
def test_any_layout(make, from_output, device):
    x = make(normals(5, 6, 7, 9, device=device))
    y = forward("tanh", x, save_output=from_output)
    assert y.shape == x.shape
    assert torch.allclose(y, (x.tanh() - SHIFT) / FORWARD, rtol=1e-14, atol=1e-14)
    if layout.is_dense(x):
        assert y.stride() == x.stride()
    wanted = 1 - x.tanh() ** 2
    grads = [
        normals(*x.shape, device=device),
        torch.ones((), device=device).double().expand(x.shape),
    ]
    if x.ndim == 4:
        grads.append(grads[0].transpose(0, 1).contiguous().transpose(0, 1))
    for grad in grads:
        dx = backward("tanh", y if from_output else x, grad, from_output)
        assert dx.shape == x.shape
        assert torch.allclose(dx, grad * wanted / BACKWARD, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("size", [1, 2, 1023, 65_536, 65_537, 200_001])
def test_nothing_beyond_the_end_is_written(size, device, monkeypatch):
    memory = torch.full((size + 64,), math.nan, device=device)
    out = memory[32 : 32 + size]
    x = normals(size, dtype=torch.float32, device=device)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty_like", lambda _: out)
        assert activation.forward("relu", (), x, SHIFT, FORWARD) is out
    assert not out.isnan().any()
    assert memory[:32].isnan().all()
    assert memory[32 + size :].isnan().all()
    assert torch.equal(out, activation.forward("relu", (), x, SHIFT, FORWARD))


def test_dense_is_what_torch_keeps_the_strides_of():
    shapes = [(), (1,), (3,), (2, 3, 4), (2, 1, 4), (0, 3)]
    for shape in shapes:
        x = torch.empty(shape)
        assert layout.is_dense(x)
    x = torch.empty(2, 3, 4, 5)
    for view in (x.mT, x.permute(3, 1, 0, 2), x[:1], x[:, :, :, :1], x[..., ::2], x[:, 1:],
                 x[:, :1].expand(2, 3, 4, 5)):  # fmt: skip
        assert layout.is_dense(view) == (torch.empty_like(view).stride() == view.stride())


# A slope that is a tensor


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_slope_of_prelu_has_a_gradient(dtype, device):
    x, grad = normals(3, 50_000, dtype=dtype, device=device)[:2]
    slope = torch.tensor([0.3], dtype=dtype, device=device)
    y, known = (activation.forward("prelu", a, x, SHIFT, FORWARD) for a in (slope, (slope.item(),)))
    assert torch.equal(y, known)
    dx, dslope = activation.backward_prelu(slope, x, grad, SHIFT, FORWARD, BACKWARD)
    known, line = (slope.item(),), (SHIFT, FORWARD, BACKWARD)
    assert torch.equal(dx, activation.backward("prelu", known, x, grad, *line, from_output=False))
    terms = (grad.double() * x.double().clamp(max=0)) / BACKWARD
    # Products of three roundings, summed in a tree: 20 levels, and the roundings of y on the way.
    error = 64 * unit(dtype) * (terms.abs().sum() + grad.abs().sum() / 0.3)
    assert (dslope.double() - terms.sum()).abs() <= error
    assert dslope.shape == slope.shape


# Words


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: activation.forward("relo", (), x, 0.0, 1.0), "name must be one of .*'relo'"),
        (lambda x: activation.forward("elu", (1.0, 2.0), x, 0.0, 1.0), "elu takes 1 parameters"),
        (
            lambda x: activation.forward("prelu", x[:1].to("meta"), x, 0.0, 1.0),
            "the slope must be on the input's device, .*; it was on meta",
        ),
    ],
)
def test_what_is_out_of_range_is_refused(call, message, device):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(3, device=device))


def test_integers_are_refused(device):
    with pytest.raises(TypeError, match=r"takes a tensor of float16, .*; it was torch.int64"):
        activation.forward("relu", (), torch.zeros(3, dtype=torch.int64, device=device), 0.0, 1.0)
