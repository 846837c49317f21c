"use strict";
normprop.part("normal", [], () => {
  const ROOT = Math.sqrt(2 * Math.PI);
  // From here on the fraction needs fewer terms than the series, and has no cancellation.
  const FAR = 3;

  const pdf = (z) => Math.exp(-0.5 * z * z) / ROOT;

  // Φ(-t)/φ(t) = 1/(t + 1/(t + 2/(t + 3/(t + …)))), from its end. What n terms leave falls like
  // exp(-t√(8n)).
  function mills(t) {
    let rest = t;
    for (let k = 4 + Math.ceil(250 / (t * t)); k > 0; k--) rest = t + k / rest;
    return 1 / rest;
  }

  // Φ(z). Near 0, Φ(z) - ½ = φ(z)(z + z³/3 + z⁵/(3·5) + …), whose terms have one sign.
  function cdf(z) {
    const t = Math.abs(z);
    if (t >= FAR) return z > 0 ? 1 - pdf(t) * mills(t) : pdf(t) * mills(t);
    let term = z;
    let sum = z;
    for (let k = 3; Math.abs(term) > 1e-17; k += 2) {
      term *= (z * z) / k;
      sum += term;
    }
    return 0.5 + pdf(z) * sum;
  }

  return { pdf, cdf };
});
