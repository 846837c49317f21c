r"""Write the certified constants for other programs, as JSON and as CSV.

    python scripts/export_constants.py    writes book/_static/constants.json and constants.csv

Both hold the same rows, one a constant, all from ``normprop/gaussian/certified.json``:

    name      the function, as ``normprop.moments`` knows it; the module of torch.nn, as one writes
              it; "maximum of n"; or the constant's own name
    std       standard deviation of the input, whose mean is 0; empty where there is no input
    figure    what of it, as ``scripts/certify.py`` lists them
    meaning   the same in TeX
    digits    40 decimal places, all proved
    radius    how far the true value may be from these digits
    float64   the double that is nearest to them, in the fewest digits that give it back
    method    "closed form" or "integral"
    formula   the closed form in TeX, where it is one; φ and Φ are the standard normal density and
              distribution function

A formula is written only where ball arithmetic finds the digits in it.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from flint import arb, ctx

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "normprop" / "gaussian" / "certified.json"
TARGET = ROOT / "book" / "_static"
COLUMNS = ("name", "std", "figure", "meaning", "digits", "radius", "float64", "method", "formula")

MEANINGS = {
    "fwd_mean": r"E f(x)",
    "fwd_std": r"\sigma_f",
    "bwd_std": r"\sigma_b",
    "second_moment": r"E f(x)^2",
    "rms": r"\sqrt{E f(x)^2}",
    "chi": r"(s\sigma_b/\sigma_f)^2",
    "fwd_gain": r"1/\sigma_f",
    "bwd_gain": r"1/\sigma_b",
    "rms_gain": r"1/\sqrt{E f(x)^2}",
    "mean": r"E \max_i x_i",
    "std": r"\mathrm{Std} \max_i x_i",
    "selu_alpha": r"\alpha",
    "selu_lambda": r"\lambda",
    "selu_floor": r"-\alpha\lambda",
    "truncated_normal_std": r"\mathrm{Std}(x : |x| < 2)",
}

Formula = tuple[str, Callable[[], arb]]
"""TeX, and the same as a ball."""


def _phi(x) -> arb:
    return (-arb(x) * arb(x) / 2).exp() / (2 * arb.pi()).sqrt()


def _below(x) -> arb:
    return (-arb(x) / arb(2).sqrt()).erfc() / 2


def _root_e() -> arb:
    return (arb(1) / 2).exp()


def _leaky(tex: str, slope: Callable[[], arb]) -> tuple[Formula, Formula, Formula]:
    half = rf"\frac{{1 + {tex}^2}}{{2}}"
    return (
        (rf"\frac{{1 - {tex}}}{{\sqrt{{2\pi}}}}", lambda: (1 - slope()) * _phi(0)),
        (half, lambda: (1 + slope() ** 2) / 2),
        (half, lambda: (1 + slope() ** 2) / 2),
    )


_ELU_TEX = r"\sqrt{e}\,\Phi(-1)", r"e^2\Phi(-2)"


def _elu_one() -> arb:
    return _root_e() * _below(-1)


def _elu_two() -> arb:
    return arb(2).exp() * _below(-2)


_ELU = (
    (
        rf"\frac{{1}}{{\sqrt{{2\pi}}}} + {_ELU_TEX[0]} - \frac12",
        lambda: _phi(0) + _elu_one() - arb("0.5"),
    ),
    (rf"1 + {_ELU_TEX[1]} - 2{_ELU_TEX[0]}", lambda: 1 + _elu_two() - 2 * _elu_one()),
    (rf"\frac12 + {_ELU_TEX[1]}", lambda: arb("0.5") + _elu_two()),
)

# Torch's constants, which end after 31 digits.
_ALPHA, _LAMBDA = "1.6732632423543772848170429916717", "1.0507009873554804934193349852946"
# What letters in a formula stand for.
NOTES = {"selu": rf",\quad \alpha = {_ALPHA},\ \lambda = {_LAMBDA}"}
_NOTHING: Formula = ("0", lambda: arb(0))
_HALF: Formula = (r"\frac12", lambda: arb(1) / 2)

# E f, E f² and E f'² of a function, None where no closed form is known.
FORMULAS: dict[str, tuple[Formula | None, Formula | None, Formula | None]] = {
    "celu": _ELU,
    "elu": _ELU,
    "gelu": (
        (r"\frac{1}{2\sqrt{\pi}}", lambda: 1 / (2 * arb.pi().sqrt())),
        (
            r"\frac13 + \frac{1}{2\sqrt{3}\,\pi}",
            lambda: arb(1) / 3 + 1 / (2 * arb(3).sqrt() * arb.pi()),
        ),
        (
            r"\frac13 + \frac{2}{3\sqrt{3}\,\pi}",
            lambda: arb(1) / 3 + 2 / (3 * arb(3).sqrt() * arb.pi()),
        ),
    ),
    "hardshrink": (
        _NOTHING,
        (r"\varphi(\tfrac12) + 2\Phi(-\tfrac12)", lambda: _phi("0.5") + 2 * _below("-0.5")),
        (r"2\Phi(-\tfrac12)", lambda: 2 * _below("-0.5")),
    ),
    "hardsigmoid": (
        _HALF,
        (
            r"\frac{10 - 6\varphi(3) + 16\Phi(-3)}{36}",
            lambda: (10 - 6 * _phi(3) + 16 * _below(-3)) / 36,
        ),
        (r"\frac{1 - 2\Phi(-3)}{36}", lambda: (1 - 2 * _below(-3)) / 36),
    ),
    "hardswish": (
        (r"\frac{1 - 2\Phi(-3)}{6}", lambda: (1 - 2 * _below(-3)) / 6),
        (
            r"\frac{1 + \Phi(-3)}{3} - \frac{\varphi(3)}{2}",
            lambda: (1 + _below(-3)) / 3 - _phi(3) / 2,
        ),
        (
            r"\frac{13 + 10\Phi(-3) - 24\varphi(3)}{36}",
            lambda: (13 + 10 * _below(-3) - 24 * _phi(3)) / 36,
        ),
    ),
    "hardtanh": (
        _NOTHING,
        (r"1 - 2\varphi(1)", lambda: 1 - 2 * _phi(1)),
        (r"1 - 2\Phi(-1)", lambda: 1 - 2 * _below(-1)),
    ),
    "leaky_relu": _leaky("0.01", lambda: arb("0.01")),
    "logsigmoid": (None, None, None),
    "mish": (None, None, None),
    "relu": (
        (r"\frac{1}{\sqrt{2\pi}}", lambda: _phi(0)),
        _HALF,
        _HALF,
    ),
    "relu6": (
        (
            r"\frac{1}{\sqrt{2\pi}} - \varphi(6) + 6\Phi(-6)",
            lambda: _phi(0) - _phi(6) + 6 * _below(-6),
        ),
        (
            r"\frac12 - 6\varphi(6) + 35\Phi(-6)",
            lambda: arb("0.5") - 6 * _phi(6) + 35 * _below(-6),
        ),
        (r"\frac12 - \Phi(-6)", lambda: arb("0.5") - _below(-6)),
    ),
    "selu": (
        (
            rf"\lambda\bigl(\tfrac{{1}}{{\sqrt{{2\pi}}}} + \alpha({_ELU_TEX[0]} - \tfrac12)\bigr)",
            lambda: arb(_LAMBDA) * (_phi(0) + arb(_ALPHA) * (_elu_one() - arb("0.5"))),
        ),
        (
            rf"\lambda^2\bigl(\tfrac12 + \alpha^2({_ELU_TEX[1]} - 2{_ELU_TEX[0]} + \tfrac12)\bigr)",
            lambda: (
                arb(_LAMBDA) ** 2
                * (arb("0.5") + arb(_ALPHA) ** 2 * (_elu_two() - 2 * _elu_one() + arb("0.5")))
            ),
        ),
        (
            rf"\lambda^2\bigl(\tfrac12 + \alpha^2{_ELU_TEX[1]}\bigr)",
            lambda: arb(_LAMBDA) ** 2 * (arb("0.5") + arb(_ALPHA) ** 2 * _elu_two()),
        ),
    ),
    "sigmoid": (_HALF, None, None),
    "silu": (None, None, None),
    "softplus": (None, None, None),
    "softshrink": (
        _NOTHING,
        (
            r"\tfrac52\Phi(-\tfrac12) - \varphi(\tfrac12)",
            lambda: arb("2.5") * _below("-0.5") - _phi("0.5"),
        ),
        (r"2\Phi(-\tfrac12)", lambda: 2 * _below("-0.5")),
    ),
    "softsign": (_NOTHING, None, None),
    "tanh": (_NOTHING, None, None),
    "tanhshrink": (_NOTHING, None, None),
    "GELU(approximate='tanh')": (None, None, None),
    "LeakyReLU(0.2)": _leaky("0.2", lambda: arb("0.2")),
    "RReLU()": (
        (r"\frac{37}{48\sqrt{2\pi}}", lambda: arb(37) / 48 * _phi(0)),
        (r"\frac{1825}{3456}", lambda: arb(1825) / 3456),
        (r"\frac{1825}{3456}", lambda: arb(1825) / 3456),
    ),
    "RReLU().eval()": _leaky(r"(\tfrac{11}{48})", lambda: arb(11) / 48),
    "Threshold(0.1, 20)": (
        (r"20\Phi(0.1) + \varphi(0.1)", lambda: 20 * _below("0.1") + _phi("0.1")),
        (
            r"400\Phi(0.1) + \Phi(-0.1) + 0.1\varphi(0.1)",
            lambda: 400 * _below("0.1") + _below("-0.1") + arb("0.1") * _phi("0.1"),
        ),
        (r"\Phi(-0.1)", lambda: _below("-0.1")),
    ),
}

# E max and E max² of n.
MAXIMA: dict[int, tuple[Formula, Formula | None]] = {
    2: ((r"\frac{1}{\sqrt{\pi}}", lambda: 1 / arb.pi().sqrt()), ("1", lambda: arb(1))),
    3: (
        (r"\frac{3}{2\sqrt{\pi}}", lambda: 3 / (2 * arb.pi().sqrt())),
        (r"1 + \frac{\sqrt{3}}{2\pi}", lambda: 1 + arb(3).sqrt() / (2 * arb.pi())),
    ),
    4: (
        (
            r"\frac{6\arctan\sqrt{2}}{\pi^{3/2}}",
            lambda: 6 * arb(2).sqrt().atan() / (arb.pi() * arb.pi().sqrt()),
        ),
        (r"1 + \frac{\sqrt{3}}{\pi}", lambda: 1 + arb(3).sqrt() / arb.pi()),
    ),
    5: (
        (
            r"\frac{5}{4\sqrt{\pi}} + \frac{15\arcsin(1/3)}{2\pi^{3/2}}",
            lambda: (
                5 / (4 * arb.pi().sqrt())
                + 15 * (arb(1) / 3).asin() / (2 * arb.pi() * arb.pi().sqrt())
            ),
        ),
        None,
    ),
}


def _selu_alpha() -> arb:
    return 1 / ((2 * arb.pi()).sqrt() * (arb("0.5") - _elu_one()))


def _selu_lambda() -> arb:
    square = _elu_two() - 2 * _elu_one() + arb("0.5")
    return 1 / (arb("0.5") + _selu_alpha() ** 2 * square).sqrt()


NUMBERS: dict[str, Formula] = {
    "selu_alpha": (
        rf"\frac{{1}}{{\sqrt{{2\pi}}(\frac12 - {_ELU_TEX[0]})}}",
        _selu_alpha,
    ),
    "selu_lambda": (
        rf"\bigl(\tfrac12 + \alpha^2({_ELU_TEX[1]} - 2{_ELU_TEX[0]} + \tfrac12)\bigr)^{{-1/2}}",
        _selu_lambda,
    ),
    "selu_floor": (r"-\alpha\lambda", lambda: -_selu_alpha() * _selu_lambda()),
    "truncated_normal_std": (
        r"\sqrt{1 - \frac{4\varphi(2)}{1 - 2\Phi(-2)}}",
        lambda: (1 - 4 * _phi(2) / (1 - 2 * _below(-2))).sqrt(),
    ),
}


def derived(mean: Formula | None, second: Formula | None, slope: Formula | None):
    """The closed forms of all figures at N(0, 1) that follow from those of E f, E f² and E f'²."""
    found: dict[str, Formula] = {}
    if mean:
        found["fwd_mean"] = mean
    if second:
        tex, value = second
        found["second_moment"] = second
        found["rms"] = (rf"\sqrt{{{tex}}}", lambda: value().sqrt())
        found["rms_gain"] = (rf"1\big/\sqrt{{{tex}}}", lambda: 1 / value().sqrt())
    variance = _variance(mean, second)
    if variance:
        tex, spread = variance
        found["fwd_std"] = (rf"\sqrt{{{tex}}}", lambda: spread().sqrt())
        found["fwd_gain"] = (rf"1\big/\sqrt{{{tex}}}", lambda: 1 / spread().sqrt())
    if slope:
        steep_tex, steep = slope
        found["bwd_std"] = (rf"\sqrt{{{steep_tex}}}", lambda: steep().sqrt())
        found["bwd_gain"] = (rf"1\big/\sqrt{{{steep_tex}}}", lambda: 1 / steep().sqrt())
        if variance:
            found["chi"] = (
                rf"\Bigl({steep_tex}\Bigr)\Big/\Bigl({tex}\Bigr)",
                lambda: steep() / spread(),
            )
    return found


