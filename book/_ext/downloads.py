"""The notebooks that a reader downloads: executed, and readable in any Jupyter.

A stored chapter is written in MyST, which only this book's build understands. Next to each page
goes a copy in plain Markdown: the numbers put in, the macros of the formulas written out,
references resolved to the numbers of the page, figures with their captions, and a first cell that
installs the package where it is missing. The code and its outputs are those of the page.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import urljoin

import nbformat
from folds import typeset
from myst_nb.core.variables import format_plain_text
from nbformat.v4 import new_code_cell, new_markdown_cell
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError

# Where the theme's download button looks.
FOLDER = "_sources"

INSTALL = """\
# The package, where it is missing: on Colab, say.
try:
    import normprop
except ModuleNotFoundError:
    {remedy}
"""
FROM_REPOSITORY = (
    '%pip install --quiet "normprop @ git+{repository}@{branch}" matplotlib scikit-learn'
)
FROM_CLONE = 'raise SystemExit("Install normprop first: pip install -e . in a clone of the book.")'

MATH = re.compile(r"(?P<fence>\$\$?)(?P<tex>.+?)(?P=fence)", re.DOTALL)
LABELLED = re.compile(r"^(?P<tex>\$\$.+?)\$\$ *\((?P<label>eq-[\w-]+)\)", re.DOTALL | re.MULTILINE)
ROLE = re.compile(r"\{(?P<role>[a-z:]+)\}`(?P<text>[^`]+)`")
TARGET = re.compile(r"^\([\w-]+\)=\n", re.MULTILINE)
# What lives on the page: scripts, style sheets, and the boxes that they fill.
LIVE = re.compile(
    r'<link [^>]*>\n?|<script [^>]*></script>\n?|<div class="np-live".*?</div>\n?', re.DOTALL
)
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)#\s]*)(?P<anchor>#[^)\s]*)?\)")
OPENING = re.compile(r"^(?P<fence>:{3,}|`{3,})\{(?P<name>[\w-]+)\} *(?P<title>.*)$")
OPTION = re.compile(r"^:(?P<key>[\w-]+): *(?P<value>.*)$")


class Plain:
    """A page's notebook in plain Markdown."""

    def __init__(
        self, env: BuildEnvironment, page: str, notebook: nbformat.NotebookNode, values: dict
    ):
        self.env = env
        self.page = page
        self.notebook = notebook
        self.values = values
        self.macros = env.config.mathjax3_config["tex"]["macros"]

    def converted(self) -> nbformat.NotebookNode:
        """Return the copy that a reader downloads."""
        cells = [new_code_cell(self._install(), id="install")]
        for cell in self.notebook.cells:
            if cell.cell_type == "markdown":
                cells.append(new_markdown_cell(self.markdown(cell.source), id=cell.id))
                continue
            copy = new_code_cell(cell.source, outputs=cell.outputs, id=cell.id)
            copy.execution_count = cell.execution_count
            # A front end folds what the page folds.
            folded = {"hide-cell", "hide-input", "remove-cell", "remove-input"}
            if folded & set(cell.metadata.get("tags", ())):
                copy.metadata["jupyter"] = {"source_hidden": True}
            cells.append(copy)
            if figure := cell.metadata.get("mystnb", {}).get("figure"):
                cells.append(new_markdown_cell(self._caption(figure), id=f"{cell.id}-caption"[:64]))
        plain = nbformat.v4.new_notebook(cells=cells)
        plain.metadata["kernelspec"] = self.notebook.metadata["kernelspec"]
        return plain

    def markdown(self, source: str) -> str:
        """Return a Markdown cell without anything that is MyST's own."""
        text = LIVE.sub("", TARGET.sub("", source))
        text = self._directives(text)
        text = LABELLED.sub(self._numbered, text)
        text = MATH.sub(lambda match: self._expand(match[0]), text)
        text = ROLE.sub(self._role, text)
        return LINK.sub(self._link, text)

    def _install(self) -> str:
        options = self.env.config.html_theme_options
        repository, branch = options.get("repository_url"), options.get("repository_branch")
        remedy = FROM_CLONE
        if repository:
            remedy = FROM_REPOSITORY.format(repository=repository, branch=branch)
        return INSTALL.format(remedy=remedy).strip()

    def _caption(self, figure: dict) -> str:
        return f"**{self._figure(figure['name'])}.** {self.markdown(figure['caption'])}"

    def _expand(self, tex: str) -> str:
        for name, meaning in self.macros.items():
            tex = re.sub(rf"\\{name}(?![A-Za-z])", lambda _, text=meaning: f"{{{text}}}", tex)
        return tex

    def _numbered(self, match: re.Match) -> str:
        return rf"{match['tex'].rstrip()} \tag{{{self._equation(match['label'])}}}" "\n$$"

    def _equation(self, label: str) -> str:
        page, number = self.env.get_domain("math").equations[label]
        numbers = self.env.toc_fignumbers.get(page, {}).get("displaymath", {})
        parts = numbers.get(f"equation-{label}") or numbers.get(label) or (number,)
        return ".".join(map(str, parts))

    def _figure(self, label: str) -> str:
        for numbers in self.env.toc_fignumbers.values():
            if label in numbers.get("figure", {}):
                return "Figure " + ".".join(map(str, numbers["figure"][label]))
        raise ExtensionError(f"{self.page}: the figure {label!r} has no number")

    def _role(self, match: re.Match) -> str:
        role, text = match["role"], match["text"]
        if role == "glue:text":
            return self._value(*text.partition(":")[::2])
        if role == "eq":
            return f"({self._equation(text)})"
        if role == "numref":
            return self._figure(text)
        if role in ("cite:t", "cite:p"):
            return self._citation(text, role == "cite:p")
        if role == "math":
            return f"${self._expand(text)}$"
        if role.startswith("py:"):
            return f"`{text.lstrip('~')}`"
        raise ExtensionError(f"{self.page}: a download cannot hold the role {role!r}")

    def _value(self, name: str, form: str) -> str:
        if name not in self.values:
            raise ExtensionError(f"{self.page}: nothing was recorded as {name!r}")
        return typeset(format_plain_text(self.values[name], form))

    def _citation(self, keys: str, parenthetical: bool) -> str:
        found = [self._entry(key.strip()) for key in keys.split(",")]
        if parenthetical:
            return "(" + "; ".join(f"{author}, {year}" for author, year in found) + ")"
        return "; ".join(f"{author} ({year})" for author, year in found)

    def _entry(self, key: str) -> tuple[str, str]:
        entry = self.env.get_domain("cite").bibdata.data.entries[key]
        names = ["".join(map(str, person.last_names)) for person in entry.persons["author"]]
        author = names[0] if len(names) == 1 else " and ".join(names)
        if len(names) > 2:
            author = f"{names[0]} et al."
        return author, entry.fields["year"]

    def _link(self, match: re.Match) -> str:
        target, anchor = match["target"], match["anchor"] or ""
        if ":" in target:
            return match[0]
        base = self.env.config.html_baseurl
        if not base or not target.endswith((".ipynb", ".md")):
            # Outside the book it would lead nowhere.
            return match["text"]
        here = urljoin(base, f"{self.page}.html")
        page = re.sub(r"\.(ipynb|md)$", ".html", target)
        return f"[{match['text']}]({urljoin(here, page)}{anchor})"

    def _directives(self, text: str) -> str:
        """Return the text with admonitions as quotations, and folded ones as such."""
        lines, written = iter(text.split("\n")), []
        for line in lines:
            opening = OPENING.match(line)
            if not opening:
                written.append(line)
                continue
            body, options = [], {}
            for inner in lines:
                if inner.strip() == opening["fence"]:
                    break
                option = OPTION.match(inner)
                if option and not any(body):
                    options[option["key"]] = option["value"]
                else:
                    body.append(inner)
            written += self._directive(opening["name"], opening["title"], options, body)
        return "\n".join(written)

    def _directive(self, name: str, title: str, options: dict, body: list[str]) -> list[str]:
        if name in ("admonition", "note", "tip", "warning"):
            content = "\n".join(body).strip("\n").split("\n")
            title = title or name.capitalize()
            if "dropdown" in options.get("class", ""):
                summary = f"<details><summary>{title}</summary>"
                return [summary, "", *content, "", "</details>", ""]
            return [f"**{title}**", "", *content, ""]
        if name in ("nb-exec-table", "raw"):
            return ["*(on the page)*"]
        raise ExtensionError(f"{self.page}: a download cannot hold the directive {name!r}")


def recorded(path: Path) -> dict[str, str]:
    """Return what a page has recorded, as text, from the file that myst-nb leaves of it."""
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return {name: output["data"]["text/plain"] for name, output in found.items()}


def write_downloads(app: Sphinx, exception: Exception | None) -> None:
    """Replace the sources that the theme would offer."""
    if exception is not None or app.builder.format != "html":
        return
    executed = Path(app.outdir).parent / "jupyter_execute"
    for page in sorted(app.env.found_docs):
        if not str(app.env.doc2path(page)).endswith(".ipynb"):
            continue
        notebook = nbformat.read(executed / f"{page}.ipynb", as_version=4)
        plain = Plain(app.env, page, notebook, recorded(executed / f"{page}.glue.json"))
        nbformat.write(plain.converted(), Path(app.outdir) / FOLDER / f"{page}.ipynb")


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.connect("build-finished", write_downloads)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
