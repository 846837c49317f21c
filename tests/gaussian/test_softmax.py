"""Softmax of normals: against definitions, high precision, closed second roads and simulation."""

import math
from functools import cache
from itertools import product

import numpy as np
import pytest
from mpmath import mp, mpf

from normprop.gaussian import FUNCTIONS, Normal, elementwise
from normprop.gaussian.softmax import (
    WIDEST,
    cross_entropy,
    log_softmax,
    log_sum,
    probability_variance,
    rows_of,
    softmax,
)
from tests import reference


@cache
def exact(classes, s):
    """Moments in high precision, by the integrals that cancel: E p², E p³, E p⁴, E p₁²p₂², log S.

    The trapezoidal rule in both variables, whose error is below 1e-18 at these steps: exp(-2πa/h)
    with a strip of a = 1.4 in u (h = 1/5), and likewise in s·z, while the normal density alone
    allows for steps of ½ in z.  The law of u = log(E/S) comes from its density.
    """
    with mp.workdps(30):
        c, s = mpf(classes), mpf(s)
        step = min(mpf(1) / 2, mpf(1) / (5 * s))
        z = [step * j for j in range(-int(12 / step), int(12 / step) + 1)]
        weights = [step * mp.npdf(x) for x in z]
        grow = [mp.exp(s * x) for x in z]
        h = mpf(1) / 5
        sums = dict.fromkeys(("p2", "p3", "p4", "p22", "first", "second"), mpf(0))
        low = -mp.log(c) - s * s / 2 - 45
        for i in range(int((52 + 10 * s + s * s / 2) / h)):
            u = low + i * h
            t = mp.exp(u)
            w = [t * g for g in grow]
            e = [p * mp.exp(-x) for p, x in zip(weights, w, strict=True)]
            g = []
            for _ in range(5):
                g.append(mp.fsum(e))
                e = [a * x for a, x in zip(e, w, strict=True)]
            gone = -mp.fsum(p * mp.expm1(-x) for p, x in zip(weights, w, strict=True))
            one = mp.exp((c - 1) * mp.log1p(-gone)) if gone < 0.5 else g[0] ** (c - 1)
            sums["p2"] += g[2] * one
            sums["p3"] += g[3] * one / 2
            sums["p4"] += g[4] * one / 6
            sums["p22"] += g[2] ** 2 * one / g[0] / 6
            sums["first"] += u * c * g[1] * one
            sums["second"] += u * u * c * g[1] * one
        return {name: h * value for name, value in sums.items()}


def by_definition(classes, s, nodes):
    """The same figures from p and log S themselves, by Gauss-Hermite over all the inputs."""
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    w = w / w.sum()
    grids = np.stack(np.meshgrid(*[s * x] * classes, indexing="ij")).reshape(classes, -1)
    weight = np.prod(np.stack(np.meshgrid(*[w] * classes, indexing="ij")), 0).ravel()
    shifted = grids - grids.max(0)
    p = np.exp(shifted) / np.exp(shifted).sum(0)
    log_s = grids.max(0) + np.log(np.exp(shifted).sum(0))
    y = grids[0] - log_s
    z = grids / s

    def mean(values):
        return float(weight @ values)

    return {
        "std": math.sqrt(mean((p[0] - 1 / classes) ** 2)),
        "slope": math.sqrt(mean(p[0] ** 2 * ((1 - p[0]) ** 2 + (p[1:] ** 2).sum(0)))),
        "tilted": mean((p**2 * (z - (p * z).sum(0)) ** 2).sum(0)),
        "log_mean": mean(y),
        "log_std": math.sqrt(mean((y - mean(y)) ** 2)),
        "log_slope": math.sqrt(mean((1 - p[0]) ** 2 + (classes - 1) * p[0] ** 2)),
    }


