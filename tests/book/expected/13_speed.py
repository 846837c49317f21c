"""Expectations of the chapter on speed. Committed numbers are read from the file once more."""

import json
import statistics

from normprop.companion import results
from tests.book.expectations import Equals, Exact, Measured, PerRun, Within

SMALL = {"images": 2, "rounds": 3}
FOUND = json.loads(results.path("bench_cpu.json").read_text("utf-8"))
GPU, BEFORE = (
    json.loads(results.path(f"bench_h100{name}.json").read_text("utf-8"))
    for name in ("", "_before")
)
CASES = {case["name"]: case for case in FOUND["cases"]}
ENTRIES = [entry for case in FOUND["cases"] for entry in case["implementations"]]
NAMES = ("relu", "sigmoid", "tanh", "gelu", "silu")
FLOAT = 4
ROWS, WIDTH = 128, 256


def entry(case: str, implementation: str) -> dict:
    (one,) = [e for e in CASES[case]["implementations"] if e["name"] == implementation]
    return one


def ratio(case: str, implementation: str) -> float:
    return entry(case, implementation)["ratio"][1]


def middle(size: int, implementation: str) -> float:
    return statistics.median(ratio(f"activation/{name}/{size}", implementation) for name in NAMES)


def shown(value: float | None, unit: str) -> Equals:
    return Equals("not measured" if value is None else f"{value:.4g} {unit}".strip())


SIZES = sorted(
    case["parameters"]["size"]
    for case in FOUND["cases"]
    if case["name"].startswith("activation/relu/") and case["status"] == "measured"
)
RESNETS = {
    case["parameters"]["shape"][-1]: name
    for name, case in CASES.items()
    if name.startswith("training/resnet18-")
}
SMALL_SIDE, LARGE_SIDE = min(RESNETS), max(RESNETS)
LARGE = RESNETS[LARGE_SIDE]
STATUSES = [e["status"] for e in ENTRIES]


def held(figure: str, implementation: str) -> Exact:
    figures = (entry(LARGE, name)["figures"][figure] for name in (implementation, "plain"))
    ours, plain = figures
    return Exact(ours / plain, 0.0)


def operators(depth: int) -> dict:
    # A layer: convolution and ReLU, there and back, and three operators of SGD for weight and bias;
    # behind the last layer the loss and its gradient.
    plain, ending = 10 * depth, 11
    few = "a few for all layers", "a few for all layers and at most 12 a layer"
    found = {
        "plain": Equals(plain + ending),
        # Forward and backward, and two parameters more, of which the statistics are counted.
        "batchnorm": Within(1.5 * plain, 2.5 * plain, "BatchNorm beside each convolution"),
        "fused_project": Within(plain + ending, plain + ending + 10, few[0]),
        "fused_normalize": Within(plain + ending, plain + ending + 10 + 12 * depth, few[1]),
        "twins_project": Within(plain + ending, 2 * plain, "two passes an activation more"),
        "twins_normalize": Within(1.5 * plain, 6 * plain, "norms and their gradients, each layer"),
    }
    return {f"operators_{name}_{depth}": value for name, value in found.items()}


