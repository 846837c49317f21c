"""The scale of every layer: exact constants, normalised layers, and a witness by simulation.

>>> import normprop
>>> normprop.moments("sigmoid").bwd_std
0.2117456997206658
"""

from normprop import functional, nn
from normprop.catalogue import Coverage, coverage
from normprop.gaussian import Figures, Function, Normal, calibration, maps
from normprop.graph import (
    Bridge,
    Conversion,
    Factor,
    Fault,
    Legality,
    Measured,
    Report,
    Row,
    Scales,
    check,
    convert,
    fold,
    fuse,
    predict,
    probe,
    report,
    separate_on_bridges_,
)
from normprop.montecarlo import Simulation, simulate
from normprop.post import Cell, Table, table
from normprop.rules import Moments, concatenation, function_of, moments, residual

__all__ = [
    "Bridge", "Cell", "Conversion", "Coverage", "Factor", "Fault", "Figures", "Function",
    "Legality", "Measured", "Moments", "Normal", "Report", "Row", "Scales", "Simulation", "Table",
    "calibration", "check", "concatenation", "convert", "coverage", "fold", "function_of",
    "functional", "fuse", "maps", "moments", "nn", "predict", "probe", "report", "residual",
    "separate_on_bridges_", "simulate", "table",
]  # fmt: skip
__version__ = "0.1.0"
