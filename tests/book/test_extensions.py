"""The book's own extensions, piece by piece: what they change, and what they leave alone."""

import runpy
from types import SimpleNamespace

import pytest


@pytest.fixture
def folds(root, load):
    return load(root / "book/_ext/folds.py")


@pytest.fixture
def finish(root, load):
    return load(root / "book/_ext/finish.py")


@pytest.fixture
def load(monkeypatch):
    """Load an extension as Sphinx does, with its neighbours in reach."""

    def load(path):
        monkeypatch.syspath_prepend(str(path.parent))
        return SimpleNamespace(**runpy.run_path(str(path)))

    return load


@pytest.mark.parametrize(
    ("number", "printed"),
    [
        ("0.2117", "0.2117"),
        ("-1.21", "−1.21"),
        ("1e-39", "1·10⁻³⁹"),
        ("-2.5e+07", "−2.5·10⁷"),
        ("confirmed", "confirmed"),
        ("leave-one-out", "leave-one-out"),
        ("12 %", "12 %"),
    ],
)
def test_numbers_are_set_as_print_does(folds, number, printed):
    assert folds.typeset(number) == printed


@pytest.mark.parametrize(
    "line",
    [
        'record("x", value)',
        'record("x", float(value))',
        'record("x", exact.error)',
        'record(f"{name}_se", runs[-1].item())',
        "record_exact('relu', exact)",
        "for name in names:\n    record(name, values[name])",
        "for name, (a, b) in rows.items():\n    record(name, a)\n    record(f'{name}_se', b)",
    ],
)
def test_a_line_that_only_records_is_left_out(folds, line):
    assert folds.without_records(line) == ""
    assert (
        folds.without_records(f"value = 1\n\n{line}\nprint(value)") == "value = 1\n\nprint(value)"
    )


@pytest.mark.parametrize(
    "code",
    [
        'record("stein", 0.25 - exact.fwd_std**2)',
        'record("chi", chi("relu"))',
        'record("x", simulate("relu", samples).bwd_std)',
        "for name in names:\n    total += 1\n    record(name, total)",
        "def record_all(name):\n    record(name, 1)",
        "x = record",
        "%pip install normprop",
    ],
)
def test_a_line_that_computes_stays(folds, code):
    assert folds.without_records(code) == code


@pytest.mark.parametrize(
    ("tex", "lines"),
    [
        (r"y = x, \qquad z = 1", 1),
        ("y = " + "x + " * 30 + "x", 1),
        ("y = " + "x + " * 20 + r"x, \qquad z = 1," + "\n\\qquad w = 2", 3),
        (r"\begin{aligned} y &= " + "x + " * 20 + r"x \qquad z \end{aligned}", 1),
    ],
)
def test_long_formulas_of_docstrings_are_broken_at_their_parts(root, load, tex, lines):
    broken = load(root / "book/_ext/formulas.py").broken(tex)
    assert broken.count(r"\\") == lines - 1
    assert (broken == tex) == (lines == 1)


PAGE = """<head><meta name="viewport" content="width=device-width, initial-scale=1.0" />
<meta name="viewport" content="a" />
<script defer src="../_static/scripts/fontawesome.js?d=1"></script>
<script>window.MathJax = {"tex": {}}</script>
<script defer="defer" src="../_static/mathjax/startup.js"></script>
<script src="../searchindex.js"></script></head>"""


def test_a_page_loads_what_it_uses(finish):
    bare = finish.slim("book/citing", PAGE)
    assert "<script" not in bare
    assert bare.count("viewport") == 1
    assert "startup.js" in finish.slim("book/citing", PAGE + '<span class="math notranslate">')
    assert "searchindex.js" in finish.slim("search", PAGE)


def test_an_empty_corner_is_no_header(finish):
    row = '<th class="head"></th><th class="head"><p></p></th><th class="head"><p>a</p></th>'
    assert finish.mend(row).count("<th") == 1


def test_rules_that_nothing_uses_are_dropped_and_no_others(finish):
    rules = [
        ("/*! by gone.com */{}", True),
        (".used{a:b}", True),
        ("/* .gone */:root{y:z}", True),
        (".used .gone{c:d}", False),
        (".gone,.used>a{e:f}", True),
        ("a:not(.gone){g:h}", True),
        (".gone:is(.used,.x){i:j}", False),
        ("p{m:n}", True),
    ]
    kept = "".join(rule for rule, stays in rules if stays).replace("/* .gone */", "")
    assert finish.purge("".join(rule for rule, _ in rules), {"used"}) == kept
    assert finish.purge("@media print{.gone{k:l}p{m:n}}", set()) == "@media print{p{m:n}}"


def test_every_module_with_overloads_is_shown_by_the_signatures_that_run(root, load):
    known = set(load(root / "book/_ext/signatures.py").WITH_OVERLOADS)
    files = (root / "normprop").rglob("*.py")
    found = {f for f in files if "\n@overload\n" in f.read_text("utf-8")}
    assert {".".join(f.relative_to(root).with_suffix("").parts) for f in found} == known
