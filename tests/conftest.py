"""What every test may rely on: the same random numbers whenever and in whatever order it runs."""

import os
import random
import re
import sys
from collections import Counter
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    # A worker a core, and a thread a worker: set before anything that counts cores is loaded.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")

import numpy as np
import pytest
from hypothesis import settings

# The same examples in every run.
settings.register_profile("same", derandomize=True, database=None, deadline=None)
settings.load_profile("same")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(autouse=True)
def seeded():
    """Seed the global generators; a test that needs its own numbers makes its own generator."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - code under test may still draw from the global state
    # The tests of the house never load torch, and need not wait for it here.
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


def scope(nodeid: str) -> str:
    """What one worker runs, because what a file or the book has made is made once."""
    return "tests/book" if nodeid.startswith("tests/book/") else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Share the files among the workers, in the order in which they come."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return scope(nodeid)

    config.option.loadscopereorder = False
    return ByFile(config, log)


def long_ones_first(items):
    """Order the files so that no worker is left with a long one when the others have ended.

    First those with tests that are marked as slow, then those with most tests.
    """
    count, slow = Counter(), Counter()
    for item in items:
        count[scope(item.nodeid)] += 1
        slow[scope(item.nodeid)] += item.get_closest_marker("slow") is not None
    items.sort(key=lambda item: (not slow[scope(item.nodeid)], -count[scope(item.nodeid)]))


def pytest_collection_modifyitems(items):
    """Refuse names that another process would not give; skip what needs a GPU, and say so."""
    if passing := [item.nodeid for item in items if re.search(r"0x[0-9a-f]{6}", item.nodeid)]:
        raise pytest.UsageError(f"a test's name must not hold an address; it was {passing[0]}")
    if "PYTEST_XDIST_WORKER" in os.environ:
        long_ones_first(items)
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