@pytest.mark.parametrize(("classes", "s"), [*product((2, 3, 4), (0.01, 0.3)), (2, 0.6), (3, 0.6)])
def test_small_groups_by_definition(classes, s):
    # Fewer nodes than that agree with them to the rounding of the sums at these widths.
    wanted = by_definition(classes, s, 28 if classes == 4 else 56)
    again = by_definition(classes, s, 24 if classes == 4 else 48)
    noise = {name: abs(wanted[name] - again[name]) + 1e-14 for name in wanted}
    got = softmax(classes, s)
    logs = log_softmax(classes, s)
    assert got.mean == 1 / classes
    for value, name, error in (
        (got.std, "std", got.error),
        (got.slope, "slope", got.error),
        (rows_of(classes, s).tilted, "tilted", rows_of(classes, s).errors[2]),
        (logs.mean, "log_mean", logs.error),
        (logs.std, "log_std", logs.error),
        (logs.slope, "log_slope", logs.error),
    ):
        assert noise[name] < 1e-12
        assert abs(value - wanted[name]) <= error + noise[name], name


@pytest.mark.parametrize("s", [1e-3, 0.05, 0.2999, 0.3, 1.0, 3.0, 10.0, WIDEST])
def test_two_classes_are_the_sigmoid_of_a_difference(s):
    law = Normal(0.0, math.sqrt(2.0) * s)
    sigmoid, log = (elementwise(FUNCTIONS[name], law) for name in ("sigmoid", "logsigmoid"))
    got, logs = softmax(2, s), log_softmax(2, s)
    bound = got.error + 2 * sigmoid.error + 1e-15
    assert got.mean == 0.5
    assert abs(got.std - sigmoid.std) <= bound
    assert abs(got.slope - math.sqrt(2.0) * sigmoid.slope) <= bound
    bound = logs.error + 2 * log.error + 1e-15
    assert abs(logs.mean - log.mean) <= bound
    assert abs(logs.std - log.std) <= bound
    # Here dx_1 = σ(-d)(dy_1 - ...) has the slope of logsigmoid twice.
    assert abs(logs.slope - math.sqrt(2.0) * log.slope) <= 2 * bound
    assert 0 < got.error < 1e-12
    assert 0 < logs.error < 1e-11


LARGE = [(3, 1.0), (10, 0.05), (1000, 0.5), (10**6, 1.0), (20, 2.5)]


@pytest.mark.parametrize(("classes", "s"), LARGE)
def test_high_precision(classes, s):
    with mp.workdps(30):
        m, c = exact(classes, s), mpf(classes)
        std = mp.sqrt(m["p2"] - 1 / c**2)
        slope = mp.sqrt(m["p2"] - 2 * m["p3"] + m["p4"] + (c - 1) * m["p22"])
        log_slope = mp.sqrt(1 - 2 / c + c * m["p2"])
        log_mean = mp.euler + m["first"]
        spread = m["second"] - m["first"] ** 2 - mp.pi**2 / 6
        log_std = mp.sqrt(mpf(s) ** 2 * (1 - 2 / c) + spread)
        loss_slope = mp.sqrt(m["p2"] - 2 / c**2 + 1 / c)
    got, logs, loss = softmax(classes, s), log_softmax(classes, s), cross_entropy(classes, s)
    assert reference.close(got.std, std, got.error)
    assert reference.close(got.slope, slope, got.error)
    assert reference.close(logs.mean, log_mean, logs.error)
    assert reference.close(logs.std, log_std, logs.error)
    assert reference.close(logs.slope, log_slope, logs.error)
    assert reference.close(loss.mean, -log_mean, loss.error)
    assert reference.close(loss.std, log_std, loss.error)
    assert reference.close(loss.slope, loss_slope, loss.error)
    for value, wanted in ((got.std, std), (got.slope, slope), (logs.std, log_std)):
        assert reference.agrees_to_1e13(value, wanted)


@pytest.mark.parametrize("classes", [2, 3, 17, 1000, 10**9])
@pytest.mark.parametrize("s", [1e-8, 1e-3, 0.1, 1.0, WIDEST])
def test_the_bound_is_small_from_narrow_to_wide(classes, s):
    got = softmax(classes, s)
    # It shrinks with the figures.
    assert 0 < got.error <= 1e-12 * max(got.std, got.slope) + 2**-52 / classes
    for figures in (log_softmax(classes, s), cross_entropy(classes, s, 0.1)):
        assert 0 < figures.error <= 1e-10


