"""Ground: float64 mathematics of functions of a normal variable.

Nothing here knows of layers or of torch.  Every figure comes with a bound on its absolute
error, rounding included.
"""

from normprop.gaussian import calibration, families, maps, smooth
from normprop.gaussian.elementwise import elementwise
from normprop.gaussian.functions import Function
from normprop.gaussian.law import Figures, Image, Law, Normal
from normprop.gaussian.named import FUNCTIONS
from normprop.gaussian.order import maximum, maximum_of

__all__ = [
    "FUNCTIONS", "Figures", "Function", "Image", "Law", "Normal", "calibration", "elementwise",
    "families", "maps", "maximum", "maximum_of", "smooth",
]  # fmt: skip
