"""The table of all layers: what the classes of torch.nn do when they are asked, counted."""

import inspect
import math
from collections import Counter

from torch import nn

import normprop
from tests.book.expectations import Equals, Estimate, Exact, Within
from tests.layers import CLASSES, figures, instance


def grade(name: str) -> str:
    """What an instance of the class answers."""
    try:
        found, _ = figures(*instance(nn, name))
    except TypeError:
        return "not defined"
    return "asymptotic" if found.method.startswith("asymptotic") else "exact"


GRADES = Counter(map(grade, CLASSES))
TWINS = sum(
    inspect.isclass(getattr(normprop.nn, name, None))
    and issubclass(getattr(normprop.nn, name), getattr(nn, name))
    for name in CLASSES
)


def of_batch(n: int) -> float:
    """σ_b of batch normalisation over n values: the Jacobian has rank n - 2 of n and slope 1/σ̂,
    where E σ̂^-2 = n/(n - 3).  The 1e-5 that torch adds to σ̂² shows in the fifth digit."""
    return math.sqrt((n - 2) / (n - 3))


EXPECTED = {
    "classes": Equals(len(CLASSES)),
    "exact": Equals(GRADES["exact"]),
    "asymptotic": Equals(GRADES["asymptotic"]),
    "not_defined": Equals(GRADES["not defined"]),
    "twins": Equals(TWINS),
    # On the forward ball, and the rounding that the bound admits.
    "upsampled_fwd_std": Exact(1.0, 1e-12),
    "upsampled_error": Within(0.0, 1e-12, "a few hundred roundings"),
    "batch_limit": Exact(1 / math.sqrt(1 + 1e-5), 1e-15),
    "batch_8": Estimate(of_batch(8), "batch_8_se"),
    "batch_128": Estimate(of_batch(128), "batch_128_se"),
    # Var dx² is about 2 and more for small batches; √ halves it.
    "batch_8_se": Within(1e-4, 2e-2, "0.8/√samples, and 20 times fewer samples"),
    "batch_128_se": Within(1e-4, 2e-2, "0.7/√samples, and 20 times fewer samples"),
}
