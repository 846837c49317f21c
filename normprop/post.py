"""The post's table: each of its 18 cells as printed, exact, simulated, and judged.

A cell's rule is tried where the post tried it and, where its wording covers more, once outside:
a rule that holds at home but not abroad is qualified, not confirmed.
"""

import csv
import html
import io
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import nn

from normprop.montecarlo import Simulation, simulate
from normprop.rules import Moments, moments

ROWS = {"fwd_mean": "forward mean", "fwd_std": "forward std", "bwd_std": "backward std"}
"""The table's rows, by the name of the figure."""

KEEP = 0.8
"""The post's p, the probability of keeping, at which its dropout cells are evaluated: unlike
½, it tells p from 1 - p."""

_POST_SAMPLES = 100_000


@dataclass(frozen=True)
class Cell:
    """One cell of the post's table.

    Attributes:
        column: the layer.
        row: the figure: ``"fwd_mean"``, ``"fwd_std"`` or ``"bwd_std"``.
        post: what the post prints.
        post_value: its value.
        exact: the exact value, for the layer that ``column`` describes.
        error: bound on the error of ``exact``.
        simulated: the simulated value.
        standard_error: its standard error.
        samples: input elements that its simulation drew.
        verdict: ``"confirmed"``, ``"qualified"`` (right, under a condition that the post does
            not state) or ``"corrected"``.
        note: the condition or the correction; empty where the cell is confirmed.
    """

    column: str
    row: str
    post: str
    post_value: float
    exact: float
    error: float
    simulated: float
    standard_error: float
    samples: int
    verdict: str
    note: str


