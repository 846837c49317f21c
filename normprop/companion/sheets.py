"""The committed comparisons as tables and figures: one sheet for each setting that was run.

A sheet has the networks that were trained alike but for the method: on the same data, with the
same kind of layers, depth, optimiser, batches and steps.  The pages on training show sheets, and
where there is none the command that makes it.
"""

import json
import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from itertools import chain, product
from typing import TYPE_CHECKING, NamedTuple

from normprop.companion import compare, results, sweep
from normprop.companion.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION
from normprop.companion.methods import METHODS
from normprop.companion.verdicts import Difference, difference, tested

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Setting",
    "Sheet",
    "Way",
    "along",
    "html",
    "label",
    "origins",
    "panels",
    "rates",
    "read",
    "table",
]

LABELS = {"plain": "torch's weights", "converted": "converted", "dropped": "BatchNorm dropped"}
"""Of what is no method of scaling: :data:`normprop.companion.methods.METHODS` has the others."""
ACTIVATIONS = {"relu": "ReLU", "tanh": "tanh", "sigmoid": "sigmoid", "gelu": "GELU"}
COLUMNS = (("relu", "tanh"), ("sigmoid", "gelu"))
"""Activations that share a table."""
OPTIMIZERS = {"sgd": "SGD", "adam": "Adam"}
DATA = {"digits": "digits", "fashion-mnist": "Fashion-MNIST"}
NETWORKS = {"vgg": "chain of 21 convolutions", "resnet": "ResNet-26"}
PLANNED = {
    "digits": tuple(sweep.GRIDS),
    "fashion-mnist": ("dense-10", "dense-40", "skips-40", "conv-10"),
}
"""Grids by the data that they are for."""
FAMILIES = {
    "nearly straight": ("calibrated", "critical", "dks", "tat", "selu", "leaky"),
    "by statistics": ("batchnorm", "layernorm", "weight-standardization", "scaled-ws", "lsuv"),
    "by constants": (
        "he",
        "forward",
        "backward",
        "separate-layer",
        "separate-neuron",
        "unit-scaling",
    ),
    "for skips": ("separate-bridge", "fixup", "skipinit"),
}
"""Methods that share the panels of a figure: more than six lines cannot be told apart."""
LOOKS = {
    **dict.fromkeys(("calibrated", "scaled-ws"), (PURPLE, "v", "-")),
    **dict.fromkeys(("critical", "separate-layer", "separate-bridge", "lsuv"), (GREEN, "^", "-.")),
    **dict.fromkeys(("tat", "forward", "layernorm", "fixup"), (BLUE, "o", "-")),
    **dict.fromkeys(("selu", "unit-scaling", "weight-standardization"), (ORANGE, "D", ":")),
    **dict.fromkeys(("leaky", "he", "skipinit"), (GREY, "x", ":")),
    **dict.fromkeys(("backward", "batchnorm"), (VERMILLION, "s", "--")),
    **dict.fromkeys(("dks", "separate-neuron"), (SKY, "P", "--")),
}
_LEARNED = 0.2
"""A validation accuracy that guessing one of ten classes does not reach."""


class Way(NamedTuple):
    """What tells two networks of a sheet apart."""

    method: str
    orthogonal: bool
    activation: str


class Setting(NamedTuple):
    """What all networks of a sheet have in common."""

    data: str
    kind: str
    residual: bool
    depth: int
    optimizer: str
    batch_size: int
    steps: int

    def __str__(self) -> str:
        network = NETWORKS.get(self.kind)
        if network is None:
            kind = "convolutions" if self.kind == "conv" else "layers"
            network = f"{self.depth} {kind}" + (" with skips" if self.residual else "")
        data = DATA.get(self.data, self.data)
        budget = f"batches of {self.batch_size}, {self.steps} steps"
        return f"{network}, {OPTIMIZERS[self.optimizer]}, {data}, {budget}"


@dataclass(frozen=True)
class Sheet:
    """The networks of one setting.

    Attributes:
        setting: what they have in common.
        sources: the files that they are from, without their cells.
        cells: their entries in these files.
    """

    setting: Setting
    sources: list[dict] = field(default_factory=list)
    cells: dict[Way, dict] = field(default_factory=dict)

    def tests(self, way: tuple[str, bool, str]) -> list[float]:
        """Test accuracies of a network, in rising order."""
        return tested(self.cells[Way(*way)])

    def beside(self, one: tuple[str, bool, str], other: tuple[str, bool, str]) -> Difference:
        """One minus the other."""
        return difference(self.tests(one), self.tests(other))

    def text(self, way: tuple[str, bool, str]) -> str:
        """Mean in per cent and its standard error, runs that diverged, and † of :meth:`at_end`."""
        values = self.tests(way)
        error = statistics.stdev(values) / math.sqrt(len(values))
        words = f"{100 * statistics.mean(values):.1f}\u00a0±\u00a0{100 * error:.1f}"
        words += "\u00a0†" if self.at_end(way) else ""
        lost = sum(run["diverged"] for run in self.cells[Way(*way)]["runs"])
        return f"{words}, {lost} diverged" if lost else words

    def at_end(self, way: tuple[str, bool, str]) -> bool:
        """Whether the best rate is the grid's first or last, where anything was learned at all."""
        tried, accuracies = self.rates(way)
        inside = min(tried) < self.cells[Way(*way)]["lr"] < max(tried)
        return not inside and max(accuracies) > _LEARNED

    def columns(self) -> dict[tuple[str, bool], list[Way]]:
        """The networks that share activation and kind of weights, by these."""
        found: dict[tuple[str, bool], list[Way]] = {}
        order = [*LABELS, *METHODS]
        for way in sorted(self.cells, key=lambda way: order.index(way.method)):
            found.setdefault((way.activation, way.orthogonal), []).append(way)
        return {
            column: found[column]
            for column in product(ACTIVATIONS, (False, True))
            if column in found
        }

    def rates(self, way: tuple[str, bool, str]) -> tuple[list[float], list[float]]:
        """Learning rates, and the validation accuracy at each; 0 for a run that diverged."""
        trials = self.cells[Way(*way)]["trials"]
        return [one["lr"] for one in trials], [one["validation"] or 0.0 for one in trials]


