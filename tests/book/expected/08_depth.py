"""Chapter 8: depth. The maps by Gauss-Legendre sums written out here, the rest by what they say."""

import math

import numpy as np

from tests.book.expectations import Estimate, Exact, Parameter, PerRun, Within

SMALL = {"width": 64, "depth": 200, "networks": 4, "draws": 100}
OWN_WIDTH, OWN_DEPTH = 256, 1000

CHI_RELU = math.pi / (math.pi - 1)
ALPHA, SCALE = 1.6732632423543772, 1.0507009873554805

# Panels of length ½ that end at 0, where some functions bend; 20 nodes each.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)
_EDGES = np.linspace(-12.0, 12.0, 49)
Z = (0.5 * (_EDGES[:-1] + _EDGES[1:])[:, None] + 0.25 * _NODES).ravel()
DENSITY = np.tile(0.25 * _WEIGHTS, 48) * np.exp(-Z * Z / 2) / math.sqrt(2 * math.pi)
_erf = np.vectorize(math.erf, otypes=[float])


def _gelu(x):
    cdf = 0.5 * (1 + _erf(x / math.sqrt(2)))
    return x * cdf, cdf + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _sigmoid(x):
    f = 1 / (1 + np.exp(-x))
    return f, f * (1 - f)


def _silu(x):
    f, slope = _sigmoid(x)
    return x * f, f + x * slope


def _tanh(x):
    f = np.tanh(x)
    return f, 1 - f * f


def _elu(x, alpha=1.0, scale=1.0):
    low = alpha * np.exp(np.minimum(x, 0))
    return scale * np.where(x > 0, x, low - alpha), scale * np.where(x > 0, 1.0, low)


FUNCTIONS = {
    "relu": lambda x: (np.maximum(x, 0), (x > 0).astype(float)),
    "gelu": _gelu,
    "silu": _silu,
    "elu": _elu,
    "selu": lambda x: _elu(x, ALPHA, SCALE),
    "sigmoid": _sigmoid,
    "tanh": _tanh,
}
NAMED = tuple(FUNCTIONS)
FUNCTIONS["softplus"] = lambda x: (np.logaddexp(0.0, x), _sigmoid(x)[0])
TWINS = ("relu", "gelu", "silu", "sigmoid", "tanh")


def mean(values) -> float:
    return float(values @ DENSITY)


def figures(name, q=1.0):
    """(μ, σ_f, σ_b) at N(0, q)."""
    f, slope = FUNCTIONS[name](math.sqrt(q) * Z)
    mu = mean(f)
    return mu, math.sqrt(mean((f - mu) ** 2)), math.sqrt(mean(slope**2))


def scale_map(name, divisor, q) -> float:
    mu = figures(name)[0]
    return mean((FUNCTIONS[name](math.sqrt(q) * Z)[0] - mu) ** 2) / divisor**2


def slope(name, divisor, q) -> float:
    """Q'(q) = E (f - μ) f' z / (√q σ²), by differentiating f instead of the density."""
    f, df = FUNCTIONS[name](math.sqrt(q) * Z)
    return mean((f - figures(name)[0]) * df * Z) / (math.sqrt(q) * divisor**2)


def fixed_point(name, divisor, low, high) -> float:
    sign = scale_map(name, divisor, low) - low > 0
    for _ in range(200):
        middle = 0.5 * (low + high)
        if (scale_map(name, divisor, middle) - middle > 0) == sign:
            low = middle
        else:
            high = middle
    return low


def chi(name, q=1.0) -> float:
    _, fwd, bwd = figures(name, q)
    return q * (bwd / fwd) ** 2


def maps():
    for name in NAMED:
        divisor = figures(name)[1]
        # The sums above are good to a few hundred roundings; the bounds say as much.
        yield f"{name}_slope", Exact(slope(name, divisor, 1.0), 1e-11)
        yield f"{name}_slope_error", Within(0.0, 1e-11, "rounding of a quadrature")
        yield f"{name}_chi", Exact(chi(name), 1e-11)
        yield f"{name}_points", Exact(2 if name in ("gelu", "silu") else 1, 0)
    for name, low in (("gelu", 0.5), ("silu", 0.3)):
        divisor = figures(name)[1]
        q = fixed_point(name, divisor, low, 0.9)
        # Where the map crosses the diagonal with a slope of 0.92 or 0.87.
        yield f"{name}_second", Exact(q, 1e-10)
        yield f"{name}_second_std", Exact(math.sqrt(q), 1e-10)
        yield f"{name}_second_slope", Exact(slope(name, divisor, q), 1e-10)


