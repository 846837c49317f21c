"""Checks of numbers: an error says what must hold, and what came."""

import math
import numbers


def number(name: str, value) -> None:
    """Refuse what is no real number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number; it was {value!r}")


def finite(name: str, value: float, above: float = -math.inf, must: str = "") -> float:
    """The number, finite and above that; else an error that says what it must be."""
    number(name, value)
    if not (math.isfinite(value) and value > above):
        raise ValueError(f"{name} must be finite{must}; it was {value}")
    return float(value)


def positive(name: str, value: float) -> float:
    """The number, finite and greater than 0."""
    return finite(name, value, 0.0, " and greater than 0")


def is_whole(value, least: int = 1) -> bool:
    """Whether it is an integer of at least that."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= least


def whole(name: str, value: int, least: int = 1) -> int:
    """The integer, of at least that."""
    if not is_whole(value, least):
        raise ValueError(f"{name} must be an integer of at least {least}; it was {value!r}")
    return int(value)
