"""The table of all layers: which class of ``torch.nn`` has moments, of which grade, and a twin.

The classes come from ``torch.nn`` itself, their grades and reasons from :mod:`normprop.rules`,
their twins from :mod:`normprop.nn`; nothing is listed here but the names of the groups.
"""

import csv
import html
import io
import json
import re
import textwrap
from dataclasses import asdict, dataclass
from itertools import groupby

import torch
from torch import nn as torch_nn

from normprop import nn, rules

__all__ = ["Coverage", "Layer", "coverage"]

GROUPS = {
    "activations": ("activation",),
    "linear maps": ("linear",),
    "convolution": ("conv",),
    "pooling": ("pooling",),
    "padding": ("padding",),
    "upsampling and shuffles": ("upsampling", "pixelshuffle", "channelshuffle"),
    "reshaping": ("flatten", "fold"),
    "dropout": ("dropout",),
    "normalisation": ("normalization", "batchnorm", "instancenorm"),
    "embedding": ("sparse",),
    "recurrent": ("rnn",),
    "attention and transformer": ("transformer",),
    "losses": ("loss", "adaptive"),
    "distances": ("distance",),
    "containers": ("container", "module", "data_parallel"),
}
"""Groups in the order of the table, with the files of torch that define their classes."""

# torch keeps attention among the activations.
_ELSEWHERE = {torch_nn.MultiheadAttention: "attention and transformer"}

GRADES = ("exact", "asymptotic", "not defined", "unknown")
"""What may be said of a layer's moments; ``"unknown"`` where torch has a class that is new here."""


@dataclass(frozen=True)
class Layer:
    """A class of ``torch.nn``.

    Attributes:
        name: of the class, in ``torch.nn``.
        group: of layers like it.
        moments: ``"exact"``, ``"asymptotic"``, ``"not defined"``, or ``"unknown"`` for a class
            that this version of the package has never heard of.
        note: under what condition, of which order, or why not; may be empty where exact.
        twin: whether ``normprop.nn`` has a normalised one.
    """

    name: str
    group: str
    moments: str
    note: str
    twin: bool


