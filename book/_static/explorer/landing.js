"use strict";
// The figure of the landing page: what the size of its weights does to a plain network, and not to a
// normalised one.
normprop.part(
  "landing",
  ["page", "text", "settings", "chart", "activations", "maps", "crew"],
  (page, text, { settings, number }, charts, { relu }, maps, crew) => {
    const { html } = page;
    const WIDTH = 64;
    const SPECS = {
      size: number("Size of the weights", [0.5, 2, 0.01], 1.2, "Try 1.41, which is √2: He's choice.", {
        say: (x) => `${text.fixed(x, 2)}/√n`,
      }),
      deep: number("Depth", [1, 100, 1], 50, "The deeper, the worse, but for one of the two."),
    };
    const KINDS = [
      ["plain", "plain", "circle", (std) => ({ scaling: "plain", std })],
      ["normalised", "backward", "square", () => ({ scaling: "backward", std: 1 })],
    ];

    return async (placeholder) => {
      const plot = charts.chart({
        x: { label: "layer", range: [0, 50] },
        y: { label: "gradient std", range: [0.1, 10], log: true },
        ratio: 0.42,
      });
      const told = page.summary(plot.element);
      const shown = {};
      let workers = null;

      const show = page.beforePaint(() => {
        const all = KINDS.flatMap(([name]) => [...shown[name].line, ...shown[name].dots]);
        const inside = all.filter((std) => std > 0 && std < Infinity);
        const end = (pick, round, least) => 10 ** round(Math.log10(pick(...inside, least)));
        plot.ranges({
          x: [0, shown.plain.line.length - 1],
          y: [end(Math.min, Math.floor, 0.1), end(Math.max, Math.ceil, 10)],
        });
        for (const [name, role, shape] of KINDS) {
          const points = (list) => Array.from(list, (std, layer) => [layer, std]);
          plot.line(name, role, points(shown[name].line));
          plot.dots(`${name}-network`, role, points(shown[name].dots), shape);
        }
      });

      function draw({ size, deep }) {
        for (const [name, , , recipe] of KINDS) {
          const order = { mean: 0, ...recipe(size), weights: "normal", depth: deep };
          const { gradient } = maps.predict({ f: relu, ...order });
          const old = shown[name] ? shown[name].dots.slice(0, deep + 1) : [];
          shown[name] = { line: gradient, dots: old, order };
          simulate(name);
        }
        show();
        const [plain, kept] = KINDS.map(([name]) => text.digits(shown[name].line[0], 2));
        told.say(
          `Through ${deep} ReLU ${deep === 1 ? "layer" : "layers"} with weights of std ` +
            `${text.fixed(size, 2)}/√n a gradient of std 1 comes back to the first layer with ` +
            `${plain}; divided by the post's constants, with ${kept}.`,
        );
      }

      // One network at a time; the last setting wins.
      function simulate(name) {
        const mine = workers && workers[name];
        if (!mine || mine.busy) return;
        const { order } = shown[name];
        const found = [];
        mine.busy = true;
        mine.worker.order({ ...order, f: relu.name, width: WIDTH, seed: 1 }, (results, done) => {
          for (const { way, layer, std } of results) if (way === "gradient") found[layer] = std;
          if (!done) return;
          mine.busy = false;
          shown[name].dots = found.slice(0, shown[name].line.length);
          show();
          if (shown[name].order !== order) simulate(name);
        });
      }

      const kept = settings(SPECS, draw);
      placeholder.replaceChildren(
        kept.complaint,
        html(
          "section",
          { class: "np-card", "aria-label": "A gradient on its way back, live" },
          html("div", { class: "np-controls" }, ...Object.keys(SPECS).map(kept.control)),
          charts.legend([
            ["plain", "both", "circle", "plain: predicted, and a network of 64 units"],
            ["backward", "both", "square", "normalised, backward σ"],
          ]),
          plot.element,
          ...told.elements,
        ),
      );
      kept.changed();
      workers = {};
      for (const [name] of KINDS) {
        workers[name] = { worker: await crew.hire("network", "simulate"), busy: false };
      }
      draw(kept.values);
    };
  },
);
