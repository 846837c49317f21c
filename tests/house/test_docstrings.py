"""What a function or a layer takes is what its docstring says that it takes."""

import inspect
import re

import pytest

import normprop
from normprop.functional.keywords import arguments_in, documented

PUBLIC = [
    (package, name)
    for package in (normprop.functional, normprop.nn)
    for name in package.__all__
    if callable(getattr(package, name)) and not hasattr(getattr(package, name), "_fields")
]


@pytest.mark.parametrize(("package", "name"), PUBLIC, ids=lambda x: getattr(x, "__name__", x))
def test_every_argument_is_said_once_and_in_order(package, name):
    found = getattr(package, name)
    taken = [p for p in inspect.signature(found).parameters if not p.startswith("_")]
    said = [p for p in arguments_in(found.__doc__) if not p.startswith("_")]
    if said or isinstance(found, type) or "scaling" in taken:
        assert said == taken
    lines = inspect.cleandoc(found.__doc__).splitlines()
    assert max(map(len, lines)) <= 100
    assert sum(line == "Args:" for line in lines) == bool(said)


@pytest.mark.parametrize(("package", "name"), PUBLIC, ids=lambda x: getattr(x, "__name__", x))
def test_a_layer_points_at_functions_by_their_whole_names(package, name):
    # Sphinx looks a short name up in the module of the docstring.
    for named in re.findall(r":func:`~?([\w.]+)`", getattr(package, name).__doc__):
        home = normprop if named.startswith("normprop.") else package
        for part in named.removeprefix("normprop.").split("."):
            assert hasattr(home, part), named
            home = getattr(home, part)


SEVERAL = {"pad": "Pad", "interpolate": "Upsampl", "softmax": "Softmax2d", "cat": "Concat"}


@pytest.mark.parametrize("name", [name for package, name in PUBLIC if package is normprop.nn])
def test_a_layer_points_at_the_function_of_its_name(name):
    said = re.search(
        r"[Ss]ee :func:`normprop\.functional\.(\w+)`", getattr(normprop.nn, name).__doc__
    )
    if said is not None:
        short = name.lower()
        own = said[1].replace("_", "") in (short, short.removesuffix("loss"))
        assert own or SEVERAL[said[1]] in name


def test_a_docstring_is_completed_from_what_is_known_and_keeps_what_it_says():
    doc = """What it does.

    Args:
        b: its own
            meaning.

    Example:
        >>> 1
    """
    meanings = {"a": "the first.", "b": "another."}
    got = documented(doc, ["a", "b", "c", "_d"], meanings, Raises="ValueError: always.")
    assert got == (
        "What it does.\n\nArgs:\n    a: the first.\n    b: its own meaning.\n"
        "    c: as in torch.\n\nRaises:\n    ValueError: always.\n\nExample:\n    >>> 1\n"
    )
    # What is complete stays as it is, and Python may run without docstrings.
    assert documented(got, ["a", "b", "c", "_d"], {}, Raises="never") == got
    assert documented(None, ["a"], {}) is None