EXPECTED = {
    **operators(4),
    **operators(16),
    "elements": PerRun(own=Equals(16 * 64 * 28 * 28), small=Equals(2 * 64 * 28 * 28)),
    "operators_more": Within(0, 10, "a few for all layers"),
    # What the prose says.
    "operators_more_at_any_depth": Equals(True),
    "live_plain_again": Measured(),
    "live_naive": Measured(),
    "live_normprop": Measured(),
    "live_batchnorm": Measured(),
    "live_separate": Measured(),
    "live_through": Measured(),
    # Three operations forward, two backward; one pass more each way. One rounding.
    "predicted_naive": Exact((3 * 3 + 3 + 4) / (3 + 4), 4.5e-16),
    "predicted_normprop": Exact((3 + 2 + 4 + 2) / (3 + 4), 4.5e-16),
    # The input of each map, which is the output of the activation before, and the last output.
    "kept_plain_activations": Equals(FLOAT * ROWS * WIDTH * 4),
    "kept_plain_rest": Equals(0),
    "kept_normprop_activations": Equals(FLOAT * ROWS * WIDTH * 4),
    "kept_normprop_rest": Within(
        FLOAT * WIDTH * WIDTH * 2,
        FLOAT * (WIDTH * WIDTH * 3 + WIDTH * 12),
        "weights as they run, of two layers at least, and a few numbers for each neuron",
    ),
    # Besides, what goes into BatchNorm, and its two statistics a channel.
    "kept_batchnorm_activations": Equals(FLOAT * ROWS * WIDTH * 7),
    "kept_batchnorm_rest": Equals(FLOAT * WIDTH * 2 * 3),
    "fuse_difference": Within(
        0.0,
        1e-11,
        "three sums of 576 products of numbers below 10, each rounded by 1.1e-16 of its terms",
    ),
    "fold_plain": Equals(True),
    "command": Equals(FOUND["command"]),
    "scale": Equals(FOUND["settings"]["scale"]),
    "date": Equals(FOUND["date"].partition("T")[0]),
    "commit": Equals(
        FOUND["commit"][:10]
        + (" with changes that were not committed yet" if FOUND["changed"] else "")
    ),
    "machine": Equals(f"{FOUND['device_name']}, {FOUND['cores']} cores"),
    "threads": Equals(FOUND["threads"]),
    "load_before": Exact(FOUND["load"]["before"][0], 0.0),
    "load_after": Exact(FOUND["load"]["after"][0], 0.0),
    "versions": Equals(", ".join(" ".join(pair) for pair in FOUND["versions"].items())),
    "implementations": Equals(len(ENTRIES)),
    "failed": Equals(STATUSES.count("failed")),
    "skipped": Equals(sum(status not in ("failed", "measured") for status in STATUSES)),
    "size_smallest": Equals(SIZES[0]),
    "size_largest": Equals(SIZES[-1]),
    "side_small": Equals(SMALL_SIDE),
    "side_large": Equals(LARGE_SIDE),
    "held_fused": held("saved_bytes", "normprop fused"),
    "held_lean": held("saved_bytes", "normprop fused, lean"),
    "held_batchnorm": held("saved_bytes", "batchnorm"),
    "peak_fused": held("peak_bytes", "normprop fused"),
    "peak_batchnorm": held("peak_bytes", "batchnorm"),
    "gpu_commit": Equals(GPU["commit"][:10]),
    "gpu_machine": Equals(f"{GPU['device_name']}, {GPU['cores']} cores"),
    "gpu_commit_before": Equals(BEFORE["commit"][:10]),
    "gpu_machine_before": Equals(f"{BEFORE['device_name']}, {BEFORE['cores']} cores"),
    # What the prose says of who is first and last.
    "gpu_first": Equals("transformer"),
    "gpu_last": Equals("vgg16-32"),
    "gpu_versions": Equals(", ".join(" ".join(pair) for pair in GPU["versions"].items())),
    "exercise_batchnorm": Exact((3 + 4 + 1 + 3 + 2 + 4) / 7, 4.5e-16),
    "exercise_batch": Exact(3500 / 3, 4.6e-13),
}


def cell(*parts: str) -> str:
    return "_".join(("cpu", *parts)).replace(",", "").replace(" ", "_").replace("-", "_")


def of_group(group: str, implementation: str) -> list[float]:
    names = [n for n, case in CASES.items() if n.startswith(f"{group}/")]
    return [ratio(n, implementation) for n in names if CASES[n]["status"] == "measured"]


for _method in (
    "copied weights", "normprop", "normprop fused", "normprop projected",
    "normprop fused, projected", "batchnorm",
):  # fmt: skip
    for _case in CASES:
        if _case.startswith("training/"):
            EXPECTED[cell(_case.partition("/")[2], _method)] = Exact(ratio(_case, _method), 0.0)
    _near = [r for r in of_group("training", _method) if r <= 1.05]
    EXPECTED[cell("within", _method)] = Equals(len(_near))
for _method in ("normprop", "normprop cached", "normprop folded"):
    _found = of_group("inference", _method)
    EXPECTED[cell("least", _method)] = Exact(min(_found), 0.0)
    EXPECTED[cell("most", _method)] = Exact(max(_found), 0.0)
for _method in ("normprop fused", "normprop fused, projected"):
    EXPECTED[cell("compiled", _method)] = Exact(ratio("compiled-block/linear", _method), 0.0)
