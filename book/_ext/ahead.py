"""Notebooks run several at a time, ahead of the pages.

Sphinx reads one page after the other, and a notebook that runs as its page is read leaves all cores
but one idle.  So all notebooks that are going to be read run before the first is, and wait in the
cache that myst-nb looks into.  The cache knows nothing of the package that they ran with: it is
emptied first.  A notebook that fails is not kept: it runs again with its page, which says why.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import nbformat
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import ExecutionResult, single_nb_execution
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


def execute_ahead(app: Sphinx, env: BuildEnvironment, pages: list[str]) -> None:
    """Run the notebooks among the pages that are to be read, and keep what they have put out."""
    settings = env.mystnb_config
    if settings.execution_mode != "cache":
        return
    cache = get_cache(settings.execution_cache_path)
    cache.clear_cache()
    paths = [Path(env.doc2path(page)) for page in pages if page not in app.config.executed_alone]
    paths = [path for path in paths if path.suffix == ".ipynb"]

    def run(path: Path) -> ExecutionResult:
        logger.info(f"{path}: Executing notebook ahead of its page")
        notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
        return single_nb_execution(
            notebook, str(path.parent), settings.execution_timeout, allow_errors=False
        )

    one_each = mock.patch.dict(os.environ, dict.fromkeys(THREADS, "1"))
    with one_each, ThreadPoolExecutor(at_a_time()) as pool:
        for path, result in zip(paths, pool.map(run, paths), strict=True):
            if result.err is None:
                kept = CacheBundleIn(result.nb, str(path), data={"execution_seconds": result.time})
                cache.cache_notebook_bundle(kept, check_validity=False, overwrite=True)
                logger.info(f"{path}: Executed notebook in {result.time:.2f} seconds")


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    # Pages that measure how long something takes: nothing runs beside them.
    app.add_config_value("executed_alone", [], "env")
    app.connect("env-before-read-docs", execute_ahead)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
