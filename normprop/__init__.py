"""The scale of every layer: exact constants, normalised layers, and a witness by simulation.

>>> import normprop
>>> normprop.moments("sigmoid").bwd_std
0.2117456997206658
"""

from normprop import functional, nn
from normprop.catalogue import Coverage, coverage
from normprop.graph import (
    Conversion,
    Legality,
    Report,
    check,
    convert,
    fold,
    fuse,
    report,
    separate_on_bridges_,
)
from normprop.montecarlo import Simulation, simulate
from normprop.post import Cell, Table, table
from normprop.rules import Moments, moments

__all__ = [
    "Cell",
    "Conversion",
    "Coverage",
    "Legality",
    "Moments",
    "Report",
    "Simulation",
    "Table",
    "check",
    "convert",
    "coverage",
    "fold",
    "functional",
    "fuse",
    "moments",
    "nn",
    "report",
    "separate_on_bridges_",
    "simulate",
    "table",
]
__version__ = "0.1.0"
