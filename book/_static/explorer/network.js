"use strict";
// A random network of the kind whose sizes the maps predict, run forward and backward.
normprop.part("network", ["maps", "random", "weights"], ({ constants }, random, weights) => {
  const BATCH = 16;

  // About 0 a root mean square is a standard deviation; a network's mean over units and samples is
  // small, but subtracted all the same.
  function spread(batch) {
    const mean = batch.reduce((sum, x) => sum + x, 0) / batch.length;
    return Math.sqrt(batch.reduce((sum, x) => sum + (x - mean) ** 2, 0) / batch.length);
  }

  // Yields { way: "signal" or "gradient", layer, std }, layer by layer, forward and then back.
  function* simulate({ f, mean, std, scaling, weights: kind, width, depth, seed }) {
    const { shift, ahead, back } = constants(f, mean, std, scaling);
    const fresh = () => random.normal(seed, width, 1);
    const draw = fresh();
    const batch = Float64Array.from({ length: BATCH * width }, draw);
    const layers = [];
    yield { way: "signal", layer: 0, std: spread(batch) };
    for (let layer = 1; layer <= depth; layer++) {
      const matrix = weights[kind](width, draw);
      const inputs = batch.map((u) => mean + std * u);
      for (let k = 0; k < batch.length; k++) batch[k] = (f.value(inputs[k]) - shift) / ahead;
      matrix.apply(batch);
      layers.push({ inputs, matrix });
      yield { way: "signal", layer, std: spread(batch) };
    }
    const gradient = batch;
    const arriving = random.normal(seed, width, 2);
    for (let k = 0; k < gradient.length; k++) gradient[k] = arriving();
    yield { way: "gradient", layer: depth, std: spread(gradient) };
    for (let layer = depth - 1; layer >= 0; layer--) {
      const { inputs, matrix } = layers[layer];
      matrix.back(gradient);
      for (let k = 0; k < gradient.length; k++) {
        gradient[k] *= (std * f.slope(inputs[k])) / back;
      }
      yield { way: "gradient", layer, std: spread(gradient) };
    }
  }

  return { simulate };
});
