"use strict";
// Networks that learn the digits: a chain of equal layers and a linear head, plain or normalised.
normprop.part("training", ["digits", "maps", "random"], (digits, maps, random) => {
  const CLASSES = 10;
  const BATCH = 32;
  const MOMENTUM = 0.9;
  const TEST = 360;
  // So often the network is asked about the digits that it has not seen.
  const LOOK = 20;
  const SHOWN = 10;

  // Centred pixel by pixel and divided by one number, as in the book's chapters; the order is random.
  const data = (() => {
    const size = digits.side ** 2;
    const count = digits.labels.length;
    const draw = random.uniform(1797);
    const order = Array.from({ length: count }, (_, k) => k);
    for (let k = count - 1; k > 0; k--) {
      const other = Math.floor(draw() * (k + 1));
      [order[k], order[other]] = [order[other], order[k]];
    }
    const inputs = new Float64Array(count * size);
    order.forEach((from, to) => {
      inputs.set(digits.pixels.subarray(from * size, (from + 1) * size), to * size);
    });
    for (let pixel = 0; pixel < size; pixel++) {
      let sum = 0;
      for (let k = 0; k < count; k++) sum += inputs[k * size + pixel];
      for (let k = 0; k < count; k++) inputs[k * size + pixel] -= sum / count;
    }
    const scale = Math.sqrt(inputs.reduce((sum, x) => sum + x * x, 0) / inputs.length);
    return {
      size,
      order,
      inputs: inputs.map((x) => x / scale),
      labels: order.map((from) => digits.labels[from]),
      train: count - TEST,
    };
  })();

  // The first digits of the test part, as they were written, for a picture of them.
  function shown() {
    const chosen = data.order.slice(data.train, data.train + SHOWN);
    const images = chosen.map((k) => [...digits.pixels.subarray(k * data.size, (k + 1) * data.size)]);
    return {
      side: digits.side,
      pixels: images.flat(),
      labels: chosen.map((k) => digits.labels[k]),
    };
  }

  // Each scheme: the std of the weights times √fan-in; what the activation is turned into; whether the
  // weights stay on their ball, one factor a layer; whether they begin as orthogonal matrices.
  const normalised = (scaling) => (f) => ({
    gain: 1,
    ball: true,
    law: { mean: 0, std: 1, ...maps.constants(f, 0, 1, scaling) },
  });
  const plain = (gain) => () => ({
    gain,
    ball: false,
    law: { mean: 0, std: 1, shift: 0, ahead: 1, back: 1 },
  });
  const SCHEMES = {
    // torch.nn.Linear draws from ±1/√fan-in, whose std is 1/√3 of that.
    pytorch: plain(Math.sqrt(1 / 3)),
    he: plain(Math.SQRT2),
    forward: normalised("forward"),
    backward: normalised("backward"),
    separate: normalised("separate"),
    calibrated: (f, depth) => {
      const { mean, std } = maps.calibrated(f, depth);
      const law = { mean, std, ...maps.constants(f, mean, std, "forward") };
      return { gain: 1, ball: true, orthogonal: true, law };
    },
  };

  // Rows, or columns where there are more rows, made orthonormal one after the other.
  function orthonormal(matrix, rows, columns) {
    for (let i = 0; i < rows; i++) {
      const row = matrix.subarray(i * columns, (i + 1) * columns);
      // Twice: the first pass leaves a little where rows were nearly parallel.
      for (let pass = 0; pass < 2; pass++) {
        for (let k = 0; k < i; k++) {
          const other = matrix.subarray(k * columns, (k + 1) * columns);
          const along = row.reduce((sum, w, j) => sum + w * other[j], 0);
          for (let j = 0; j < columns; j++) row[j] -= along * other[j];
        }
      }
      const norm = Math.hypot(...row);
      for (let j = 0; j < columns; j++) row[j] /= norm;
    }
  }

  class Linear {
    constructor(inputs, outputs, { gain, ball, orthogonal }, draw) {
      Object.assign(this, { inputs, outputs, ball });
      this.weight = Float64Array.from({ length: inputs * outputs }, draw);
      if (orthogonal && outputs <= inputs) orthonormal(this.weight, outputs, inputs);
      const size = Math.sqrt(outputs) * gain;
      const norm = Math.hypot(...this.weight);
      for (let k = 0; k < this.weight.length; k++) this.weight[k] *= size / norm;
      this.radius = size;
      this.bias = new Float64Array(outputs);
      this.speed = new Float64Array(this.weight.length + outputs);
    }

    forward(x, rows) {
      const { inputs, outputs, weight, bias } = this;
      const u = new Float64Array(rows * outputs);
      for (let r = 0; r < rows; r++) {
        for (let i = 0; i < outputs; i++) {
          let sum = bias[i];
          for (let j = 0; j < inputs; j++) sum += weight[i * inputs + j] * x[r * inputs + j];
          u[r * outputs + i] = sum;
        }
      }
      this.x = x;
      return u;
    }

    // From the gradient of the outputs that of the inputs; `gradient` keeps those of W and b.
    backward(du, rows) {
      const { inputs, outputs, weight, x } = this;
      const dx = new Float64Array(rows * inputs);
      const gradient = new Float64Array(this.speed.length);
      for (let r = 0; r < rows; r++) {
        for (let i = 0; i < outputs; i++) {
          const d = du[r * outputs + i];
          gradient[weight.length + i] += d;
          for (let j = 0; j < inputs; j++) {
            gradient[i * inputs + j] += d * x[r * inputs + j];
            dx[r * inputs + j] += d * weight[i * inputs + j];
          }
        }
      }
      this.gradient = gradient;
      return dx;
    }

    step(rate) {
      const { weight, bias, speed, gradient } = this;
      for (let k = 0; k < speed.length; k++) speed[k] = MOMENTUM * speed[k] + gradient[k];
      for (let k = 0; k < weight.length; k++) weight[k] -= rate * speed[k];
      for (let i = 0; i < bias.length; i++) bias[i] -= rate * speed[weight.length + i];
      if (!this.ball) return;
      const factor = this.radius / Math.sqrt(weight.reduce((sum, w) => sum + w * w, 0));
      for (let k = 0; k < weight.length; k++) weight[k] *= factor;
    }
  }

  class Network {
    constructor({ f, scheme, width, depth, seed }) {
      const recipe = SCHEMES[scheme](f, depth);
      const draw = random.normal(seed, 4);
      this.f = f;
      this.law = recipe.law;
      this.layers = [];
      for (let k = 0; k < depth; k++) {
        this.layers.push(new Linear(k ? width : data.size, width, recipe, draw));
      }
      this.head = new Linear(width, CLASSES, { ...recipe, gain: 1, orthogonal: false }, draw);
    }

    forward(x, rows) {
      const { mean, std, shift, ahead } = this.law;
      this.between = [];
      for (const layer of this.layers) {
        const u = layer.forward(x, rows).map((v) => mean + std * v);
        this.between.push(u);
        x = u.map((v) => (this.f.value(v) - shift) / ahead);
      }
      return this.head.forward(x, rows);
    }

    backward(dy, rows) {
      const { std, back } = this.law;
      let dx = this.head.backward(dy, rows);
      for (let k = this.layers.length - 1; k >= 0; k--) {
        const u = this.between[k];
        const du = dx.map((d, at) => (d * std * this.f.slope(u[at])) / back);
        dx = this.layers[k].backward(du, rows);
      }
    }
  }

  // Logits become the gradient of the mean loss, in place; returns the loss, in nats.
  function crossEntropy(logits, labels) {
    let loss = 0;
    labels.forEach((label, r) => {
      const row = logits.subarray(r * CLASSES, (r + 1) * CLASSES);
      const top = Math.max(...row);
      loss -= row[label] - top;
      let total = 0;
      for (let c = 0; c < CLASSES; c++) {
        row[c] = Math.exp(row[c] - top);
        total += row[c];
      }
      loss += Math.log(total);
      for (let c = 0; c < CLASSES; c++) row[c] /= total * labels.length;
      row[label] -= 1 / labels.length;
    });
    return loss / labels.length;
  }

  function guesses(network) {
    const inputs = data.inputs.subarray(data.train * data.size);
    const logits = network.forward(inputs, TEST);
    return Array.from({ length: TEST }, (_, r) => {
      const row = logits.subarray(r * CLASSES, (r + 1) * CLASSES);
      return row.indexOf(Math.max(...row));
    });
  }

  function examined(network) {
    const found = guesses(network);
    const right = found.filter((guess, r) => guess === data.labels[data.train + r]).length;
    return { accuracy: right / TEST, guesses: found.slice(0, SHOWN) };
  }

  const size = (gradient) => Math.hypot(...gradient);

  // Yields { step, loss } of each batch; now and then what the network makes of the test part, too;
  // in the first step the size of the gradient at the first layer, in units of that at the last.
  function* train({ f, scheme, width, depth, rate, steps, seed }) {
    const network = new Network({ f, scheme, width, depth, seed });
    const draw = random.uniform(seed, 5);
    yield { step: 0, shown: shown(), ...examined(network) };
    for (let step = 1; step <= steps; step++) {
      const chosen = Array.from({ length: BATCH }, () => Math.floor(draw() * data.train));
      const x = new Float64Array(BATCH * data.size);
      chosen.forEach((from, to) => {
        x.set(data.inputs.subarray(from * data.size, (from + 1) * data.size), to * data.size);
      });
      const logits = network.forward(x, BATCH);
      const loss = crossEntropy(logits, chosen.map((k) => data.labels[k]));
      if (!Number.isFinite(loss)) {
        yield { step, diverged: true };
        return;
      }
      network.backward(logits, BATCH);
      const report = { step, loss };
      if (step === 1) {
        const { layers } = network;
        report.gradient = size(layers[0].gradient) / size(layers[depth - 1].gradient);
      }
      // The rate falls in a straight line to 0.
      const now = rate * (1 - (step - 1) / steps);
      for (const layer of [...network.layers, network.head]) layer.step(now);
      if (step % LOOK === 0 || step === steps) Object.assign(report, examined(network));
      yield report;
    }
  }

  return { Network, crossEntropy, train };
});
