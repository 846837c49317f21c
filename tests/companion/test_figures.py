"""The book's figures: told apart without colour, fixed in size, the same bytes every time."""

import base64
import itertools
import re
import struct
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import nbformat
import pytest
from matplotlib.colors import to_rgb
from nbclient import NotebookClient

from normprop.companion import figures

BOOK = Path(__file__).resolve().parents[2] / "book"


@pytest.fixture(autouse=True)
def own_rc():
    with mpl.rc_context():
        yield


def luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_roles_differ_in_colour_and_in_shape():
    for (_, one), (_, other) in itertools.combinations(figures.ROLES.items(), 2):
        assert one["color"] != other["color"]
        assert (one["marker"], one["linestyle"]) != (other["marker"], other["linestyle"])


@pytest.mark.parametrize("role", figures.ROLES)
def test_every_role_shows_on_white(role):
    contrast = 1.05 / (luminance(figures.series(role)["color"]) + 0.05)
    # Graphics need 3 : 1 (WCAG 1.4.11); two of the palette are brighter and carry a marker.
    assert contrast >= 3.0 or figures.series(role)["marker"] in {"D", "*"}


def test_an_unknown_role_is_refused():
    with pytest.raises(ValueError, match=r"must be one of forward, .*, got 'forwards'"):
        figures.series("forwards")


def test_series_hands_out_copies():
    figures.series("post")["color"] = "red"
    assert figures.series("post")["color"] != "red"


def test_the_style_is_valid_and_opaque():
    figures.use_style()
    assert mpl.rcParams["figure.figsize"] == [figures.WIDTH, figures.HEIGHT]
    assert mpl.rcParams["savefig.facecolor"] == "white"
    cycle = mpl.rcParams["axes.prop_cycle"].by_key()
    assert len(set(cycle["color"])) == len(cycle["color"])
    assert len(set(cycle["marker"])) == len(cycle["marker"])


# Points of type that are 9 px high where a phone shows the figure 342 px wide.
LEGIBLE = 9 * (figures.WIDTH * 72) / 342


def test_type_is_legible_on_a_phone():
    figures.use_style()
    for name in ("axes.labelsize", "axes.titlesize", "font.size", "legend.fontsize"):
        assert mpl.rcParams[name] >= LEGIBLE
    assert min(mpl.rcParams["xtick.labelsize"], mpl.rcParams["ytick.labelsize"]) >= LEGIBLE


@pytest.mark.parametrize("path", sorted(BOOK.rglob("*.ipynb")), ids=lambda path: path.stem)
def test_a_chapter_asks_for_no_smaller_type_and_no_wider_figure(path):
    cells = nbformat.read(path, as_version=4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    sizes = re.findall(r'fontsize"?[=:] ?([\d.]+)', code)
    widths = re.findall(r"figsize=\(([\d.]+)", code)
    assert all(float(size) >= LEGIBLE for size in sizes)
    assert all(float(width) <= figures.WIDTH for width in widths)


def test_importing_the_module_does_not_import_matplotlib():
    code = "import sys, normprop.companion.figures; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def draw():
    source = """
    import matplotlib.pyplot as plt
    from normprop.companion.figures import series, use_style
    use_style()
    fig, ax = plt.subplots()
    ax.plot([1, 2, 3], [1.0, 0.5, 0.3], label="backward", **series("backward"))
    ax.errorbar([1, 2, 3], [1.0, 0.6, 0.3], yerr=0.1, **series("simulated"))
    ax.legend()
    plt.show()
    """
    cell = nbformat.v4.new_code_cell("\n".join(line.strip() for line in source.splitlines()))
    notebook = nbformat.v4.new_notebook(cells=[cell])
    NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
    (output,) = cell.outputs
    return output.data


@pytest.fixture(scope="module")
def drawing():
    return draw()


def test_a_notebook_draws_svg_of_the_fixed_size(drawing):
    svg = drawing["image/svg+xml"]
    assert re.search(r'width="360pt" height="230\.4pt"', svg)
    assert "<text" not in svg


def test_a_notebook_that_nobody_trusts_yet_has_a_picture_too(drawing):
    picture = base64.b64decode(drawing["image/png"])
    # The header of a PNG: width and height in pixels, twice those of the SVG.
    assert struct.unpack(">II", picture[16:24]) == (960, 614)


def test_the_same_figure_is_the_same_file(drawing):
    again = draw()
    for kind in ("image/svg+xml", "image/png"):
        assert again[kind] == drawing[kind]
