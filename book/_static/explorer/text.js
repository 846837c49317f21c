"use strict";
// Numbers as a reader writes them: a true minus, and powers of ten raised.
normprop.part("text", [], () => {
  const RAISED = { "-": "⁻" };
  [..."⁰¹²³⁴⁵⁶⁷⁸⁹"].forEach((sign, digit) => (RAISED[digit] = sign));

  const minus = (text) => text.replace("-", "−");
  const power = (exponent) => "10" + [...String(exponent)].map((sign) => RAISED[sign]).join("");

  // x to so many decimals.
  function fixed(x, decimals) {
    const text = x.toFixed(decimals);
    // No minus before zeros.
    return Number(text) === 0 ? text.replace("-", "") : minus(text);
  }

  // x to so many digits, in powers of ten where it is far from 1.
  function digits(x, count) {
    if (x === Infinity) return "more than a double holds";
    if (Number.isNaN(x)) return "–";
    if (x === 0) return "0";
    const size = Math.abs(x);
    if (size >= 1e-3 && size < 1e5) {
      const before = Math.floor(Math.log10(size));
      return fixed(x, Math.max(0, count - 1 - before));
    }
    const [digit, exponent] = x.toExponential(count - 1).split("e");
    return `${minus(digit)}·${power(Number(exponent))}`;
  }

  return { digits, fixed, power };
});
