"""Notebooks run several at a time, ahead of the pages.

Sphinx reads one page after the other, and a notebook that runs as its page is read leaves all cores
but one idle.  So the notebooks of all pages that are going to be read run before the first is.
What they have put out waits in the memory of this build.  A page that asks for the run of a
notebook gets it if the notebook, its folder and how it is to run are the same to the letter; any
other notebook runs then, with nothing beside it.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import nbformat
from jupyter_cache.executors.utils import ExecutionResult, single_nb_execution
from myst_nb.core.execute import direct
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# More would want more memory than a small machine has for each of its cores.
MOST = 8

logger = logging.getLogger(__name__)


def at_a_time() -> int:
    """Return how many notebooks run at a time: one on each core that is ours."""
    ours = getattr(os, "sched_getaffinity", None)
    return min(len(ours(0)) if ours else os.cpu_count() or 1, MOST)


class Ahead:
    """The runs of notebooks that no page has asked for yet."""

    def __init__(self):
        self._runs: dict[str, Future[ExecutionResult]] = {}

    def start(self, app: Sphinx, env: BuildEnvironment, pages: list[str]) -> None:
        """Run the notebooks among the pages that are to be read, to their ends."""
        settings = env.mystnb_config
        if settings.execution_mode != "force":
            return
        shared = [page for page in pages if page not in app.config.executed_alone]
        one_each = mock.patch.dict(os.environ, dict.fromkeys(THREADS, "1"))
        with one_each, ThreadPoolExecutor(at_a_time()) as pool:
            for path in (Path(env.doc2path(page)) for page in shared):
                if path.suffix != ".ipynb":
                    continue
                logger.info(f"{path}: Executing notebook ahead of its page")
                notebook = nbformat.read(path, as_version=4)
                how = {
                    "cwd": str(path.parent),
                    "allow_errors": settings.execution_allow_errors,
                    "timeout": settings.execution_timeout,
                    "meta_override": True,
                }
                # The run fills the notebook in.
                key = _key(notebook, how)
                self._runs[key] = pool.submit(single_nb_execution, notebook, **how)

    def execute(self, notebook: nbformat.NotebookNode, **how) -> ExecutionResult:
        """Stand for `single_nb_execution`: fill the notebook with what its run has put out."""
        run = self._runs.pop(_key(notebook, how), None)
        if run is None:
            return single_nb_execution(notebook, **how)
        result = run.result()
        notebook.update(result.nb)
        return result


def _key(notebook: nbformat.NotebookNode, how: dict) -> str:
    return json.dumps([notebook, how], sort_keys=True)


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    # Pages that measure how long something takes: nothing runs beside them.
    app.add_config_value("executed_alone", [], "env")
    ahead = Ahead()
    # Where myst-nb runs the notebook of a page.
    replaced = mock.patch.object(direct, "single_nb_execution", ahead.execute)
    replaced.start()
    app.connect("env-before-read-docs", ahead.start)
    app.connect("build-finished", lambda app, exception: replaced.stop())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
