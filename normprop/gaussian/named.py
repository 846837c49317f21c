"""The scalar functions that the package knows by name.

A new activation is made in ``normprop.gaussian.families`` or ``normprop.gaussian.smooth``, under
``by_name``.
"""

# What stands in these is known by name once they are imported.
from normprop.gaussian import families, smooth  # noqa: F401
from normprop.gaussian.functions import MAKERS

FUNCTIONS = {name: make() for name, make in sorted(MAKERS.items())}
"""Every function that has a name, by that name, with torch's default parameters."""
