"""Expectations of the chapter on training: the committed sweeps, read and counted anew."""

import itertools
import json
import math
from fractions import Fraction
from itertools import combinations, product

import numpy as np
from scipy import integrate, stats

from normprop.companion import results, transforms
from tests import reference
from tests.book.expectations import Equals, Exact, Parameter, Within

SMALL = {"steps": 12, "seeds": 1}

SWEEP = json.loads(results.path("sweep_core.json").read_text("utf-8"))
NAMES = {
    "he": "He",
    "batchnorm": "BatchNorm",
    "layernorm": "LayerNorm",
    "selu": "SELU",
    "unit-scaling": "unit scaling",
    "forward": "forward σ",
    "backward": "backward σ",
    "separate-layer": "sep. layer",
    "separate-neuron": "sep. neuron",
    "calibrated": "calibrated",
}
SETTINGS = [(o, a) for o in ("sgd", "adam") for a in ("relu", "tanh")]


def _scores(depth, optimizer, activation):
    """The three test accuracies of each method, in the order of the file, 0 for a divergence."""
    return {
        cell["method"]: sorted(0.0 if r["diverged"] else r["test"] for r in cell["runs"])
        for cell in SWEEP["cells"]
        if (cell["depth"], cell["optimizer"], cell["activation"]) == (depth, optimizer, activation)
    }


def _text(cell):
    runs = cell["runs"]
    values = sorted(r["test"] for r in runs if not r["diverged"])
    lost = len(runs) - len(values)
    ranked = ["diverged"] * lost + [f"{100 * value:.1f}" for value in values]
    return f"{ranked[1]} ({ranked[0]}–{ranked[2]})"


def _key(cell):
    method = cell["method"].replace("-", "_")
    return f"{method}_{cell['depth']}_{cell['optimizer']}_{cell['activation']}"


def _disjoint(one, other):
    return max(one) < min(other) or max(other) < min(one)


def _share(depth):
    seen = []
    for setting in SETTINGS:
        values = _scores(depth, *setting).values()
        seen += [_disjoint(one, other) for one, other in combinations(values, 2)]
    return sum(seen) / len(seen)


def _better_than_chance(images=359, chance=Fraction(1, 10), level=Fraction(1, 10**6)):
    """The smallest accuracy that guessing reaches with probability below the level."""
    tail, right = Fraction(1), 0
    while tail >= level:
        tail -= math.comb(images, right) * chance**right * (1 - chance) ** (images - right)
        right += 1
    return right / images


def _growth(name, depth):
    _, forward, backward = reference.elementwise(name, 0.0, 1.0)
    return float((backward / forward) ** depth)


RUNS = [run for cell in SWEEP["cells"] for run in cell["trials"] + cell["runs"]]
SECONDS = sum(run["seconds"] for run in RUNS) / 60
ENDS = {name: (min(rates), max(rates)) for name, rates in SWEEP["plan"]["rates"].items()}

PEERS = json.loads(results.path("sweep_dense_40.json").read_text("utf-8"))
FIVE = {(c["method"], c["orthogonal"], c["activation"]): c for c in PEERS["cells"]}


def _tests(cell):
    return [run["test"] or 0.0 for run in cell["runs"]]


def _place(method, orthogonal, name):
    return f"{method.replace('-', '_')}_{'orthogonal' if orthogonal else 'normal'}_{name}"


def _mean_text(cell):
    values = 100 * np.array(_tests(cell))
    text = f"{values.mean():.1f} ± {stats.sem(values):.1f}"
    lost = sum(run["diverged"] for run in cell["runs"])
    return f"{text}, {lost} diverged" if lost else text


def _difference(one, other):
    """Mean and interval of two cells, by scipy's quantile of Student's t."""
    samples = [100 * np.array(_tests(cell)) for cell in (one, other)]
    mean = samples[0].mean() - samples[1].mean()
    error = math.hypot(*(stats.sem(values) for values in samples))
    half = stats.t.ppf(0.975, min(map(len, samples)) - 1) * error
    return mean, mean - half, mean + half


def _shown(three):
    texts = [f"{value:+.1f}".replace("-", "−") for value in three]
    return f"{texts[0]} ({texts[1]} to {texts[2]})"


def _first(method, depth, optimizer, activation):
    setting = (method, depth, optimizer, activation)
    (cell,) = (
        c
        for c in SWEEP["cells"]
        if (c["method"], c["depth"], c["optimizer"], c["activation"]) == setting
    )
    return cell


def _varied(method, activation, residual):
    (cell,) = (
        c
        for c in VARIATIONS["cells"]
        if (c["method"], c["activation"], c["residual"]) == (method, activation, residual)
        and c["kind"] == "dense"
        and c["depth"] == (40 if residual else 10)
    )
    return cell