def walk_spread(name, width) -> float:
    """Standard deviation of √q of the stationary walk, to first order.

    δ' = Q'δ + noise of variance Var g²/n, and √q moves by half of δ.
    """
    mu, fwd, _ = figures(name)
    square = ((FUNCTIONS[name](Z)[0] - mu) / fwd) ** 2
    variance = (mean(square**2) - 1) / width
    return 0.5 * math.sqrt(variance / (1 - slope(name, fwd, 1.0) ** 2))


def signals():
    for name in ("relu", "gelu", "silu"):
        yield f"{name}_largest_100", Within(0.5, 1e30, "from settled to run away, by chance")
        yield f"{name}_smallest_100", Within(0.1, 1e30, "from settled to run away, by chance")
        yield f"{name}_escaped", Within(0, 5, "a count of four or five networks")
    for name in ("tanh", "sigmoid"):
        for where in ("100", "end"):
            key = f"{name}_std_{where}"
            own, small = (walk_spread(name, n) for n in (OWN_WIDTH, SMALL["width"]))
            # The mean of √q lies below 1 by about its variance, which the standard error covers.
            yield (
                key,
                PerRun(
                    own=Within(1 - 3 * own, 1 + 3 * own, "the mean of five is off by 0.4 spreads"),
                    small=Within(1 - 4 * small, 1 + 4 * small, "four networks: 0.5 spreads"),
                ),
            )
            yield (
                f"{key}_se",
                PerRun(
                    own=Within(0.1 * own, 1.2 * own, "0.4 spreads, known from five networks"),
                    small=Within(0.02 * small, 1.6 * small, "0.5 spreads, from four networks"),
                ),
            )
        own, small = (walk_spread(name, n) for n in (OWN_WIDTH, SMALL["width"]))
        yield (
            f"{name}_spread",
            PerRun(
                own=Within(0.75 * own, 1.3 * own, "200 walks know a spread to 5 %; first order"),
                small=Within(0.6 * small, 1.6 * small, "100 walks: 7 %; first order"),
            ),
        )


def walked(name, width=64, runs=1000, length=100) -> float:
    """Share of walks with a signal above 10, drawn here with another generator."""
    draw = np.random.default_rng(7)
    mu, fwd, _ = figures(name)
    q = np.ones((runs, 1), dtype=np.float32)
    table = np.linspace(-8, 8, 4001)
    values = (FUNCTIONS[name](table)[0] - mu).astype(np.float32)
    for _ in range(length):
        x = np.sqrt(q) * draw.standard_normal((runs, width), dtype=np.float32)
        # Beyond the table all three are straight lines.
        f = np.interp(x, table, values) + np.maximum(x - 8, 0)
        q = np.minimum(np.mean((f / fwd) ** 2, 1, keepdims=True), 1e30).astype(np.float32)
    return float((q > 100).mean())


def shares():
    for name in ("relu", "gelu", "silu"):
        share = walked(name)
        # The reference is itself a simulation, with a standard error of 0.016: the scores are of
        # differences, whose error is up to 1.4 times the one that they are measured in.
        yield f"{name}_share", Estimate(share, f"{name}_share_se")
        yield f"{name}_share_se", Within(0.02, 0.04, "√(p(1 - p)/200) for p near ½")
        yield f"{name}_law", Estimate(share, f"{name}_law_se")
        yield f"{name}_law_se", Within(0.01, 0.02, "√(p(1 - p)/1000) for p near ½")
        yield f"{name}_wide", Within(0.2, 0.8, "200 or 100 walks: 0.035 and 0.05 around ½")


theory: dict[str, float] = {}

# Two inputs: sums over a plane, which converge geometrically for these functions.
_STEP = 0.2
_AXIS = _STEP * np.arange(-45, 46)
A, B = np.meshgrid(_AXIS, _AXIS)
PLANE = np.exp(-(A * A + B * B) / 2) * _STEP**2 / (2 * math.pi)


def half_square(name, q, eps) -> float:
    """½ E (f(x₁) - f(x₂))², x₁ and x₂ of variance q and correlation 1 - ε."""
    common, own = math.sqrt(q * (1 - eps / 2)) * A, math.sqrt(q * eps / 2) * B
    first, second = FUNCTIONS[name](common + own)[0], FUNCTIONS[name](common - own)[0]
    return float((0.5 * (first - second) ** 2 * PLANE).sum())


