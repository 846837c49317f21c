"""Expectations of the chapter on training: the committed sweep, read and counted anew."""

import json
import math
from fractions import Fraction
from itertools import combinations

from normprop.companion import results
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
    # What the verdicts say in words. Where another sweep changes one of these, read the section
    # "Four verdicts" again.
    "c5_apart_10": Equals(0),
    "c5_apart_40": Equals(3),
    "c16_apart": Equals(2),
    "c17_apart_relu": Equals(2),
    "c17_apart_tanh": Equals(0),
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
