"""The scalar functions that the package knows by name.

Four stand here, of which others are made.  A new activation is made in
``normprop.gaussian.families`` or ``normprop.gaussian.smooth``, under ``by_name``.
"""

import numpy as np

# What stands in the latter two is known by name once they are imported.
from normprop.gaussian import closed, families, smooth  # noqa: F401
from normprop.gaussian.functions import (
    MAKERS,
    Function,
    hardsigmoid,
    hardsigmoid_increment,
    relu_increment,
    sigmoid,
    sigmoid_increment,
    sigmoid_slope,
    tanh_increment,
    tanh_slope,
)

_HARDSIGMOID = closed.Spline(
    kinks=(-3.0, 3.0),
    slopes=(0.0, 1.0 / 6.0, 0.0),
    curves=(0.0, 0.0, 0.0),
    jumps=(0.0, 0.0),
    at=-3.0,
    value=0.0,
)

FUNCTIONS = {
    f.name: f
    for f in (
        Function(
            name="relu",
            value=lambda x: np.maximum(x, 0.0),
            slope=lambda x: (x > 0).astype(float),
            increment=relu_increment,
            width=0.0,
            lipschitz=1.0,
            log_slope=0.0,
            increasing=True,
            closed=closed.relu,
        ),
        # torch's float64 gradient of hardsigmoid uses a float32 sixth; this one does not.
        Function(
            name="hardsigmoid",
            value=hardsigmoid,
            slope=lambda x: np.where(np.abs(x) < 3.0, 1.0 / 6.0, 0.0),
            increment=hardsigmoid_increment,
            width=0.0,
            features=(-3.0, 3.0),
            lipschitz=1.0 / 6.0,
            span=1.0,
            log_slope=0.0,
            increasing=True,
            closed=lambda law: closed.spline(_HARDSIGMOID, law),
        ),
        Function(
            name="sigmoid",
            value=sigmoid,
            slope=sigmoid_slope,
            increment=sigmoid_increment,
            width=40.0,
            lipschitz=0.25,
            span=1.0,
            log_slope=1.0,
            increasing=True,
        ),
        Function(
            name="tanh",
            value=np.tanh,
            slope=tanh_slope,
            increment=tanh_increment,
            width=20.0,
            lipschitz=1.0,
            span=2.0,
            log_slope=2.0,
            increasing=True,
        ),
    )
} | {name: make() for name, make in sorted(MAKERS.items())}
"""Every function that has a name, by that name, with torch's default parameters."""
