"use strict";
// The post's experiment, run again and again: where its results stand, and where 0.2123 is among them.
normprop.part(
  "again",
  ["page", "text", "chart", "crew", "experiment"],
  (page, text, charts, crew, { SAMPLES, POST, exact, error }) => {
    const { html } = page;
    const BIN = error / 4;
    const REACH = 5 * error;
    const BINS = Math.round((2 * REACH) / BIN);
    const MANY = 1000;

    return async (placeholder) => {
      const plot = charts.chart({
        x: { label: "std of 100 000 samples", range: [exact - REACH, exact + REACH] },
        y: { label: "runs", range: [0, 5] },
        ratio: 0.42,
      });
      const legend = charts.legend([
        ["simulated", "bars", "", "runs"],
        ["exact", "line", "", "what theory expects of them"],
        ["backward", "rule", "", "exact, 0.21175"],
        ["post", "rule", "", "the post, 0.2123"],
      ]);
      const told = page.summary(plot.element);
      const worker = await crew.hire("experiment", "repeat");
      const counts = new Array(BINS).fill(0);
      const results = [];
      let running = false;

      const facts = {};
      const table = html("dl");
      for (const [key, title] of [
        ["runs", "runs"],
        ["last", "the last one"],
        ["mean", "mean of all"],
        ["se", "its standard error"],
        ["far", "as far off as the post's, or farther"],
      ]) {
        facts[key] = html("output", { "data-figure": key });
        table.append(html("div", {}, html("dt", {}, title), html("dd", {}, facts[key])));
      }

      const show = page.beforePaint(() => {
        const runs = results.length;
        const top = Math.max(...counts, 4);
        plot.ranges({ y: [0, 1.15 * top] });
        const from = (k) => exact - REACH + k * BIN;
        plot.bars("runs", "simulated", counts.map((n, k) => [from(k), from(k + 1), n]));
        const xs = Array.from({ length: 121 }, (_, k) => exact - REACH + (2 * REACH * k) / 120);
        const peak = (runs * BIN) / (error * Math.sqrt(2 * Math.PI));
        const bell = xs.map((x) => [x, peak * Math.exp(-0.5 * ((x - exact) / error) ** 2)]);
        plot.line("bell", "exact", runs ? bell : []);
        plot.upright("exact", "backward", exact);
        plot.upright("post", "post", POST);
        tell(runs);
      });

      function tell(runs) {
        const off = (POST - exact) / error;
        const post =
          `The post's 0.2123 lies ${text.fixed(off, 2)} standard errors of one run above ` +
          `the exact ${text.fixed(exact, 8)}`;
        if (!runs) {
          told.say(`No run yet. ${post}.`);
          return;
        }
        const mean = results.reduce((sum, x) => sum + x, 0) / runs;
        const square = results.reduce((sum, x) => sum + (x - mean) ** 2, 0);
        const spread = runs > 1 ? Math.sqrt(square / (runs - 1)) : error;
        const se = spread / Math.sqrt(runs);
        const far = results.filter((x) => Math.abs(x - exact) >= POST - exact).length;
        const cells = {
          runs: String(runs),
          last: text.fixed(results[runs - 1], 6),
          mean: text.fixed(mean, 6),
          se: text.digits(se, 2),
          far: `${far} of ${runs}`,
        };
        for (const [key, cell] of Object.entries(facts)) cell.textContent = cells[key];
        facts.mean.dataset.value = mean;
        facts.se.dataset.value = se;
        told.say(
          `${runs} ${runs === 1 ? "run" : "runs"} of 100 000 samples: mean ` +
            `${text.fixed(mean, 5)} ± ${text.digits(se, 1)}. ${post}; ${far} of the runs ` +
            `${far === 1 ? "is" : "are"} as far off or farther.`,
        );
      }

      function add(found) {
        for (const result of found) {
          results.push(result);
          const bin = Math.floor((result - exact + REACH) / BIN);
          // A run beyond the picture, five standard errors off, is counted but has no bar.
          if (bin >= 0 && bin < BINS) counts[bin] += 1;
        }
      }

      function run(runs) {
        running = true;
        stop.disabled = false;
        worker.order({ from: results.length, runs }, (found, done) => {
          add(found);
          if (done) halt();
          if (done || !page.still()) show();
          else tell(results.length);
        });
      }
      function halt() {
        running = false;
        stop.disabled = true;
      }
      const button = (title, action) => html("button", { type: "button", onclick: action }, title);
      const start = (runs) => () => running || run(runs);
      const once = button("Draw 100 000 samples", start(1));
      const many = button(`Draw them ${MANY} times`, start(MANY));
      const stop = button("Stop", () => {
        worker.stop();
        halt();
        show();
      });
      const clear = button("Clear", () => {
        worker.stop();
        halt();
        results.length = 0;
        counts.fill(0);
        for (const cell of Object.values(facts)) cell.textContent = "–";
        show();
      });
      stop.disabled = true;

      placeholder.replaceChildren(
        html(
          "section",
          { class: "np-card", "aria-label": "The post's experiment" },
          html("div", { class: "np-buttons" }, once, many, stop, clear),
          legend,
          plot.element,
          table,
          ...told.elements,
        ),
      );
      for (const cell of Object.values(facts)) cell.textContent = "–";
      show();
    };
  },
);
