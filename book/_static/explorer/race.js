"use strict";
// Two networks that learn the digits side by side, under two scalings.
normprop.part(
  "race",
  ["page", "text", "settings", "chart", "activations", "crew"],
  (page, text, { settings, number, row, choice }, charts, activations, crew) => {
    const { html } = page;
    const STEPS = 200;
    const WIDTH = 32;
    // Of the mean over past losses, what a step keeps.
    const SMOOTH = 0.85;
    const GUESSING = Math.log(10);
    // A network that ends here has learned next to nothing.
    const ASLEEP = 2.2;
    const GAP = 2;

    const SCHEMES = {
      pytorch: "plain, PyTorch's weights",
      he: "plain, He's weights",
      forward: "normalised, forward σ",
      backward: "normalised, backward σ",
      separate: "normalised, separate σ",
      calibrated: "calibrated for the depth",
    };
    const NAMES = ["relu", "tanh", "sigmoid", "gelu", "silu", "elu", "mish", "softsign"];
    const titles = Object.fromEntries(NAMES.map((name) => [name, activations[name].title]));
    const SPECS = {
      learner: choice("Activation", titles, "relu", "Both networks use it."),
      left: choice("First network", SCHEMES, "pytorch", "How its layers are scaled."),
      right: choice("Second network", SCHEMES, "calibrated", "Try the others against it."),
      layers: number("Depth", [1, 60, 1], 30, "At 3 both live; at 30 the first one dies."),
      rate: row(
        "Learning rate",
        [0.001, 0.002, 0.005, 0.01, 0.02, 0.05],
        0.01,
        "Each scaling has a range of its own.",
      ),
    };
    const SIDES = [
      ["left", "plain", "circle"],
      ["right", "separate", "square"],
    ];

    // The first digits of the test part, and below each what a network takes it for.
    function digitStrip(label) {
      const canvas = html("canvas", {
        ...{ class: "np-digits", role: "img", width: 98, height: 8 },
        "aria-label": "Ten digits, once the training has begun",
      });
      const guesses = html("p", { class: "np-guesses", role: "img", "aria-label": "No guesses yet" });
      return {
        element: html("div", { class: "np-strip" }, canvas, guesses),
        picture({ side, pixels, labels }) {
          const step = side + GAP;
          canvas.width = step * labels.length - GAP;
          canvas.height = side;
          const context = canvas.getContext("2d");
          const image = context.createImageData(canvas.width, side);
          pixels.forEach((ink, at) => {
            const [digit, y] = [Math.floor(at / side / side), Math.floor(at / side) % side];
            // Black ink on nothing; a dark page inverts it.
            image.data[4 * (y * canvas.width + digit * step + (at % side)) + 3] = (255 * ink) / 16;
          });
          context.putImageData(image, 0, 0);
          canvas.setAttribute("aria-label", `Ten digits it has not seen: ${labels.join(" ")}`);
        },
        guess(found, labels) {
          const cells = found.map((digit, k) =>
            html("span", { class: digit === labels[k] ? "np-right" : "np-wrong" }, String(digit)),
          );
          guesses.replaceChildren(...cells);
          guesses.setAttribute("aria-label", `${label} reads ${found.join(" ")}`);
        },
      };
    }

    function runner(role) {
      return {
        role,
        losses: [],
        smooth: [],
        accuracy: NaN,
        gradient: NaN,
        diverged: 0,
        done: false,
      };
    }

    return async (placeholder) => {
      const plot = charts.chart({
        x: { label: "step", range: [0, STEPS] },
        y: { label: "loss", range: [0, 3] },
        ratio: 0.42,
      });
      const told = page.summary(plot.element);
      const legend = charts.legend([
        ["plain", "line", "", "first network"],
        ["separate", "line", "", "second network"],
        ["grid", "rule", "", "guessing, ln 10"],
      ]);
      const workers = {};
      const runs = {};
      const cards = {};
      for (const [side] of SIDES) {
        const title = html("h3");
        const facts = html("p", { class: "np-facts" });
        const strip = digitStrip(side === "left" ? "The first network" : "The second network");
        const element = html("div", { class: "np-runner", "data-side": side }, title, facts, strip.element);
        cards[side] = { title, facts, strip, element };
      }

      const show = page.beforePaint(() => {
        plot.level("guessing", "grid", GUESSING);
        for (const [side, role] of SIDES) {
          const run = runs[side];
          const points = run.smooth.map((loss, k) => [k + 1, loss]);
          plot.line(side, role, points);
          plot.dots(
            `${side}-steps`,
            role,
            run.losses.map((loss, k) => [k + 1, loss]).filter((_, k) => k % 4 === 0),
            "circle",
            1.2,
          );
          cards[side].title.textContent = SCHEMES[kept.values[side]];
          cards[side].facts.textContent = facts(run);
        }
        told.say(SIDES.map(([side], k) => sentence(side, k)).join(" "));
      });

      function state(run) {
        if (run.diverged) return `diverged at step ${run.diverged}`;
        if (!run.done) return run.losses.length ? "is training" : "waits";
        return run.smooth[run.smooth.length - 1] > ASLEEP ? "has died" : "lives";
      }
      function facts(run) {
        const said = [`It ${state(run)}.`];
        const last = run.smooth[run.smooth.length - 1];
        if (last !== undefined) said.push(`Loss ${text.fixed(last, 2)}.`);
        if (run.accuracy >= 0) said.push(`${Math.round(100 * run.accuracy)} % of new digits right.`);
        if (run.gradient > 0) {
          said.push(`First gradient, first layer to last: ${text.digits(run.gradient, 2)}.`);
        }
        return said.join(" ");
      }
      function sentence(side, k) {
        const which = k ? "The second" : "The first";
        const run = runs[side];
        const loss = run.smooth[run.smooth.length - 1];
        const at = loss === undefined ? "" : ` at a loss of ${text.fixed(loss, 2)}`;
        const right = run.done && run.accuracy >= 0 ? `, ${Math.round(100 * run.accuracy)} % right` : "";
        return `${which} network, ${SCHEMES[kept.values[side]]}, ${state(run)}${at}${right}.`;
      }

      function hear(side, found, done) {
        const run = runs[side];
        const { strip } = cards[side];
        for (const report of found) {
          if (report.shown) {
            run.labels = report.shown.labels;
            strip.picture(report.shown);
          }
          if (report.diverged) run.diverged = report.step;
          if (report.loss !== undefined) {
            const before = run.smooth[run.smooth.length - 1] ?? report.loss;
            run.losses.push(report.loss);
            run.smooth.push(SMOOTH * before + (1 - SMOOTH) * report.loss);
          }
          if (report.gradient !== undefined) run.gradient = report.gradient;
          if (report.guesses) {
            run.accuracy = report.accuracy;
            strip.guess(report.guesses, run.labels);
          }
        }
        run.done = done;
        if (done && SIDES.every(([each]) => runs[each].done)) stop.disabled = true;
        if (done || !page.still()) show();
      }

      async function start() {
        const { learner, layers, rate } = kept.values;
        stop.disabled = false;
        for (const [side] of SIDES) {
          runs[side] = runner();
          workers[side] ??= await crew.hire("training", "train");
          const scheme = kept.values[side];
          const order = { f: learner, scheme, width: WIDTH, depth: layers, rate, steps: STEPS, seed: 1 };
          workers[side].order(order, (found, done) => hear(side, found, done));
        }
        show();
      }
      function halt() {
        for (const worker of Object.values(workers)) worker.stop();
        for (const [side] of SIDES) runs[side].done = true;
        stop.disabled = true;
        show();
      }
      function reset() {
        for (const worker of Object.values(workers)) worker.stop();
        for (const [side] of SIDES) runs[side] = runner();
        stop.disabled = true;
        show();
      }

      for (const [side] of SIDES) runs[side] = runner();
      // A new setting is a new race: what is drawn belongs to the old one.
      const kept = settings(SPECS, reset);
      const stop = html("button", { type: "button", onclick: halt, disabled: true }, "Stop");
      const begin = html("button", { type: "button", onclick: start }, "Train both");
      placeholder.replaceChildren(
        kept.complaint,
        html(
          "section",
          { class: "np-card", "aria-label": "Two networks learn the digits" },
          html("div", { class: "np-controls np-wide" }, ...Object.keys(SPECS).map(kept.control)),
          html("div", { class: "np-buttons" }, begin, stop),
          legend,
          plot.element,
          html("div", { class: "np-pair" }, ...SIDES.map(([side]) => cards[side].element)),
          ...told.elements,
        ),
      );
      kept.changed();
    };
  },
);