_longest = max(
    case["parameters"]["size"]
    for case in FOUND["cases"]
    if case["name"].startswith("simulate/") and case["status"] == "measured"
)
for _layer in ("relu", "tanh"):
    # One rounding.
    for _key, _role in (("share", "normprop"), ("drawn", "drawing, layer")):
        _share = 1 / ratio(f"simulate/{_layer}/{_longest}", _role)
        EXPECTED[f"{_key}_{_layer}"] = Exact(_share, 2.3e-16)
_calls = [
    entry(f"activation/relu/{SIZES[0]}", name)["seconds"][1] for name in ("normprop", "plain")
]
# A product's rounding.
EXPECTED["call_extra"] = Exact(1e6 * (_calls[0] - _calls[1]), 4.5e-16 * 1e6 * _calls[0])
for _role in ("naive", "normprop", "batchnorm"):
    EXPECTED[f"smallest_{_role}"] = Exact(middle(SIZES[0], _role), 0.0)
    EXPECTED[f"largest_{_role}"] = Exact(middle(SIZES[-1], _role), 0.0)
for _size, _side in (("small", SMALL_SIDE), ("large", LARGE_SIDE)):
    for _key, _method in (
        ("fused", "normprop fused"),
        ("projected", "normprop fused, projected"),
        ("lean", "normprop fused, lean"),
        ("copied", "copied weights"),
        ("batchnorm", "batchnorm"),
    ):
        EXPECTED[f"step_{_size}_{_key}"] = Exact(ratio(RESNETS[_side], _method), 0.0)
for _row in FOUND["goals"]:
    if _row["device"] == "cpu":
        _key = _row["name"].replace("-", "_")
        _sign = "≥" if _row["least"] else "≤"
        EXPECTED[f"goal_{_key}"] = Equals(f"{_sign} {_row['bound']:g} {_row['unit']}".strip())
        EXPECTED[f"worst_{_key}"] = shown(_row["measured"], _row["unit"])
        EXPECTED[f"median_{_key}"] = shown(_row["median"], _row["unit"])
        EXPECTED[f"verdict_{_key}"] = Equals(_row["verdict"])


def on_gpu(run: dict) -> dict[tuple[str, str], float]:
    """Ratios by case and implementation."""
    return {
        (case["name"], entry["name"]): entry["ratio"][1]
        for case in run["cases"]
        for entry in case["implementations"]
        if "ratio" in entry
    }


def recorded(*parts: str) -> str:
    text = "_".join(part for part in ("gpu", *parts) if part)
    return text.replace(",", "").replace(" ", "_").replace("-", "_")


_now, _then = on_gpu(GPU), on_gpu(BEFORE)
_graphed = {"normprop fused", "normprop fused, projected", "batchnorm", "layernorm"}
_shown = {
    "training": _graphed | {"naive", "normprop", "normprop projected"},
    "graphed-training": _graphed,
}
for (_case, _method), _ratio in _now.items():
    _group, _, _name = _case.partition("/")
    if _method in _shown.get(_group, ()):
        EXPECTED[recorded(_group, _name, _method)] = Exact(_ratio, 0.0)
_ranges = {
    "training": _graphed | {"normprop"},
    "graphed-training": _graphed,
    "inference": {"normprop", "normprop folded"},
}
for _which, _run, _groups in (
    ("", _now, ("training", "graphed-training", "inference")),
    ("before", _then, ("training", "inference")),
):
    for _group in _groups:
        _methods = _ranges[_group]
        for _method in _methods:
            _found = [
                r for (c, m), r in _run.items() if m == _method and c.startswith(f"{_group}/")
            ]
            EXPECTED[recorded("least", _which, _group, _method)] = Exact(min(_found), 0.0)
            EXPECTED[recorded("most", _which, _group, _method)] = Exact(max(_found), 0.0)
for _group in ("training", "graphed-training"):
    _faster = [
        _now[case, "normprop fused"] < r
        for (case, method), r in _now.items()
        if method == "batchnorm" and case.startswith(f"{_group}/")
    ]
    EXPECTED[recorded("beaten", _group)] = Equals(sum(_faster))
EXPECTED["gpu_reached"] = Equals(
    sum(
        r <= 1.05
        for (case, method), r in _now.items()
        if method == "normprop fused" and case.startswith("graphed-training/")
    )
)
for _size in (10**6, 10**7, 10**8):
    for _method in ("naive", "normprop"):
        _ratio = _now[f"activation/relu/{_size}", _method]
        EXPECTED[f"gpu_{_method}_{_size}"] = Exact(_ratio, 0.0)