VARIATIONS = json.loads(results.path("sweep_variations.json").read_text("utf-8"))


def _variation_key(cell):
    kind = cell["kind"] + ("_skips" if cell["residual"] else "")
    return f"{kind}_{cell['method'].replace('-', '_')}_{cell['depth']}_{cell['activation']}"


# The relative rounding of 40 factors, each good to 1e-13.
EXPECTED = {
    f"growth_{name}_{depth}": Exact(value := _growth(name, depth), 1e-11 * value)
    for name in ("relu", "tanh")
    for depth in (10, 40)
}
EXPECTED |= {
    f"live_{method}": Within(
        _better_than_chance(),
        1.0,
        "guessing 359 labels of ten classes gets this far with probability below 1e-6",
    )
    for method in ("he", "forward", "backward", "calibrated")
}
EXPECTED |= {_key(cell): Equals(_text(cell)) for cell in SWEEP["cells"]}
for _depth in (10, 40):
    # The rounding of a mean of 162 zeros and ones.
    EXPECTED[f"apart_{_depth}"] = Exact(_share(_depth), 1e-15)
    for _optimizer, _activation in SETTINGS:
        _all = _scores(_depth, _optimizer, _activation)
        _top = max(values[1] for values in _all.values())
        _rest = [values for method, values in _all.items() if method != "calibrated"]
        _where = f"{_depth}_{_optimizer}_{_activation}"
        EXPECTED[f"best_{_where}"] = Equals(
            " and ".join(NAMES[method] for method, values in _all.items() if values[1] == _top)
        )
        EXPECTED[f"peers_{_where}"] = Equals(len(_rest))
        EXPECTED[f"below_{_where}"] = Equals(
            sum(max(values) < min(_all["calibrated"]) for values in _rest)
        )
EXPECTED |= {
    "steps": Parameter("steps"),
    "command": Equals(SWEEP["command"]),
    "device": Equals(SWEEP["device"]),
    "date": Equals(SWEEP["date"].partition("T")[0]),
    "commit": Equals(
        SWEEP["commit"][:10]
        + (" with changes that were not committed yet" if SWEEP["changed"] else "")
    ),
    "versions": Equals(", ".join(" ".join(pair) for pair in SWEEP["versions"].items())),
    # Ten methods with two activations, but SELU with one, at two depths under two optimisers; eight
    # rates for SGD and seven for Adam; three seeds.
    "cells_total": Equals(19 * 2 * 2),
    "trials_total": Equals(19 * 2 * (8 + 7)),
    "runs_total": Equals(19 * 2 * 2 * 3),
    # Rounding of a sum of 798 terms.
    "minutes_total": Exact(SECONDS, 1e-12 * SECONDS),
    "diverged_total": Equals(sum(run["loss"] is None for run in RUNS)),
    "edge_total": Equals(sum(c["lr"] in ENDS[c["optimizer"]] for c in SWEEP["cells"])),
    "exercise_apart": Exact(1 / 126, 1e-17),
}
EXPECTED |= {_variation_key(cell): Equals(_text(cell)) for cell in VARIATIONS["cells"]}
EXPECTED |= {
    # The text and the takeaways say so: read them again where another sweep changes it.
    "skips_best_relu": Equals("backward"),
    "variations_date": Equals(VARIATIONS["date"].partition("T")[0]),
    "variations_commit": Equals(VARIATIONS["commit"][:10]),
    # Ten methods with a first activation and nine with a second, SELU being one; at ten layers
    # with other activations and as convolutions, at depths 4 and 20, and with skips, where
    # separate scales at bridges are a method of their own.
    "variations_total": Equals(19 * 4 + 11 + 10),
}

