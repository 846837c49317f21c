"""Less noise: folded code has a name, lines that only record a number stay in the notebook.

The page of a chapter is not its notebook. A reader of the page wants to know what a folded cell
holds before opening it, and gets nothing from a line that stores a number for the prose. Both are
changed here, on the page alone; the notebook to download has every line.
"""

from __future__ import annotations

import ast
import re
from html import escape

from docutils import nodes
from myst_nb.sphinx_ import HideCodeCellNode
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform

# Functions of the chapters that record, and nothing else.
RECORDS = re.compile(r"^record(_\w+)?$")
SUPERSCRIPT = str.maketrans("-0123456789", "\N{SUPERSCRIPT MINUS}⁰¹²³⁴⁵⁶⁷⁸⁹")
EXPONENT = re.compile(r"e([+-])0*(\d+)\b")


def typeset(number: str) -> str:
    """Return a formatted number as it is set: a true minus, and powers of ten written out."""
    text = EXPONENT.sub(
        lambda match: "·10" + (match[1].strip("+") + match[2]).translate(SUPERSCRIPT), number
    )
    return re.sub(r"(?<![\w.])-(?=[\d.])", "\N{MINUS SIGN}", text)


def without_records(source: str) -> str:
    """Return code without the statements that only record a number that has a name already."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        # Magics of a notebook.
        return source
    records = [statement for statement in tree.body if _only_records(statement)]
    if not records:
        return source
    lines = source.split("\n")
    for statement in reversed(records):
        del lines[statement.lineno - 1 : statement.end_lineno]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def _only_records(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.For) and not statement.orelse:
        return _plain(statement.iter) and all(map(_only_records, statement.body))
    if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)):
        return False
    call = statement.value
    named = isinstance(call.func, ast.Name) and RECORDS.match(call.func.id)
    return bool(named) and all(map(_plain, call.args)) and not call.keywords


def _plain(node: ast.expr) -> bool:
    """Return whether an expression only names a value, so that hiding it hides no computation."""
    if isinstance(node, ast.Constant | ast.Name):
        return True
    if isinstance(node, ast.Attribute | ast.Starred):
        return _plain(node.value)
    if isinstance(node, ast.Subscript):
        return _plain(node.value) and _plain(node.slice)
    if isinstance(node, ast.UnaryOp):
        return _plain(node.operand)
    if isinstance(node, ast.Tuple | ast.List):
        return all(map(_plain, node.elts))
    if isinstance(node, ast.JoinedStr):
        return True
    if isinstance(node, ast.Call):
        # float(x), x.item(), data.items(), getattr(x, name): a number that is there already.
        function = node.func
        converts = isinstance(function, ast.Name) and function.id in CONVERSIONS
        reads = isinstance(function, ast.Attribute) and function.attr in ("item", "items", "mean")
        return (converts or (reads and _plain(function.value))) and all(map(_plain, node.args))
    return False


CONVERSIONS = ("float", "int", "bool", "str", "len", "getattr", "enumerate", "zip")


class HideRecords(SphinxTransform):
    """Leave out the lines that record a number, and cells that do nothing else."""

    # After the notebook is parsed, before anything counts or folds its cells.
    default_priority = 120

    def apply(self) -> None:
        """See the class."""
        for cell in list(self.document.findall(_is_cell)):
            for source in list(cell.findall(_is_source)):
                for block in list(source.findall(nodes.literal_block)):
                    shown = without_records(block.astext())
                    if shown != block.astext():
                        block.children = [nodes.Text(shown)]
                        block.rawsource = shown
                        if not shown:
                            source.parent.remove(source)
            if not cell.children:
                cell.parent.remove(cell)


class SetNumbers(SphinxPostTransform):
    """Set pasted numbers as print does."""

    formats = ("html",)
    # After the numbers are pasted.
    default_priority = 900

    def run(self, **kwargs) -> None:
        """See the class."""
        for inline in self.document.findall(nodes.inline):
            if "pasted-text" in inline["classes"]:
                inline.children = [nodes.Text(typeset(inline.astext()))]


class NameFolds(SphinxPostTransform):
    """Say on each folded cell what is in it, and fold neighbours together."""

    formats = ("html",)
    # Right after myst-nb has folded them.
    default_priority = 200

    def run(self, **kwargs) -> None:
        """See the class."""
        for cell in list(self.document.findall(_is_cell)):
            folds = [child for child in cell.children if isinstance(child, HideCodeCellNode)]
            for fold in folds:
                fold["summary"] = self._name(cell)
            if folds and cell.get("hide_mode") == "all":
                self._merge(cell, folds[0])

    def _name(self, cell: nodes.Element) -> str:
        if "tag_parameters" in cell["classes"]:
            return "Parameters and imports"
        for figure in cell.findall(nodes.figure):
            numbers = self.env.toc_fignumbers.get(self.env.docname, {}).get("figure", {})
            for name in figure["ids"]:
                if name in numbers:
                    return f"Code of figure {'.'.join(map(str, numbers[name]))}"
        if any(cell.findall(_is_output)):
            return "Code of this output"
        return "Code behind the numbers"

    def _merge(self, cell: nodes.Element, fold: HideCodeCellNode) -> None:
        """Move a folded cell into the one right before it, if that is folded as a whole too."""
        siblings = cell.parent.children
        place = siblings.index(cell)
        before = siblings[place - 1] if place else None
        if before is None or not _is_cell(before) or before.get("hide_mode") != "all":
            return
        (target,) = (child for child in before.children if isinstance(child, HideCodeCellNode))
        target.extend(fold.children)
        cell.parent.remove(cell)


def _is_cell(node: nodes.Node) -> bool:
    return isinstance(node, nodes.container) and node.get("nb_element") == "cell_code"


def _is_source(node: nodes.Node) -> bool:
    return isinstance(node, nodes.container) and node.get("nb_element") == "cell_code_source"


def _is_output(node: nodes.Node) -> bool:
    return isinstance(node, nodes.container) and node.get("nb_element") == "cell_code_output"


def visit_fold(translator, node: HideCodeCellNode) -> None:
    """Open a fold whose visible name is all that a screen reader says, too."""
    classes = " ".join(node["classes"])
    name = escape(node.get("summary", "Code"))
    translator.body.append(f'<details class="hide {classes}">\n<summary>{name}</summary>\n')


def depart_fold(translator, node: HideCodeCellNode) -> None:
    """Close it."""
    translator.body.append("</details>\n")


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.add_transform(HideRecords)
    app.add_post_transform(NameFolds)
    app.add_post_transform(SetNumbers)
    app.add_node(HideCodeCellNode, override=True, html=(visit_fold, depart_fold))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