def half_square_relu(q, eps) -> float:
    theta = math.acos(1 - eps)
    return q * (math.pi * eps - math.sin(theta) + theta * math.cos(theta)) / (2 * math.pi)


def across(name, layers) -> dict[int, float]:
    """Std across inputs before the layers, under backward scaling."""
    bwd = figures(name)[2]
    q, eps, found = 1.0, 1.0, {}
    for layer in range(1, max(layers) + 1):
        if layer in layers:
            found[layer] = math.sqrt(q * eps)
        if name == "relu":
            half = half_square_relu(q, eps)
            q = q - (2 * math.sqrt(q) - 1) / math.pi
        else:
            half = half_square(name, q, eps)
            q = scale_map(name, bwd, q)
        eps = half / bwd**2 / q
    return found


def backward():
    for name in TWINS:
        mu, _, bwd = figures(name)
        q = 0.25 if name == "relu" else fixed_point(name, bwd, 0.1, 2.0)
        there = figures(name, q)
        yield f"{name}_settled", Exact(math.sqrt(q), 1e-10)
        yield f"{name}_lambda", Exact((there[2] / bwd) ** 2, 1e-10)
        yield f"{name}_common", Exact(((there[0] - mu) / bwd) ** 2 / q, 1e-10)
    for name in ("relu", "gelu", "tanh"):
        marks = (10, 100, 200, 1000) if name == "relu" else (10, 100)
        theory = across(name, marks)
        for where in (10, 100):
            key, value = f"{name}_across_{where}", theory[where]
            # The page stops updating once q is within 1e-9 of its goal: 1e-7 after 100 layers.
            yield f"{key}_theory", Exact(value, 1e-6 * value)
            # Factors of mean 1 and variance up to 5/n a layer: the logarithm drifts down by
            # 5/4n and spreads by √(5l/n)/2, here 0.7 at layer 100 and 0.2 at layer 10.
            wide = 0.5 if where == 10 else 0.25 if name != "tanh" else 0.7
            yield (
                key,
                PerRun(
                    own=Within(wide * value, value / wide, "product of noisy factors"),
                    small=Within(0.01 * value, 8 * value, "at width 64 twice the noise"),
                ),
            )
            yield f"{key}_se", Within(1e-4 * value, 3 * value, "from 4 or 5 such products")
        if name == "relu":
            yield (
                "relu_across_end_theory",
                PerRun(
                    own=Exact(theory[1000], 1e-6 * theory[1000]),
                    small=Exact(theory[200], 1e-6 * theory[200]),
                ),
            )
    laws, typical = [], []
    for width, depth in ((OWN_WIDTH, OWN_DEPTH), (SMALL["width"], SMALL["depth"])):
        k, a = math.sqrt(8) / (3 * math.pi), 2.5 / width
        laws.append(1 / (k * depth))
        typical.append(a / (2 * k * (math.exp(a * depth / 2) - 1)))
    yield "relu_across_end_law", PerRun(own=Exact(laws[0], 1e-14), small=Exact(laws[1], 1e-14))
    yield (
        "relu_across_end_typical",
        PerRun(own=Exact(typical[0], 1e-14), small=Exact(typical[1], 1e-14)),
    )
    near = [a / (2 * k * (math.exp(50 * a) - 1)) for a in (2.5 / OWN_WIDTH, 2.5 / SMALL["width"])]
    yield (
        "relu_across_100_typical",
        PerRun(own=Exact(near[0], 1e-14), small=Exact(near[1], 1e-14)),
    )
    # The logarithm of one network spreads by √(5·depth/width)/2: 2.2 and 2.0.
    yield (
        "relu_across_end",
        PerRun(
            own=Within(typical[0] / 90, typical[0] * 90, "4.5 times 2.2/√5, in the exponent"),
            small=Within(typical[1] / 90, typical[1] * 90, "4.5 times 2.0/√4, in the exponent"),
        ),
    )
    yield "relu_across_end_log_se", Within(0.1, 3.0, "2.2/√5 or 2.0/√4, from so few networks")


def parted(name) -> dict[int, float]:
    fwd, eps, found = figures(name)[1], 1e-4, {}
    for layer in range(1, 201):
        found[layer] = eps
        eps = half_square(name, 1.0, eps) / fwd**2
    return found


