"""moments(): every layer against the reference, and every refusal says what must hold."""

import inspect
import math

import numpy as np
import pytest
import torch
from mpmath import mp, mpf
from torch import nn

import normprop
from normprop import moments
from tests import reference
from tests.layers import figures, instance
from tests.rules.channels import by_channel, holds, randomised

LAW = (0.3, 0.7)
NAMES = ["relu", "sigmoid", "tanh"]
CALLABLES = [
    (torch.relu, "relu"),
    (nn.functional.relu, "relu"),
    (torch.sigmoid, "sigmoid"),
    (torch.special.expit, "sigmoid"),
    (nn.functional.sigmoid, "sigmoid"),
    (torch.tanh, "tanh"),
    (nn.functional.tanh, "tanh"),
]
MODULES = [
    (nn.ReLU(), "relu"),
    (nn.ReLU(inplace=True), "relu"),
    (nn.Sigmoid(), "sigmoid"),
    (nn.Tanh(), "tanh"),
]


def after_normalising(figures, shift, forward, backward):
    """Exact figures of (y - shift)/forward with the gradient divided by `backward`."""
    mean, std, slope = figures
    with mp.workdps(60):
        return (mean - mpf(shift)) / mpf(forward), std / mpf(forward), slope / mpf(backward)


# Names, functions and modules without parameters


@pytest.mark.parametrize(("m", "s"), [(0, 1), LAW, (-8, 30), (8, 0.01)])
@pytest.mark.parametrize("name", NAMES)
def test_a_name(name, m, s):
    holds(moments(name, m, s), reference.elementwise(name, m, s))


@pytest.mark.parametrize(("layer", "name"), CALLABLES + MODULES)
def test_a_function_and_a_module_are_their_name(layer, name):
    assert moments(layer, *LAW) == moments(name, *LAW)


def test_the_defaults_are_the_standard_normal():
    assert moments("tanh") == moments("tanh", 0.0, 1.0) == moments("tanh", mean=0, std=1)


@pytest.mark.parametrize(("name", "method"), [("relu", "closed form"), ("tanh", "quadrature")])
def test_the_method_is_named(name, method):
    assert moments(name).method == method


WINDOWS = [
    # dims, window, stride: the usual, overlapping, gaps between windows, uneven, one.
    (1, 2, None), (1, 3, 2), (1, 2, 5), (2, 3, None), (2, 3, 2), (2, (2, 3), (3, 1)),
    (2, 2, (1, 4)), (2, (3,), (2,)), (2, 1, 2), (3, 2, None), (3, (1, 2, 3), (2, 1, 2)), (3, 3, 2),
]  # fmt: skip


def per_dimension(size, dims):
    size = size if isinstance(size, tuple) else (size,)
    return size * dims if len(size) == 1 else size


def geometry(dims, window, stride):
    stride = window if stride is None else stride
    return per_dimension(window, dims), per_dimension(stride, dims)


@pytest.mark.parametrize(("dims", "window", "stride"), WINDOWS)
def test_max_pool(dims, window, stride):
    layer = getattr(nn, f"MaxPool{dims}d")(window, stride)
    holds(moments(layer, *LAW), reference.max_pool(*geometry(dims, window, stride), *LAW))


@pytest.mark.parametrize(("dims", "window", "stride"), WINDOWS)
def test_avg_pool(dims, window, stride):
    layer = getattr(nn, f"AvgPool{dims}d")(window, stride)
    holds(moments(layer, *LAW), reference.avg_pool(*geometry(dims, window, stride), *LAW))


@pytest.mark.parametrize("divisor", [1, 5, 9, 100])
@pytest.mark.parametrize("dims", [2, 3])
def test_the_divisor_of_an_average(dims, divisor):
    layer = getattr(nn, f"AvgPool{dims}d")(3, 2, divisor_override=divisor)
    window, stride = (3,) * dims, (2,) * dims
    holds(moments(layer, *LAW), reference.avg_pool(window, stride, *LAW, divisor=divisor))


@pytest.mark.parametrize(
    "layer",
    [
        nn.MaxPool2d(3, 2, padding=1),
        nn.MaxPool2d(3, 2, dilation=2),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.MaxPool2d(3, 2, return_indices=True),
    ],
)
def test_interior_figures_do_not_know_of_borders(layer):
    assert moments(layer) == moments(nn.MaxPool2d(3, 2))


