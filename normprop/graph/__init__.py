"""Whole networks: normalised copies, legal separate scales, constants that move to neighbours."""

from normprop.graph.conversion import Conversion, convert
from normprop.graph.folding import fold
from normprop.graph.fusion import fuse
from normprop.graph.legality import Bridge, Factor, Legality, check, separate_on_bridges_
from normprop.graph.prediction import predict
from normprop.graph.probing import probe
from normprop.graph.report import report
from normprop.graph.rewrite import Report
from normprop.graph.scales import Fault, Measured, Row, Scales

__all__ = [
    "Bridge",
    "Conversion",
    "Factor",
    "Fault",
    "Legality",
    "Measured",
    "Report",
    "Row",
    "Scales",
    "check",
    "convert",
    "fold",
    "fuse",
    "predict",
    "probe",
    "report",
    "separate_on_bridges_",
]