def _variance(mean: Formula | None, second: Formula | None) -> Formula | None:
    if mean is None or second is None:
        return None
    if mean[0] == "0":
        return second
    return rf"{second[0]} - \Bigl({mean[0]}\Bigr)^2", lambda: second[1]() - mean[1]() ** 2


def rows(certified: dict) -> Iterator[dict[str, str]]:
    """The rows of the table, in the order of the source."""
    for part in ("elementwise", "modules"):
        for name, figures in certified[part].items():
            yield from _rows(name, "1", figures, derived(*FORMULAS[name]))
    for name, stds in certified["wide"].items():
        for std, figures in stds.items():
            # An odd function about its centre keeps its mean under every width.
            known = {"fwd_mean": FORMULAS[name][0]} if name == "sigmoid" else {}
            yield from _rows(name, std, figures, known)
    for n, figures in sorted(certified["maximum"].items(), key=lambda item: int(item[0])):
        mean, second = MAXIMA.get(int(n), (None, None))
        known = {"mean": mean} if mean else {}
        variance = _variance(mean, second)
        if variance:
            known["std"] = derived(mean, second, None)["fwd_std"]
        yield from _rows(f"maximum of {n}", "1", figures, known)
    for name, number in certified["numbers"].items():
        yield _row(name, "", name, number, NUMBERS[name])


