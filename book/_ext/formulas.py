"""Formulas of docstrings, broken where a narrow screen needs it.

A docstring sets the parts of a layer's formula side by side, which reads well in an editor. On a
page they stand below each other where they are long.
"""

from __future__ import annotations

import re

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

# Characters of TeX beyond which a line of parts is wider than a phone.
LONG = 80
PARTS = re.compile(r"\s*\\qquad\s*")


def broken(tex: str) -> str:
    r"""Return a formula with its parts, between ``\qquad``, below each other if it is long."""
    if r"\qquad" not in tex or r"\begin" in tex or len(tex) <= LONG:
        return tex
    parts = " \\\\\n".join(PARTS.split(tex.strip()))
    return f"\\begin{{gathered}}\n{parts}\n\\end{{gathered}}"


class BreakFormulas(SphinxTransform):
    """Break the formulas of documented objects."""

    default_priority = 400

    def apply(self) -> None:
        """See the class."""
        for described in self.document.findall(addnodes.desc_content):
            for formula in described.findall(nodes.math_block):
                tex = broken(formula.astext())
                if tex != formula.astext():
                    formula.children = [nodes.Text(tex)]
                    formula.rawsource = tex


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.add_transform(BreakFormulas)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
