"""Any elementwise function: known figures are met within the reported bound, the rest refused."""

import math

import mpmath as mp
import pytest
import torch
from torch import nn

from normprop import moments

PI = math.pi


def _by_definition(value, slope, breaks, mean, std):
    """Mean, std and root mean square slope at 40 digits, by integrating the definition."""
    with mp.workdps(40):
        m, s = mp.mpf(mean), mp.mpf(std)
        ends = sorted({mp.mpf(-13), mp.mpf(-4), mp.mpf(0), mp.mpf(4), mp.mpf(13)})
        ends = sorted({*ends, *((mp.mpf(b) - m) / s for b in breaks)})
        ends = [e for e in ends if -13 <= e <= 13]

        def expectation(f):
            return mp.quad(lambda z: f(m + s * z) * mp.npdf(z), ends)

        mu = expectation(value)
        variance = expectation(lambda x: (value(x) - mu) ** 2)
        return mu, mp.sqrt(variance), mp.sqrt(expectation(lambda x: slope(x) ** 2))


DEFINITIONS = {
    "silu": (
        lambda x: x / (1 + mp.exp(-x)),
        lambda x: (1 + mp.exp(-x) * (1 + x)) / (1 + mp.exp(-x)) ** 2,
        (),
    ),
    "gelu": (
        lambda x: x * mp.ncdf(x),
        lambda x: mp.ncdf(x) + x * mp.npdf(x),
        (),
    ),
    "elu": (
        lambda x: x if x > 0 else mp.expm1(x),
        lambda x: mp.mpf(1) if x > 0 else mp.exp(x),
        (0,),
    ),
    "hardsigmoid": (
        lambda x: min(max(x / 6 + mp.mpf(1) / 2, mp.mpf(0)), mp.mpf(1)),
        lambda x: mp.mpf(1) / 6 if abs(x) < 3 else mp.mpf(0),
        (-3, 3),
    ),
    "softshrink": (
        lambda x: x - mp.sign(x) / 2 if abs(x) > mp.mpf("0.5") else mp.mpf(0),
        lambda x: mp.mpf(1) if abs(x) > mp.mpf("0.5") else mp.mpf(0),
        (-0.5, 0.5),
    ),
}


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.5, 0.3), (-2.0, 4.0)])
@pytest.mark.parametrize("name", DEFINITIONS)
def test_figures_lie_within_their_bound_of_the_definition(name, mean, std):
    value, slope, breaks = DEFINITIONS[name]
    reference = _by_definition(value, slope, breaks, mean, std)
    figures = moments(name, mean, std)
    assert figures.error <= 1e-12
    for got, wanted in zip(
        (figures.fwd_mean, figures.fwd_std, figures.bwd_std), reference, strict=True
    ):
        # The definition is cut at 13 standard deviations: 1e-37 and less.
        assert abs(mp.mpf(got) - wanted) <= figures.error


@pytest.mark.parametrize(
    ("function", "figures"),
    [
        (lambda x: x**3, (0.0, math.sqrt(15.0), math.sqrt(27.0))),
        (torch.exp, (math.exp(0.5), math.sqrt(math.e**2 - math.e), math.e)),
        (torch.sin, (0.0, math.sqrt(-math.expm1(-2.0) / 2.0), math.sqrt((1 + math.exp(-2)) / 2))),
        (torch.abs, (math.sqrt(2 / PI), math.sqrt(1 - 2 / PI), 1.0)),
        (lambda x: 3.0 * x + 7.0, (7.0, 3.0, 3.0)),
        (nn.GELU(), (0.5 / math.sqrt(PI), None, None)),
        (nn.LeakyReLU(0.5), (0.5 / math.sqrt(2 * PI), None, math.sqrt(0.625))),
        (nn.Threshold(0.0, 0.0), (1 / math.sqrt(2 * PI), None, math.sqrt(0.5))),
        (nn.Softplus(), (0.8060591833474398, None, None)),
    ],
)
def test_closed_forms_are_met(function, figures):
    got = moments(function)
    assert got.error <= 1e-12
    for value, wanted in zip((got.fwd_mean, got.fwd_std, got.bwd_std), figures, strict=True):
        if wanted is not None:
            assert value == pytest.approx(wanted, rel=0, abs=got.error + 4e-16 * abs(wanted))


