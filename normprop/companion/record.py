"""Numbers that a page prints and a test asserts: recorded once, read from one place by both."""

from __future__ import annotations

import ast
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["Value", "is_record", "read_records", "record"]

Value: TypeAlias = "bool | int | float | str"

# Where the book looks for the plain text of a value that is recorded but not shown. What begins so
# it keeps for pasting; the plain text beside it is for front ends that know no such type.
PREFIX = "application/papermill.record/"
MIME_TYPE = PREFIX + "text/plain"

# What this kernel has recorded: name -> (value, identifier of the cell or None).
_recorded: dict[str, tuple[Value, str | None]] = {}


def record(name: str, value: Value) -> None:
    r"""Give ``value`` a name under which the page pastes it and a test reads it.

    On the page, ``{glue:text}`relu_std:.4f` `` pastes it with a format. Any other front end shows
    it under the cell, as ``relu_std = 0.5838``; outside a notebook it is printed.

    Args:
        name: an identifier, unique in the notebook.
        value: a finite Python number, a bool or a string that is not blank. NumPy scalars and
            tensors are refused, because a page prints a blank in their place; convert them with
            ``float(...)`` or ``.item()``.

    Raises:
        TypeError: the value is of another type.
        ValueError: the name is no identifier, the value is not finite or blank, or another cell
            has recorded another value under this name.
    """
    _check_name(name)
    _check_value(name, value)
    _check_unique(name, value)
    _recorded[name] = (value, _current_cell())

    shown = f"{name} = {value}"
    # `sys.modules` first: outside a notebook there is no front end.
    if "IPython" not in sys.modules or not _in_kernel():
        print(shown)
        return
    from IPython.display import display

    display(
        {MIME_TYPE: repr(value), "text/plain": shown},
        raw=True,
        metadata={"scrapbook": {"name": name, "mime_prefix": PREFIX}},
    )


def read_records(notebook: NotebookNode | str | Path) -> dict[str, Value]:
    """Return the numbers that an executed notebook has recorded, by name.

    Args:
        notebook: the notebook, or the path of its file.

    Raises:
        ValueError: a name was recorded twice, or what was recorded is no plain value.
    """
    if isinstance(notebook, str | Path):
        import nbformat

        notebook = nbformat.read(notebook, as_version=4)

    records: dict[str, Value] = {}
    for name, text in _recorded_texts(notebook):
        if name in records:
            raise ValueError(f"a name must be recorded once in a notebook, but {name!r} came twice")
        records[name] = _parse(name, text)
    return records


def is_record(output: Mapping[str, Any]) -> bool:
    """Return whether a cell's output is a number recorded for a page, and not shown on it."""
    named = output.get("metadata", {}).get("scrapbook", {}).get("name") is not None
    return named and MIME_TYPE in output.get("data", {})


def _recorded_texts(notebook: NotebookNode) -> Iterator[tuple[str, str]]:
    for cell in notebook.cells:
        for output in filter(is_record, cell.get("outputs", ())):
            yield output["metadata"]["scrapbook"]["name"], output["data"][MIME_TYPE]


def _parse(name: str, text: str) -> Value:
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        value = None
    # type(), not isinstance(): the same rule as when it was recorded.
    if type(value) not in (bool, int, float, str):
        raise ValueError(f"{name!r} must hold a number, a bool or a string, but holds {text!r}")
    return value


def _check_name(name: Any) -> None:
    if not (isinstance(name, str) and name.isidentifier()):
        raise ValueError(f"a record's name must be a Python identifier, got {name!r}")


def _check_value(name: str, value: Any) -> None:
    # Subclasses are refused on purpose: numpy.float64 is a float that prints as `np.float64(…)`.
    kind = type(value)
    if kind not in (bool, int, float, str):
        raise TypeError(
            f"record({name!r}, …) takes a Python bool, int, float or str, got "
            f"{kind.__module__}.{kind.__qualname__}; convert it, for example with float(...)"
        )
    if kind is float and not math.isfinite(value):
        raise ValueError(f"record({name!r}, …) takes a finite number, got {value}")
    if kind is str and not value.strip():
        raise ValueError(f"record({name!r}, …) takes a string that is not blank, got {value!r}")


def _check_unique(name: str, value: Value) -> None:
    if name not in _recorded:
        return
    before, cell = _recorded[name]
    if (type(before), before) == (type(value), value):
        return
    # A reader who changes a cell and runs it again replaces that cell's number. Only some front
    # ends name the cell; without a name, two values are two cells.
    if cell is not None and cell == _current_cell():
        return
    raise ValueError(
        f"a name must stand for one number in a notebook: {name!r} is {before!r} already, got "
        f"{value!r}; choose another name, or restart the kernel"
    )


def _in_kernel() -> bool:
    from IPython import get_ipython

    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def _current_cell() -> str | None:
    if "IPython" not in sys.modules or not _in_kernel():
        return None
    from IPython import get_ipython

    return get_ipython().get_parent().get("metadata", {}).get("cellId")
