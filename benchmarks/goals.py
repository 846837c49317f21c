"""What was promised, what was measured, and whether it holds.  A miss is never hidden."""

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

LARGE = 1_000_000
"""From this size on, memory and arithmetic are what an activation costs; below, it is the calls."""
CONVOLUTIONAL = ("resnet18", "vgg16")
MODES = (("", "normprop fused"), ("-projected", "normprop fused, projected"))
"""Weights that go to their ball in each forward pass, and weights that do after each step."""


@dataclass(frozen=True)
class Measured:
    """A figure, and the case that it comes from."""

    value: float
    case: str


@dataclass(frozen=True)
class Goal:
    """A promise.

    Attributes:
        name: short and unique.
        text: what is compared with what.
        device: ``"cpu"`` or ``"cuda"``.
        bound: the value that is promised.
        least: whether more is better.
        unit: of the value.
        find: all figures that the promise is about; the worst of them counts.
    """

    name: str
    text: str
    device: str
    bound: float
    least: bool
    unit: str
    find: Callable[[list[dict]], Iterator[Measured]]

    def judge(self, cases: list[dict], device: str) -> dict:
        """The row of the table.

        Args:
            cases: results of ``runner.run_case``.
            device: that they were measured on.
        """
        row = {k: v for k, v in asdict(self).items() if k != "find"}
        row |= {"measured": None, "case": None, "median": None, "verdict": "not measured"}
        if device != self.device:
            return row
        found = list(self.find(cases))
        if not found:
            return row
        worst = (min if self.least else max)(found, key=lambda m: m.value)
        met = worst.value >= self.bound if self.least else worst.value <= self.bound
        row["measured"] = float(f"{worst.value:.4g}")
        row["case"] = worst.case
        row["median"] = float(f"{statistics.median(m.value for m in found):.4g}")
        row["verdict"] = "met" if met else "missed"
        return row


def judge_all(cases: list[dict], device: str) -> list[dict]:
    """All rows, those of the other device too: empty, and saying so."""
    return [goal.judge(cases, device) for goal in goals()]


def as_text(rows: list[dict], device: str) -> str:
    """The rows of a device as a table for a terminal."""
    lines = []
    for row in rows:
        if row["device"] != device:
            continue
        sign = "≥" if row["least"] else "≤"
        bound = f"{sign} {_number(row['bound'])} {row['unit']}".rstrip()
        if row["measured"] is None:
            got, where = "not measured", ""
        else:
            got = f"{_number(row['measured'])} {row['unit']}".rstrip()
            where = f" at worst, {row['case']}; {_number(row['median'])} in the median"
        mark = {"met": "met   ", "missed": "MISSED"}.get(row["verdict"], "      ")
        lines.append(f"{mark}  {row['text']}: {bound}; {got}{where}")
    other = "cuda" if device == "cpu" else "cpu"
    lines.append(f"Goals of {other}: not measured in this run.")
    return "\n".join(lines)


def goals() -> tuple[Goal, ...]:
    """All promises."""
    return (
        *_both("eager", 1.6, 1.05),
        Goal(
            "activation-small",
            "small activation (10³ to 10⁵ elements), forward and backward, against the plain one",
            "cpu",
            1.6,
            False,
            "",
            _ratios("activation", "normprop", where=lambda p: p["size"] < LARGE and _main(p)),
        ),
        Goal(
            "activation-compiled",
            "compiled activation against the plain compiled one",
            "cpu",
            1.1,
            False,
            "",
            _ratios("compiled-activation", "normprop"),
        ),
        Goal(
            "bandwidth",
            "activation, forward and backward: share of a copy's bandwidth",
            "cuda",
            0.9,
            True,
            "",
            _bandwidth,
        ),
        *_each(
            "unit-scaling",
            "unit-scaling's function: its time over ours",
            2.0,
            2.0,
            _versus("activation", "unit-scaling", "normprop", where=_is_large),
        ),
        *_each(
            "batchnorm-activation",
            "BatchNorm and activation: its time over ours",
            3.0,
            2.5,
            _versus("activation", "batchnorm", "normprop", where=_is_large),
        ),
        *(
            goal
            for suffix, name in MODES
            for goal in (
                *_each(
                    f"training-plain{suffix}",
                    f"training step of a convolutional network, {name}, against the plain one",
                    1.05,
                    1.03,
                    _ratios("training", name, where=_is_convolutional),
                    least=False,
                ),
                *_each(
                    f"training-batchnorm{suffix}",
                    f"training step with BatchNorm: its time over that of {name}",
                    1.0,
                    1.2,
                    _versus("training", "batchnorm", name, where=_is_convolutional),
                ),
            )
        ),
        *_each(
            "saved",
            "bytes of activations saved for the backward pass, against the plain network",
            1.0,
            1.0,
            _saved,
            least=False,
        ),
        *_each(
            "inference",
            "inference after fold against the plain network",
            1.02,
            1.02,
            _ratios("inference", "normprop folded"),
            least=False,
        ),
        Goal(
            "simulate",
            "simulate: share of the rate of drawing the normals alone",
            "cpu",
            0.8,
            True,
            "",
            _inverse(_ratios("simulate", "normprop")),
        ),
        Goal(
            "simulate",
            "simulate: a naive loop's time over ours",
            "cuda",
            10.0,
            True,
            "",
            _versus("simulate", "naive loop", "normprop"),
        ),
        Goal(
            "closed-form",
            "moments in closed form, one core",
            "cpu",
            100.0,
            False,
            "µs",
            _seconds("moments-closed", 1e6),
        ),
        Goal(
            "quadrature",
            "moments by cold quadrature, one core",
            "cpu",
            5.0,
            False,
            "ms",
            _seconds("moments-quadrature", 1e3),
        ),
        *_each(
            "depth",
            "growth of the cost of a layer from the shallowest to the deepest chain, over the "
            "plain chain's own growth",
            1.1,
            1.1,
            _growth,
            least=False,
        ),
    )


