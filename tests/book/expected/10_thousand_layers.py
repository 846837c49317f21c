"""Expectations of the chapter on a thousand layers."""

import json
import math
from fractions import Fraction
from functools import cache

from mpmath import mp, mpf

from normprop.companion import results
from tests import reference
from tests.book.expectations import Equals, Exact, Parameter, PerRun, Within

SMALL = {"depth": 100, "live_depth": 20, "steps": 6}
OWN_DEPTH, SMALL_DEPTH, WIDTH = 1000, 100, 64

FOUND = json.loads(results.path("depth_1000_sgd.json").read_text("utf-8"))
CELLS = {cell["method"]: cell for cell in FOUND["cells"]}
ACCURACIES = {
    method: [None if run["diverged"] else run["test"] for run in cell["runs"]]
    for method, cell in CELLS.items()
}


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


def _better_than_chance(images=359, chance=Fraction(1, 10), level=Fraction(1, 10**6)):
    """The smallest accuracy that guessing reaches with probability below the level."""
    tail, right = Fraction(1), 0
    while tail >= level:
        tail -= math.comb(images, right) * chance**right * (1 - chance) ** (images - right)
        right += 1
    return right / images


CHANCE = _better_than_chance()
HARDLY_BEGUN = PerRun(
    Within(0.0, 0.5, "the page says that only both ingredients together learn: others below half"),
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
    "live_forward_normal": HARDLY_BEGUN,
    "live_forward_orthogonal": HARDLY_BEGUN,
    "live_calibrated_normal": HARDLY_BEGUN,
    "live_calibrated_orthogonal": PerRun(
        Within(0.75, 1.0, "the page says that it learns: three labels in four"),
        Within(CHANCE, 1.0, "guessing gets this far with probability below 1e-6"),
    ),
    "command": Equals(FOUND["command"]),
    "device": Equals(FOUND["device"]),
    "date": Equals(FOUND["date"].partition("T")[0]),
    "commit": Equals(
        FOUND["commit"][:10]
        + (" with changes that were not committed yet" if FOUND["changed"] else "")
    ),
    "versions": Equals(", ".join(" ".join(pair) for pair in FOUND["versions"].items())),
    "budget": Equals(150),
    "tuning": Equals(50),
    "calibrated_median": Exact(sorted(ACCURACIES["calibrated"])[1], 0.0),
    "calibrated_low": Exact(sorted(ACCURACIES["calibrated"])[0], 0.0),
    # Rounding of a sum of three terms.
    "calibrated_minutes": Exact(
        _minutes := sum(run["seconds"] for run in CELLS["calibrated"]["runs"]) / 180,
        1e-14 * _minutes,
    ),
    "peers_best": Exact(
        max(a or 0.0 for m, runs in ACCURACIES.items() if m != "calibrated" for a in runs), 0.0
    ),
    "exercise_approximate": Exact(math.sqrt(math.sqrt(0.75 / 10_000)), 1e-15),
    "exercise_scale": Exact(float(_scale(10_000)), _scale_error(10_000)),
}
for _method, _runs in ACCURACIES.items():
    _name = _method.replace("-", "_")
    _shown = ["diverged" if a is None else f"{100 * a:.1f}" for a in _runs]
    EXPECTED[f"seeds_{_name}"] = Equals(", ".join(_shown))
    EXPECTED[f"trials_diverged_{_name}"] = Equals(
        sum(trial["loss"] is None for trial in CELLS[_method]["trials"])
    )

# What the page says in words. Where another run changes it, read the page again.
EXPECTED |= {
    "calibrated_learns": Equals(True),
    "peers_at_chance": Equals(True),
}
