"""Chapter 12: the audit. Exact figures come from certified digits, or from integrals made here."""

import json
import math
from pathlib import Path

import numpy as np
from mpmath import mp

from normprop.companion import results
from tests import reference
from tests.book.expectations import Equals, Exact, Expectation, Within

ROOT = Path(__file__).resolve().parents[3]
WILD = json.loads(results.path("wild.json").read_text("utf-8"))
CERTIFIED = json.loads((ROOT / "normprop/gaussian/certified.json").read_text("utf-8"))

SMALL = {"samples": 20_000, "layers": 100}
LAYERS = 100


def certified(name: str, figure: str) -> float:
    return float(CERTIFIED["elementwise"][name][figure]["digits"])


# The functions, each as it is written in a textbook, and where they bend.
FUNCTIONS = {
    "celu": (lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))), (0,)),
    "elu": (lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))), (0,)),
    "gelu": (lambda x: x * np.vectorize(lambda t: 0.5 * math.erfc(-t / math.sqrt(2)))(x), (0,)),
    "leaky_relu": (lambda x: np.where(x > 0, x, 0.01 * x), (0,)),
    "leaky_relu_0.2": (lambda x: np.where(x > 0, x, 0.2 * x), (0,)),
    "logsigmoid": (lambda x: -np.logaddexp(0, -x), (0,)),
    "relu": (lambda x: np.maximum(x, 0), (0,)),
    "relu6": (lambda x: np.clip(x, 0, 6), (0, 6)),
    "selu": (
        lambda x: (
            1.0507009873554804934
            * np.where(x > 0, x, 1.6732632423543772848 * np.expm1(np.minimum(x, 0)))
        ),
        (0,),
    ),
    "sigmoid": (lambda x: 0.5 + 0.5 * np.tanh(x / 2), (0,)),
    "silu": (lambda x: x * (0.5 + 0.5 * np.tanh(x / 2)), (0,)),
    "softsign": (lambda x: x / (1 + np.abs(x)), (0,)),
    "softplus": (lambda x: np.where(x > 20, x, np.logaddexp(0, np.minimum(x, 20))), (0, 20)),
    "tanh": (np.tanh, (0,)),
}
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(40)


def spread(name: str, s: float, quantity: str) -> float:
    """Standard deviation or root mean square of a function at N(0, s²), on panels of 40 nodes."""
    function, kinks = FUNCTIONS[name]
    marks = [sign * size for size in (1.0, 2.0, 4.0, 8.0, 16.0, 40.0) for sign in (-1, 1)]
    grid = np.linspace(-14, 14, 29)
    ends = np.unique([*grid, *(m / s for m in (*marks, *kinks) if abs(m / s) < 14)])
    half = np.diff(ends) / 2
    z = ((ends[:-1] + ends[1:]) / 2)[:, None] + half[:, None] * _NODES
    w = half[:, None] * _WEIGHTS * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    f = function(s * z)
    mean = math.fsum((w * f).ravel())
    if quantity == "rms":
        return math.sqrt(math.fsum((w * f * f).ravel()))
    return math.sqrt(math.fsum((w * (f - mean) ** 2).ravel()))


def stack(name: str, gain: float, quantity: str, layers: int = LAYERS) -> Exact:
    """What a stack makes of std 1, to the accuracy that the gain's own error is amplified by."""
    s, off = 1.0, 1.0
    # Two runs that differ by a relative 1e-9 a layer measure the amplification.
    for _ in range(layers):
        s *= gain * spread(name, s, quantity) / s
        off *= gain * (1 + 1e-9) * spread(name, off, quantity) / off
    amplification = abs(off / s - 1) / 1e-9
    # Each layer's figure is good to 1e-13 on either side.
    return Exact(s, 2e-13 * (amplification + layers) * s)


def entries(source: str) -> list[dict]:
    return WILD[source]["constants"]


def error(key: str, value: float, exact: float, percent: float | None = None) -> dict:
    """Records of one constant: value, exact figure, and error in per cent."""
    percent = 100 * (value / exact - 1) if percent is None else percent
    return {
        f"{key}_value": Exact(value, 0.0),
        f"{key}_exact": Exact(exact, 1e-13 * max(abs(exact), 1e-3)),
        f"{key}_percent": Exact(percent, 100 * 3e-13 * value / exact),
    }


def rms(name: str) -> float:
    if name == "leaky_relu_0.2":
        return math.sqrt(0.5 * (1 + 0.2**2))
    return math.hypot(certified(name, "fwd_mean"), certified(name, "fwd_std"))


def slope(name: str) -> float:
    """Backward std at N(0, 1)."""
    if name == "leaky_relu_0.2":
        return rms(name)
    return certified(name, "bwd_std")


EXPECTED: dict[str, Expectation] = {
    "count": Equals(sum(len(source["constants"]) for source in WILD.values())),
    "sources": Equals(len(WILD)),
    # Counted by hand: torch's ReLU, leaky ReLU, α and λ; dropout twice; Keras; DKS; σ_f of the
    # sigmoid and the two of the largest of 9; EDM2; StyleGAN's ReLU.
    "right": Equals(13),
}

# NFNets.
_NFNETS = entries("NFNets in timm")
_ERRORS = []
for entry in _NFNETS:
    exact = 1 / certified(entry["layer"], "fwd_std")
    EXPECTED |= error(f"nfnets_{entry['layer']}", entry["value"], exact)
    EXPECTED[f"after_{entry['layer']}"] = stack(entry["layer"], entry["value"], "fwd_std")
    _ERRORS.append(entry["value"] / exact - 1)
