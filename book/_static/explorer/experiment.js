"use strict";
// The post's experiment: dx = y(1 - y)dy for 100 000 normal x and dy, y the sigmoid of x, and the
// standard deviation of dx. Run again and again, it shows how far one run can be trusted.
normprop.part(
  "experiment",
  ["activations", "quadrature", "random"],
  ({ sigmoid }, { figures, expectation }, random) => {
    const SAMPLES = 100000;
    const POST = 0.2123;

    const exact = figures(sigmoid, 0, 1).backward;
    // The variance of dx² is 3 E f'⁴ - σ_b⁴; an error of σ² is 2σ times that of σ.
    const fourth = expectation((x) => sigmoid.slope(x) ** 4, sigmoid, 0, 1);
    const error = Math.sqrt((3 * fourth - exact ** 4) / SAMPLES) / (2 * exact);

    function once(seed) {
      const draw = random.normal(seed, 3);
      let first = 0;
      let square = 0;
      for (let k = 0; k < SAMPLES; k++) {
        const dx = sigmoid.slope(draw()) * draw();
        first += dx;
        square += dx * dx;
      }
      const mean = first / SAMPLES;
      return Math.sqrt(square / SAMPLES - mean * mean);
    }

    // Yields the result of each run; `from` is the number of runs that came before.
    function* repeat({ from, runs }) {
      for (let k = 0; k < runs; k++) yield once(from + k);
    }

    return { SAMPLES, POST, exact, error, repeat };
  },
);