def _rows(name: str, std: str, figures: dict, known: dict[str, Formula]) -> Iterator[dict]:
    for figure, number in figures.items():
        yield _row(name, std, figure, number, known.get(figure))


def _row(name: str, std: str, figure: str, number: dict, formula: Formula | None) -> dict[str, str]:
    if formula is not None:
        _check(name, figure, number, formula)
    return {
        "name": name,
        "std": std,
        "figure": figure,
        "meaning": MEANINGS[figure],
        "digits": number["digits"],
        "radius": number["radius"],
        "float64": repr(float(number["digits"])),
        "method": "integral" if formula is None else "closed form",
        "formula": "" if formula is None else formula[0] + NOTES.get(name, ""),
    }


def _check(name: str, figure: str, number: dict, formula: Formula) -> None:
    """Refuse a formula that is not what the digits say."""
    before, ctx.dps = ctx.dps, 60
    try:
        off = abs(formula[1]() - arb(number["digits"]))
        if not off < arb(number["radius"]):
            raise ArithmeticError(
                f"the formula of {figure} of {name} must give {number['digits']}; "
                f"it is off by {off}"
            )
    finally:
        ctx.dps = before


def as_json(table: list[dict[str, str]]) -> str:
    """The table as the text of a JSON file."""
    return json.dumps({"columns": COLUMNS, "rows": table}, indent=1, ensure_ascii=False) + "\n"


def as_csv(table: list[dict[str, str]]) -> str:
    """The table as the text of a CSV file."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return stream.getvalue()


def texts() -> dict[Path, str]:
    """The files and what stands in them: the same bytes for the same digits."""
    table = list(rows(json.loads(SOURCE.read_text(encoding="utf-8"))))
    return {
        TARGET / "constants.json": as_json(table),
        TARGET / "constants.csv": as_csv(table),
    }


if __name__ == "__main__":
    for path, text in texts().items():
        path.write_text(text, encoding="utf-8")
