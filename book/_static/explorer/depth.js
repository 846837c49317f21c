"use strict";
// The figure of a stack: std of signal and gradient over its layers, predicted and simulated.
normprop.part("depth", ["page", "text", "chart", "maps", "crew"], (page, text, charts, maps, crew) => {
  const { html } = page;
  // A network that leaves this range on its way is drawn as leaving it.
  const FARTHEST = [1e-40, 1e40];

  const WAYS = [
    ["signal", "forward", "circle"],
    ["gradient", "backward", "square"],
  ];

  // What the numbers at the far end of a way mean.
  function fate(std) {
    if (std < 1e-3) return "vanishes";
    if (std > 1e3) return "explodes";
    return std < 0.2 || std > 5 ? "drifts" : "keeps its size";
  }

  return async () => {
    const plot = charts.chart({
      x: { label: "layer", range: [0, 40] },
      y: { label: "std", range: [0.1, 10], log: true },
    });
    const legend = charts.legend([
      ["forward", "both", "circle", "signal"],
      ["backward", "both", "square", "gradient"],
    ]);
    legend.append(html("li", {}, "lines: predicted; points: a random network"));
    const told = page.summary(plot.element);
    const body = html("tbody");
    const table = html(
      "details",
      { class: "np-table" },
      html("summary", {}, "The numbers, layer by layer"),
      html(
        "table",
        {},
        html(
          "thead",
          {},
          html("tr", {}, ...["layer", "signal", "a network", "gradient", "a network"].map(head)),
        ),
        body,
      ),
    );
    function head(title) {
      return html("th", { scope: "col" }, title);
    }

    const worker = await crew.hire("network", "simulate");
    let predicted = null;
    let measured = { signal: [], gradient: [] };
    let busy = false;
    let waiting = null;

    const show = page.beforePaint(() => {
      const seen = [...predicted.signal, ...predicted.gradient];
      for (const [way] of WAYS) seen.push(...measured[way].filter((std) => std !== undefined));
      const inside = seen.filter((std) => std > 0 && std < Infinity);
      const low = Math.min(0.1, Math.max(FARTHEST[0], ...[Math.min(...inside)]));
      const high = Math.max(10, Math.min(FARTHEST[1], Math.max(...inside)));
      plot.ranges({
        x: [0, Math.max(1, predicted.signal.length - 1)],
        y: [10 ** Math.floor(Math.log10(low) + 1e-9), 10 ** Math.ceil(Math.log10(high) - 1e-9)],
      });
      const points = (list) => Array.from(list, (std, layer) => [layer, std]);
      plot.level("one", "grid", 1);
      for (const [way, role, shape] of WAYS) {
        plot.line(way, role, points(predicted[way]));
        plot.dots(`${way}-network`, role, points(measured[way]), shape);
      }
      if (table.open) tabulate();
    });

    function tabulate() {
      const rows = predicted.signal.map((signal, layer) => {
        const cells = [signal, measured.signal[layer], predicted.gradient[layer]];
        cells.push(measured.gradient[layer]);
        const texts = cells.map((std) => (std === undefined ? "…" : text.digits(std, 3)));
        return html("tr", {}, ...[layer, ...texts].map((cell) => html("td", {}, String(cell))));
      });
      body.replaceChildren(...rows);
    }
    table.addEventListener("toggle", () => table.open && tabulate());

    function tell(done) {
      const last = predicted.signal.length - 1;
      const [signal, gradient] = [predicted.signal[last], predicted.gradient[0]];
      const network = done
        ? ` In the network they are ${text.digits(measured.signal[last], 3)} and ` +
          `${text.digits(measured.gradient[0], 3)}.`
        : "";
      told.say(
        `After ${last} ${last === 1 ? "layer" : "layers"} the signal ${fate(signal)}: its std is ` +
          `${text.digits(signal, 3)}. Back at the first layer the gradient ${fate(gradient)}: ` +
          `${text.digits(gradient, 3)}.${network}`,
      );
    }

    function simulate() {
      const order = waiting;
      waiting = null;
      busy = true;
      const found = { signal: [], gradient: [] };
      worker.order(order, (results, done) => {
        for (const { way, layer, std } of results) found[way][layer] = std;
        // Who wants no motion sees the network when it is complete.
        if (done || !page.still()) {
          measured = found;
          show();
        }
        if (!done) return;
        busy = false;
        // While a slider moved this network was already an old one.
        if (waiting) simulate();
        else tell(true);
      });
    }

    // The package refuses such a layer, too.
    function refuse(name) {
      predicted = { signal: [1], gradient: [1] };
      measured = { signal: [], gradient: [] };
      waiting = null;
      worker.stop();
      busy = false;
      show();
      told.say(`Here ${name} is flat: there is nothing to divide by, and such a layer is refused.`);
    }

    function draw({ f, ...values }) {
      predicted = maps.predict({ f, ...values });
      if (!predicted) {
        refuse(f.title);
        return;
      }
      const last = values.depth + 1;
      for (const [way] of WAYS) measured[way].length = Math.min(measured[way].length, last);
      show();
      tell(false);
      waiting = { ...values, f: f.name };
      if (!busy) simulate();
    }

    return { elements: [legend, plot.element, ...told.elements, table], draw };
  };
});
