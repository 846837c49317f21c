"""Expectations of the chapter on training: the committed sweeps, read and counted anew."""

import itertools
import json
import math

import numpy as np
from scipy import integrate, stats

from normprop.companion import results, transforms
from tests import reference
from tests.book.expectations import Equals, Exact, Parameter, Within, better_than_chance

SMALL = {"steps": 12, "seeds": 1}

DOCUMENTS = [json.loads(path.read_text("utf-8")) for path in results.FOLDER.glob("*.json")]
# Of a network that is in several files the latest counts.
CELLS = {
    (
        (
            *(cell["data"], cell["kind"], cell["residual"]),
            *(cell["depth"], cell["optimizer"], cell["batch_size"], cell["steps"]),
        ),
        (cell["method"], cell["orthogonal"], cell["activation"]),
    ): cell
    for document in sorted(DOCUMENTS, key=lambda one: one.get("date", ""))
    for cell in document.get("cells", ())
    if "runs" in cell and "batch_size" in cell
}


def _sheet(depth, optimizer="sgd", residual=False, batch=128, data="digits", steps=150):
    setting = (data, "dense", residual, depth, optimizer, batch, steps)
    return {way: cell for (where, way), cell in CELLS.items() if where == setting}


TEN, FORTY, SKIPS = _sheet(10), _sheet(40), _sheet(40, residual=True)
TWO = _sheet(40, batch=2)
TEN_ADAM, FORTY_ADAM = _sheet(10, "adam"), _sheet(40, "adam")
FASHION = _sheet(40, data="fashion-mnist")
FASHION_SKIPS = _sheet(40, residual=True, data="fashion-mnist")
LONG = _sheet(40, steps=3000)
HUNDRED = _sheet(100)
STRAIGHT = ("calibrated", "critical", "dks", "tat", "selu", "leaky")


def _tests(cell):
    return [run["test"] or 0.0 for run in cell["runs"]]


def _difference(one, other):
    """Mean and interval of two cells, by scipy's quantile of Student's t."""
    samples = [100 * np.array(_tests(cell)) for cell in (one, other)]
    mean = samples[0].mean() - samples[1].mean()
    error = math.hypot(*(stats.sem(values) for values in samples))
    half = stats.t.ppf(0.975, min(map(len, samples)) - 1) * error
    return mean, mean - half, mean + half


def _above(one, other):
    return bool(_difference(one, other)[1] > 0)


def _apart(one, other):
    return _above(one, other) or _above(other, one)


def _shown(three):
    texts = [f"{value:+.1f}".replace("-", "−") for value in three]
    return f"{texts[0]} ({texts[1]} to {texts[2]})"


def _share(*groups):
    """Of all pairs that share activation and weights, how many are apart."""
    seen = [
        _apart(sheet[one], sheet[other])
        for sheet in groups
        for one, other in itertools.combinations(sheet, 2)
        if one[1:] == other[1:] and one[2] in ("relu", "tanh")
    ]
    return sum(seen) / len(seen)


def _growth(name, depth):
    _, forward, backward = reference.elementwise(name, 0.0, 1.0)
    return float((backward / forward) ** depth)


# The relative rounding of 40 factors, each good to 1e-13.
EXPECTED = {
    f"growth_{name}_{depth}": Exact(value := _growth(name, depth), 1e-11 * value)
    for name in ("relu", "tanh")
    for depth in (10, 40)
}
EXPECTED |= {
    f"live_{method}": Within(
        better_than_chance(),
        1.0,
        "guessing 359 labels of ten classes gets this far with probability below 1e-6",
    )
    for method in ("he", "forward", "backward", "calibrated")
}