def _both(kind: str, cpu: float, cuda: float) -> tuple[Goal, ...]:
    text = "large activation (10⁶ elements and more), forward and backward, against the plain one"
    find = _ratios("activation", "normprop", where=lambda p: _is_large(p) and _main(p))
    return tuple(
        Goal(f"activation-{kind}", text, device, bound, False, "", find)
        for device, bound in (("cpu", cpu), ("cuda", cuda))
    )


def _each(name, text, cpu: float, cuda: float, find, least: bool = True) -> tuple[Goal, ...]:
    return tuple(
        Goal(name, text, device, bound, least, "", find)
        for device, bound in (("cpu", cpu), ("cuda", cuda))
    )


def _main(parameters: dict) -> bool:
    from benchmarks.cases.activation import MAIN

    return parameters["activation"] in {name.lower() for name in MAIN}


def _is_large(parameters: dict) -> bool:
    return parameters["size"] >= LARGE


def _is_convolutional(parameters: dict) -> bool:
    return parameters["network"].startswith(CONVOLUTIONAL)


def _entries(cases: list[dict], group: str, name: str, where=lambda p: True):
    for case in cases:
        if case["group"] != group or case["status"] != "measured" or not where(case["parameters"]):
            continue
        for entry in case["implementations"]:
            if entry["name"] == name and entry["status"] == "measured":
                yield case, entry


def _ratios(group: str, name: str, where=lambda p: True):
    def find(cases: list[dict]) -> Iterator[Measured]:
        for case, entry in _entries(cases, group, name, where):
            yield Measured(entry["ratio"][1], case["name"])

    return find


def _versus(group: str, name: str, other: str, where=lambda p: True):
    def find(cases: list[dict]) -> Iterator[Measured]:
        for case, entry in _entries(cases, group, name, where):
            if other in entry["versus"]:
                yield Measured(entry["versus"][other][1], case["name"])

    return find


def _seconds(group: str, per_second: float):
    def find(cases: list[dict]) -> Iterator[Measured]:
        for case, entry in _entries(cases, group, "normprop"):
            yield Measured(entry["seconds"][1] * per_second, case["name"])

    return find


def _inverse(find):
    def inverted(cases: list[dict]) -> Iterator[Measured]:
        for found in find(cases):
            yield Measured(1 / found.value, found.case)

    return inverted


def _bandwidth(cases: list[dict]) -> Iterator[Measured]:
    # Forward: x in, y out.  Backward: dy and what was kept in, dx out.  A copy: one in, one out.
    copies = {c["name"]: e for c, e in _entries(cases, "activation", "copy", _is_large)}
    for case, entry in _entries(cases, "activation", "normprop", _is_large):
        if case["name"] in copies:
            copy = copies[case["name"]]["seconds"][1]
            yield Measured(5 / 2 * copy / entry["seconds"][1], case["name"])


def _saved(cases: list[dict]) -> Iterator[Measured]:
    plain = {c["name"]: e for c, e in _entries(cases, "training", "plain")}
    for name in ("normprop", *(fused for _, fused in MODES)):
        for case, entry in _entries(cases, "training", name):
            if case["name"] in plain:
                reference = plain[case["name"]]["figures"]["saved_bytes"]
                share = entry["figures"]["saved_bytes"] / reference
                yield Measured(share, f"{case['name']}, {name}")


def _growth(cases: list[dict]) -> Iterator[Measured]:
    costs: dict[str, dict[int, float]] = {}
    for name in ("plain", "normprop"):
        for case, entry in _entries(cases, "depth", name):
            depth = case["parameters"]["depth"]
            costs.setdefault(name, {})[depth] = entry["seconds"][1] / depth
    if (
        len(costs) < 2
        or len(costs["plain"]) < 2
        or costs["plain"].keys() != costs["normprop"].keys()
    ):
        return
    first, last = min(costs["plain"]), max(costs["plain"])
    ours, plain = (costs[n][last] / costs[n][first] for n in ("normprop", "plain"))
    yield Measured(ours / plain, f"depth/{first} and depth/{last}")


def _number(value: float) -> str:
    digits = 2 if value == 0 else max(2, 3 - math.ceil(math.log10(abs(value))))
    return f"{value:.{min(digits, 3)}f}".rstrip("0").rstrip(".")
