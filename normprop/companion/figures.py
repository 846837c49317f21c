"""One style for every figure of the book, and the roles that keep their colours in all chapters."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["ROLES", "WIDTH", "series", "use_style"]

# Inches. The book shows a figure 480 px wide; at a phone's 342 px, type of 11 pt is still 10 px.
WIDTH, HEIGHT = 5.0, 3.2

# Okabe and Ito's palette (https://jfly.uni-koeln.de/color/), which stays apart under the common
# forms of colour blindness. Yellow is left out: it fades on white.
BLACK = "#000000"
BLUE = "#0072B2"
VERMILLION = "#D55E00"
GREEN = "#009E73"
PURPLE = "#CC79A7"
ORANGE = "#E69F00"
SKY = "#56B4E9"
GREY = "#767676"

# What a line stands for -> how it looks, in every chapter. No two roles share a colour, and no two
# share both marker and line style, so that the figures survive a black-and-white printer.
ROLES: dict[str, dict[str, str]] = {
    "forward": {"color": BLUE, "marker": "o", "linestyle": "-"},
    "backward": {"color": VERMILLION, "marker": "s", "linestyle": "--"},
    "separate": {"color": GREEN, "marker": "^", "linestyle": "-."},
    "plain": {"color": GREY, "marker": "x", "linestyle": ":"},
    "exact": {"color": BLACK, "marker": "", "linestyle": "-"},
    "simulated": {"color": SKY, "marker": "D", "linestyle": "none"},
    "post": {"color": ORANGE, "marker": "*", "linestyle": "--"},
}


def series(role: str) -> dict[str, str]:
    """Return the colour, marker and line style of a role, as keywords for ``Axes.plot``.

    Args:
        role: one of ``ROLES``: "forward", "backward", "separate", "plain", "exact", "simulated"
            or "post".

    Raises:
        ValueError: there is no such role.
    """
    if role not in ROLES:
        raise ValueError(f"a role must be one of {', '.join(ROLES)}, got {role!r}")
    return dict(ROLES[role])


def use_style() -> None:
    """Set matplotlib up for the book; in a notebook, figures become SVG and PNG of a fixed size.

    The background is opaque white, so that the axes stay legible on a dark page.
    """
    import matplotlib as mpl

    mpl.rcParams.update(_style())
    if "IPython" in sys.modules:
        _use_inline_images()


def _style() -> dict[str, Any]:
    from cycler import cycler

    cycle = (
        cycler(color=[BLUE, VERMILLION, GREEN, PURPLE, ORANGE, BLACK])
        + cycler(linestyle=["-", "--", "-.", ":", "-", "--"])
        + cycler(marker=["o", "s", "^", "v", "D", "x"])
    )
    return {
        "axes.axisbelow": True,
        "axes.facecolor": "white",
        "axes.grid": True,
        "axes.labelsize": 11.5,
        "axes.prop_cycle": cycle,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlesize": 11.5,
        "errorbar.capsize": 3.0,
        "figure.constrained_layout.use": True,
        "figure.dpi": 96,
        "figure.facecolor": "white",
        "figure.figsize": (WIDTH, HEIGHT),
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 11.5,
        "grid.color": "#E0E0E0",
        "grid.linewidth": 0.6,
        "legend.fontsize": 10.5,
        "legend.frameon": False,
        "lines.linewidth": 1.6,
        "lines.markersize": 5.0,
        "savefig.facecolor": "white",
        "savefig.transparent": False,
        # Outlines instead of text: the figure does not depend on the reader's fonts.
        "svg.fonttype": "path",
        # Identifiers inside the SVG are hashed with this salt; a random one changes every build.
        "svg.hashsalt": "normprop",
        "xtick.labelsize": 11.0,
        "ytick.labelsize": 11.0,
    }


def _use_inline_images() -> None:
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    # SVG is what the pages show.  Jupyter shows none in a notebook that was downloaded, until the
    # reader trusts it: there PNG stands in, of twice the resolution.
    # No tight box, which would give every figure a size of its own; no date, so that the same
    # numbers give the same file.
    set_matplotlib_formats("svg", "retina", bbox_inches=None, metadata={"Date": None})