# What the page says in words, each with its sheet and its two networks; the claim is asserted true
# below.  Where another sweep changes one, read the sentences that paste it again.
N, T = False, True
SAID = {
    **{
        f"tanh_{m}": (FORTY, ("calibrated", T, "tanh"), (m, T, "tanh"))
        for m in ("critical", "dks", "tat", "batchnorm", "layernorm")
    },
    **{
        f"relu_{m}": (FORTY, ("calibrated", T, "relu"), (m, T, "relu"))
        for m in ("leaky", "dks", "tat", "selu", "batchnorm", "he", "layernorm")
    },
    **{
        f"normal_{m}": (FORTY, ("calibrated", N, "tanh"), (m, N, "tanh"))
        for m in ("dks", "tat", "batchnorm")
    },
    **{
        f"turned_{m}_{a}": (FORTY, (m, T, a), (m, N, a))
        for m in ("calibrated", "dks", "tat", "layernorm")
        for a in ("relu", "tanh")
    },
    **{
        f"c5_{kind}_{a}": (FORTY, ("backward", turned, a), ("forward", turned, a))
        for kind, turned in (("normal", N), ("orthogonal", T))
        for a in ("relu", "tanh")
    },
    **{
        f"c5_calibrated_{a}": (FORTY, ("calibrated", N, a), ("backward", N, a))
        for a in ("relu", "tanh")
    },
    **{
        f"c5_adam_{kind}{a}": (FORTY_ADAM, ("backward", turned, a), ("forward", turned, a))
        for kind, turned in (("", N), ("turned_", T))
        for a in ("relu", "tanh")
    },
    **{
        f"adam_batchnorm_{a}": (FORTY_ADAM, ("calibrated", N, a), ("batchnorm", N, a))
        for a in ("relu", "tanh")
    },
    "adam_selu": (FORTY_ADAM, ("calibrated", N, "relu"), ("selu", N, "relu")),
    "ten_batchnorm": (TEN_ADAM, ("batchnorm", N, "relu"), ("calibrated", N, "relu")),
    "c16_sgd": (FORTY, ("backward", N, "tanh"), ("backward", N, "relu")),
    "c16_adam": (FORTY_ADAM, ("backward", N, "tanh"), ("backward", N, "relu")),
    "c16_sigmoid": (TEN, ("backward", N, "sigmoid"), ("batchnorm", N, "sigmoid")),
    "c17_ten": (TEN, ("separate-layer", N, "relu"), ("backward", N, "relu")),
    "c17_sgd": (FORTY, ("separate-layer", N, "relu"), ("backward", N, "relu")),
    "c17_neuron": (FORTY_ADAM, ("separate-neuron", N, "relu"), ("backward", N, "relu")),
    **{
        f"skips_{m}": (SKIPS, ("backward", N, "relu"), (m, N, "relu"))
        for m in ("forward", "batchnorm", "calibrated", "fixup", "skipinit", "selu")
    },
    "skips_scaled": (SKIPS, ("backward", N, "relu"), ("scaled-ws", N, "relu")),
    **{
        f"two_{m}": (TWO, ("calibrated", T, "tanh"), (m, T, "tanh"))
        for m in ("batchnorm", "critical", "dks", "tat")
    },
    **{f"two_{m}_relu": (TWO, ("calibrated", T, "relu"), (m, T, "relu")) for m in ("dks", "tat")},
    **{
        f"adam_turned_{m}": (FORTY_ADAM, ("calibrated", T, "tanh"), (m, T, "tanh"))
        for m in ("critical", "dks", "tat", "batchnorm")
    },
    **{
        f"fashion_{m}": (FASHION, ("calibrated", T, "tanh"), (m, T, "tanh"))
        for m in ("critical", "dks", "tat", "batchnorm", "layernorm")
    },
    **{
        f"fashion_{m}_relu": (FASHION, ("calibrated", T, "relu"), (m, T, "relu"))
        for m in ("leaky", "dks", "tat", "selu", "batchnorm")
    },
    **{
        f"fashion_normal_{m}": (FASHION, ("calibrated", N, "tanh"), (m, N, "tanh"))
        for m in ("dks", "tat", "batchnorm")
    },
    **{
        f"long_{m}": (LONG, ("calibrated", T, "tanh"), (m, T, "tanh"))
        for m in ("critical", "dks", "tat", "batchnorm")
    },
    **{
        f"long_{m}_relu": (LONG, ("calibrated", T, "relu"), (m, T, "relu"))
        for m in ("leaky", "dks", "tat", "batchnorm")
    },
    **{
        f"skips_fashion_{m}": (FASHION_SKIPS, ("calibrated", N, "relu"), (m, N, "relu"))
        for m in ("backward", "batchnorm", "fixup")
    },
    "skips_fashion_scaled": (FASHION_SKIPS, ("calibrated", N, "relu"), ("scaled-ws", N, "relu")),
    "skips_fashion_batchnorm_tanh": (
        FASHION_SKIPS,
        ("calibrated", N, "tanh"),
        ("batchnorm", N, "tanh"),
    ),
    **{
        f"hundred_{m}": (HUNDRED, ("calibrated", T, "tanh"), (m, T, "tanh"))
        for m in ("critical", "dks", "tat", "batchnorm")
    },
    **{
        f"hundred_relu_{m}": (HUNDRED, ("calibrated", T, "relu"), (m, T, "relu"))
        for m in ("leaky", "dks", "tat", "selu", "batchnorm")
    },
    **{
        f"hundred_normal_{m}": (HUNDRED, ("calibrated", N, "tanh"), (m, N, "tanh"))
        for m in ("dks", "tat")
    },
    **{
        f"hundred_normal_relu_{m}": (HUNDRED, ("calibrated", N, "relu"), (m, N, "relu"))
        for m in ("dks", "leaky")
    },
    "skips_bridge": (SKIPS, ("separate-bridge", N, "relu"), ("forward", N, "relu")),
}
for _name, (_sheet_of, _one, _other) in SAID.items():
    EXPECTED[_name] = Equals(_shown(_difference(_sheet_of[_one], _sheet_of[_other])))
    EXPECTED[f"{_name}_holds"] = Equals(True)

