"""Expectations of the chapter on a thousand layers."""

import json
import math
from functools import cache

import numpy as np
from mpmath import mp, mpf
from scipy import stats

from normprop.companion import results
from tests import reference
from tests.book.expectations import Equals, Exact, Parameter, PerRun, Within, better_than_chance

SMALL = {"depth": 100, "live_depth": 20, "steps": 6}
OWN_DEPTH, SMALL_DEPTH, WIDTH = 1000, 100, 64

FOUND, PEERS = (
    json.loads(results.path(f"depth_1000_sgd{part}.json").read_text("utf-8"))
    for part in ("", "_peers")
)
CELLS = {(c["method"], c["orthogonal"]): c for c in FOUND["cells"] + PEERS["cells"]}
DEEP = json.loads(results.path("depth_10000_sgd.json").read_text("utf-8"))
DEEPEST = {cell["method"]: cell for cell in DEEP["cells"]}
JOURNAL = json.loads(results.path("depth_10000_h100.json").read_text("utf-8"))["runs"]
ACCURACIES = {
    which: [None if run["diverged"] else run["test"] for run in cell["runs"]]
    for which, cell in CELLS.items()
}
LOST = ("he", "batchnorm", "layernorm", "forward", "separate-layer")


@cache
def _chi(s):
    _, forward, backward = reference.elementwise("tanh", 0.0, s)
    with mp.workdps(40):
        return (s * backward / forward) ** 2


@cache
def _scale(depth):
    """The s at which χ(s)^depth is e, by the secant rule from the fourth-root law."""
    with mp.workdps(40):
        before, now = ((mpf(3) / (4 * depth)) ** mpf("0.25") * k for k in (mpf(1), mpf("1.02")))
        while abs(now - before) > mpf(10) ** -16:
            one, other = (mp.log(_chi(s)) * depth - 1 for s in (before, now))
            before, now = now, now - other * (now - before) / (other - one)
        return now


def _scale_error(depth):
    """The package bounds the error of χ by 2e-13 here, and χ rises by (16/3) s³ and more."""
    return 2e-13 / (16 / 3 * float(_scale(depth)) ** 3)


def _exact(figure, error):
    """`figure` and `error` of the depth, one expectation for each run."""
    return PerRun(*(Exact(float(figure(n)), error(n)) for n in (OWN_DEPTH, SMALL_DEPTH)))


def _digits(depth):
    """What the gradient grows by at s = 1, in powers of ten."""
    return depth / 2 * math.log10(_chi(1.0))


def _wander(depth):
    """One standard deviation of the gradient's logarithm over random weights."""
    return math.sqrt(2 * depth / WIDTH) / 2


def _plain(depth):
    off = 4.5 * _wander(depth) / math.log(10)
    why = "4.5 standard deviations of a random walk of the logarithm; orthogonal ones walk less"
    return Within(_digits(depth) - off, _digits(depth) + off, why)


def _normal(depth):
    # The walk drifts: the logarithm of a factor of mean 1 and variance 2/n has the mean -1/n.
    low, high = (
        math.exp(0.5 + drift + z * _wander(depth))
        for drift, z in ((-depth / WIDTH / 2, -4.5), (0.0, 4.5))
    )
    return Within(low, high, "4.5 standard deviations of the walk about its drift, or about none")


@cache
def _critical(depth):
    """Signal, gradient and growth of the critical network by its maps, with the trapezium rule.

    Its error is exp(-2πd/h) for the distance d > π/2 of tanh's poles and the step h = 1/8.
    """
    z = np.arange(-12, 12.125, 0.125)
    weights = np.exp(-z * z / 2) / np.exp(-z * z / 2).sum()
    q, gradient, growth = 1.0, 1.0, 1.0
    for layer in range(depth):
        value = np.tanh(math.sqrt(q) * z)
        forward, backward = weights @ value**2, weights @ (1 - value**2) ** 2
        growth *= q * backward / forward
        if layer:
            gradient *= math.sqrt(backward)
        q = forward
    return math.sqrt(q), gradient, growth


def _critical_signal(depth):
    # On a sphere in n dimensions the fourth moment is 3n/(n + 2), and the signal larger for it;
    # its mean over n units has a relative deviation of √(96/9n) a layer, half of it in the root.
    middle = _critical(depth)[0] * math.sqrt(1 + 2 / WIDTH)
    off = 4.5 * 0.5 * math.sqrt(96 / (9 * WIDTH) / depth)
    return Within(middle * (1 - off), middle * (1 + off), "4.5 deviations of a mean over layers")


def _critical_gradient(depth):
    predicted = _critical(depth)[1]
    why = "the first layers, where the signal is large, have a deviation of 4 % among 64 neurons"
    return Within(0.8 * predicted, 1.25 * predicted, why)


def _weights_ratio(depth):
    law, root = math.sqrt(2 * depth), math.sqrt(math.e)
    why = "the calibrated gradient grows by at most √e, and the loss's own differs by less"
    return Within(law / root, law * root, why)


