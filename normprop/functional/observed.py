"""Public functions, seen as one call each by whoever watches a model run.

A watcher of torch's own functions would see what ours are made of instead: a product for a
residual sum, a comparison of a weight with zero for an embedding.
"""

import functools
import threading
from collections.abc import Callable

observers: list[tuple[int, Callable]] = []
"""Of the thread that a call is made in, with whose number it stands here, the last is called, with
a function, its arguments and its keywords, in its place."""


def observers_here() -> list[Callable]:
    """Those of this thread."""
    here = threading.get_ident()
    return [observe for thread, observe in observers if thread == here]


def observed(function: Callable) -> Callable:
    """The same function, that observers see."""

    @functools.wraps(function)
    def call(*arguments, **keywords):
        # Compiled code has none, and need not look for threads.
        here = observers and observers_here()
        if here:
            return here[-1](function, arguments, keywords)
        return function(*arguments, **keywords)

    # Where it is found, so that what holds it can be pickled.
    call.__module__ = "normprop.functional"
    return call
