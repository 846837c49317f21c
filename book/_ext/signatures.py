"""One signature a function, also where type checkers are told several.

Autodoc shows every overload that it finds in the source in place of the signature that the function
has when it runs, which is the one that says what each argument is called and what it is by default.
"""

from __future__ import annotations

from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

WITH_OVERLOADS = ("normprop.rules.measure",)


def forget_overloads(app: Sphinx) -> None:
    """Let autodoc see no overloads: analysers are made once and kept."""
    for name in WITH_OVERLOADS:
        analyzer = ModuleAnalyzer.for_module(name)
        analyzer.analyze()
        analyzer.overloads.clear()


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.connect("builder-inited", forget_overloads)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
