"""Whole networks: where separate scales are legal, and what they do to each gradient."""

from normprop.graph.legality import Bridge, Factor, Legality, check, separate_on_bridges_

__all__ = ["Bridge", "Factor", "Legality", "check", "separate_on_bridges_"]
