"use strict";
// What a layer does to the size of what passes it, and a stack of such layers.
//
// A layer takes u to g(u) = (f(m + su) - μ)/σ, and weights on their ball keep the mean square.
// The signal's mean square goes by q → Q(q) = E g(√q z)²; the gradient's std is multiplied by
// that of g' under the law of its layer.
normprop.part("maps", ["quadrature"], ({ figures }) => {
  // What is subtracted, and what divides each way. "plain" is the function alone: s is then the
  // size of its weights and m a bias.
  function constants(f, mean, std, scaling) {
    if (scaling === "plain") return { shift: 0, ahead: 1, back: 1 };
    const law = figures(f, mean, std);
    const slope = std * law.backward;
    return {
      shift: law.mean,
      ahead: scaling === "backward" ? slope : law.forward,
      back: scaling === "forward" ? law.forward : slope,
    };
  }

  // std of the signal behind 0, 1, … depth layers, and of the gradient in front of each, if both
  // begin with 1. Centred weights see only how the units of a layer differ. Null where the function
  // is flat: there is nothing to divide by.
  function predict({ f, mean, std, scaling, weights, depth }) {
    const { shift, ahead, back } = constants(f, mean, std, scaling);
    if (!(ahead > 0 && back > 0)) return null;
    const signal = [1];
    const growth = [];
    let law;
    for (let layer = 0; layer < depth; layer++) {
      // At a fixed point each layer is the one before.
      const moved = layer === 0 || Math.abs(signal[layer] / signal[layer - 1] - 1) > 1e-14;
      if (moved) law = figures(f, mean, std * signal[layer]);
      const off = weights === "centred" ? 0 : law.mean - shift;
      signal.push(Math.hypot(law.forward, off) / ahead);
      growth.push((std * law.backward) / back);
    }
    const gradient = [1];
    for (let layer = depth - 1; layer >= 0; layer--) gradient.unshift(gradient[0] * growth[layer]);
    return { signal, gradient };
  }

  // The law at which depth layers with forward scaling multiply the squared gradient by e. The std
  // falls until f is straight enough; but a corner at 0 looks the same at every std, so that there
  // the mean moves away from it. Where |f'|^(3/2) is not concave the signal does not stay, however
  // small the std: a mean is taken where it is, as much as anywhere. A stack too shallow to reach e
  // stays at N(0, 1).
  function calibrated(f, depth) {
    const target = Math.exp(1 / depth);
    const corner = Math.abs(f.slope(1e-9) - f.slope(-1e-9)) > 1e-3;
    const steep = (x) => Math.abs(f.slope(x)) ** 1.5;
    const bend = (x) => (steep(x + 0.05) + steep(x - 0.05)) / steep(x) - 2;
    let centre = 0;
    if (bend(0) > 0) {
      for (let x = 0.25; x <= 4; x += 0.25) if (bend(x) < bend(centre)) centre = x;
    }
    const law = (v) => (corner ? { mean: v, std: 1 } : { mean: centre, std: Math.exp(v) });
    // χ is below the target at the first end, and not at the second.
    let [straight, bent] = corner ? [8, 0] : [Math.log(1e-3), centre > 0 ? Math.log(4) : 0];
    const most = law(bent);
    if (figures(f, most.mean, most.std).chi <= target) return { mean: 0, std: 1 };
    for (let round = 0; round < 60; round++) {
      const middle = 0.5 * (straight + bent);
      const { mean, std } = law(middle);
      if (figures(f, mean, std).chi < target) straight = middle;
      else bent = middle;
    }
    return law(straight);
  }

  return { constants, predict, calibrated };
});