def chaos():
    for name in ("tanh", "sigmoid"):
        theory = parted(name)
        for where in (50, 200):
            value = theory[where]
            yield f"{name}_parting_{where}", Exact(value, 1e-8 * max(value, 1e-3))
            # The squared distance is a product of factors with variance about 2/n a layer.
            width = 12 if where == 200 and name == "sigmoid" else 4
            yield (
                f"{name}_parted_{where}",
                PerRun(
                    own=Within(value / width, value * width, "√(2l/n) in the logarithm, a network"),
                    small=Within(value / 200, min(value * 200, 1.6), "√(2l/n) with n = 64"),
                ),
            )
            yield (
                f"{name}_parted_{where}_log_se",
                Within(1e-3, 2.5, "√(2l/n) over the root of the networks; saturated: 1/√n"),
            )
    yield (
        "separate_gradient",
        PerRun(
            own=Within(0.2, 5, "√(3·200/n)/2 in the logarithm of each of three networks"),
            small=Within(1e-3, 20, "the same at width 64, and a drift downwards"),
        ),
    )
    grown = chi("tanh") ** 100
    yield (
        "forward_gradient",
        PerRun(
            own=Within(grown / 5, grown * 5, "as the separate one, times χ to the 200/2"),
            small=Within(grown / 1000, grown * 20, "the same at width 64"),
        ),
    )


def batch_normalisation():
    for size in (16, 32, 64, 128, 256):
        # One network estimates its rate from ten factors of spread √(5/n).
        for label in ("batch", "forward"):
            yield (
                f"{label}_rate_{size}_se",
                Within(1e-4, 0.08, "of a few networks, each off by 1 % or, at width 128, 2 %"),
            )
        # A single network's rate is below its mean, by at most exp(-5/2n) with n = 512.
        room = 0.03 if size == 16 else 0.015
        low = CHI_RELU * math.exp(-5 / (4 * OWN_WIDTH))
        yield (
            f"forward_rate_{size}",
            PerRun(
                own=Within(low - room, CHI_RELU + room, "4 standard errors of 0.008 or 0.004"),
                small=Within(1.3, 1.7, "four networks of width 128"),
            ),
        )
        # Corrections of order 1/B, from above, and none as B grows.
        above = CHI_RELU * (1 + 2 / size)
        yield (
            f"batch_rate_{size}",
            PerRun(
                own=Within(CHI_RELU - 0.01, above + 0.01, "a correction of order 1/B"),
                small=Within(CHI_RELU - 0.15, above + 0.15, "four networks of width 128"),
            ),
        )


def calibrated(depth, growth=math.e) -> float:
    """s with χ(s)^depth = growth for tanh, by halving."""
    low, high = 1e-3, 2.0
    for _ in range(100):
        s = 0.5 * (low + high)
        small = math.log(chi("tanh", s * s)) * depth < math.log(growth)
        low, high = (s, high) if small else (low, s)
    return low


def moved_mean(depth=1000) -> float:
    """m with χ(m, 1)^depth = e for ReLU, from its closed form."""

    def excess(m):
        phi = math.exp(-m * m / 2) / math.sqrt(2 * math.pi)
        upper = 0.5 * math.erfc(-m / math.sqrt(2))
        mu = phi + m * upper
        return upper / ((1 + m * m) * upper + m * phi - mu * mu) - math.exp(1 / depth)

    low, high = 0.0, 8.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return low


def calibration():
    for depth in (10, 100, 1000, 10_000):
        # χ is known to 1e-13 and rises with slope 16s³/3, which is 0.0045 at the least.
        yield f"s_{depth}", Exact(calibrated(depth), 1e-10)
        yield f"s_{depth}_guess", Exact((0.75 / depth) ** 0.25, 1e-15)
    # χ falls by 0.005 for each unit of m there.
    yield "moved_mean", Exact(moved_mean(), 1e-9)
    yield "moved_chi", Exact(math.exp(1e-3), 1e-11)
    yield "root_e", Exact(math.exp(0.5), 1e-15)
    for name, value, spread in (("signal", 1.0, 0.1), ("gradient", math.exp(0.5), 0.4)):
        yield (
            f"calibrated_{name}",
            PerRun(
                own=Estimate(value, f"calibrated_{name}_se"),
                small=Within(value - spread, value + spread, "width 32 and three networks"),
            ),
        )
        yield f"calibrated_{name}_se", Within(1e-4, 0.3, "three orthogonal networks")
    wander = "√(2·depth/width) in twice the logarithm: e to the ±4, and a drift downwards"
    yield "calibrated_low", Within(1e-6, 20, wander)
    yield "calibrated_high", Within(1e-4, 200, wander)
    for depth, run in ((OWN_DEPTH, "own"), (SMALL["depth"], "small")):
        theory[run] = depth * math.log10(chi("tanh")) / 2
    yield (
        "uncalibrated_log10_theory",
        PerRun(own=Exact(theory["own"], 1e-9), small=Exact(theory["small"], 1e-9)),
    )
    yield (
        "uncalibrated_log10",
        PerRun(
            own=Within(theory["own"] - 2, theory["own"] + 1, "finite width: log10 off by 2 %"),
            small=Within(theory["small"] - 3, theory["small"] + 1.5, "width 32"),
        ),
    )