@dataclass(frozen=True)
class Table:
    """The table: text when printed, HTML in a notebook.

    Attributes:
        cells: the 18 cells, column by column.
        samples: input elements that each column's simulation drew, at least.
        seed: of the simulations.
    """

    cells: tuple[Cell, ...]
    samples: int
    seed: int

    def cell(self, column: str, row: str) -> Cell:
        """The cell of a column and a row."""
        for cell in self.cells:
            if (cell.column, cell.row) == (column, row):
                return cell
        columns = ", ".join(dict.fromkeys(c.column for c in self.cells))
        raise KeyError(
            f"column must be one of {columns} and row one of {', '.join(ROWS)}; "
            f"they were {column!r} and {row!r}"
        )

    def to_json(self) -> str:
        """The table as a JSON object: samples, seed, cells."""
        cells = [asdict(cell) for cell in self.cells]
        content = {"samples": self.samples, "seed": self.seed, "cells": cells}
        return json.dumps(content, indent=2, ensure_ascii=False)

    def to_csv(self) -> str:
        """The cells as CSV with a header."""
        stream = io.StringIO()
        writer = csv.DictWriter(stream, asdict(self.cells[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, self.cells))
        return stream.getvalue()

    def __str__(self) -> str:
        rows = [("layer", "figure", "post", "exact", "simulated ± standard error", "verdict")]
        rows += [
            (cell.column, ROWS[cell.row], cell.post, *_numbers(cell), cell.verdict)
            for cell in self.cells
        ]
        widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        lines.insert(1, "  ".join("-" * width for width in widths))
        notes = [f"{c.column}, {ROWS[c.row]}: {c.note}" for c in self.cells if c.note]
        return "\n".join([self._caption(), "", *lines, "", *notes])

    def _repr_html_(self) -> str:
        names = ("figure", "post", "exact", "simulated", "verdict")
        head = "".join(f'<th scope="col">{name}</th>' for name in names)
        groups = []
        for column in dict.fromkeys(cell.column for cell in self.cells):
            title = f'<th colspan="{len(names)}" scope="rowgroup">{html.escape(column)}</th>'
            rows = [_html_row(cell) for cell in self.cells if cell.column == column]
            groups.append(f"<tbody><tr>{title}</tr>{''.join(rows)}</tbody>")
        return (
            f'<table class="normprop-table"><caption>{self._caption()}</caption>'
            f"<thead><tr>{head}</tr></thead>{''.join(groups)}</table>"
        )

    def _caption(self) -> str:
        return (
            f"The post's table. Simulated with at least {self.samples:,} numbers a layer, "
            f"seed {self.seed}."
        )


def table(samples: int = 1_000_000, seed: int = 0, device: str | torch.device = "cpu") -> Table:
    """The post's table: what it prints, the exact value, a simulation, and a verdict.

    Args:
        samples: input elements that each column's simulation draws, at least.
        seed: of the simulations.
        device: where they run.

    Returns:
        :class:`Table`: prints as text, shows as HTML in a notebook, and gives its 18 cells as
        JSON and CSV.

    Example:
        >>> normprop.table().cell("sigmoid", "bwd_std").verdict
        'corrected'
    """
    cells = []
    for column in _columns():
        exact = _measured(column.layer)
        estimate = simulate(column.layer, samples, seed=seed, device=device)
        cells += [column.cell(row, exact, estimate) for row in ROWS]
    return Table(tuple(cells), samples, seed)


@dataclass(frozen=True)
class _Claim:
    """What the post prints in a cell, and where its rule can be tried.

    ``rule`` gives the post's value, or takes a layer to it.  ``decimals`` is how many the post
    prints; a formula has none.  ``abroad`` is a layer that the post's wording covers too.
    """

    printed: str
    rule: float | Callable[[nn.Module], float]
    decimals: int | None = None
    abroad: nn.Module | None = None
    condition: str = ""

    def value(self, layer: nn.Module) -> float:
        """The post's value for a layer."""
        return self.rule(layer) if callable(self.rule) else self.rule


@dataclass(frozen=True)
class _Column:
    name: str
    layer: nn.Module
    fwd_mean: _Claim
    fwd_std: _Claim
    bwd_std: _Claim

    def cell(self, row: str, exact: Moments, estimate: Simulation) -> Cell:
        claim = getattr(self, row)
        value, truth = claim.value(self.layer), _first(getattr(exact, row))
        standard_error = _first(getattr(estimate, f"{row}_se"))
        # That of the post's own simulation.
        theirs = standard_error * math.sqrt(estimate.n / _POST_SAMPLES)
        verdict, note = "confirmed", ""
        if not _agrees(value, truth, exact.error, claim.decimals):
            off = abs(value - truth) / theirs
            verdict = "corrected"
            note = (
                f"exact {truth:.10f}; the post's {_POST_SAMPLES:,} samples have a standard error "
                f"of {theirs:.5f}, and its value is {off:.2f} of them off"
            )
        elif claim.abroad is not None:
            measured = _measured(claim.abroad)
            there, ruled = _first(getattr(measured, row)), claim.value(claim.abroad)
            if not _agrees(ruled, there, measured.error, claim.decimals):
                verdict = "qualified"
                note = f"{claim.condition}: there {there:.6f}, the rule {ruled:.6f}"
        known = claim.printed, value, truth, exact.error
        seen = _first(getattr(estimate, row)), standard_error, estimate.n
        return Cell(self.name, row, *known, *seen, verdict, note)


def _agrees(value: float, truth: float, error: float, decimals: int | None) -> bool:
    """Whether the post's value is the exact one, to the digits that it prints."""
    rounding = 0.0 if decimals is None else 0.5 * 10.0**-decimals
    return abs(value - truth) <= rounding + error


def _columns() -> list[_Column]:
    zero = _Claim("0", 0.0)
    strided, max_strided = _convolution(2), nn.MaxPool2d(3, stride=2)
    average_strided, mask = nn.AvgPool2d(3, stride=2), _RawMask(1.0 - KEEP)
    kept = "√(1/p)", lambda layer: math.sqrt(1.0 / (1.0 - layer.p)), None, mask
    return [
        _Column(
            "convolution",
            _convolution(1),
            zero,
            _Claim("ℓ2 fan-in", lambda conv: float(conv.weight[0].norm()), None, strided),
            _Claim(
                "ℓ2 fan-out",
                lambda conv: float(conv.weight[:, 0].norm()),
                None,
                strided,
                "only at stride 1; a stride divides the variance by ∏stride, as with stride 2",
            ),
        ),
        _Column(
            "ReLU",
            nn.ReLU(),
            _Claim("√(1/2π)", math.sqrt(0.5 / math.pi)),
            _Claim("√(½ - 1/2π)", math.sqrt(0.5 - 0.5 / math.pi)),
            _Claim("√½", math.sqrt(0.5)),
        ),
        _Column(
            "sigmoid",
            nn.Sigmoid(),
            _Claim("½", 0.5),
            _Claim("0.2083", 0.2083, 4),
            _Claim("0.2123", 0.2123, 4),
        ),
        _Column(
            "3×3 max pooling",
            nn.MaxPool2d(3),
            _Claim("1.4850", 1.4850, 4, max_strided),
            _Claim("0.5978", 0.5978, 4, max_strided),
            _Claim(
                "⅓",
                lambda pool: 1.0 / pool.kernel_size,
                None,
                max_strided,
                "only where the stride is the window; it is (∏stride)^-½, as with stride 2",
            ),
        ),
        _Column(
            "3×3 average pooling",
            nn.AvgPool2d(3),
            zero,
            _Claim("1/s", lambda pool: 1.0 / pool.kernel_size, None, average_strided),
            _Claim(
                "1/s²",
                lambda pool: 1.0 / pool.kernel_size**2,
                None,
                average_strided,
                "only where the stride is the window; it is (∏window·∏stride)^-½, as with stride 2",
            ),
        ),
        _Column(
            f"dropout, keep {KEEP:g}",
            nn.Dropout(1.0 - KEEP),
            zero,
            _Claim(
                *kept,
                "p is the probability of keeping, and the kept values are divided by it; it is √p "
                "for the mask alone",
            ),
            _Claim(*kept, "as for the forward std: √p for the mask alone"),
        ),
    ]


class _RawMask(nn.Dropout):
    """Marks a dropout of which the mask alone is meant; measured, never run."""


def _measured(layer: nn.Module) -> Moments:
    return moments(layer, inverted=not isinstance(layer, _RawMask))


def _convolution(stride: int) -> nn.Conv2d:
    """The convolution that stands for the table's first column: its weights never change."""
    generator = torch.Generator("cpu").manual_seed(28032016)
    conv = nn.Conv2d(8, 16, 3, stride=stride, bias=False, dtype=torch.float64, device="cpu")
    conv.requires_grad_(False).weight.normal_(std=0.1, generator=generator)
    return conv


def _first(figure) -> float:
    """The figure of the first channel, for layers that have one a channel."""
    return float(figure) if isinstance(figure, float) else float(figure[0])


def _html_row(cell: Cell) -> str:
    figures = (figure.replace("-", "\N{MINUS SIGN}") for figure in _numbers(cell, digits=8))
    values = "".join(f"<td>{html.escape(value)}</td>" for value in (cell.post, *figures))
    verdict = f'<td class="{cell.verdict}" title="{html.escape(cell.note)}">{cell.verdict}</td>'
    return f'<tr><th scope="row">{ROWS[cell.row]}</th>{values}{verdict}</tr>'


def _numbers(cell: Cell, digits: int = 10) -> tuple[str, str]:
    """Exact value to that many decimals; estimate to the second digit of its error."""
    error = cell.standard_error
    decimals = max(0, 1 - math.floor(math.log10(error))) if error > 0 else 10
    return f"{cell.exact:.{digits}f}", f"{cell.simulated:.{decimals}f} ± {error:.{decimals}f}"