@pytest.mark.parametrize("inverted", [True, False])
@pytest.mark.parametrize("p", [0, 0.0, 0.1, 0.5, 0.99, 1, 1.0])
@pytest.mark.parametrize("kind", ["Dropout", "Dropout1d", "Dropout2d", "Dropout3d"])
def test_dropout(kind, p, inverted):
    layer = getattr(nn, kind)(p)
    wanted = reference.dropout(p, *LAW, inverted=inverted)
    holds(moments(layer, *LAW, inverted=inverted), wanted)


def test_dropout_in_evaluation_is_the_identity():
    layer = nn.Dropout(0.3).eval()
    holds(moments(layer, *LAW), tuple(map(mpf, (*LAW, 1.0))))


# Layers with weights


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias, dtype):
    layer = randomised(nn.Linear(7, 4, bias, dtype=dtype))
    weight = layer.weight.tolist()
    wanted = reference.linear(weight, layer.bias.tolist() if bias else None, *LAW)
    holds(moments(layer, *LAW), by_channel(wanted))


CONVOLUTIONS = [
    (1, {"kernel_size": 3}),
    (1, {"kernel_size": 3, "stride": 2, "groups": 2}),
    (1, {"kernel_size": 2, "stride": 3, "dilation": 2}),
    (1, {"kernel_size": 3, "padding": "same", "padding_mode": "circular"}),
    (2, {"kernel_size": 3, "stride": 2}),
    (2, {"kernel_size": 3, "stride": (2,)}),
    (2, {"kernel_size": (3, 2), "stride": (1, 3), "dilation": (2, 1), "groups": 4}),
    (2, {"kernel_size": 1, "stride": 2, "bias": False}),
    (3, {"kernel_size": 2, "stride": (2, 1, 3)}),
    (3, {"kernel_size": (1, 2, 3), "stride": 2, "dilation": (1, 3, 2), "groups": 2}),
]


@pytest.mark.parametrize(("dims", "arguments"), CONVOLUTIONS)
def test_convolution(dims, arguments):
    layer = getattr(nn, f"Conv{dims}d")(4, 8, **arguments, dtype=torch.float64)
    layer = randomised(layer)
    wanted = reference.convolution(
        layer.weight.tolist(),
        None if layer.bias is None else layer.bias.tolist(),
        per_dimension(arguments.get("stride", 1), dims),
        per_dimension(arguments.get("dilation", 1), dims),
        layer.groups,
        *LAW,
    )
    holds(moments(layer, *LAW), by_channel(wanted))


def test_a_layer_without_inputs_has_its_bias():
    with pytest.warns(UserWarning, match="zero-element"):
        layer = nn.Linear(0, 3)
    got = moments(layer)
    assert np.array_equal(got.fwd_mean, layer.bias.detach().double())
    assert np.array_equal(got.fwd_std, np.zeros(3))
    assert got.bwd_std.shape == (0,)


# What stands before the layer


@pytest.mark.parametrize("after", ["relu", torch.tanh, nn.Sigmoid()])
@pytest.mark.parametrize("m", [0, 0.3])
def test_pooling_after_an_activation(after, m):
    name = after if isinstance(after, str) else {torch.tanh: "tanh"}.get(after, "sigmoid")
    got = moments(nn.MaxPool2d(3, 2), m, 1, after=after)
    holds(got, (*reference.maximum_of(name, 9, m, 1), reference.max_pool((3, 3), (2, 2), m, 1)[2]))
    got = moments(nn.AvgPool2d(3, 2), m, 1, after=after)
    mean, std, _ = reference.elementwise(name, m, 1)
    with mp.workdps(60):
        wanted = mean, std / 3, mpf(1) / 6
    holds(got, wanted)


def test_pooling_after_a_normalised_activation():
    before = normprop.nn.ReLU(scaling="forward")
    got = moments(nn.MaxPool2d(2), after=before)
    mean, std = reference.maximum_of("relu", 4, 0, 1)
    shift, forward, _ = before.constants
    holds(got, after_normalising((mean, std, mpf("0.5")), shift, forward, 1))


