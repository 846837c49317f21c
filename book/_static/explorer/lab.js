"use strict";
// One layer, and a stack of them: the law of an activation, and what it does over depth.
normprop.part(
  "lab",
  ["page", "text", "settings", "chart", "activations", "quadrature", "depth"],
  (page, text, { settings, number, row, choice }, charts, activations, { figures }, depth) => {
    const { html } = page;
    const REACH = 5;
    const STEPS = 200;

    const titles = Object.fromEntries(Object.values(activations).map((f) => [f.name, f.title]));
    const SPECS = {
      f: choice("Activation", titles, "relu", "A bend costs: only a straight line has χ = 1."),
      mean: number("Input mean m", [-3, 3, 0.05], 0, "A bias moves the bell along the function."),
      std: number("Input std s", [0.05, 3, 0.01], 1, "In a plain network, the size of the weights.", {
        say: (x) => text.fixed(x, 3),
      }),
      scaling: choice(
        "Scaling",
        {
          plain: "none, a plain network",
          forward: "forward σ",
          backward: "backward σ",
          separate: "separate: σ of each pass",
        },
        "backward",
        "By what the output is divided, its mean taken off.",
      ),
      weights: choice(
        "Weights",
        { normal: "normal", orthogonal: "orthogonal", centred: "centred rows" },
        "normal",
        "Orthogonal ones add no noise of their own.",
      ),
      width: row("Width", [8, 16, 32, 64, 128, 256], 64, "The wider, the closer the points."),
      depth: number("Depth", [1, 100, 1], 40, "Try 100: small errors of one layer add up."),
      seed: number("Network", [1, 9999, 1], 1, ""),
    };

    // A title, what to set, and what to look at.
    const PRESETS = [
      [
        "PyTorch's own weights",
        { f: "relu", scaling: "plain", std: Math.sqrt(1 / 3), depth: 60 },
        "Each layer makes signal and gradient smaller by the same factor. What is left of the " +
          "gradient at the first layer?",
      ],
      [
        "He's weights",
        { f: "relu", scaling: "plain", std: Math.SQRT2, depth: 60 },
        "At √2 a plain ReLU network keeps both ways. Move the std by a tenth, either way.",
      ],
      [
        "The post: ReLU, backward σ",
        { f: "relu", scaling: "backward", depth: 60 },
        "The gradient stays at 1. The signal settles lower, at one half.",
      ],
      [
        "tanh, forward σ",
        { f: "tanh", scaling: "forward", depth: 100 },
        "Now the signal stays, and the gradient grows by √χ a layer. Try backward σ.",
      ],
      [
        "tanh, separate σ",
        { f: "tanh", scaling: "separate", depth: 100 },
        "Both ways stay near 1. What comes back is the derivative times a factor a layer.",
      ],
      [
        "GELU runs away",
        { f: "gelu", scaling: "forward", depth: 100, width: 32, seed: 5 },
        "The lines expect calm, and this network leaves it: 1 repels. Draw other networks.",
      ],
      [
        "A hundred calm layers",
        { f: "tanh", scaling: "forward", weights: "orthogonal", std: 0.31, depth: 100 },
        "A small std makes tanh nearly straight, and χ nearly 1. Make it larger, and see.",
      ],
    ];
    const HOME = { mean: 0, std: 1, weights: "normal", width: 64, seed: 1 };

    const sub = (letter) => html("sub", {}, letter);
    const bell = (x, mean, std) => Math.exp(-0.5 * ((x - mean) / std) ** 2) / std;

    // The function, its slope, the bell of its inputs, and at the edge what comes out.
    function lawFigure() {
      const plot = charts.chart({
        x: { label: "x", range: [-REACH, REACH] },
        y: { label: "f(x), f′(x)", range: [-1, 3] },
      });
      const legend = charts.legend([
        ["exact", "line", "", "f"],
        ["backward", "line", "", "slope f′"],
        ["plain", "area", "", "input"],
        ["forward", "dots", "circle", ["μ ± σ", sub("f")]],
        ["backward", "dots", "square", ["σ", sub("b")]],
      ]);
      const cells = {};
      const table = html("dl");
      for (const [key, name, what] of [
        ["mean", ["μ"], "mean of the output"],
        ["forward", ["σ", sub("f")], "std of the output"],
        ["backward", ["σ", sub("b")], "std of a gradient that passes"],
        ["chi", ["χ"], "growth of its square, forward σ"],
      ]) {
        cells[key] = html("output", { "data-figure": key });
        const term = html("dt", {}, html("b", {}, ...name), ` ${what}`);
        table.append(html("div", {}, term, html("dd", {}, cells[key])));
      }
      const told = page.summary(plot.element);

      const even = Array.from({ length: STEPS + 1 }, (_, k) => -REACH + (2 * REACH * k) / STEPS);
      // A jump is no steep line: at a kink one line ends and another begins.
      function pieces(f, value) {
        const ends = [-Infinity, ...f.kinks, Infinity];
        return ends.slice(1).flatMap((right, k) => {
          const inside = even.filter((x) => x > ends[k] && x < right);
          const near = [ends[k] + 1e-9, ...inside, right - 1e-9].filter(Number.isFinite);
          return [...near.map((x) => [x, value(x)]), [right, NaN]];
        });
      }
      function draw({ f: name, mean, std }) {
        const f = activations[name];
        const law = figures(f, mean, std);
        const seen = even.map(f.value).concat(even.map(f.slope), law.mean - law.forward);
        const low = Math.max(-3, Math.min(-0.5, ...seen));
        const high = Math.min(4, Math.max(1.25, ...seen));
        plot.ranges({ y: [low, high + 0.1] });
        const height = 0.35 * (high - low);
        plot.area("bell", "plain", even.map((x) => [x, low + height * bell(x, mean, std)]));
        plot.line("slope", "backward", pieces(f, f.slope));
        plot.line("value", "exact", pieces(f, f.value));
        const edge = -REACH + 0.25;
        plot.whisker("spread", "forward", edge, law.mean - law.forward, law.mean + law.forward);
        plot.dots("mean", "forward", [[edge, law.mean]], "circle", 4);
        plot.dots("passes", "backward", [[edge + 0.45, law.backward]], "square", 3.6);
        for (const [key, cell] of Object.entries(cells)) {
          cell.textContent = Number.isNaN(law[key]) ? "none: flat here" : text.digits(law[key], 8);
          cell.dataset.value = law[key];
        }
        const chi = Number.isNaN(law.chi)
          ? "Nothing varies here, and no gradient passes."
          : `χ is ${text.digits(law.chi, 4)}: ${
              law.chi < 1.001 ? "nearly a straight line" : "one scale cannot serve both ways"
            }.`;
        told.say(
          `${f.title} of x with mean ${text.fixed(mean, 2)} and std ${text.fixed(std, 2)} has ` +
            `mean ${text.digits(law.mean, 4)} and std ${text.digits(law.forward, 4)}, and lets ` +
            `through a gradient of std ${text.digits(law.backward, 4)}. ${chi}`,
        );
      }
      return { elements: [legend, plot.element, table, ...told.elements], draw };
    }

    return async (placeholder) => {
      const law = lawFigure();
      const stack = await depth();
      const kept = settings(SPECS, (values) => {
        law.draw(values);
        stack.draw({ ...values, f: activations[values.f] });
      });
      const look = html("p", { class: "np-look", role: "status" }, "Press one, or move a slider.");
      const presets = PRESETS.map(([title, some, sentence]) => {
        function choose() {
          look.textContent = sentence;
          kept.set({ ...HOME, ...some });
        }
        return html("button", { type: "button", onclick: choose }, title);
      });
      const another = html(
        "button",
        { type: "button", onclick: () => kept.set({ seed: (kept.values.seed % 9999) + 1 }) },
        "Draw another network",
      );
      const card = (title, keys, elements) =>
        html(
          "section",
          { class: "np-card", "aria-label": title },
          html("h3", {}, title),
          html("div", { class: "np-controls" }, ...keys.map(kept.control)),
          ...elements,
        );
      placeholder.replaceChildren(
        kept.complaint,
        html("div", { class: "np-buttons", role: "group", "aria-label": "Settings to try" }, ...presets),
        look,
        html(
          "div",
          { class: "np-pair" },
          card("One layer", ["f", "mean", "std"], law.elements),
          card("A stack of them", ["scaling", "weights", "width", "depth"], [...stack.elements, another]),
        ),
      );
      kept.changed();
    };
  },
);
