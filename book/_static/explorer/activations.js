"use strict";
// The functions that the package knows by name, with torch's default parameters.
normprop.part("activations", ["normal"], ({ pdf, cdf }) => {
  const SELU_ALPHA = 1.6732632423543772;
  const SELU_SCALE = 1.0507009873554805;
  // torch.softplus is a straight line from here on.
  const SOFTPLUS_LIMIT = 20;

  const clip = (x, low, high) => Math.min(Math.max(x, low), high);
  const step = (on) => (on ? 1 : 0);
  const square = (x) => x * x;

  // No exponential is taken of a positive number: it would overflow.
  function sigmoid(x) {
    const small = Math.exp(-Math.abs(x));
    return (x < 0 ? small : 1) / (1 + small);
  }
  const sigmoidSlope = (x) => {
    const small = Math.exp(-Math.abs(x));
    return small / square(1 + small);
  };
  const softplus = (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

  // tanh(softplus(x)) = w(w + 2)/(w(w + 2) + 2) with w = e^x; both divided by w² on the right.
  function mishGate(x) {
    const w = Math.exp(-Math.abs(x));
    const up = x > 0 ? 1 + 2 * w : w * (w + 2);
    return up / (up + (x > 0 ? 2 * w * w : 2));
  }
  function mishGateSlope(x) {
    const w = Math.exp(-Math.abs(x));
    return x > 0
      ? (4 * w * w * (1 + w)) / square(1 + 2 * w + 2 * w * w)
      : (4 * w * (w + 1)) / square(w * (w + 2) + 2);
  }

  // x - tanh x, by its series where the two cancel.
  function tanhshrink(x) {
    if (Math.abs(x) > 0.1) return x - Math.tanh(x);
    const t = x * x;
    return x * t * (1 / 3 - t * (2 / 15 - t * (17 / 315 - t * (62 / 2835 - (t * 1382) / 155925))));
  }

  // x for x > 0, α(e^x - 1) elsewhere, all times scale.
  const exponential = (alpha, scale) => ({
    value: (x) => scale * (x > 0 ? x : alpha * Math.expm1(x)),
    slope: (x) => scale * (x > 0 ? 1 : alpha * Math.exp(x)),
    kinks: [0],
    bent: true,
  });

  // kinks: where f or f' jumps; panels of the integrals end there.
  // bent: whether f bends elsewhere too, over a few units around 0.
  const LIST = {
    relu: {
      title: "ReLU",
      value: (x) => Math.max(x, 0),
      slope: (x) => step(x > 0),
      kinks: [0],
    },
    sigmoid: { title: "sigmoid", value: sigmoid, slope: sigmoidSlope, bent: true },
    tanh: {
      title: "tanh",
      value: Math.tanh,
      slope: (x) => 4 * sigmoidSlope(2 * x),
      bent: true,
    },
    gelu: {
      title: "GELU",
      value: (x) => x * cdf(x),
      slope: (x) => cdf(x) + x * pdf(x),
      bent: true,
    },
    silu: {
      title: "SiLU",
      value: (x) => x * sigmoid(x),
      slope: (x) => sigmoid(x) + x * sigmoidSlope(x),
      bent: true,
    },
    mish: {
      title: "Mish",
      value: (x) => x * mishGate(x),
      slope: (x) => mishGate(x) + x * mishGateSlope(x),
      bent: true,
    },
    elu: { title: "ELU", ...exponential(1, 1) },
    celu: { title: "CELU", ...exponential(1, 1) },
    selu: { title: "SELU", ...exponential(SELU_ALPHA, SELU_SCALE) },
    leaky_relu: {
      title: "leaky ReLU",
      value: (x) => (x > 0 ? x : 0.01 * x),
      slope: (x) => (x > 0 ? 1 : 0.01),
      kinks: [0],
    },
    relu6: {
      title: "ReLU6",
      value: (x) => clip(x, 0, 6),
      slope: (x) => step(x > 0 && x < 6),
      kinks: [0, 6],
    },
    hardsigmoid: {
      title: "hard sigmoid",
      value: (x) => clip(x / 6 + 0.5, 0, 1),
      slope: (x) => step(Math.abs(x) < 3) / 6,
      kinks: [-3, 3],
    },
    hardswish: {
      title: "hard swish",
      value: (x) => x * clip(x / 6 + 0.5, 0, 1),
      slope: (x) => (Math.abs(x) < 3 ? x / 3 + 0.5 : step(x >= 3)),
      kinks: [-3, 3],
    },
    hardtanh: {
      title: "hard tanh",
      value: (x) => clip(x, -1, 1),
      slope: (x) => step(Math.abs(x) < 1),
      kinks: [-1, 1],
    },
    hardshrink: {
      title: "hard shrink",
      value: (x) => (Math.abs(x) > 0.5 ? x : 0),
      slope: (x) => step(Math.abs(x) > 0.5),
      kinks: [-0.5, 0.5],
    },
    softshrink: {
      title: "soft shrink",
      value: (x) => x - clip(x, -0.5, 0.5),
      slope: (x) => step(Math.abs(x) > 0.5),
      kinks: [-0.5, 0.5],
    },
    softplus: {
      title: "softplus",
      value: (x) => (x > SOFTPLUS_LIMIT ? x : softplus(x)),
      slope: (x) => (x > SOFTPLUS_LIMIT ? 1 : sigmoid(x)),
      kinks: [SOFTPLUS_LIMIT],
      bent: true,
    },
    logsigmoid: {
      title: "log sigmoid",
      value: (x) => -softplus(-x),
      slope: (x) => sigmoid(-x),
      bent: true,
    },
    softsign: {
      title: "softsign",
      value: (x) => x / (1 + Math.abs(x)),
      slope: (x) => 1 / square(1 + Math.abs(x)),
      kinks: [0],
      bent: true,
    },
    tanhshrink: {
      title: "tanh shrink",
      value: tanhshrink,
      slope: (x) => square(Math.tanh(x)),
      bent: true,
    },
  };

  for (const [name, f] of Object.entries(LIST)) {
    LIST[name] = { name, kinks: [], bent: false, ...f };
  }
  return LIST;
});