def test_dropout_and_linear_after_an_activation():
    mean, std, _ = reference.elementwise("relu", *LAW)
    got = moments(nn.Dropout(0.3), *LAW, after="relu")
    holds(got, reference.dropout(0.3, mean, std))
    layer = randomised(nn.Linear(5, 3, dtype=torch.float64))
    wanted = reference.linear(layer.weight.tolist(), layer.bias.tolist(), mean, std)
    holds(moments(layer, *LAW, after="relu"), by_channel(wanted))


def test_an_activation_after_an_activation_is_refused():
    with pytest.raises(ValueError, match=r"after= takes a pooling, dropout or parametric.*'tanh'"):
        moments("tanh", after="relu")


def test_after_must_be_an_activation():
    with pytest.raises(TypeError, match=r"after must be an activation.*it was MaxPool2d"):
        moments(nn.MaxPool2d(2), after=nn.MaxPool2d(2))
    with pytest.raises(ValueError, match=r"after must be one of the names.*'relo'.*mean 'relu'"):
        moments(nn.MaxPool2d(2), after="relo")


# normprop's own layers, measured as they are


@pytest.mark.parametrize("scaling", ["forward", "backward", "separate"])
@pytest.mark.parametrize("kind", ["ReLU", "Sigmoid", "Tanh"])
def test_a_normalised_activation(kind, scaling):
    layer = getattr(normprop.nn, kind)(scaling=scaling, mean=0.5, std=2.0)
    plain = reference.elementwise(kind.lower(), *LAW)
    holds(moments(layer, *LAW), after_normalising(plain, *layer.constants))