def _difference(one, other):
    """As the page shows it, by scipy's quantile of Student's t."""
    samples = [[100 * (a or 0.0) for a in ACCURACIES[which]] for which in (one, other)]
    mean = np.mean(samples[0]) - np.mean(samples[1])
    error = math.sqrt(sum(np.var(values, ddof=1) / len(values) for values in samples))
    half = stats.t.ppf(0.975, min(map(len, samples)) - 1) * error
    texts = [f"{v:+.1f}".replace("-", "−") for v in (mean, mean - half, mean + half)]
    return Equals(f"{texts[0]} ({texts[1]} to {texts[2]})")


CHANCE = better_than_chance()
HARDLY_BEGUN = PerRun(
    Within(0.0, 0.5, "the page says that these are not far: below half"),
    Within(0.0, 1.0, "an accuracy; in twenty layers the page claims nothing about these"),
)

EXPECTED = {
    "depth": Parameter("depth"),
    "live_depth": Parameter("live_depth"),
    "steps": Parameter("steps"),
    # Two figures with errors below 1e-15, squared and divided.
    "chi": Exact(float(_chi(1.0)), 1e-14),
    "digits": _exact(_digits, lambda n: 1e-14 * n),
    "scale": _exact(_scale, _scale_error),
    "approximate": _exact(lambda n: math.sqrt(math.sqrt(0.75 / n)), lambda n: 1e-15),
    "scale_chi": _exact(lambda n: mp.exp(mpf(1) / n), lambda n: 2e-13),
    # The error of χ, times its power's slope.
    "scale_growth": _exact(lambda n: math.e, lambda n: math.e * n * 2e-13),
    # At mean 0 a parabola: Q'(1) is χ, up to the square of s.
    "gelu_alone_slope": _exact(lambda n: mp.exp(mpf(1) / n), lambda n: 1.0 / n**1.5),
    "gelu_alone_stable": Equals(False),
    # Of the lattice that the search has; tests/gaussian asks whether no other mean is better.
    "gelu_mean": Exact(1.25, 0.0),
    "gelu_std": Within(0.2, 1.0, "χ - 1 is half of (s f''/f')² at the most, and f''/f' small"),
    "gelu_slope": Within(0.7, 1.0, "below 1, and near it as χ is"),
    "gelu_stable": Equals(True),
    "gradient_predicted": _exact(
        lambda n: mp.exp(mpf(n - 1) / (2 * n)), lambda n: math.e * n * 2e-13
    ),
    "gradient_plain_digits": PerRun(_plain(OWN_DEPTH), _plain(SMALL_DEPTH)),
    "gradient_orthogonal": Within(
        1.0, math.e, "no less than no growth, no more than e, twice the predicted exponent"
    ),
    "gradient_normal_0": PerRun(_normal(OWN_DEPTH), _normal(SMALL_DEPTH)),
    "gradient_normal_1": PerRun(_normal(OWN_DEPTH), _normal(SMALL_DEPTH)),
    "walk": _exact(lambda n: math.sqrt(n / 32), lambda n: 1e-14),
    "walk_factor": _exact(lambda n: math.exp(math.sqrt(n / 128)), lambda n: 1e-12),
    "critical_signal_predicted": _exact(lambda n: _critical(n)[0], lambda n: 1e-14 * n),
    "critical_gradient_predicted": _exact(lambda n: _critical(n)[1], lambda n: 1e-14 * n),
    "critical_growth": _exact(lambda n: _critical(n)[2], lambda n: 1e-13 * n),
    "critical_signal_law": _exact(lambda n: math.sqrt(0.5 / n), lambda n: 1e-15),
    "critical_signal": PerRun(_critical_signal(OWN_DEPTH), _critical_signal(SMALL_DEPTH)),
    "critical_gradient": PerRun(_critical_gradient(OWN_DEPTH), _critical_gradient(SMALL_DEPTH)),
    "critical_width": Exact(math.sqrt(33 / 32), 1e-15),
    "critical_spread": Within(1.0, 1.5, "the page says that all layers have nearly the same"),
    "weights_ratio": PerRun(_weights_ratio(OWN_DEPTH), _weights_ratio(SMALL_DEPTH)),
    "weights_ratio_law": _exact(lambda n: math.sqrt(2 * n), lambda n: 1e-13),
    "live_forward_normal": HARDLY_BEGUN,
    "live_forward_orthogonal": HARDLY_BEGUN,
    "live_critical_normal": HARDLY_BEGUN,
    "live_critical_orthogonal": PerRun(
        Within(0.5, 1.0, "the page says that it is on its way: half of the labels"),
        Within(0.0, 1.0, "an accuracy; in twenty layers the page claims nothing about it"),
    ),
    "live_calibrated_normal": HARDLY_BEGUN,
    "live_calibrated_orthogonal": PerRun(
        Within(0.75, 1.0, "the page says that it learns: three labels in four"),
        Within(CHANCE, 1.0, "guessing gets this far with probability below 1e-6"),
    ),
    "device": Equals(FOUND["device"]),
    "versions": Equals(", ".join(" ".join(pair) for pair in FOUND["versions"].items())),
    "budget": Equals(150),
    "tuning": Equals(50),
    "calibrated_median": Exact(sorted(ACCURACIES["calibrated", True])[1], 0.0),
    "calibrated_low": Exact(min(ACCURACIES["calibrated", True]), 0.0),
    # Rounding of a sum of three terms.
    "calibrated_minutes": Exact(
        _minutes := sum(run["seconds"] for run in CELLS["calibrated", True]["runs"]) / 180,
        1e-14 * _minutes,
    ),
    "lost_best": Exact(max(a or 0.0 for m in LOST for a in ACCURACIES[m, True]), 0.0),
    "over_critical": _difference(("calibrated", True), ("critical", True)),
    "over_tat": _difference(("calibrated", True), ("tat", True)),
    "over_dks": _difference(("calibrated", True), ("dks", True)),
    "over_leaky": _difference(("calibrated", True), ("leaky", True)),
    # E f'² = (1 + a²)/2 and (E f)² = (1 - a)²/2π; the power of a number known to 1e-15.
    "leaky_growth": Exact(
        _leaky := float((mpf("0.82") / (mpf("0.82") - mpf("0.02") / mp.pi)) ** OWN_DEPTH),
        1e-11 * _leaky,
    ),
    "critical_over_forward": _difference(("critical", True), ("forward", True)),
    "exercise_approximate": Exact(math.sqrt(math.sqrt(0.75 / 10_000)), 1e-15),
    "exercise_scale": Exact(float(_scale(10_000)), _scale_error(10_000)),
}
for _prefix, _file in (("", FOUND), ("peers_", PEERS)):
    EXPECTED[f"{_prefix}command"] = Equals(_file["command"])
    EXPECTED[f"{_prefix}date"] = Equals(_file["date"].partition("T")[0])
    _changed = " with changes that were not committed yet" if _file["changed"] else ""
    EXPECTED[f"{_prefix}commit"] = Equals(_file["commit"][:10] + _changed)
