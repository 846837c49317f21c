"""Draw the book's five diagrams: ``python scripts/draw_diagrams.py``, into ``book/_static``.

A diagram is an image on a page that is light or dark, and does not learn which: its colours are
legible on both.
"""

from pathlib import Path

OUT = Path(__file__).resolve().parent.parent / "book" / "_static"

# Legible on white and on near-black: contrast of 4.5 and more with both.
INK, FORWARD, BACKWARD = "#757575", "#2E86C8", "#D0661B"
FONT = "font-family='DejaVu Sans, Verdana, sans-serif' font-size='17'"
HEAD = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}'"
    " height='{height}' " + FONT + ">\n<defs>{markers}</defs>\n"
)
MARKER = (
    "<marker id='{name}' viewBox='0 0 10 10' refX='9' refY='5' markerWidth='7' markerHeight='7'"
    " orient='auto'><path d='M0 0L10 5L0 10z' fill='{colour}'/></marker>"
)


def arrow(x1, y1, x2, y2, colour=INK):
    """A line with a head."""
    name = {INK: "ink", FORWARD: "forward", BACKWARD: "backward"}[colour]
    return (
        f"<line x1='{x1}' y1='{y1}' x2='{x2}' y2='{y2}' stroke='{colour}' stroke-width='2.5'"
        f" marker-end='url(#{name})'/>\n"
    )


def text(x, y, what, colour=INK, anchor="middle"):
    """A label."""
    return f"<text x='{x}' y='{y}' fill='{colour}' text-anchor='{anchor}'>{what}</text>\n"


def box(x, y, width, height, label=""):
    """A layer."""
    frame = (
        f"<rect x='{x}' y='{y}' width='{width}' height='{height}' rx='6' fill='none'"
        f" stroke='{INK}' stroke-width='2.5'/>\n"
    )
    return frame + (text(x + width / 2, y + height / 2 + 6, label) if label else "")


def layer():
    """A layer with x → y and dy → dx."""
    return (
        box(170, 50, 140, 100, "f")
        + arrow(60, 75, 165, 75, FORWARD)
        + arrow(315, 75, 420, 75, FORWARD)
        + text(40, 81, "x", FORWARD)
        + text(440, 81, "y", FORWARD)
        + arrow(420, 125, 315, 125, BACKWARD)
        + arrow(165, 125, 60, 125, BACKWARD)
        + text(440, 131, "dy", BACKWARD)
        + text(38, 131, "dx", BACKWARD)
        + text(240, 30, "forward: y = f(x)", FORWARD)
        + text(240, 182, "backward: dx = f′(x) · dy", BACKWARD)
    )


def chain():
    """Layers in a row."""
    drawn = ""
    for k in range(3):
        x = 60 + 135 * k
        drawn += box(x, 55, 85, 80, f"f<tspan dy='5' font-size='13'>{k + 1}</tspan>")
        drawn += text(x + 42, 165, f"·g<tspan dy='5' font-size='13'>{k + 1}</tspan>", BACKWARD)
    for k in range(4):
        x = 12 + 135 * k
        drawn += arrow(x, 78, x + 44, 78, FORWARD) + arrow(x + 44, 112, x, 112, BACKWARD)
    return drawn + text(240, 34, "the signal", FORWARD) + text(240, 195, "the gradient", BACKWARD)


def join():
    """A residual join with the ratio r on one path."""
    curve = f"fill='none' stroke='{BACKWARD}' stroke-width='2.5'"
    return (
        arrow(465, 100, 420, 100, BACKWARD)
        + text(448, 88, "dy", BACKWARD)
        + f"<circle cx='402' cy='100' r='16' fill='none' stroke='{INK}' stroke-width='2.5'/>\n"
        + text(402, 106, "+")
        + f"<path d='M390 88C350 40 150 40 112 92' {curve} marker-end='url(#backward)'/>\n"
        + text(250, 40, "skip: · 1", BACKWARD)
        + f"<path d='M390 112C372 150 350 150 318 150' {curve} marker-end='url(#backward)'/>\n"
        + box(195, 122, 120, 56, "branch")
        + f"<path d='M192 150C160 150 140 150 112 108' {curve} marker-end='url(#backward)'/>\n"
        + text(255, 205, "branch: · r", BACKWARD)
        + f"<circle cx='106' cy='100' r='5' fill='{INK}'/>\n"
        + arrow(96, 100, 40, 100, BACKWARD)
        + text(60, 88, "dx", BACKWARD)
    )


def pooling():
    """What two overlapping windows send back."""
    drawn = ""
    for left, title, shares in (
        (20, "max", {2: 2}),
        (260, "average", {0: 1, 1: 1, 2: 2, 3: 1, 4: 1}),
    ):
        drawn += text(left + 100, 28, title)
        for k in range(5):
            drawn += box(left + 40 * k, 150, 40, 40, str(shares.get(k, 0)))
        for start in (0, 2):
            middle = left + 40 * start + 60
            drawn += f"<circle cx='{middle}' cy='62' r='12' fill='none' stroke='{BACKWARD}'"
            drawn += " stroke-width='2.5'/>\n"
            for k in range(start, start + 3):
                if title == "average" or k == 2:
                    drawn += arrow(middle, 76, left + 40 * k + 20, 146, BACKWARD)
        drawn += text(left + 100, 216, "parts that arrive")
    return drawn


def cobweb():
    """A staircase to where a scale map settles."""

    def place(u):
        return 70 + 320 * u

    def height(v):
        return 300 - 270 * v

    def mapped(u):
        return 0.22 + 0.62 * u**0.8

    points = [k / 60 for k in range(61)]
    curve = " ".join(f"{place(u):.1f},{height(mapped(u)):.1f}" for u in points)
    stairs, u = [(0.06, 0.0)], 0.06
    for _ in range(9):
        stairs += [(u, mapped(u)), (mapped(u), mapped(u))]
        u = mapped(u)
    web = " ".join(f"{place(a):.1f},{height(b):.1f}" for a, b in stairs)
    return (
        arrow(70, 300, 415, 300)
        + arrow(70, 300, 70, 18)
        + f"<line x1='70' y1='300' x2='390' y2='30' stroke='{INK}' stroke-width='1.5'/>\n"
        + f"<polyline points='{curve}' fill='none' stroke='{FORWARD}' stroke-width='3'/>\n"
        + f"<polyline points='{web}' fill='none' stroke='{BACKWARD}' stroke-width='2'/>\n"
        + text(240, 330, "scale before a layer")
        + f"<text transform='translate(46 165) rotate(-90)' fill='{INK}' text-anchor='middle'>"
        + "scale behind it</text>\n"
        + text(118, 182, "Q", FORWARD)
        + text(place(u) + 8, height(u) + 32, "settles", BACKWARD, "start")
    )


DIAGRAMS = {
    "layer": (layer, 480, 200),
    "chain": (chain, 480, 210),
    "join": (join, 480, 220),
    "pooling": (pooling, 480, 230),
    "cobweb": (cobweb, 480, 345),
}


def main() -> None:
    """Write all of them."""
    colours = (("ink", INK), ("forward", FORWARD), ("backward", BACKWARD))
    markers = "".join(MARKER.format(name=name, colour=colour) for name, colour in colours)
    for name, (draw, width, height) in DIAGRAMS.items():
        svg = HEAD.format(width=width, height=height, markers=markers) + draw() + "</svg>\n"
        (OUT / f"{name}.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
