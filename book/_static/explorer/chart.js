"use strict";
// A chart: two axes, and what is drawn between them, each under a name and redrawn in place.
normprop.part("chart", ["page", "text"], ({ html, svg, fresh }, { fixed, power }) => {
  const EDGE = { left: 46, right: 16, top: 24, bottom: 40 };
  const SHAPES = {
    circle: (x, y, r) => `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`,
    square: (x, y, r) => `M${x - r} ${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
  };
  const short = (pixels) => Math.round(pixels * 10) / 10;

  // Round numbers between two others, about so many.
  function ticks([low, high], about) {
    const rough = (high - low) / about;
    const unit = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((k) => k * unit).find((size) => size >= rough);
    const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) {
      found.push([k * step, fixed(k * step, decimals)]);
    }
    return found;
  }
  function decades([low, high], about) {
    const [first, last] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
    const stride = Math.max(1, Math.ceil((last - first) / about));
    const found = [];
    for (let k = first; k <= last; k += 1) {
      // Counted from 1, which is where the figures begin.
      if (k % stride === 0) found.push([10 ** k, power(k)]);
    }
    return found;
  }

  // x and y: { label, range: [low, high], log }. A unit is a pixel at every width of the page, so that
  // type stays legible; `ratio` is the height in units of the width, within limits.
  function chart({ x, y, ratio = 0.62 }) {
    const axes = { x: { ...x }, y: { ...y } };
    const inner = { left: EDGE.left, top: EDGE.top };
    const clip = svg("rect", { x: inner.left, y: inner.top });
    const name = fresh();
    const grid = svg("g", { class: "np-grid" });
    const drawn = svg("g", { "clip-path": `url(#${name})` });
    const figure = svg(
      "svg",
      { role: "img", class: "np-chart" },
      svg("clipPath", { id: name }, clip),
      grid,
      drawn,
    );
    const draws = new Map(); // name → how it is drawn with the axes and the size of now
    const paths = new Map();

    function resize(width) {
      const height = Math.round(Math.min(Math.max(ratio * width, 220), 320));
      inner.right = width - EDGE.right;
      inner.bottom = height - EDGE.bottom;
      figure.setAttribute("viewBox", `0 0 ${width} ${height}`);
      clip.setAttribute("width", inner.right - inner.left);
      clip.setAttribute("height", inner.bottom - inner.top);
      redraw();
    }
    function redraw() {
      drawGrid();
      draws.forEach((draw) => draw());
    }

    function place(axis, value, from, to) {
      const { range, log } = axes[axis];
      const [low, high, at] = log ? [...range, value].map(Math.log) : [...range, value];
      const pixels = from + ((to - from) * (at - low)) / (high - low);
      // Kept near the chart: a path must not go to infinity.
      const size = Math.abs(to - from);
      return short(Math.min(Math.max(pixels, -size), 3 * size));
    }
    const px = (value) => place("x", value, inner.left, inner.right);
    const py = (value) => place("y", value, inner.bottom, inner.top);

    function drawGrid() {
      const marks = [];
      const { left, right, top, bottom } = inner;
      for (const [value, text] of ticks(axes.x.range, (right - left) / 70)) {
        const at = px(value);
        marks.push(svg("path", { d: `M${at} ${top}V${bottom}` }));
        marks.push(svg("text", { x: at, y: bottom + 16, "text-anchor": "middle" }, text));
      }
      for (const [value, text] of (axes.y.log ? decades : ticks)(axes.y.range, 5)) {
        const at = py(value);
        marks.push(svg("path", { d: `M${left} ${at}H${right}` }));
        marks.push(svg("text", { x: left - 6, y: at + 4, "text-anchor": "end" }, text));
      }
      const middle = { x: (left + right) / 2, y: bottom + 33, "text-anchor": "middle" };
      marks.push(svg("text", { ...middle, class: "np-axis" }, axes.x.label));
      marks.push(svg("text", { x: 2, y: 12, class: "np-axis" }, axes.y.label));
      grid.replaceChildren(...marks);
    }

    function ranges(some) {
      let moved = false;
      for (const [axis, range] of Object.entries(some)) {
        moved ||= range.some((end, k) => end !== axes[axis].range[k]);
        axes[axis].range = range;
      }
      if (moved) redraw();
    }

    // Each kind of mark is a path under a name; `d` makes it anew.
    function path(name, role, kind, d) {
      if (!paths.has(name)) {
        const element = svg("path", { class: `np-${kind}`, "data-name": name });
        paths.set(name, drawn.appendChild(element));
      }
      paths.get(name).setAttribute("data-role", role);
      draws.set(name, () => paths.get(name).setAttribute("d", d()));
      draws.get(name)();
    }

    const shown = ([, v]) => Number.isFinite(v) && !(axes.y.log && v <= 0);

    // A line has a gap where a value is none.
    function line(name, role, points) {
      path(name, role, "line", () => {
        let pen = "M";
        return points
          .map((point) => {
            const text = shown(point) ? `${pen}${px(point[0])} ${py(point[1])}` : "";
            pen = text ? "L" : "M";
            return text;
          })
          .join("");
      });
    }
    function area(name, role, points) {
      path(name, role, "area", () => {
        const d = points.map(([a, b]) => `${px(a)} ${py(b)}`);
        const [first, last] = [px(points[0][0]), px(points[points.length - 1][0])];
        return `M${first} ${inner.bottom}L${d.join("L")}L${last} ${inner.bottom}Z`;
      });
    }
    function dots(name, role, points, shape = "circle", radius = 2.6) {
      const mark = ([a, b]) => SHAPES[shape](px(a), py(b), radius);
      path(name, role, "dots", () => points.filter(shown).map(mark).join(""));
    }
    function bars(name, role, list) {
      const bar = ([from, to, top]) =>
        `M${px(from)} ${inner.bottom}V${py(top)}H${px(to)}V${inner.bottom}Z`;
      path(name, role, "bars", () => list.filter(([, , top]) => top).map(bar).join(""));
    }
    function upright(name, role, value) {
      path(name, role, "rule", () => `M${px(value)} ${inner.top}V${inner.bottom}`);
    }
    function level(name, role, value) {
      path(name, role, "rule", () => `M${inner.left} ${py(value)}H${inner.right}`);
    }
    // A bar from low to high at x, with ends, as for a mean and a standard deviation.
    function whisker(name, role, at, low, high) {
      path(name, role, "whisker", () => {
        const [a, top, bottom] = [px(at), py(high), py(low)];
        return `M${a} ${bottom}V${top}M${a - 4} ${top}h8M${a - 4} ${bottom}h8`;
      });
    }

    resize(420);
    new ResizeObserver(([{ contentRect }]) => {
      const width = Math.round(contentRect.width);
      if (width) resize(width);
    }).observe(figure);
    return { element: figure, ranges, line, area, dots, bars, upright, level, whisker };
  }

  // What the marks stand for, each as [role, kind, shape, words]; the kind "both" is a line with dots.
  function legend(entries) {
    const items = entries.map(([role, kind, shape, text]) => {
      const swatch = svg("svg", { viewBox: "0 0 26 12", "aria-hidden": "true", class: "np-swatch" });
      const add = (of, d) =>
        swatch.append(svg("path", { class: `np-${of}`, "data-role": role, d }));
      if (kind === "area") add("area", "M1 12V6Q13 -6 25 6V12Z");
      if (kind === "bars") add("bars", "M7 12V4H12V12ZM13 12V1H18V12Z");
      if (kind === "line" || kind === "both") add("line", "M0 6H26");
      if (kind === "rule") add("rule", "M0 6H26");
      if (kind === "dots" || kind === "both") add("dots", SHAPES[shape](13, 6, 3));
      return html("li", {}, swatch, html("span", {}, ...[text].flat()));
    });
    return html("ul", { class: "np-legend" }, ...items);
  }

  return { chart, legend };
});
