"use strict";
// Random numbers that begin with a seed: the same network for the same place of a slider.
normprop.part("random", [], () => {
  // Chris Doty-Humphrey's generator of four 32-bit words, "small fast counting".
  function uniform(...seeds) {
    let [a, b, c, counter] = [0, 0, 0, 1];
    function next() {
      const word = (a + b + counter) | 0;
      counter = (counter + 1) | 0;
      a = b ^ (b >>> 9);
      b = (c + (c << 3)) | 0;
      c = ((c << 21) | (c >>> 11)) + word;
      c |= 0;
      return word >>> 0;
    }
    for (const seed of seeds) {
      a ^= seed;
      // Until each bit of a seed has reached all of the state.
      for (let k = 0; k < 16; k++) next();
    }
    // 32 bits are enough: nothing here looks closer than that.
    return () => next() / 4294967296;
  }

  // Standard normal numbers, by Marsaglia's polar method: two at a time.
  function normal(...seeds) {
    const draw = uniform(...seeds);
    let spare = NaN;
    return () => {
      if (spare === spare) {
        const kept = spare;
        spare = NaN;
        return kept;
      }
      let x, y, square;
      do {
        x = 2 * draw() - 1;
        y = 2 * draw() - 1;
        square = x * x + y * y;
      } while (square >= 1 || square === 0);
      const stretch = Math.sqrt((-2 * Math.log(square)) / square);
      spare = y * stretch;
      return x * stretch;
    };
  }

  return { uniform, normal };
});