def test_a_callable_and_its_name_agree():
    named, called = moments("relu", 0.3, 2.0), moments(lambda x: x.clamp(min=0), 0.3, 2.0)
    for field in ("fwd_mean", "fwd_std", "bwd_std"):
        off = abs(getattr(named, field) - getattr(called, field))
        assert off <= named.error + called.error


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.softmax(0), "must be elementwise; an element's value depends"),
        (lambda x: x.flatten().cumsum(0).view_as(x), "must be elementwise; an element's value"),
        (lambda x: x.sort(0).values, "must be elementwise; an element's value depends"),
        (lambda x: x - x.mean(), "must be elementwise; an element's value depends"),
        (lambda x: x.softmax(-1), "must be elementwise; an element's value depends"),
        (lambda x: x.sum(), "must be elementwise; an input of shape"),
        (lambda x: x[::2], "must be elementwise; an input of shape"),
        (lambda x: x[:, None], "must be elementwise; an input of shape"),
        (lambda x: x.log(), "must be finite; between"),
        (lambda x: x.float(), "must keep float64"),
        (lambda x: x.half().double(), "must converge"),
        (lambda x: x.float().sin().double(), "values are numbers of single precision"),
        (lambda x: torch.rand_like(x) * x, "must give the same result each time"),
        (nn.functional.dropout, "must give the same result each time"),
        (lambda x: x.detach(), "must be differentiable by autograd"),
        (lambda x: (x > 0).double(), "must be differentiable by autograd; its values depend"),
        (lambda x: torch.exp(x * x), "must have a mean"),
        (lambda x: torch.exp(7.5 * x), "must have a mean"),
        (lambda x: torch.exp(x * x / 4), "must have a mean"),
        (lambda x: x.abs().sqrt(), "must converge"),
        (lambda x: 1 / (x - 0.3), "its slope must be finite; at 0.3 they are inf"),
        (lambda x: torch.sin(1e7 * x), "must converge"),
        # Finite where it is tried, but not at a node.
        (lambda x: torch.where((x - 5.5).abs() > 0.5, x, math.nan), "must be finite; at 5"),
    ],
)
def test_what_has_no_constants_is_refused(function, message):
    with pytest.raises(ValueError, match=message):
        moments(function)


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda x: x.tolist(), "list"),
        (lambda x: 1.5, "float"),
        (lambda x: x.long(), r"torch\.int64"),
        (lambda x: x > 0, r"torch\.bool"),
        (lambda x: x + 1j, r"torch\.complex128"),
        (lambda x: x.numpy(), "ndarray"),
        (lambda x: None, "NoneType"),
    ],
)
def test_what_returns_no_real_tensor_is_refused(function, kind):
    message = f"must return a tensor of real numbers; it returned {kind}"
    with pytest.raises(TypeError, match=message):
        moments(function)


def test_what_takes_more_than_a_tensor_is_refused():
    with pytest.raises(TypeError, match="max_pool2d must take one tensor"):
        moments(nn.functional.max_pool2d)


def test_the_maximum_of_a_function_that_may_decrease_is_refused():
    with pytest.raises(ValueError, match="never decrease; gelu does"):
        moments(nn.MaxPool2d(2), after="gelu")


def test_the_function_may_work_in_place():
    assert moments(torch.relu_).bwd_std == pytest.approx(math.sqrt(0.5), abs=1e-13)
    shifted = moments(lambda x: x.sub_(0.3).relu_())
    assert shifted.fwd_mean == pytest.approx(moments("relu", -0.3).fwd_mean, abs=shifted.error)


@pytest.mark.parametrize("function", [torch.zeros_like, lambda x: torch.full_like(x, 2.5)])
def test_a_function_that_ignores_its_input_is_a_constant(function):
    found = moments(function, 1.0, 2.0)
    assert found.fwd_mean == function(torch.zeros(1)).item()
    assert found.fwd_std == found.bwd_std == 0.0


@pytest.mark.parametrize("function", [lambda x: torch.sqrt(x * x), torch.abs])
def test_a_slope_that_is_no_number_at_one_point_is_no_matter(function):
    found = moments(function)
    assert abs(found.bwd_std - 1) <= found.error


def test_a_staircase_with_a_slope_of_its_own_is_measured_as_it_is():
    # Rounding whose gradient is passed straight through: values of few bits are meant.
    def rounded(x):
        return x + (x.round() - x).detach()

    found = moments(rounded, 0.1, 0.8)
    steps = [k + 0.5 for k in range(-12, 12)]
    # E round(x) is the sum of P(x > k + 1/2), counted from 0.
    chances = [0.5 * math.erfc((c - 0.1) / (0.8 * math.sqrt(2))) for c in steps]
    mean = math.fsum(p - (c < 0) for p, c in zip(chances, steps, strict=True))
    assert abs(found.fwd_mean - mean) <= found.error + 1e-15
    assert abs(found.bwd_std - 1) <= found.error


# Where a kink hides from a mesh: next to a panel's end, at the mean, far out, two side by side.
HIDING = [
    (5.5, 5.4966, 0.7), (0.3, 0.0, 1.0), (-4.0, -4.0, 5.5), (0.3, 0.3, 1e-6), (13.5, 0.0, 1.0),
    (1e-9, 0.0, 1.0), (3.0 + 1e-4, 0.0, 1.0), (1234.5, 0.0, 1e6), (-7.0, -7.0, 2e-4),
]  # fmt: skip


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(("kink", "mean", "std"), HIDING)
def test_a_kink_is_found_wherever_it_is(kink, mean, std, given):
    exact = moments("relu", mean - kink, std)
    found = moments(lambda x: (x - kink).relu(), mean, std, kinks=(kink,) if given else None)
    # mean - kink is rounded, which moves the exact figures by the slope times that.
    slack = exact.error + 2**-52 * (abs(mean) + abs(kink))
    for field in ("fwd_mean", "fwd_std"):
        assert abs(getattr(found, field) - getattr(exact, field)) <= found.error + slack
    off = abs(found.bwd_std - exact.bwd_std)
    assert off <= found.error + exact.error + slack / std
    assert found.error <= 1e-10 * max(1.0, abs(mean), std)


