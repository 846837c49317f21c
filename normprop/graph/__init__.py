"""Whole networks: where separate scales are legal, and layers whose constants move to others."""

from normprop.graph.folding import fold
from normprop.graph.fusion import fuse
from normprop.graph.legality import Bridge, Factor, Legality, check, separate_on_bridges_
from normprop.graph.rewrite import Report

__all__ = [
    "Bridge",
    "Factor",
    "Legality",
    "Report",
    "check",
    "fold",
    "fuse",
    "separate_on_bridges_",
]
