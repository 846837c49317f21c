"""Write the digits that the book's live figure trains on.

    python scripts/pack_digits.py    writes book/_static/explorer/digits.js

The 1797 images of 8×8 pixels that come with scikit-learn: the test part of "Optical Recognition of
Handwritten Digits" by E. Alpaydin and C. Kaynak, UCI Machine Learning Repository (1998), CC BY 4.0.
A pixel is one of 17 greys.  Three of them make a number below 17³ = 4913, which two characters of
an alphabet of 71 can hold.
"""

import string
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

TARGET = Path(__file__).resolve().parent.parent / "book" / "_static" / "explorer" / "digits.js"
GREYS = 17
GROUP = 3
# No quote and no backslash, which a string of JavaScript would have to escape.
ALPHABET = string.digits + string.ascii_letters + "!#$%&()*+"
LINE = 96

SCRIPT = """\
"use strict";
// Written by scripts/pack_digits.py, do not edit. The 1797 images of 8×8 pixels that come with
// scikit-learn: the test part of "Optical Recognition of Handwritten Digits" by E. Alpaydin and
// C. Kaynak, UCI Machine Learning Repository (1998), licensed CC BY 4.0
// (https://creativecommons.org/licenses/by/4.0/). Only how they are written has been changed: two
// characters hold three pixels of {greys} greys.
normprop.part("digits", [], () => {{
  const ALPHABET = "{alphabet}";
  const labels = (
{labels}
  );
  const pairs = (
{pairs}
  );

  function decode() {{
    const pixels = new Uint8Array({group} * (pairs.length / 2));
    for (let k = 0; 2 * k < pairs.length; k++) {{
      let rest =
        ALPHABET.indexOf(pairs[2 * k]) * ALPHABET.length + ALPHABET.indexOf(pairs[2 * k + 1]);
      for (let place = 0; place < {group}; place++) {{
        pixels[{group} * k + place] = rest % {greys};
        rest = Math.floor(rest / {greys});
      }}
    }}
    return pixels;
  }}

  return {{ side: 8, pixels: decode(), labels: Uint8Array.from(labels, Number) }};
}});
"""


def packed(pixels: np.ndarray) -> str:
    """Greys, a multiple of three of them, as text."""
    numbers = pixels.astype(int).reshape(-1, GROUP) @ GREYS ** np.arange(GROUP)
    high, low = np.divmod(numbers, len(ALPHABET))
    characters = np.array(list(ALPHABET))
    return "".join(np.stack([characters[high], characters[low]], 1).ravel())


def lines(text: str) -> str:
    """A long string of JavaScript, in lines."""
    parts = [text[k : k + LINE] for k in range(0, len(text), LINE)]
    return " +\n".join(f'    "{part}"' for part in parts)


def script() -> str:
    """The text of digits.js."""
    data = load_digits()
    return SCRIPT.format(
        greys=GREYS,
        group=GROUP,
        alphabet=ALPHABET,
        labels=lines("".join(map(str, data.target))),
        pairs=lines(packed(data.images.ravel())),
    )


if __name__ == "__main__":
    TARGET.write_text(script(), encoding="utf-8")