for (_method, _orthogonal), _runs in ACCURACIES.items():
    _name = _method.replace("-", "_") + ("" if _orthogonal else "_normal")
    _shown = ["diverged" if a is None else f"{100 * a:.1f}" for a in _runs]
    EXPECTED[f"seeds_{_name}"] = Equals(", ".join(_shown))
    EXPECTED[f"trials_diverged_{_name}"] = Equals(
        sum(trial["loss"] is None for trial in CELLS[_method, _orthogonal]["trials"])
    )

EXPECTED |= {
    "deep_date": Equals(DEEP["date"].partition("T")[0]),
    "deep_commit": Equals(DEEP["commit"][:10]),
    "deep_device": Equals(DEEP["device"]),
    # The page says that both train, and that neither does at the other rate.
    "deep_ahead": Equals(True),
    "deep_other": Within(0.0, 30.0, "no more than guessing among three or four digits"),
}
for _method, _cell in DEEPEST.items():
    (_run,), (_there,) = (
        _cell["runs"],
        [
            run["result"]
            for run in JOURNAL
            if (run["cell"]["method"], run["lr"], run["test"]) == (_method, _cell["lr"], False)
        ],
    )
    (_trial,) = [trial for trial in _cell["trials"] if trial["lr"] == _cell["lr"]]
    EXPECTED[f"deep_rate_{_method}"] = Exact(1e-4, 0.0)
    EXPECTED[f"deep_trial_{_method}"] = Exact(100 * _trial["validation"], 1e-13)
    EXPECTED[f"deep_test_{_method}"] = Exact(100 * _run["test"], 1e-13)
    EXPECTED[f"deep_gpu_trial_{_method}"] = Exact(100 * _there["validation"], 1e-13)
    if _method == "calibrated":
        EXPECTED["deep_gpu_step"] = Exact(_there["seconds"] / _there["steps"], 1e-15)
        EXPECTED["deep_step"] = Exact(_run["seconds"] / 150, 1e-14)
        EXPECTED["deep_minutes"] = Exact(_run["seconds"] / 60, 1e-13)
(_finished,) = [run["result"] for run in JOURNAL if run["test"]]
EXPECTED["deep_gpu_test_critical"] = Exact(100 * _finished["test"], 1e-13)

# What the page says in words. Where another run changes it, read the page again.
EXPECTED |= {
    "same_machine": Equals(True),
    "same_versions": Equals(True),
    "calibrated_learns": Equals(True),
    "critical_learns": Equals(True),
    "critical_normal_at_chance": Equals(True),
    "lost_at_chance": Equals(True),
    # No best rate of a peer that trains is at an end of its grid.
    "peers_interior": Equals(True),
    "over_critical_holds": Equals(True),
    "over_tat_holds": Equals(True),
    "over_dks_holds": Equals(True),
    "over_leaky_holds": Equals(True),
    "critical_over_forward_holds": Equals(True),
}