_separated = [
    (sheet[method, turned, name], sheet[peer, turned, name])
    for sheet in (TEN, FORTY, TEN_ADAM, FORTY_ADAM)
    for method, turned, name in sheet
    if method in ("separate-layer", "separate-neuron") and name in ("relu", "tanh")
    for peer in ("forward", "backward")
]
_turned = [
    (cell, FORTY[method, False, name])
    for (method, orthogonal, name), cell in FORTY.items()
    if orthogonal and (method, False, name) in FORTY
]
_means = {way: np.mean(_tests(cell)) for way, cell in FORTY.items() if way[1]}
_adam = {way: np.mean(_tests(cell)) for way, cell in FORTY_ADAM.items()}
_fashion = {way: np.mean(_tests(cell)) for way, cell in FASHION.items() if way[1]}
_skips = {way: np.mean(_tests(cell)) for way, cell in SKIPS.items() if way[2] == "relu"}
_hundred = {way: np.mean(_tests(cell)) for way, cell in HUNDRED.items()}
_critical_runs = _tests(FORTY["critical", False, "tanh"])
_runs = [run for cell in FORTY.values() for run in cell["trials"] + cell["runs"]]


EXPECTED |= {
    "steps": Parameter("steps"),
    # The page says that a twentieth would be luck, that ten layers have more, and forty many.
    "apart_10": Exact(_share(TEN, TEN_ADAM), 1e-15),
    "apart_40": Exact(_share(FORTY, FORTY_ADAM), 1e-15),
    "forty_runs": Equals(len(_runs)),
    "forty_diverged": Equals(sum(run["diverged"] for run in _runs)),
    # The page says so.
    "forty_ends": Equals(0),
    # The text and the takeaways say so: read them again where another sweep changes it.
    "skips_best_relu": Equals(max(_skips, key=_skips.get)[0]),
    "adam_best": Equals(True),
    "adam_networks": Equals(len(_adam)),
    "hundred_networks": Equals(len(_hundred)),
    "hundred_bent": Exact(max(m for way, m in _hundred.items() if way[0] not in STRAIGHT), 1e-15),
    "adam_reached": Exact(max(_adam.values()), 1e-15),
    # The page says that the straight ones lead.
    "fashion_straight": Exact(min(m for w, m in _fashion.items() if w[0] in STRAIGHT), 1e-15),
    "fashion_others": Exact(max(m for w, m in _fashion.items() if w[0] not in STRAIGHT), 1e-15),
    "c5_ten_level": Equals(4),
    "c17_pairs": Equals(len(_separated)),
    # The page says that separate scales are never above.
    "c17_above": Equals(0),
    "c17_below": Equals(sum(_above(other, one) for one, other in _separated)),
    "turned_total": Equals(len(_turned)),
    "turned_above": Equals(sum(_above(*pair) for pair in _turned)),
    # The page says that orthogonal weights help nearly everybody.
    "turned_below": Equals(0),
    "straight_low": Within(0.95, 1.0, "the page says that all of them train"),
    "others_relu_high": Within(0.1, 0.8, "the page says that none of the others does so well"),
    "critical_normal_low": Exact(100 * min(_critical_runs), 0.0),
    "critical_normal_high": Exact(100 * max(_critical_runs), 0.0),
    "leaky_normal_lost": Equals(sum(r["diverged"] for r in FORTY["leaky", False, "relu"]["runs"])),
    "exercise_apart": Exact(45 / 20, 0.0),
}
assert EXPECTED["skips_best_relu"] == Equals("backward")
assert EXPECTED["fashion_straight"].reference > EXPECTED["fashion_others"].reference
assert EXPECTED["apart_10"].reference > 0.05
assert EXPECTED["apart_40"].reference > 0.5
assert np.isclose(min(m for w, m in _means.items() if w[0] in STRAIGHT), 0.96, atol=0.01)


