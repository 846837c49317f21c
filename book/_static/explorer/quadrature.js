"use strict";
normprop.part("quadrature", ["normal"], ({ pdf }) => {
  // In standard deviations. What lies farther out weighs less than 1e-43, and a function that bends
  // far from the mean lives on such weights.
  const REACH = 14;
  const ORDER = 20;
  // A normal density over two standard deviations is a polynomial of degree 39 to all digits.
  const LONGEST = 2;

  // Nodes and weights of Gauss and Legendre on [-1, 1]: roots of the polynomial by Newton's rule.
  const RULE = (() => {
    const nodes = [];
    for (let k = 0; k < ORDER; k++) {
      let x = Math.cos((Math.PI * (k + 0.75)) / (ORDER + 0.5));
      let slope = 1;
      for (let round = 0; round < 8; round++) {
        let [before, now] = [1, x];
        for (let n = 2; n <= ORDER; n++) {
          [before, now] = [now, ((2 * n - 1) * x * now - (n - 1) * before) / n];
        }
        slope = (ORDER * (before - x * now)) / (1 - x * x);
        x -= now / slope;
      }
      nodes.push([x, 2 / ((1 - x * x) * slope * slope)]);
    }
    return nodes;
  })();

  // Ends of panels in z = (x - m)/s. A panel must not hold a kink, and where f bends it must be
  // no longer than its distance from the bend: the poles of these functions lie beside 0.
  function panels(f, mean, std) {
    const marks = [...f.kinks];
    if (f.bent) {
      const farthest = Math.abs(mean) + REACH * std;
      marks.push(0);
      for (let rung = 1; rung < farthest; rung *= 2) marks.push(rung, -rung);
    }
    const ends = marks.map((x) => (x - mean) / std).filter((z) => Math.abs(z) < REACH);
    ends.push(-REACH, REACH);
    ends.sort((a, b) => a - b);
    const short = [ends[0]];
    for (let k = 1; k < ends.length; k++) {
      const way = ends[k] - ends[k - 1];
      const parts = Math.ceil(way / LONGEST);
      for (let part = 1; part <= parts; part++) short.push(ends[k - 1] + (way * part) / parts);
    }
    return short;
  }

  // Points x with the weights of N(mean, std²).
  function mesh(f, mean, std) {
    const ends = panels(f, mean, std);
    const size = (ends.length - 1) * ORDER;
    const [points, weights] = [new Float64Array(size), new Float64Array(size)];
    let at = 0;
    for (let k = 1; k < ends.length; k++) {
      const half = 0.5 * (ends[k] - ends[k - 1]);
      const middle = 0.5 * (ends[k] + ends[k - 1]);
      for (const [node, weight] of RULE) {
        const z = middle + half * node;
        points[at] = mean + std * z;
        weights[at++] = half * weight * pdf(z);
      }
    }
    return { points, weights };
  }

  // μ = E f, σ_f = Std f, σ_b = √E f'² and χ = s²σ_b²/σ_f² under x ~ N(mean, std²).
  // χ is NaN where f does not vary.
  function figures(f, mean, std) {
    const { points, weights } = mesh(f, mean, std);
    // Increments from f(m), so that a small spread on top of a large value keeps its digits.
    const centre = f.value(mean);
    const rises = points.map((x) => f.value(x) - centre);
    let [first, square, variance] = [0, 0, 0];
    for (let k = 0; k < points.length; k++) {
      const slope = f.slope(points[k]);
      first += weights[k] * rises[k];
      square += weights[k] * slope * slope;
    }
    for (let k = 0; k < points.length; k++) {
      const off = rises[k] - first;
      variance += weights[k] * off * off;
    }
    const forward = Math.sqrt(variance);
    const backward = Math.sqrt(square);
    const value = centre + first;
    const varies = forward > 1e-12 * Math.max(Math.abs(value), 1e-3);
    return { mean: value, forward, backward, chi: varies ? ((std * backward) / forward) ** 2 : NaN };
  }

  // E g(x) for a function with the kinks and bends of f.
  function expectation(g, f, mean, std) {
    const { points, weights } = mesh(f, mean, std);
    return points.reduce((sum, x, k) => sum + weights[k] * g(x), 0);
  }

  return { figures, expectation };
});