# What the page says in words, each with its two cells; the claim is asserted true below.  Where
# another sweep changes one, read the sentences that paste it again.
FIVE_SEEDS = {
    **{
        f"tanh_{m}": (("calibrated", True, "tanh"), (m, True, "tanh"))
        for m in ("critical", "dks", "tat", "batchnorm", "layernorm")
    },
    **{
        f"relu_{m}": (("calibrated", True, "relu"), (m, True, "relu"))
        for m in ("leaky", "dks", "tat", "selu", "batchnorm", "he", "layernorm")
    },
    **{
        f"normal_{m}": (("calibrated", False, "tanh"), (m, False, "tanh"))
        for m in ("dks", "tat", "batchnorm")
    },
    **{
        f"turned_{m}_{a}": ((m, True, a), (m, False, a))
        for m in ("calibrated", "dks", "tat", "layernorm")
        for a in ("relu", "tanh")
    },
    **{
        f"c5_{w}_{a}": (("backward", w == "orthogonal", a), ("forward", w == "orthogonal", a))
        for w in ("normal", "orthogonal")
        for a in ("relu", "tanh")
    },
    **{
        f"c5_calibrated_{a}": (("calibrated", False, a), ("backward", False, a))
        for a in ("relu", "tanh")
    },
    "c16_sgd": (("backward", False, "tanh"), ("backward", False, "relu")),
}
SAID = {name: (FIVE[one], FIVE[other]) for name, (one, other) in FIVE_SEEDS.items()}
SAID |= {
    "ten_batchnorm": [_first(m, 10, "adam", "relu") for m in ("batchnorm", "calibrated")],
    "adam_batchnorm_relu": [_first(m, 40, "adam", "relu") for m in ("calibrated", "batchnorm")],
    "adam_batchnorm_tanh": [_first(m, 40, "adam", "tanh") for m in ("calibrated", "batchnorm")],
    "adam_selu": [_first(m, 40, "adam", "relu") for m in ("calibrated", "selu")],
    "c5_adam_relu": [_first(m, 40, "adam", "relu") for m in ("backward", "forward")],
    "c5_adam_tanh": [_first(m, 40, "adam", "tanh") for m in ("backward", "forward")],
    "c16_adam": [_first("backward", 40, "adam", a) for a in ("tanh", "relu")],
    "c16_sigmoid": [_varied(m, "sigmoid", False) for m in ("backward", "batchnorm")],
    "c17_ten": [_first(m, 10, "sgd", "relu") for m in ("separate-layer", "backward")],
    "c17_sgd": [_first(m, 40, "sgd", "relu") for m in ("separate-layer", "backward")],
    "c17_neuron": [_first(m, 40, "adam", "relu") for m in ("separate-neuron", "backward")],
    "skips_forward": [_varied(m, "relu", True) for m in ("backward", "forward")],
    "skips_batchnorm": [_varied(m, "relu", True) for m in ("backward", "batchnorm")],
    "skips_calibrated": [_varied(m, "relu", True) for m in ("backward", "calibrated")],
    "skips_bridge": [_varied(m, "relu", True) for m in ("separate-bridge", "forward")],
}
for _name, (_one, _other) in SAID.items():
    EXPECTED[_name] = Equals(_shown(_difference(_one, _other)))
    EXPECTED[f"{_name}_holds"] = Equals(True)
_separated = [
    _difference(_first(method, depth, *setting), _first(peer, depth, *setting))
    for method, peer in product(("separate-layer", "separate-neuron"), ("forward", "backward"))
    for depth, setting in product((10, 40), SETTINGS)
]
_separated += [
    _difference(FIVE["separate-layer", orthogonal, name], FIVE[peer, orthogonal, name])
    for peer, orthogonal, name in product(("forward", "backward"), (False, True), ("relu", "tanh"))
]
_ten = [_difference(*(_first(m, 10, *s) for m in ("backward", "forward"))) for s in SETTINGS]
_ends = [cell for cell in PEERS["cells"] if not cell["interior"]]
EXPECTED |= {_place(*which): Equals(_mean_text(cell)) for which, cell in FIVE.items()}
EXPECTED |= {
    "peers_command": Equals(PEERS["command"]),
    "peers_date": Equals(PEERS["date"].partition("T")[0]),
    "peers_commit": Equals(PEERS["commit"][:10]),
    "peers_device": Equals(PEERS["device"]),
    "peers_cells": Equals(len(FIVE)),
    "peers_ends": Equals(len(_ends)),
    # The page says that no cell at an end trains.
    "peers_ends_best": Within(0.0, 0.5, "cells at an end of the grid are below a half"),
    # The page says that all four are level, and that separate scales are never above.
    "c5_ten_level": Equals(4),
    "c17_pairs": Equals(len(_separated)),
    "c17_above": Equals(0),
    "c17_below": Equals(sum(bool(high < 0) for _, _, high in _separated)),
}


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
_turned = [
    _difference(cell, FIVE[method, False, name])
    for (method, orthogonal, name), cell in FIVE.items()
    if orthogonal
]
_straight = ("calibrated", "critical", "dks", "tat", "selu", "leaky")
_critical_runs = _tests(FIVE["critical", False, "tanh"])
EXPECTED |= {
    "turned_total": Equals(len(_turned)),
    "turned_above": Equals(sum(bool(low > 0) for _, low, _ in _turned)),
    # The page says that orthogonal weights help nearly everybody.
    "turned_below": Equals(0),
    "straight_low": Within(0.95, 1.0, "the page says that all of them train"),
    "others_relu_high": Within(0.1, 0.8, "the page says that none of the others does so well"),
    "critical_normal_low": Exact(100 * min(_critical_runs), 0.0),
    "critical_normal_high": Exact(100 * max(_critical_runs), 0.0),
    "leaky_normal_lost": Equals(sum(r["diverged"] for r in FIVE["leaky", False, "relu"]["runs"])),
}