_MEDIAN = sorted(_ERRORS)[len(_ERRORS) // 2]
EXPECTED |= {
    "nfnets_largest": Exact(100 * max(map(abs, _ERRORS)), 1e-10),
    "nfnets_positive": Equals(13),
    "nfnets_count": Equals(13),
    "nfnets_median": Exact(100 * _MEDIAN, 1e-10),
    "nfnets_apparent": Exact(0.5 / _MEDIAN, 1e-6),
    "same_sign": Exact(2.0**-12, 0.0),
    "twins_differ": Exact(100 * (1.2716004848480225 / 1.270926833152771 - 1), 1e-12),
}

# The posts.
_SIGMOID = reference.elementwise("sigmoid", 0, 1)
with mp.workdps(60):
    _FOUR, _NINE = reference.maximum(4, 0, 1), reference.maximum(9, 0, 1)
_POSTED = {
    "sigmoid": (0.2083, _SIGMOID[1], 100_000),
    "four_mean": (1.0291, _FOUR[0], 10**7),
    "four_std": (0.7010, _FOUR[1], 10**7),
    "nine_mean": (1.4850, _NINE[0], 10**7),
    "nine_std": (0.5978, _NINE[1], 10**7),
    "backward": (0.2123, _SIGMOID[2], 100_000),
}
for key, (value, exact, size) in _POSTED.items():
    exact = float(exact)
    EXPECTED |= error(f"post_{key}", value, exact)
    # A standard error of a mean or std of numbers of this spread: σ/√n, times what a kurtosis
    # between 1.2 and 30 makes of it; 64 to 256 replicates measure it to a tenth.
    unit = (0.2 if key in ("sigmoid", "backward") else 0.65) / math.sqrt(size)
    EXPECTED[f"post_{key}_se"] = Within(unit / 5, 4 * unit, "spread/√samples, either way")
    miss = (value - exact) / unit
    low, high = sorted((miss / 4, miss * 5))
    EXPECTED[f"post_{key}_z"] = Within(low, high, "the miss in such standard errors")

for s, value in ((1, 0.2084), (2, 0.3144), (3, 0.3673)):
    EXPECTED |= error(f"later_{s}", value, float(reference.elementwise("sigmoid", 0, s)[1]))

# Gains.
for prefix, source in (("torch", "PyTorch"), ("gan", "StyleGAN3")):
    for entry in entries(source):
        if entry["quantity"] != "1/rms":
            continue
        layer = f"{entry['layer']}_0.2" if "slope" in entry else entry["layer"]
        short = "start" if entry["name"].startswith("start") else entry["layer"]
        key = f"{prefix}_{short}"
        EXPECTED |= error(key, entry["value"], 1 / rms(layer))
        EXPECTED[f"{key}_backward"] = Exact(1 / slope(layer), 2e-13 / slope(layer))
        EXPECTED[f"{key}_after"] = stack(layer, entry["value"], "rms")


def map_slope(name: str) -> float:
    """Q'(1) = ½ E (z² - 1) g(z)², by the same panels."""
    function, _ = FUNCTIONS[name]
    ends = np.linspace(-14, 14, 57)
    half = np.diff(ends) / 2
    z = ((ends[:-1] + ends[1:]) / 2)[:, None] + half[:, None] * _NODES
    w = half[:, None] * _WEIGHTS * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    f = function(z)
    g = (f - math.fsum((w * f).ravel())) / certified(name, "fwd_std")
    return 0.5 * math.fsum((w * (z * z - 1) * g * g).ravel())


for name in ("tanh", "relu", "gelu", "silu"):
    q = map_slope(name)
    EXPECTED[f"slope_{name}"] = Exact(q, 1e-12)
    EXPECTED[f"amplified_{name}"] = Exact(q**LAYERS, LAYERS * 2e-12 * q**LAYERS)
_SILU = map_slope("silu")
EXPECTED |= {
    **error("edm", 0.596, rms("silu")),
    "edm_after": stack("silu", 1 / 0.596, "rms"),
    "edm_after_20": stack("silu", 1 / 0.596, "rms", 20),
    "digits_layers": Exact(math.log(0.1 * (_SILU - 1) / 1e-16) / math.log(_SILU), 1e-6),
}

# unit-scaling.
for entry in entries("unit-scaling"):
    if entry["layer"] == "dropout":
        continue
    key = f"unit_{entry['name'].replace(', ', '_')}"
    figure = entry["quantity"].removeprefix("1/")
    exact = 1 / certified(entry["layer"], figure)
    EXPECTED |= error(key, entry["value"], exact)
    if figure == "fwd_std":
        EXPECTED[f"{key}_after"] = stack(entry["layer"], entry["value"], "fwd_std")
    else:
        ratio = (entry["value"] / exact) ** LAYERS
        EXPECTED[f"{key}_after"] = Exact(ratio, LAYERS * 1e-12 * ratio)

# E max(x, 0)^k = ½ E|x|^k.
_M1, _M2, _M3, _M4 = 1 / math.sqrt(2 * math.pi), 0.5, 2 / math.sqrt(2 * math.pi), 1.5
_VARIANCE = _M2 - _M1**2
_KURTOSIS = (_M4 - 4 * _M1 * _M3 + 6 * _M1**2 * _M2 - 3 * _M1**4) / _VARIANCE**2
EXPECTED |= {
    "relu_kurtosis": Exact(_KURTOSIS, 1e-13),
    "samples_needed": Exact(1.959964**2 * 1e12 * (_KURTOSIS - 1) / 4, 1.0),
    "within_percent": Equals(
        sum(
            abs(expectation.reference) < 1
            for name, expectation in EXPECTED.items()
            if name.endswith("_percent")
        )
        # Those that the page does not list: λ, α, dropout twice, Keras, DKS, all exact.
        + 6
    ),
}