@pytest.mark.parametrize(("kink", "mean", "std"), HIDING[:3])
def test_a_step_is_found_wherever_it_is(kink, mean, std):
    found = moments(lambda x: torch.where(x > kink, 1.0, 0.0 * x), mean, std)
    chance = 0.5 * math.erfc((kink - mean) / (std * math.sqrt(2.0)))
    slack = 2**-50 * (1 + abs(kink - mean) / std)
    assert abs(found.fwd_mean - chance) <= found.error + slack
    assert abs(found.fwd_std - math.sqrt(chance * (1 - chance))) <= found.error + slack
    assert found.bwd_std == 0.0


@pytest.mark.parametrize(
    ("mean", "std"), [(3.0, 1e5), (0.0, 1e8), (-40.0, 1e3), (0.3, 1e-6), (-300.0, 1e-2)]
)
@pytest.mark.parametrize("name", ["silu", "tanh", "mish", "gelu", "tanhshrink", "softplus"])
def test_narrow_and_wide_laws_keep_the_bound(name, mean, std):
    exact = moments(name, mean, std)
    function = getattr(nn.functional, name)
    found = moments(lambda x: function(x), mean, std)
    for field in ("fwd_mean", "fwd_std", "bwd_std"):
        off = abs(getattr(found, field) - getattr(exact, field))
        assert off <= found.error + exact.error
    assert found.error <= 1e-10 * max(1.0, abs(mean), std)


def test_a_steep_function_at_0_is_resolved():
    # E tanh'(kx)² → k ∫ cosh⁻⁴(u) φ(0) du = 4kφ(0)/3 for large k, up to its square's share.
    found = moments(lambda x: torch.tanh(1e5 * x))
    wanted = math.sqrt(1e5 * 4.0 / 3.0 / math.sqrt(2.0 * PI))
    assert abs(found.bwd_std / wanted - 1) <= 1e-9


def test_a_narrow_feature_is_seen_at_a_kink_that_is_given():
    def bump(x):
        return torch.exp(-(((x - 1.7) * 1e4) ** 2))

    # ∫ exp(-u²) φ(1.7) du/1e4, up to the square of the width.
    wanted = math.sqrt(PI) * 1e-4 * math.exp(-(1.7**2) / 2) / math.sqrt(2.0 * PI)
    assert moments(bump, kinks=(1.7,)).fwd_mean == pytest.approx(wanted, rel=1e-7)


def test_given_kinks_may_come_in_any_order_and_more_than_once():
    def hat(x):
        return (1 - (x - 0.2).abs()).clamp(min=0)

    found = moments(hat, kinks=[1.2, -0.8, 0.2, 1.2])
    assert found == moments(hat, kinks=(-0.8, 0.2, 1.2))
    searched = moments(hat)
    for field in ("fwd_mean", "fwd_std", "bwd_std"):
        off = abs(getattr(found, field) - getattr(searched, field))
        assert off <= found.error + searched.error


@pytest.mark.parametrize(
    ("kinks", "problem", "message"),
    [
        (3, TypeError, "must be a sequence of real numbers; it was 3"),
        ("01", TypeError, "must be a sequence of real numbers"),
        ((None,), TypeError, "must be a sequence of real numbers"),
        ((True,), TypeError, "must be a sequence of real numbers"),
        ((0.0, math.inf), ValueError, "kinks must be finite"),
        ((math.nan,), ValueError, "kinks must be finite"),
    ],
)
def test_kinks_that_are_none_are_refused(kinks, problem, message):
    with pytest.raises(problem, match=message):
        moments(lambda x: x.relu(), kinks=kinks)


@pytest.mark.parametrize("layer", ["relu", nn.ReLU(), nn.Linear(2, 2), nn.ReLU])
def test_kinks_of_what_is_no_function_are_refused(layer):
    with pytest.raises(ValueError, match="kinks are for a function on tensors"):
        moments(layer, kinks=(0.0,))


def test_a_function_is_evaluated_a_few_times():
    # What a cold integral costs is calls; points are cheap.
    calls = []

    def counted(x):
        calls.append(x.numel())
        return (x - 0.3).relu()

    moments(counted)
    assert len(calls) <= 30
    assert sum(calls) <= 10_000
    searched = len(calls)
    calls.clear()
    moments(counted, kinks=(0.3,))
    assert len(calls) < searched / 2