@dataclass(frozen=True)
class Coverage:
    """The table of all layers: text when printed, HTML in a notebook.

    Attributes:
        layers: every class, group by group.
        torch: the version of torch whose classes they are.
    """

    layers: tuple[Layer, ...]
    torch: str

    def layer(self, name: str) -> Layer:
        """The row of a class.

        Raises:
            KeyError: ``torch.nn`` has no such class of modules.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"name must be that of a module of torch.nn {self.torch}; it was {name!r}")

    def count(self, moments: str | None = None, *, twin: bool | None = None) -> int:
        """How many classes there are, with moments of this grade, with or without a twin.

        Raises:
            ValueError: there is no such grade.
        """
        if moments is not None and moments not in GRADES:
            raise ValueError(f"moments must be one of {', '.join(GRADES)}; it was {moments!r}")
        return sum(
            moments in (None, layer.moments) and twin in (None, layer.twin) for layer in self.layers
        )

    def to_json(self) -> str:
        """The table as a JSON object: version of torch, layers."""
        content = {"torch": self.torch, "layers": [asdict(layer) for layer in self.layers]}
        return json.dumps(content, indent=2, ensure_ascii=False)

    def to_csv(self) -> str:
        """The layers as CSV with a header."""
        stream = io.StringIO()
        writer = csv.DictWriter(stream, asdict(self.layers[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, self.layers))
        return stream.getvalue()

    def __str__(self) -> str:
        lines = [self._caption()]
        for group, rows in self._merged():
            lines += ["", group]
            for names, layer in rows:
                twin = "twin" if layer.twin else ""
                cells = (_wrapped(", ".join(names), 34), [layer.moments], [twin])
                cells = (*cells, _wrapped(layer.note, 44))
                lines += _beside(cells, (34, 11, 4, 44))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col">{name}</th>' for name in ("layer", "moments", "twin"))
        bodies = []
        for group, rows in self._merged():
            title = f'<th colspan="3" scope="rowgroup">{html.escape(group)}</th>'
            body = "".join(_html_row(names, layer) for names, layer in rows)
            bodies.append(f"<tbody><tr>{title}</tr>{body}</tbody>")
        return (
            '<table class="normprop-table normprop-coverage">'
            f"<caption>{html.escape(self._caption())}</caption>"
            f"<thead><tr>{head}</tr></thead>{''.join(bodies)}</table>"
        )

    def _caption(self) -> str:
        counts = {grade: self.count(grade) for grade in GRADES}
        found = ", ".join(f"{n} {grade}" for grade, n in counts.items() if n)
        return (
            f"{len(self.layers)} layers of torch.nn {self.torch}: moments {found}; "
            f"{self.count(twin=True)} with a twin."
        )

    def _merged(self):
        """Groups, and in them the names that share moments, note and twin, with one of them."""
        for group, layers in groupby(self.layers, key=lambda layer: layer.group):
            rows: dict[tuple, list[Layer]] = {}
            for layer in layers:
                rows.setdefault((layer.moments, layer.note, layer.twin), []).append(layer)
            yield group, [([layer.name for layer in row], row[0]) for row in rows.values()]


def coverage() -> Coverage:
    """Every layer of ``torch.nn``: whether it has moments, and whether it has a twin.

    Returns:
        :class:`Coverage`: prints as text, shows as HTML in a notebook, and gives its rows as JSON
        and CSV.

    Example:
        >>> normprop.coverage().layer("ReLU").moments
        'exact'
    """
    order = {group: place for place, group in enumerate((*GROUPS, "others"))}
    exported = ((name, getattr(torch_nn, name)) for name in dir(torch_nn))
    rows = [
        _row(name, found)
        for name, found in exported
        if isinstance(found, type) and issubclass(found, torch_nn.Module)
    ]
    rows.sort(key=lambda layer: (order[layer.group], layer.name.lower()))
    return Coverage(tuple(rows), torch.__version__.split("+")[0])


def _row(name: str, module_type: type) -> Layer:
    twin = getattr(nn, name, None)
    has_twin = isinstance(twin, type) and issubclass(twin, module_type) and twin is not module_type
    entry = rules.entry_that_applies(module_type)
    if entry is None:
        grade, note = "unknown", "this version of the package does not know it"
    else:
        grade, note = "not defined" if entry.rule is None else entry.grade, entry.note
        if rules.entry_of_type(module_type) is None:
            parent = next(t for t in module_type.__mro__ if rules.entry_of_type(t) is entry)
            note = "; ".join(filter(None, (f"as {parent.__name__}", note)))
    return Layer(name, _group(module_type), grade, note, has_twin)


def _group(module_type: type) -> str:
    if module_type in _ELSEWHERE:
        return _ELSEWHERE[module_type]
    file = module_type.__module__.rsplit(".", 1)[-1]
    return next((group for group, files in GROUPS.items() if file in files), "others")


def _html_row(names: list[str], layer: Layer) -> str:
    # A narrow page may break a name where a word begins.
    words = (re.sub(r"(?<=[a-z])(?=[A-Z])", "<wbr>", html.escape(name)) for name in names)
    name = ", ".join(f"<code>{word}</code>" for word in words)
    note = f'<br><span class="note">{html.escape(layer.note)}</span>' if layer.note else ""
    grade = layer.moments.replace(" ", "-")
    return (
        f'<tr><th scope="row">{name}</th><td class="{grade}">{layer.moments}{note}</td>'
        f"<td>{'yes' if layer.twin else 'no'}</td></tr>"
    )


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False) or [""]


def _beside(cells: tuple[list[str], ...], widths: tuple[int, ...]) -> list[str]:
    """Lines of cells of several lines, side by side."""
    height = max(map(len, cells))
    columns = [cell + [""] * (height - len(cell)) for cell in cells]
    return [
        "  " + "  ".join(map(str.ljust, line, widths)).rstrip()
        for line in zip(*columns, strict=True)
    ]
