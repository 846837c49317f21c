"""The table of scales: what it finds by path, prints, draws and gives to other programs."""

import json
import math
import sys
from html.parser import HTMLParser

import pytest

from normprop.graph.scales import Fault, Measured, Row, Scales

EDGE = "borders are taken for the inside"
PREDICTED = (
    Row("input", "input", (8, 3, 4, 4), 0.0, 1.0, 1.0, 0.5),
    Row("net.conv", "Conv2d", (8, 5, 4, 4), 0.0, 1.25, 1.25, 0.5, (EDGE,)),
    Row("net.relu", "ReLU", (8, 5, 4, 4), 0.5, 0.75, 0.75, 1.0, ("normal", EDGE)),
    Row("net.relu", "ReLU", (8, 5, 4, 4), 0.5, 0.5, None, 2.0),
    Row("net.argmax", "argmax", (), None, None, None, None),
)


def measured(row, **changes):
    figures = {name: getattr(row, name) for name in ("fwd_mean", "fwd_std")}
    figures |= {"sample_std": row.sample_std, "bwd_std": row.bwd_std, "predicted": row} | changes
    return Measured(row.path, row.op, row.shape, **figures)


def both():
    rows = [measured(row) for row in PREDICTED]
    rows[1] = measured(PREDICTED[1], fwd_std=2.5, bwd_std=math.inf)
    rows[2] = measured(PREDICTED[2], fwd_std=math.nan)
    fault = Fault("forward", "NaN", "net.relu", "ReLU", "net.py:12")
    return Scales(tuple(rows), (fault,), ("two <b> samples",))


def test_a_row_is_found_by_its_path():
    scales = Scales(PREDICTED)
    assert scales["net.conv"] is PREDICTED[1]
    assert scales[-1] is PREDICTED[-1]
    assert scales["net.relu", 1] is scales["net.relu", -1] is PREDICTED[3]
    assert scales["net.conv", 0] is PREDICTED[1]
    assert (*scales,) == PREDICTED
    assert len(scales) == 5


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("conv", "must be that of a row; it was 'conv'"),
        ("net.relu", r"has 2, of which the first is \['net.relu', 0\]"),
        (("net.relu", 2), "rows 0 to 1; it was 2"),
        (("net.relu", -3), "rows 0 to 1; it was -3"),
    ],
)
def test_a_path_that_has_no_row_of_its_own_is_refused(key, message):
    with pytest.raises(KeyError, match=message):
        Scales(PREDICTED)[key]


def test_what_was_measured_stands_beside_what_was_predicted():
    scales = both()
    assert scales.measured
    assert not Scales(PREDICTED).measured
    assert scales.predicted == Scales(PREDICTED)
    assert Scales(PREDICTED).predicted == Scales(PREDICTED)
    assert scales["net.conv"].deviation == {"fwd_std": 2.0, "sample_std": 1.0, "bwd_std": math.inf}
    assert scales["net.relu", 1].deviation == {"fwd_std": 1.0, "bwd_std": 1.0}
    assert scales["net.argmax"].deviation == {}


def test_without_a_prediction_there_is_none():
    scales = Scales((measured(PREDICTED[0], predicted=None), measured(PREDICTED[1])))
    assert scales.predicted == Scales(PREDICTED[1:2])
    assert scales[0].deviation == {}
    assert "×:" in str(scales)
    alone = Scales(scales.rows[:1])
    assert alone.predicted is None
    assert "×" not in str(alone).replace("8×3×4×4", "")


def test_it_is_plain_json():
    scales = both()
    content = json.loads(json.dumps(scales.to_dict(), allow_nan=False))
    assert content == scales.to_dict()
    assert content["rows"][1]["bwd_std"] == "inf"
    assert content["rows"][2]["fwd_std"] == "nan"
    assert content["rows"][1]["predicted"]["assumed"] == [EDGE]
    assert content["rows"][1]["deviation"]["fwd_std"] == 2.0
    assert content["rows"][4]["fwd_std"] is None
    assert content["faults"][0]["where"] == "net.py:12"
    assert json.dumps(Scales(PREDICTED).to_dict(), allow_nan=False)


@pytest.mark.parametrize("scales", [Scales(PREDICTED), both()], ids=["predicted", "both"])
def test_the_text_says_every_row_and_what_it_rests_on(scales):
    text = str(scales)
    lines = text.splitlines()
    for row in PREDICTED:
        assert any(line.startswith(row.path) and row.op in line for line in lines)
    assert f"[1] {EDGE}" in lines
    assert "[2] normal" in lines
    assert sum("[1, 2]" in line for line in lines) == 1
    for line in (*map(str, scales.faults), *scales.notes):
        assert line in lines
    assert ("tensors, predicted" in lines[0]) != scales.measured
    assert ("×: measured over predicted" in lines) == scales.measured


class Cells(HTMLParser):
    """Counts cells, row by row, and collects what they say."""

    def __init__(self):
        super().__init__()
        self.rows, self.said = [], ""

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append(0)
        elif tag in ("td", "th"):
            self.rows[-1] += int(dict(attributes).get("colspan", 1))

    def handle_data(self, data):
        self.said += data


@pytest.mark.parametrize("scales", [Scales(PREDICTED), both()], ids=["predicted", "both"])
def test_the_html_is_a_table_of_few_columns(scales):
    page = scales._repr_html_()
    cells = Cells()
    cells.feed(page)
    # Head, rows and remarks; a phone has room for five columns.
    assert cells.rows == [5] * (len(scales) + 2)
    for word in ("net.conv", "8 × 5 × 4 × 4", EDGE, *scales.notes):
        assert word in cells.said
    assert ("predicted 1.25" in cells.said) == scales.measured


def lines_of(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def test_a_prediction_is_drawn_as_lines_and_a_measurement_as_points():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    ax = both().plot()
    found = lines_of(ax)
    assert ax.get_yscale() == "log"
    assert [*found["signal"].get_ydata()][:4] == [1.0, 1.25, 0.75, 0.5]
    assert found["signal"].get_linestyle() != "None"
    assert found["signal, measured"].get_linestyle() == "None"
    assert found["gradient, measured"].get_marker() not in ("", "None")
    # What a log scale cannot show is a gap.
    assert math.isnan(found["gradient, measured"].get_ydata()[1])
    assert math.isnan(found["signal, measured"].get_ydata()[4])
    # The fault.
    assert [2, 2] in [[*line.get_xdata()] for line in ax.get_lines()]
    mine = pyplot.figure().subplots()
    assert Scales(PREDICTED).plot(mine) is mine
    assert set(lines_of(mine)) == {"signal", "gradient"}
    for figure in map(pyplot.figure, pyplot.get_fignums()):
        figure.canvas.draw()
    pyplot.close("all")


def test_without_anything_finite_there_is_an_empty_figure():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    row = measured(PREDICTED[0], fwd_std=math.nan, bwd_std=None, predicted=None)
    Scales((row,)).plot().figure.canvas.draw()
    pyplot.close("all")


def test_without_matplotlib_it_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="matplotlib must be installed"):
        Scales(PREDICTED).plot()
