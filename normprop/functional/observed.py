"""Public functions, seen as one call each by whoever watches a model run.

A watcher of torch's own functions would see what ours are made of instead: a product for a
residual sum, a comparison of a weight with zero for an embedding.
"""

import functools
from collections.abc import Callable

observers: list[Callable] = []
"""Whoever is last is called, with a function, its arguments and its keywords, in its place."""


def observed(function: Callable) -> Callable:
    """The same function, that observers see."""

    @functools.wraps(function)
    def call(*arguments, **keywords):
        if observers:
            return observers[-1](function, arguments, keywords)
        return function(*arguments, **keywords)

    # Where it is found, so that what holds it can be pickled.
    call.__module__ = "normprop.functional"
    return call