SIXTY = {"gelu": 1.125, "silu": 1.875, "softplus": 3.5, "tanh": 0.1875}
"""The means that the search for both takes; tests/gaussian asks whether no other is better."""


def at_law(name, m, s):
    """χ, Q'(1) and N at N(m, s²)."""
    z, density = Z, DENSITY
    if name == "relu":
        # Panels that end at the kink.
        edges = np.union1d(_EDGES, -m / s)
        half = 0.5 * np.diff(edges)
        z = (0.5 * (edges[:-1] + edges[1:])[:, None] + half[:, None] * _NODES).ravel()
        density = (half[:, None] * _WEIGHTS).ravel() * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    f, slope = FUNCTIONS[name](m + s * z)
    g = f - f @ density
    variance = g**2 @ density
    linear = (g * z @ density) ** 2 / variance
    steep = s * (g * slope * z @ density) / variance
    return s * s * (slope**2 @ density) / variance, steep, 1 - linear


def std_at(name, m) -> float:
    """The smallest s with χ(m, s)^60 = e, by halving."""
    low, high = 1e-3, 3.0
    for _ in range(100):
        s = 0.5 * (low + high)
        low, high = (s, high) if math.log(at_law(name, m, s)[0]) * 60 < 1 else (low, s)
    return low


def both_directions():
    yield "sixty", Exact(60, 0)
    # GELU, SiLU and softplus.
    yield "warned", Exact(3, 0)
    yield "both_width", PerRun(own=Exact(OWN_WIDTH // 2, 0), small=Exact(SMALL["width"] // 2, 0))
    laws = {
        **{(name, "alone"): (0.0, std_at(name, 0.0)) for name in SIXTY},
        **{(name, "both"): (m, std_at(name, m)) for name, m in SIXTY.items()},
        **{("relu", road): (moved_mean(60), 1.0) for road in ("alone", "both")},
    }
    for (name, road), (m, s) in laws.items():
        key = f"{name}_{road}"
        _, steep, share = at_law(name, m, s)
        yield f"{key}_m", Exact(m, 1e-9)
        # χ rises with s by .03 at least.
        yield f"{key}_s", Exact(s, 1e-9)
        yield f"{key}_slope", Exact(steep, 1e-9)
        yield f"{key}_share", Exact(share, 1e-9)
        stays = road == "both" or name in ("tanh", "relu")
        if stays:
            ends = PerRun(
                own=Within(0.75, 1.33, "the walk around a point that attracts, width 128"),
                small=Within(0.2, 5.0, "a walk of twice the spread, width 32"),
            )
            yield f"{key}_largest", ends
            yield f"{key}_smallest", ends
        else:
            run_away = Within(30.0, 1e8, "the largest of a few networks, most of which run away")
            yield f"{key}_largest", run_away
            yield f"{key}_smallest", Within(0.1, 1e6, "the smallest of a few, by chance")
        held = "√e, and √(60/width) of wandering for each of a few networks"
        yield (
            f"{key}_gradient",
            PerRun(own=Within(1.0, 2.8, held), small=Within(0.5, 6.0, held))
            if stays
            else Within(0.5, 1e8, "grows with the signal that runs away"),
        )


def linear_share() -> float:
    """a₁²/σ_f² of tanh, by Stein's identity a₁ = E f'."""
    return mean(_tanh(Z)[1]) ** 2 / figures("tanh")[1] ** 2


EXPECTED = {
    **dict(maps()),
    **dict(signals()),
    **dict(shares()),
    **dict(backward()),
    **dict(chaos()),
    **dict(batch_normalisation()),
    **dict(calibration()),
    **dict(both_directions()),
    "width": Parameter("width"),
    "depth": Parameter("depth"),
    "networks": Parameter("networks"),
    "bn_width": PerRun(own=Exact(2 * OWN_WIDTH, 0), small=Exact(2 * SMALL["width"], 0)),
    "tenfold": Exact(math.log(100) / math.log(CHI_RELU), 1e-12),
    "s_500": Exact(calibrated(500, 2.0), 1e-10),
    "tanh_linear": Exact(linear_share(), 1e-11),
}
