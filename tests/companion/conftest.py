"""What the experiments' tests share."""

import sys

import pytest


@pytest.fixture(autouse=True)
def one_thread():
    """Small products wait longer for a second thread than it saves."""
    # The tests of figures and records never load torch, and need not wait for it here.
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
