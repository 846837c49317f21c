"""The scale of every tensor of a network, predicted or measured: rows, and the table of them."""

import html
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Fault", "Measured", "Row", "Scales"]

_FIGURES = {
    "fwd_mean": "mean",
    "fwd_std": "std",
    "sample_std": "across samples",
    "bwd_std": "gradient",
}
"""What a row says, and the head of its column."""

_FORWARD = {"color": "#0072B2", "marker": "o", "linestyle": "-"}
_BACKWARD = {"color": "#D55E00", "marker": "s", "linestyle": "--"}


@dataclass(frozen=True)
class Row:
    """A tensor that a layer, or a function outside layers, puts out.

    Attributes:
        path: of the layer; of a function, the path of the module whose forward called it, and
            the function's name; ``"input"``, ``"input 1"``, … for what the model is called with.
        op: class of the layer, or name of the function.
        shape: of the tensor.
        fwd_mean: mean of its elements.
        fwd_std: their standard deviation.
        sample_std: standard deviation across samples of an element: what differs between two
            samples. None where there are no two.
        bwd_std: standard deviation of the gradient, for a gradient of independent N(0, 1) at
            every floating-point output of the model. None where there is no gradient.
        assumed: what the figures rest on that was not derived.
    """

    path: str
    op: str
    shape: tuple[int, ...]
    fwd_mean: float | None
    fwd_std: float | None
    sample_std: float | None
    bwd_std: float | None
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured(Row):
    """The same, measured.

    Attributes:
        predicted: the row that was predicted; None where there is none.
    """

    predicted: Row | None = None

    @property
    def deviation(self) -> dict[str, float]:
        """What was measured over what was predicted, by name, where both are there."""
        found = {}
        for name in ("fwd_std", "sample_std", "bwd_std"):
            measured, predicted = getattr(self, name), getattr(self.predicted, name, None)
            if measured is not None and predicted:
                found[name] = measured / predicted
        return found


@dataclass(frozen=True)
class Fault:
    """The first operation that made a NaN or an infinity, or what held one before any ran.

    Attributes:
        direction: ``"forward"`` or ``"backward"``; ``"given"`` where a parameter, a buffer or an
            input held it.
        what: ``"NaN"`` or ``"infinity"``.
        path: as in :class:`Row`; of a parameter or a buffer, where it is in the model.
        op: as in :class:`Row`; ``"parameter"``, ``"buffer"`` or ``"input"`` of what held it.
        where: file and line of the call, of which the gradient made it if backward.
    """

    direction: str
    what: str
    path: str
    op: str
    where: str = ""

    def __str__(self) -> str:
        place = f", {self.where}" if self.where else ""
        return f"first {self.what} {self.direction}: {self.path} ({self.op}{place})"