def read(pattern: str = "*.json") -> dict[Setting, Sheet]:
    """Every sheet of the files of results whose names match.

    Of a network that is in several files, the latest counts.  Networks that were calibrated for
    another growth than e, or run fewer than three times, are on none.
    """
    sheets: dict[Setting, Sheet] = {}
    documents = [json.loads(path.read_text("utf-8")) for path in results.FOLDER.glob(pattern)]
    for document in sorted(filter(_has_runs, documents), key=lambda one: one["date"]):
        for cell in document.pop("cells"):
            if len(cell["runs"]) < 3 or not _usual(cell):
                continue
            setting = _setting(cell)
            sheet = sheets.setdefault(setting, Sheet(setting))
            sheet.cells[_way(cell)] = cell
            if document not in sheet.sources:
                sheet.sources.append(document)
    return sheets


def label(method: str) -> str:
    """Name of a method in tables and figures."""
    return LABELS[method] if method in LABELS else METHODS[method].label


def table(sheet: Sheet, against: str = "calibrated") -> str:
    """The sheet as HTML, a table for each of ``COLUMNS``.

    A row is a method, a column an activation with a kind of weights.  Below an accuracy stands in
    small type what the method ``against`` has more there, with its interval of 95 per cent.
    """
    return "".join(_half(sheet, names, against) for names in COLUMNS)


def origins(sheets: dict[Setting, Sheet]) -> str:
    """Every grid as HTML: where its sheets were made, or the command for what was not run."""
    rows = ""
    for command, settings in _grids():
        planned = [(setting, way) for setting, ways in settings.items() for way in ways]
        run = [one for one in planned if one[0] in sheets and one[1] in sheets[one[0]].cells]
        sources = [source for setting, _ in run for source in sheets[setting].sources]
        made = sorted({(one["date"][:10], one["commit"][:10]) for one in sources})
        when = "; ".join(f"{date}, {commit}" for date, commit in made) or "not run"
        rows += (
            f"<tr><th scope='row'><code>{command}</code></th>"
            f"<td>{len(run)} of {len(planned)}</td><td>{when}</td></tr>"
        )
    heads = ["python -m normprop.companion.", "networks", "date and commit"]
    return html("Grids, and what of them is committed.", heads, rows)


def rates(
    sheet: Sheet, orthogonal: bool, activations: Iterable[str] = ("relu", "tanh")
) -> "Figure":
    """Validation accuracy over the learning rate of every method, see :func:`panels`."""
    figure = panels(
        lambda way: sheet.rates(way) if way in sheet.cells else None, orthogonal, activations
    )
    figure.supxlabel("learning rate", fontsize=11)
    figure.supylabel("validation accuracy", fontsize=11)
    return figure


def along(
    axis: str,
    sheets: Iterable[Sheet],
    orthogonal: bool,
    activations: Iterable[str] = ("relu", "tanh"),
) -> "Figure":
    """Mean test accuracy of every method along a field of the setting, see :func:`panels`.

    Args:
        axis: a field of :class:`Setting` in which the sheets differ, such as ``"depth"``.
        sheets: alike in all other fields.
        orthogonal: whether the weights are.
        activations: a column of panels each.
    """
    ordered = sorted(sheets, key=lambda sheet: getattr(sheet.setting, axis))
    places = [getattr(sheet.setting, axis) for sheet in ordered]

    def curve(way: Way) -> tuple[list[float], list[float]] | None:
        found = [(at, one) for at, one in zip(places, ordered, strict=True) if way in one.cells]
        means = [statistics.mean(one.tests(way)) for _, one in found]
        return ([at for at, _ in found], means) if found else None

    figure = panels(curve, orthogonal, activations)
    for part in figure.subfigs:
        for ax in part.axes:
            ax.set_xticks(places, [str(place) for place in places])
            ax.minorticks_off()
    figure.supxlabel(axis.replace("_", " "), fontsize=11)
    figure.supylabel("test accuracy", fontsize=11)
    return figure