def _chi(value, slope, kinks=(0.0,)):
    """E f'² / Var f under N(0, 1), by adaptive quadrature between the kinks."""

    def mean(f):
        ends = (-12, *kinks, 12)
        pieces = itertools.pairwise(ends)
        return sum(integrate.quad(lambda z: f(z) * stats.norm.pdf(z), *p)[0] for p in pieces)

    return mean(lambda z: slope(z) ** 2) / (mean(lambda z: value(z) ** 2) - mean(value) ** 2)


def _leaky(slope):
    return _chi(lambda z: max(z, slope * z), lambda z: 1.0 if z > 0 else slope) ** 40


def _selu():
    scale, alpha = 1.0507009873554805, 1.6732632423543772
    return _chi(
        lambda z: scale * (z if z > 0 else alpha * math.expm1(z)),
        lambda z: scale * (1.0 if z > 0 else alpha * math.exp(z)),
    )


def _shaped():
    found = transforms.tat("tanh", (1.0,) * 40)

    def value(z):
        return math.tanh(found.input_scale * z + found.input_shift)

    return _chi(value, lambda z: found.input_scale * (1 - value(z) ** 2)) ** 40


def _critical():
    product, std = 1.0, 1.0
    for _ in range(40):
        at = _chi(lambda z, s=std: math.tanh(s * z), lambda z, s=std: s / math.cosh(s * z) ** 2)
        product *= at
        square = integrate.quad(
            lambda z, s=std: math.tanh(s * z) ** 2 * stats.norm.pdf(z), -12, 12
        )[0]
        std = math.sqrt(square)
    return product


# What quadrature to 1e-8 leaves of the fortieth power.
EXPECTED |= {
    f"bent_{name}": Exact(value, 1e-5 * value)
    for name, value in {
        "selu": _selu() ** 40,
        "leaky": _leaky(0.8),
        "tat_relu": _leaky(transforms.leaky_tat((1.0,) * 40).slope),
        "tat_tanh": _shaped(),
        "relu": (math.pi / (math.pi - 1)) ** 40,
        "critical": _critical(),
    }.items()
}
