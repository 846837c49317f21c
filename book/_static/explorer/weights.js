"use strict";
// Square random weight matrices that keep the mean square, as maps of a batch in place.
//
// A batch holds its samples one after the other. `apply` is x → Wx, `back` is dy → Wᵀdy.
normprop.part("weights", [], () => {
  function dense(matrix, width) {
    const row = new Float64Array(width);
    function apply(batch) {
      for (let start = 0; start < batch.length; start += width) {
        for (let i = 0; i < width; i++) {
          let sum = 0;
          for (let j = 0; j < width; j++) sum += matrix[i * width + j] * batch[start + j];
          row[i] = sum;
        }
        batch.set(row, start);
      }
    }
    function back(batch) {
      for (let start = 0; start < batch.length; start += width) {
        row.fill(0);
        for (let i = 0; i < width; i++) {
          const dy = batch[start + i];
          for (let j = 0; j < width; j++) row[j] += matrix[i * width + j] * dy;
        }
        batch.set(row, start);
      }
    }
    return { apply, back };
  }

  // One factor puts the mean of the rows' squared norms, and so of the columns', at 1.
  function onBall(matrix, width) {
    const square = matrix.reduce((sum, w) => sum + w * w, 0);
    const factor = Math.sqrt(width / square);
    return matrix.map((w) => w * factor);
  }

  function normal(width, draw) {
    return dense(onBall(Float64Array.from({ length: width * width }, draw), width), width);
  }

  // Rows without a mean: what all units have in common does not pass.
  function centred(width, draw) {
    const matrix = Float64Array.from({ length: width * width }, draw);
    for (let start = 0; start < matrix.length; start += width) {
      const row = matrix.subarray(start, start + width);
      const mean = row.reduce((sum, w) => sum + w, 0) / width;
      for (let j = 0; j < width; j++) row[j] -= mean;
    }
    return dense(onBall(matrix, width), width);
  }

  // A random orthogonal matrix, uniform among all, is a product of reflections along normal vectors of
  // lengths n, n - 1, …, 1, each in the last coordinates (Stewart 1980). No matrix is formed.
  function orthogonal(width, draw) {
    const mirrors = [];
    for (let first = 0; first < width; first++) {
      const v = Float64Array.from({ length: width - first }, draw);
      const norm = Math.hypot(...v);
      // The reflection that takes v onto an axis, with the sign that does not cancel.
      const sign = v[0] < 0 ? -1 : 1;
      v[0] += sign * norm;
      const half = 0.5 * v.reduce((sum, x) => sum + x * x, 0);
      mirrors.push({ first, v, half, sign });
    }
    function reflect(batch, { first, v, half, sign }) {
      for (let start = first; start < batch.length; start += width) {
        let along = 0;
        for (let j = 0; j < v.length; j++) along += v[j] * batch[start + j];
        along /= half;
        for (let j = 0; j < v.length; j++) batch[start + j] -= along * v[j];
        batch[start] *= -sign;
      }
    }
    // The transpose: the sign first, then the same reflection.
    function reflectBack(batch, mirror) {
      const { first, v, half, sign } = mirror;
      for (let start = first; start < batch.length; start += width) {
        batch[start] *= -sign;
        let along = 0;
        for (let j = 0; j < v.length; j++) along += v[j] * batch[start + j];
        along /= half;
        for (let j = 0; j < v.length; j++) batch[start + j] -= along * v[j];
      }
    }
    return {
      apply: (batch) => mirrors.forEach((mirror) => reflect(batch, mirror)),
      back: (batch) => [...mirrors].reverse().forEach((mirror) => reflectBack(batch, mirror)),
    };
  }

  return { normal, centred, orthogonal };
});
