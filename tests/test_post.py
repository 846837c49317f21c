"""The post's table: 18 cells, each judged by what it says against what is so."""

import csv
import io
import json
import math
from dataclasses import replace

import pytest
from torch import nn

from normprop import moments, table
from normprop.post import ROWS, Table, _agrees
from tests import reference

COLUMNS = (
    "convolution",
    "ReLU",
    "sigmoid",
    "3×3 max pooling",
    "3×3 average pooling",
    "dropout, keep 0.8",
)
QUALIFIED = {
    ("convolution", "bwd_std"),
    ("3×3 max pooling", "bwd_std"),
    ("3×3 average pooling", "bwd_std"),
    ("dropout, keep 0.8", "fwd_std"),
    ("dropout, keep 0.8", "bwd_std"),
}
CORRECTED = {("sigmoid", "bwd_std")}


@pytest.fixture(scope="module")
def small() -> Table:
    return table(samples=200_000, seed=3)


def test_every_cell_of_the_post_s_table_is_there_once(small):
    cells = [(cell.column, cell.row) for cell in small.cells]
    assert cells == [(column, row) for column in COLUMNS for row in ROWS]
    assert len(cells) == 18


def test_the_verdicts(small):
    for cell in small.cells:
        key = (cell.column, cell.row)
        wanted = "corrected" if key in CORRECTED else "confirmed"
        wanted = "qualified" if key in QUALIFIED else wanted
        assert cell.verdict == wanted, key
        assert bool(cell.note) == (wanted != "confirmed"), key


REFERENCES = {
    "ReLU": lambda: reference.elementwise("relu", 0, 1),
    "sigmoid": lambda: reference.elementwise("sigmoid", 0, 1),
    "3×3 max pooling": lambda: reference.max_pool((3, 3), (3, 3), 0, 1),
    "3×3 average pooling": lambda: reference.avg_pool((3, 3), (3, 3), 0, 1),
    # The drop probability as the double that torch is given.
    "dropout, keep 0.8": lambda: reference.dropout(1.0 - 0.8, 0, 1),
}


@pytest.mark.parametrize("column", REFERENCES)
def test_the_exact_values_agree_with_the_reference(small, column):
    for row, wanted in zip(ROWS, REFERENCES[column](), strict=True):
        cell = small.cell(column, row)
        assert reference.close(cell.exact, wanted, cell.error)
        assert cell.error < 1e-12


def test_the_convolution_s_exact_values_are_its_norms(small):
    # Of the rule: the post's own norms, taken by torch from the weights.
    for row in ("fwd_std", "bwd_std"):
        cell = small.cell("convolution", row)
        assert abs(cell.exact - cell.post_value) <= cell.error


def test_the_simulation_agrees_within_its_standard_errors(small):
    for cell in small.cells:
        assert cell.samples >= 200_000
        assert cell.standard_error > 0
        assert abs(cell.simulated - cell.exact) <= 4.5 * cell.standard_error, cell


def test_the_post_s_sigmoid_lies_about_one_of_its_standard_errors_off(small):
    note = small.cell("sigmoid", "bwd_std").note
    assert "0.2117456997" in note
    off = float(note.split("its value is ")[1].split(" of them")[0])
    # Its standard error is known here to a part in √(2·255).
    exact = moments("sigmoid").bwd_std
    assert off == pytest.approx((0.2123 - exact) / 0.000520, rel=4.5 / math.sqrt(510))


def test_digits_decide():
    assert _agrees(0.2083, 0.20827634, 0.0, 4)
    assert not _agrees(0.2123, 0.21174570, 0.0, 4)
    assert _agrees(1 / 3, 1 / 3, 1e-15, None)
    assert not _agrees(0.3333, 1 / 3, 1e-15, None)


def test_other_programs_get_all_of_it(small):
    content = json.loads(small.to_json())
    assert (content["samples"], content["seed"]) == (200_000, 3)
    rows = list(csv.DictReader(io.StringIO(small.to_csv())))
    assert len(content["cells"]) == len(rows) == 18
    for cell, from_json, from_csv in zip(small.cells, content["cells"], rows, strict=True):
        assert from_json["exact"] == float(from_csv["exact"]) == cell.exact
        assert from_json["verdict"] == from_csv["verdict"] == cell.verdict


def test_text_and_html_show_every_cell(small):
    text, html = str(small), small._repr_html_()
    for cell in small.cells:
        assert f"{cell.exact:.10f}" in text
        assert f"<td>{cell.exact:.8f}</td>" in html
    assert text.count("confirmed") == html.count(">confirmed<") == 12
    assert html.count('scope="rowgroup"') == 6
    assert html.count('scope="row"') == 18
    assert html.count("<tr>") == 1 + 6 + 18
    assert "200,000" in text


def test_a_negative_figure_has_a_true_minus_in_html_alone(small):
    cell = replace(small.cell("ReLU", "fwd_mean"), exact=-0.25, simulated=-0.125)
    negative = replace(small, cells=(cell,))
    assert "<td>−0.25000000</td><td>−0.125" in negative._repr_html_()
    for text in (str(negative), negative.to_csv(), negative.to_json()):
        assert "-0.25" in text
        assert "−" not in text


def test_the_same_seed_gives_the_same_table(small):
    assert table(samples=200_000, seed=3) == small


def test_an_unknown_cell_is_refused(small):
    with pytest.raises(KeyError, match="column must be one of convolution, ReLU"):
        small.cell("GELU", "fwd_mean")


def test_the_layer_of_a_column_is_the_layer_of_the_post():
    assert moments(nn.MaxPool2d(3)).bwd_std == pytest.approx(1 / 3, rel=4e-16)
