"""The scale of every layer: exact constants, normalised layers, and a witness by simulation.

>>> import normprop
>>> normprop.moments("sigmoid").bwd_std
0.2117456997206658
"""

from normprop import functional, nn
from normprop.montecarlo import Simulation, simulate
from normprop.rules import Moments, moments

__all__ = ["Moments", "Simulation", "functional", "moments", "nn", "simulate"]
__version__ = "0.1.0"
