"""Interpolation: every mode by enumeration, whole and inside, and by simulation."""

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from normprop import moments, simulate
from normprop.gaussian import Normal
from tests.rules.linear import agree, enumerated, figures_of, matrix_of, worst

SMOOTH = {1: ("linear",), 2: ("bilinear", "bicubic"), 3: ("trilinear",)}
LAW = Normal(0.5, 2.0)


@st.composite
def interpolations(draw):
    dims = draw(st.sampled_from([1, 2]))
    mode = draw(st.sampled_from(["nearest", "nearest-exact", "area", *SMOOTH[dims]]))
    sizes = tuple(draw(st.integers(1, 7)) for _ in range(dims))
    arguments = {"mode": mode}
    if draw(st.booleans()):
        outputs = arguments["size"] = tuple(draw(st.integers(1, 9)) for _ in range(dims))
    else:
        factor = st.sampled_from([0.5, 2.0, 3.0, 1.5, 2.5, 1.618, 0.73])
        arguments["scale_factor"] = tuple(draw(factor) for _ in range(dims))
        arguments["recompute_scale_factor"] = draw(st.sampled_from([None, True]))
        factors = zip(sizes, arguments["scale_factor"], strict=True)
        outputs = [math.floor(n * f) for n, f in factors]
        assume(0 not in outputs)
    if mode in SMOOTH[dims]:
        arguments["align_corners"] = draw(st.booleans())
        if dims == 2:
            # An image of one row or column torch's antialiased kernel takes for another layout,
            # coming and going: the column (1, 0) becomes (1, 1, 1, 1).
            narrow = 1 in (*sizes, *outputs)
            arguments["antialias"] = not narrow and draw(st.booleans())
    return sizes, arguments


def interpolated(shape, antialias=False, **arguments):
    """The moments of a module; torch's has no antialias, that of others may."""
    layer = nn.Upsample(**arguments)
    layer.antialias = antialias
    return moments(layer, LAW.mean, LAW.std, shape=shape)


@settings(max_examples=150, deadline=None)
@given(interpolations())
def test_a_whole_sample_by_enumeration(case):
    sizes, arguments = case
    wanted = enumerated(lambda x: F.interpolate(x, **arguments), (1, *sizes), LAW.mean, LAW.std)
    got = interpolated((1, *sizes), **arguments)
    assert agree(got, wanted, 9)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["linear", "bicubic", "area", "antialias", "antialias cubic"]),
    st.integers(1, 5),
    st.integers(1, 4),
)
def test_the_interior_by_enumeration(mode, up, down):
    # One period of the phases in the middle of an axis, where no end is in reach.
    assume(math.gcd(up, down) == 1)
    reach = 2 * max(2, math.ceil(2 * down / up) + 1)
    size = down * (2 * reach + 1)
    first = up * reach
    arguments, shape = {"mode": mode, "scale_factor": (up / down,)}, (1, size)
    if mode != "linear" and mode != "area":
        # Other modes want an image: of a single row, which they leave alone.
        smooth = "bicubic" if "cubic" in mode else "bilinear"
        arguments = {"mode": smooth, "scale_factor": (1.0, up / down)}
        arguments["antialias"] = "antialias" in mode
        shape = (1, 1, size)
    weights, nothing = matrix_of(lambda x: F.interpolate(x, **arguments), shape)
    assert weights.shape[1] == up * (2 * reach + 1)
    period = weights[:, first : first + up]
    slope = period.square().sum(0).mean() * up / down
    wanted = figures_of(period, nothing[first : first + up], LAW.mean, LAW.std, slope)
    got = interpolated(None, **arguments)
    assert agree(got, wanted, size)


@pytest.mark.parametrize("factor", range(1, 8))
def test_the_closed_form_of_linear_interpolation(factor):
    squares = 2 / 3 + (1 / 3 if factor % 2 else -1 / 6) / factor**2
    for dims, mode in {1: "linear", 2: "bilinear", 3: "trilinear"}.items():
        got = moments(nn.Upsample(scale_factor=factor, mode=mode))
        assert abs(got.fwd_std - squares ** (dims / 2)) < 1e-15
        assert abs(got.bwd_std - (factor * squares) ** (dims / 2)) < 1e-14


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Upsample(scale_factor=2), (2, 5)),
        (nn.Upsample(size=(7, 3, 4), mode="trilinear"), (1, 4, 3, 5)),
        (nn.Upsample(scale_factor=1.5, mode="bicubic"), (2, 6, 4)),
        (nn.Upsample(scale_factor=(2, 3), mode="bilinear", align_corners=True), (2, 5, 4)),
        (nn.UpsamplingNearest2d(size=(5, 7)), (2, 4, 4)),
        (nn.UpsamplingBilinear2d(scale_factor=2), (2, 4, 4)),
    ],
    ids=str,
)
def test_modules_by_simulation(layer, shape):
    exact = moments(layer, 0.5, 2.0, shape=shape)
    assert worst(simulate(layer, 50_000, mean=0.5, std=2.0, shape=shape, seed=2), exact) < 4.5


@pytest.mark.parametrize(
    "layer",
    [
        nn.Upsample(scale_factor=2),
        nn.Upsample(size=4, mode="linear"),
        nn.Upsample(scale_factor=2, mode="linear", align_corners=True),
        nn.Upsample(scale_factor=1.618, mode="linear"),
        nn.UpsamplingBilinear2d(scale_factor=2),
    ],
    ids=str,
)
def test_a_shape_is_asked_for_where_it_has_a_say(layer):
    with pytest.raises(ValueError, match="shape must be given for Upsampl"):
        moments(layer)


@pytest.mark.parametrize(
    ("sizes", "arguments", "message"),
    [
        ((4,), {"mode": "lanczos", "size": 3}, "mode must be one of nearest"),
        ((4, 4), {"mode": "linear", "size": 3}, "mode linear is for 1 axes"),
        ((4,), {}, "one of size and scale_factor must be given"),
        ((4,), {"size": 3, "scale_factor": 2}, "one of size and scale_factor must be given"),
        ((4,), {"size": 3, "recompute_scale_factor": True}, "must not be set where size"),
        ((4,), {"size": 3, "align_corners": True}, "align_corners must be None"),
        ((4,), {"size": 3, "mode": "linear", "antialias": True}, "antialias is for bilinear"),
        ((4,), {"scale_factor": (2, 3)}, "scale_factor must have 1 or 1 entries"),
        ((4,), {"scale_factor": -1.0}, "scale_factor must be finite and above 0"),
        ((4,), {"scale_factor": 0.1}, "scale_factor must leave something"),
    ],
)
def test_what_does_not_fit_is_refused(sizes, arguments, message):
    with pytest.raises(ValueError, match=message):
        interpolated((1, *sizes), **arguments)