def panels(
    curve: Callable[[Way], tuple[list[float], list[float]] | None],
    orthogonal: bool,
    activations: Iterable[str] = ("relu", "tanh"),
) -> "Figure":
    """A row of panels for each of ``FAMILIES``, a column an activation, a line a method.

    Args:
        curve: gives places and heights of a network's line, or ``None`` where there is none.
        orthogonal: whether the weights are.
        activations: the columns.

    Raises:
        ValueError: there is no line at all.
    """
    import matplotlib.pyplot as plt

    names = tuple(activations)
    drawn: dict[str, dict[Way, tuple[list[float], list[float]]]] = {}
    for family, methods in FAMILIES.items():
        ways = [Way(method, orthogonal, name) for method in methods for name in names]
        lines = {way: line for way in ways if (line := curve(way))}
        if lines:
            drawn[family] = lines
    if not drawn:
        wanted = f"{_weights(orthogonal)} weights and one of {', '.join(names)}"
        raise ValueError(f"there must be networks with {wanted}; there were none")
    fig = plt.figure(figsize=(5, 0.3 + 2.5 * len(drawn)))
    parts = fig.subfigures(len(drawn), 1, squeeze=False)[:, 0]
    for part, (family, lines) in zip(parts, drawn.items(), strict=True):
        axes = part.subplots(1, len(names), sharex=True, sharey=True, squeeze=False)[0]
        handles = {}
        for way, (places, heights) in lines.items():
            colour, marker, style = LOOKS[way.method]
            look = {"color": colour, "marker": marker, "linestyle": style}
            (line,) = axes[names.index(way.activation)].semilogx(places, heights, **look)
            handles[label(way.method)] = line
        for ax, name in zip(axes, names, strict=True):
            ax.set(title=f"{ACTIVATIONS[name]}, {family}", ylim=(0, 1.02))
        part.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
    return fig


def _has_runs(document: dict) -> bool:
    return "cells" in document and all("runs" in cell for cell in document["cells"])


def _usual(cell: dict) -> bool:
    return abs(cell["growth"] - math.e) < 1e-6


def _setting(cell: dict) -> Setting:
    return Setting(*(cell[name] for name in Setting._fields))


def _way(cell: dict) -> Way:
    """A leaky ReLU under He's weights is a method of its own, in ReLU's place."""
    if cell["activation"] == "leaky_relu":
        return Way("leaky", cell["orthogonal"], "relu")
    return Way(*(cell[name] for name in Way._fields))


def _weights(orthogonal: bool) -> str:
    return "orthogonal" if orthogonal else "normal"


def _half(sheet: Sheet, names: tuple[str, ...], against: str) -> str:
    columns = {which: ways for which, ways in sheet.columns().items() if which[0] in names}
    heads = [f"{ACTIVATIONS[name]}, {_weights(turned)}" for name, turned in columns]
    ways = list(chain.from_iterable(columns.values()))
    rows = ""
    for method in (one for one in [*LABELS, *METHODS] if one in {way.method for way in ways}):
        found = (Way(method, turned, name) for name, turned in columns)
        body = "".join(f"<td>{_shown(sheet, way, against)}</td>" for way in found)
        rows += f"<tr><th scope='row'>{label(method)}</th>{body}</tr>"
    seeds = " or ".join(map(str, sorted({len(sheet.tests(way)) for way in ways})))
    return html(f"{sheet.setting}; {seeds} seeds", ["method", *heads], rows) if ways else ""


def _shown(sheet: Sheet, way: Way, against: str) -> str:
    if way not in sheet.cells:
        return "–"
    other = way._replace(method=against)
    if way == other or other not in sheet.cells:
        return sheet.text(way)
    # A line may end before the interval, not in it.
    off = str(sheet.beside(other, way)).replace(" to ", "\u00a0to\u00a0")
    return f"{sheet.text(way)}<br><small>{off}</small>"


def html(caption: str, heads: Iterable[str], rows: str) -> str:
    """A table of the book; ``rows`` are its rows in HTML."""
    head = "".join(f"<th scope='col'>{name}</th>" for name in heads)
    return (
        f"<table class='normprop-table'><caption>{caption}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _grids() -> list[tuple[str, dict[Setting, set[Way]]]]:
    """Commands, and the networks of each setting that they make."""
    found = []
    for data, names in PLANNED.items():
        option = "" if data == "digits" else f" --data {data}"
        for name in names:
            cells = sweep.GRIDS[name].cells(width=64, data=data, device="cpu")
            found.append((f"sweep --grid {name}{option}", cells))
    for name, grid in compare.GRIDS.items():
        cells = grid.cells(tuple(NETWORKS), data=compare.PREFERRED)
        found.append((f"compare --grid {name}", cells))
    return [(command, _settings(map(asdict, cells))) for command, cells in found]


def _settings(cells: Iterable[dict]) -> dict[Setting, set[Way]]:
    settings: dict[Setting, set[Way]] = {}
    for cell in filter(_usual, cells):
        settings.setdefault(_setting(cell), set()).add(_way(cell))
    return settings