def test_one_class_is_certain():
    assert (softmax(1, 2.0).mean, softmax(1, 2.0).std, softmax(1, 2.0).slope) == (1, 0, 0)
    for figures in (log_softmax(1, 2.0), cross_entropy(1, 2.0)):
        assert (figures.mean, figures.std, figures.slope) == (0, 0, 0)


@pytest.mark.parametrize("s", [0.3, 1.0])
def test_many_classes_are_lognormal(s):
    # C p tends to e^x/E e^x, whose square has the mean e^(s²); the rest falls as 1/C, so that ten
    # times the classes leave a tenth of it.
    def rest(classes):
        return (probability_variance(classes, s)[0] * classes**2 + 1) / math.exp(s * s) - 1

    ratios = [rest(c) / rest(10 * c) for c in (10**3, 10**4, 10**5)]
    assert abs(ratios[2] - 10) < abs(ratios[1] - 10) < abs(ratios[0] - 10) < 0.5


@pytest.mark.parametrize("s", [1e-6, 1e-4])
def test_a_narrow_law_is_linear(s):
    # p - 1/C is (x - x̄)/C to first order, with a relative error of order s².
    for classes in (2, 7, 1000):
        got = softmax(classes, s).std
        assert abs(got / (s * math.sqrt(1 - 1 / classes) / classes) - 1) < 3 * s * s + 1e-12


@pytest.mark.parametrize("n", [2, 3, 8, 60])
@pytest.mark.parametrize("s", [1e-4, 0.5, 3.0])
def test_causal_rows_are_the_average_of_rows(n, s):
    whole = rows_of(n, s, causal=True)
    parts = [rows_of(i, s) for i in range(1, n + 1)]
    for index, name in enumerate(("concentration", "gradient", "tilted")):
        wanted = math.fsum(getattr(part, name) for part in parts) / n
        error = sum(part.errors[index] for part in parts) / n + whole.errors[index]
        assert abs(getattr(whole, name) - wanted) <= error
        assert error < 1e-12


@pytest.mark.parametrize(
    ("classes", "s", "smoothing"), [(5, 1.0, 0.0), (5, 2.0, 0.3), (40, 1.5, 1.0)]
)
def test_the_loss_by_simulation(classes, s, smoothing):
    generator = np.random.Generator(np.random.SFC64(3))
    figures = cross_entropy(classes, s, smoothing)
    values = []
    for _ in range(64):
        x = s * generator.standard_normal((2000, classes))
        t = generator.integers(classes, size=2000)
        q = (1 - smoothing) * np.eye(classes)[t] + smoothing / classes
        p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
        y = np.log(np.exp(x).sum(1)) - (q * x).sum(1)
        values.append((y.mean(), ((y - figures.mean) ** 2).mean(), ((p - q) ** 2).mean()))
    values = np.array(values)
    wanted = np.array([figures.mean, figures.std**2, figures.slope**2])
    z = (values.mean(0) - wanted) / (values.std(0, ddof=1) / math.sqrt(len(values)))
    assert (np.abs(z) < 4.5).all(), z


def test_the_logarithm_of_the_sum_of_one_is_the_number():
    mean, variance, *_ = log_sum(2, 1e-9)
    assert abs(mean - math.log(2)) < 1e-15
    assert abs(variance / (0.5e-18) - 1) < 1e-6


@pytest.mark.parametrize("classes", [0, -1, 2.0, True])
def test_classes_must_be_counted(classes):
    with pytest.raises(ValueError, match="integer of at least 1; it was"):
        softmax(classes, 1.0)


@pytest.mark.parametrize("std", [0.0, -1.0, WIDEST * 1.01, math.nan])
def test_a_law_out_of_reach_is_refused(std):
    with pytest.raises(ValueError, match="at most 20; it was"):
        softmax(3, std)


@pytest.mark.parametrize("smoothing", [-0.1, 1.1, math.nan])
def test_smoothing_is_a_share(smoothing):
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        cross_entropy(3, 1.0, smoothing)