@pytest.mark.parametrize("scaling", ["forward", "backward", "separate"])
@pytest.mark.parametrize("kind", ["MaxPool", "AvgPool"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_normalised_pool(dims, kind, scaling):
    layer = getattr(normprop.nn, f"{kind}{dims}d")(3, 2, scaling=scaling, mean=0.5, std=2.0)
    pool = reference.max_pool if kind == "MaxPool" else reference.avg_pool
    plain = pool((3,) * dims, (2,) * dims, *LAW)
    holds(moments(layer, *LAW), after_normalising(plain, *layer.constants))


@pytest.mark.parametrize("keeps", ["variance", "mean"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("scaling", ["forward", "backward", "separate"])
@pytest.mark.parametrize("kind", ["Dropout", "Dropout1d", "Dropout2d", "Dropout3d"])
def test_a_normalised_dropout(kind, scaling, training, keeps):
    layer = getattr(normprop.nn, kind)(0.3, scaling=scaling, mean=0.5, std=2.0, eval=keeps)
    layer.train(training)
    shift, forward, backward = layer.constants.training
    if training:
        wanted = after_normalising(reference.dropout(0.3, *LAW), shift, forward, backward)
    else:
        factor = layer.constants.evaluation
        with mp.workdps(60):
            gap = mpf(LAW[0]) - mpf(shift)
            wanted = gap * mpf(factor), mpf(LAW[1]) * mpf(factor), mpf(factor)
    holds(moments(layer, *LAW), wanted)


def is_unit(got, figure, size):
    # Sum of squares of `size` float64 weights, each rounded a few times: size/2 + 8 ulp at most.
    assert np.abs(getattr(got, figure) - 1).max() <= (size / 2 + 8) * 2**-52


@pytest.mark.parametrize("method", ["normalize", "project"])
@pytest.mark.parametrize(
    ("scaling", "figures"),
    [("forward", ["fwd_std"]), ("backward", ["bwd_std"]), ("separate", ["fwd_std", "bwd_std"])],
)
def test_normalised_weights_per_neuron(scaling, figures, method):
    for layer in (
        normprop.nn.Linear(6, 4, scaling=scaling, method=method, dtype=torch.float64),
        normprop.nn.Conv2d(
            4, 6, 3, 2, groups=2, scaling=scaling, method=method, dtype=torch.float64
        ),
    ):
        got = moments(layer)
        for figure in figures:
            is_unit(got, figure, 27)


@pytest.mark.parametrize("method", ["normalize", "project"])
@pytest.mark.parametrize(
    ("scaling", "figures"),
    [("forward", ["fwd_std"]), ("backward", ["bwd_std"]), ("separate", ["fwd_std", "bwd_std"])],
)
def test_normalised_weights_per_layer(scaling, figures, method):
    layer = normprop.nn.Conv2d(
        4, 6, 3, 2, scaling=scaling, per="layer", method=method, dtype=torch.float64
    )
    got = moments(layer)
    for figure in figures:
        assert abs(np.mean(getattr(got, figure) ** 2) - 1) <= (layer.weight.numel() + 16) * 2**-52


def test_a_projected_weight_off_its_ball_is_measured_as_it_is():
    layer = normprop.nn.Linear(
        6, 4, scaling="separate", per="layer", method="project", dtype=torch.float64
    )
    on_the_ball = moments(layer)
    layer.weight.data *= 3
    got = moments(layer)
    # The layer uses the weight as it is forward, and √(in/out) of it backward.
    assert np.allclose(got.fwd_std, 3 * on_the_ball.fwd_std, rtol=1e-14, atol=0)
    assert np.allclose(got.bwd_std, 3 * on_the_ball.bwd_std, rtol=1e-14, atol=0)


# Enumeration: no class is forgotten

# What has no twin in torch has tests of its own.
TWINS = [name for name in normprop.nn.__all__ if inspect.isclass(getattr(nn, name, None))]


@pytest.mark.parametrize("name", TWINS)
def test_every_twin_has_moments(name):
    for module in (nn, normprop.nn):
        layer, shape = instance(module, name)
        got, three = figures(layer, shape)
        for figure in three:
            # Where no gradient reaches the input, there is none to measure.
            assert np.isfinite(figure).all() or (figure is got.bwd_std and name == "Embedding")
        assert got.error >= 0


# Refusals: what must hold and what came


@pytest.mark.parametrize("layer", ["relu", nn.MaxPool2d(2), nn.Dropout(), nn.Linear(2, 2)])
@pytest.mark.parametrize("std", [0, 0.0, -1.0, math.nan, math.inf, -math.inf])
def test_std_must_be_finite_and_positive(layer, std):
    with pytest.raises(ValueError, match=f"std must be finite and greater than 0; it was {std}"):
        moments(layer, std=std)


@pytest.mark.parametrize("mean", [math.nan, math.inf, -math.inf])
def test_mean_must_be_finite(mean):
    with pytest.raises(ValueError, match=f"mean must be finite; it was {mean}"):
        moments("relu", mean=mean)


@pytest.mark.parametrize("argument", ["mean", "std"])
@pytest.mark.parametrize("value", [True, torch.tensor(1.0), "1", None, 1j, [1.0], np.array([1.0])])
def test_mean_and_std_must_be_numbers(argument, value):
    with pytest.raises(TypeError, match=f"{argument} must be a real number; it was"):
        moments("relu", **{argument: value})


@pytest.mark.parametrize("one", [1, 1.0, np.float64(1), np.float32(1), np.int64(1)])
def test_numbers_of_numpy_are_numbers(one):
    assert moments("tanh", 0 * one, one) == moments("tanh")


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.MaxPool2d(0), "kernel_size must be made of integers of at least 1; it was 0"),
        (nn.MaxPool2d((2, 0)), r"kernel_size .* at least 1; it was \(2, 0\)"),
        (nn.AvgPool2d(-1), "kernel_size .* at least 1; it was -1"),
        (nn.MaxPool2d(2, 0), "stride must be made of integers of at least 1; it was 0"),
        (nn.AvgPool1d(True), "kernel_size must be made of integers"),
        (nn.MaxPool2d(2.5), "kernel_size must be made of integers of at least 1; it was 2.5"),
        (nn.MaxPool2d((2, 2, 2)), r"kernel_size must have 1 or 2 entries; it was \(2, 2, 2\)"),
        (nn.AvgPool2d(2, divisor_override=0), "divisor_override must not be 0"),
    ],
)
def test_windows_must_be_windows(layer, message):
    with pytest.raises(ValueError, match=message):
        moments(layer)


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_p_must_be_a_probability(p):
    layer = nn.Dropout()
    layer.p = p
    with pytest.raises(ValueError, match=rf"p, .* must lie in \[0, 1\]; it was {p}"):
        moments(layer)


@pytest.mark.parametrize(
    ("name", "near"), [("relo", "relu"), ("rlu", "relu"), ("sigmod", "sigmoid"), ("tanhh", "tanh")]
)
def test_an_unknown_name_is_told_the_near_ones(name, near):
    with pytest.raises(ValueError, match=f"layer must be one of .*it was '{name}'.*'{near}'"):
        moments(name)


def test_a_name_far_from_all_gets_no_hint():
    with pytest.raises(ValueError, match=r"layer must be one of .*; it was 'xyz'$"):
        moments("xyz")


def test_a_class_is_not_an_instance():
    with pytest.raises(TypeError, match=r"layer must be an instance, such as ReLU\(…\); .*class"):
        moments(nn.ReLU)


class Unheard(nn.Module):
    def forward(self, x):
        return x


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (Unheard(), TypeError, r"layer must be one of .*torch\.nn\.ReLU.*it was Unheard$"),
        (nn.LSTM(2, 2), TypeError, "LSTM has no constants: its weights serve every step"),
        (nn.Sequential(nn.ReLU()), TypeError, "Sequential has no constants: behind its first"),
        (nn.Softmax(-1), ValueError, "shape must be given for Softmax"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_the_reason(layer, error, message):
    with pytest.raises(error, match=message):
        moments(layer)


@pytest.mark.parametrize("layer", [3, None, torch.zeros(2)])
def test_what_is_no_layer_is_refused(layer):
    with pytest.raises(
        TypeError, match="layer must be a name, a module or an elementwise function"
    ):
        moments(layer)


class Leaky(nn.ReLU):
    def forward(self, input):
        return nn.functional.leaky_relu(input)


class Renamed(nn.ReLU):
    pass


class PlainAgain(normprop.nn.ReLU):
    def forward(self, input):
        return torch.relu(input)


@pytest.mark.parametrize("layer", [Leaky(), PlainAgain()])
def test_a_subclass_with_a_forward_of_its_own_is_refused(layer):
    with pytest.raises(TypeError, match=f"keeps its forward; it was {type(layer).__name__}"):
        moments(layer)


def test_a_subclass_that_keeps_its_forward_is_accepted():
    assert moments(Renamed()) == moments("relu")
    normalised = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    assert np.isfinite(moments(normalised).fwd_std).all()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.LazyLinear(3), "weight must have values; the lazy module"),
        (nn.Linear(2, 3, device="meta"), "weight must hold real numbers; it was .* on meta"),
        (nn.Conv2d(2, 3, 3, device="meta"), "weight must hold real numbers; it was .* on meta"),
        (nn.Bilinear(2, 3, 4, device="meta"), "weight must hold real numbers; it was .* on meta"),
        (nn.Linear(2, 3, dtype=torch.complex64), "weight must hold real numbers; it was .*complex"),
    ],
)
def test_weights_must_hold_real_numbers(layer, message):
    with pytest.raises(ValueError, match=message):
        moments(layer)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_weights_must_be_finite(name, value):
    layer = nn.Linear(2, 3)
    getattr(layer, name).data.view(-1)[1] = value
    with pytest.raises(ValueError, match=f"{name} must be finite; it holds NaN or infinities"):
        moments(layer)


@pytest.mark.parametrize("layer", ["relu", nn.ReLU(), nn.MaxPool2d(2), nn.Linear(2, 2)])
def test_the_raw_mask_is_for_dropout(layer):
    with pytest.raises(ValueError, match=r"inverted=False is for dropout.*it came with"):
        moments(layer, inverted=False)


def test_a_wrong_expectation_is_seen():
    # The post's sigmoid constant, and its pooling rule where windows overlap.
    with pytest.raises(AssertionError):
        holds(moments("sigmoid"), (mpf("0.5"), mpf("0.20827634486"), mpf("0.2123")))
    exact = reference.max_pool((3, 3), (2, 2), 0, 1)
    with pytest.raises(AssertionError):
        holds(moments(nn.MaxPool2d(3, 2)), (*exact[:2], mpf(1) / 3))
