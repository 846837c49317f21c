"""What every test may rely on: the same random numbers whenever and in whatever order it runs."""

import random
import sys
from pathlib import Path

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


def pytest_collection_modifyitems(items):
    """Skip what needs a GPU where there is none, and say so."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
