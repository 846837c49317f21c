"""Functions that differ by the number of dimensions alone, written once."""

from collections.abc import Callable


def named(function: Callable, name: str, doc: str | None = None) -> Callable:
    """The function under a name of its own, by which it can be found and pickled."""
    function.__name__ = function.__qualname__ = name
    if doc is not None:
        function.__doc__ = doc
    return function