@dataclass(frozen=True)
class Scales:
    """A table of scales: text when printed, HTML in a notebook.

    ``scales["layer3.0.conv1"]`` is the row of that path.  A path has several rows where a layer
    is called several times, or puts out several tensors: ``scales["relu", 0]`` is the first of
    them.  ``scales[0]`` is the first row of all.

    Attributes:
        rows: :class:`Row`, or :class:`Measured`, in the order of the calls.
        faults: where NaN and infinity were made.
        notes: what else there is to say of the whole.
    """

    rows: tuple[Row, ...]
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def measured(self) -> bool:
        """Whether the rows were measured."""
        return any(isinstance(row, Measured) for row in self.rows)

    @property
    def predicted(self) -> "Scales | None":
        """The rows that were predicted, alone; None where none was."""
        rows = tuple(row for row in map(_predicted, self.rows) if row is not None)
        return Scales(rows) if rows else None

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, key: str | tuple[str, int] | int) -> Row:
        if isinstance(key, int):
            return self.rows[key]
        path, place = key if isinstance(key, tuple) else (key, None)
        found = [row for row in self.rows if row.path == path]
        if not found:
            raise KeyError(f"path must be that of a row; it was {path!r}")
        if place is None and len(found) > 1:
            raise KeyError(
                f"path must be that of one row; {path!r} has {len(found)}, of which the first is "
                f"[{path!r}, 0]"
            )
        if not -len(found) <= (place or 0) < len(found):
            raise KeyError(f"{path!r} has rows 0 to {len(found) - 1}; it was {place}")
        return found[place or 0]

    def to_dict(self) -> dict[str, Any]:
        """Everything as lists, dictionaries, strings and numbers, which JSON can hold.

        What is not finite is there as ``"nan"``, ``"inf"`` or ``"-inf"``, which JSON has not.
        """
        rows = []
        for row in self.rows:
            entry = asdict(row)
            if isinstance(row, Measured):
                entry["deviation"] = row.deviation
            rows.append(entry)
        content = {"measured": self.measured, "rows": rows}
        content |= {"faults": [asdict(fault) for fault in self.faults], "notes": self.notes}
        return _plain(content)

    def __str__(self) -> str:
        remarks = _Remarks()
        heads, texts = zip(*self._columns(), strict=True)
        table = [("tensor", "made by", "shape", *heads)]
        for row in self.rows:
            shape = "×".join(map(str, row.shape)) or "1"
            cells = (text(row) for text in texts)
            table.append((row.path + remarks.marks(row), row.op, shape, *cells))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [self._caption(), *self._says()]
        lines += ["×: measured over predicted"] if "×" in heads else []
        lines.append("")
        for cells in table:
            left = [cell.ljust(width) for cell, width in zip(cells[:3], widths[:3], strict=True)]
            right = [cell.rjust(width) for cell, width in zip(cells[3:], widths[3:], strict=True)]
            lines.append("  ".join((*left, *right)).rstrip())
        return "\n".join([*lines, *remarks.lines()])

    def _repr_html_(self) -> str:
        remarks = _Remarks()
        names = ("tensor", *_FIGURES.values())
        head = "".join(f'<th scope="col">{name}</th>' for name in names)
        body = "".join(f"<tr>{_html_row(row, remarks.marks(row))}</tr>" for row in self.rows)
        says = "".join(f"<br>{html.escape(line)}" for line in self._says())
        below = "<br>".join(html.escape(line) for line in remarks.lines())
        foot = f'<tfoot><tr><td colspan="{len(names)}">{below}</td></tr></tfoot>' if below else ""
        return (
            '<table class="normprop-table normprop-scales">'
            f"<caption>{html.escape(self._caption())}{says}</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>{foot}</table>"
        )

    def plot(self, ax=None):
        """Draw the standard deviations of signal and gradient over the depth, on a log scale.

        A prediction is a line, a measurement points; a dotted line is where NaN or infinity was
        made first.

        Args:
            ax: axes of matplotlib; None makes a figure.

        Returns:
            The axes.

        Raises:
            ImportError: there is no matplotlib.
        """
        if ax is None:
            try:
                from matplotlib import pyplot
            except ImportError as missing:
                raise ImportError(
                    "matplotlib must be installed to plot scales: pip install matplotlib"
                ) from missing
            _, ax = pyplot.subplots(figsize=(5.0, 3.2), layout="constrained")
        ax.set_yscale("log")
        for name, label, look in (
            ("fwd_std", "signal", _FORWARD),
            ("bwd_std", "gradient", _BACKWARD),
        ):
            known = [(x, row) for x, row in enumerate(map(_predicted, self.rows)) if row]
            if known:
                line = {**look, "marker": "", "label": label}
                ax.plot([x for x, _ in known], [_drawn(row, name) for _, row in known], **line)
            if self.measured:
                size = 4.0 if len(self) <= 60 else 2.5
                points = {**look, "linestyle": "none", "markersize": size, "rasterized": True}
                points["label"] = f"{label}, measured"
                ax.plot(range(len(self)), [_drawn(row, name) for row in self.rows], **points)
        for fault in self.faults:
            places = [place for place, row in enumerate(self.rows) if row.path == fault.path]
            if places:
                ax.axvline(places[0], color="#000000", linestyle=":", linewidth=1.0)
        ax.set(xlabel="tensor, from input to output", ylabel="standard deviation")
        ax.legend()
        return ax

    def _caption(self) -> str:
        how = "measured" if self.measured else "predicted"
        beside = ", beside what was predicted" if self.measured and self.predicted else ""
        gradient = "gradient of independent N(0, 1) at the outputs"
        return f"{len(self)} tensors, {how}{beside}; {gradient}"

    def _says(self) -> list[str]:
        return [*map(str, self.faults), *self.notes]

    def _columns(self) -> list[tuple[str, Callable[[Row], str]]]:
        """Heads, and what stands below them in a row."""
        columns = []
        for name, head in _FIGURES.items():
            columns.append((head, lambda row, name=name: _number(getattr(row, name))))
            if name != "fwd_mean" and self.measured and self.predicted:
                columns.append(("×", lambda row, name=name: _number(row.deviation.get(name), "")))
        return columns


def _predicted(row: Row) -> Row | None:
    return row.predicted if isinstance(row, Measured) else row


class _Remarks:
    """What rows assume, numbered in the order in which it comes."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def marks(self, row: Row) -> str:
        said = (*row.assumed, *getattr(_predicted(row), "assumed", ()))
        found = {self.numbers.setdefault(text, len(self.numbers) + 1) for text in said}
        return f" [{', '.join(map(str, sorted(found)))}]" if found else ""

    def lines(self) -> list[str]:
        return [f"[{number}] {text}" for text, number in self.numbers.items()]


def _html_row(row: Row, marks: str) -> str:
    shape = " × ".join(map(str, row.shape)) or "1"
    # A long path may break behind its dots.
    path = html.escape(row.path).replace(".", ".<wbr>")
    cells = [
        f'<th scope="row"><code>{path}</code>{marks}'
        f'<br><span class="note">{html.escape(row.op)}, {shape}</span></th>'
    ]
    predicted = _predicted(row)
    for name in _FIGURES:
        text = _number(getattr(row, name))
        if predicted not in (None, row) and getattr(predicted, name) is not None:
            text += f'<br><span class="note">predicted {_number(getattr(predicted, name))}</span>'
        cells.append(f"<td>{text}</td>")
    return "".join(cells)


def _number(value: float | None, none: str = "–") -> str:
    return none if value is None else f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def _drawn(row: Row, name: str) -> float:
    """What a log scale can show, or a gap."""
    value = getattr(row, name)
    return value if value is not None and 0 < value < math.inf else math.nan


def _plain(content):
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return str(content)
    return content
