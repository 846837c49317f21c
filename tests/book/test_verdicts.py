"""Every sentence that compares methods is held against the committed results.

A sentence of the pages on training that compares pastes a record of
:func:`normprop.companion.verdicts.said`, or a bool, that is expected to be true there.  Sentences
elsewhere can paste nothing and name such a record here.  So new results cannot leave an old
sentence standing.
"""

import re

import nbformat
import pytest

from normprop.companion.methods import METHODS
from tests.book import expected
from tests.book.expectations import Equals
from tests.book.notebooks import ROOT

NINE = "book/chapters/09_training.ipynb"
TEN = "book/chapters/10_thousand_layers.ipynb"
FOURTEEN = "book/chapters/14_your_network.ipynb"
COMPARES = re.compile(
    r"\b(better|best|worse|worst|wins?|beats?|ahead|behind|outperforms?|keeps? up|catch up|"
    r"(?:is|are|be) level|do(?:es)? not help|no help)\b"
)
"""Words by which a sentence compares what methods reach."""
PASTED = re.compile(r"\{glue:text\}`(\w+)")

NO_RESULT = {
    NINE: (
        "It is not always the post that is ahead",
        "A method that was given more attempts",
        "**C17, separate scales, to be examined",
        "Give the small network forty layers and predict",
        "A method   that is slow here may catch up",
        "The best of eight noisy numbers",
    ),
    TEN: (
        "One layer $y =",
        "So $L$ layers multiply the gradient",
        "Mean-field theory knows a better one",
        "Separate scales show that the size",
    ),
    FOURTEEN: (
        "**It goes beyond** the post",
        "The signal grows, from",
        "That is harmless at this depth",
        "The column *across samples* falls behind it",
        "So train both on small pictures",
    ),
}
"""Beginnings of sentences with such a word that compare no results."""

COUNTS = {"c5_ten_level": Equals(4), "c17_above": Equals(0), "claims_above": Equals(6)}
"""Records of how many comparisons came out in a way, and what the pages say of that."""

ELSEWHERE = [
    ("book/claims.ipynb", "backward σ is ahead of forward σ, with ReLU", NINE, "c5_normal_relu"),
    ("book/claims.ipynb", "under SGD and under Adam and", NINE, "c5_adam_relu"),
    ("book/claims.ipynb", "and with tanh on orthogonal weights", NINE, "c5_adam_turned_tanh"),
    ("book/claims.ipynb", "At ten layers the two are level", NINE, "c5_ten_level"),
    ("book/claims.ipynb", "scales are ahead of one scale in no comparison", NINE, "c17_above"),
    (
        "README.md",
        "up to a plain network of a thousand layers that trains",
        TEN,
        "calibrated_learns",
    ),
    (
        "README.md",
        "were ahead of the same networks with BatchNorm in all six",
        FOURTEEN,
        "claims_above",
    ),
    ("README.md", "is level with them on the chain", FOURTEEN, "vgg_leaky"),
    ("README.md", "the chain was still ahead, by 1 point", FOURTEEN, "vgg_long"),
    ("README.md", "and the residual network level", FOURTEEN, "resnet_long"),
    ("CHANGELOG.md", "Plain tanh at its critical point trains a", TEN, "critical_learns"),
]
"""File, words of a sentence that compares, the page of its record, and the record."""


def prose(name):
    """The sentences of a page, without code, tables and headings."""
    for cell in nbformat.read(ROOT / name, as_version=4).cells:
        if cell.cell_type != "markdown":
            continue
        kept = [line for line in cell.source.splitlines() if not re.match(r"\||#|:|\$\$", line)]
        for block in re.split(r"\n\s*\n|\n(?=- |\*\*\d)", "\n".join(kept)):
            # What follows a full stop begins with a capital, a formula, a record or emphasis.
            for sentence in re.split(r"(?<=[.?:])\s+(?=[A-Z$*{σχ])", block.replace("\n", " ")):
                yield sentence.strip().lstrip("-").strip()


def is_true(page, record):
    """Whether the page is expected to record that a comparison holds."""
    registry = expected.registry(page)
    if record in COUNTS:
        return registry[record] == COUNTS[record]
    return Equals(True) in (registry.get(f"{record}_holds"), registry.get(record))


def comparing(page):
    return [sentence for sentence in prose(page) if COMPARES.search(sentence)]


@pytest.mark.parametrize("page", [NINE, TEN, FOURTEEN])
def test_a_sentence_that_compares_pastes_a_comparison_that_holds(page):
    for sentence in comparing(page):
        if not sentence.startswith(NO_RESULT[page]):
            assert any(is_true(page, record) for record in PASTED.findall(sentence)), sentence


@pytest.mark.parametrize("page", [NINE, TEN, FOURTEEN])
def test_every_exception_is_a_sentence_of_the_page(page):
    for beginning in NO_RESULT[page]:
        assert any(sentence.startswith(beginning) for sentence in comparing(page)), beginning


@pytest.mark.parametrize("page", [NINE, TEN, FOURTEEN])
def test_every_comparison_is_said_somewhere_and_expected_to_hold(page):
    pasted = set(PASTED.findall((ROOT / page).read_text("utf-8")))
    names = [name for name in expected.registry(page) if name.endswith("_holds")]
    assert names
    for name in names:
        assert expected.registry(page)[name] == Equals(True)
        assert name.removesuffix("_holds") in pasted, name


@pytest.mark.parametrize(("file", "words", "page", "record"), ELSEWHERE)
def test_a_sentence_elsewhere_is_there_and_holds(file, words, page, record):
    text = (ROOT / file).read_text("utf-8").replace('\\n",\n    "', " ").replace("\n", " ")
    assert words in re.sub(r"\s+", " ", text)
    assert is_true(page, record)


def test_a_sentence_without_its_comparison_is_seen():
    """The words are found, and a false or a missing record is none."""
    for sentence in ("Calibration wins.", "He is behind BatchNorm.", "The two are level."):
        assert COMPARES.search(sentence)
    assert not is_true(TEN, "seeds_calibrated")
    assert not is_true(TEN, "no_such_record")
    assert is_true(TEN, "over_critical")


def test_the_page_on_training_has_every_method():
    text = (ROOT / NINE).read_text("utf-8")
    bibliography = (ROOT / "book/references.bib").read_text("utf-8")
    for method in METHODS.values():
        assert f"| {method.label} |" in text
        for source in method.source:
            assert re.search(rf"@\w+\{{{source},", bibliography), source
