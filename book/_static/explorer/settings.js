"use strict";
// What a reader can set: kept, shown by controls, and written into the page's address.
normprop.part("settings", ["page", "text"], ({ html, beforePaint, fresh }, { fixed }) => {
  const WRITTEN_AFTER = 300;
  const own = new Map(); // key → what an address may say, and where it is kept

  // Kinds of settings. Each has a title, a first value, a hint for the reader, and says what is
  // allowed. A number has a slider; so have a few values in a row; a choice has a list.
  const number = (title, [min, max, step], first, hint, more = {}) => ({
    kind: "number",
    ...{ title, min, max, step, first, hint, ...more },
    accepts: (x) => x >= min && x <= max && (step < 1 || Number.isInteger(x)),
    allowed: `lie between ${min} and ${max}`,
    read: (text) => (text.trim() ? Number(text) : NaN),
  });
  const row = (title, values, first, hint, more = {}) => ({
    kind: "row",
    ...{ title, values, first, hint, ...more },
    accepts: (x) => values.includes(x),
    allowed: `be one of ${values.join(", ")}`,
    read: Number,
  });
  const choice = (title, options, first, hint) => ({
    kind: "choice",
    ...{ title, options, first, hint },
    accepts: (x) => Object.hasOwn(options, x),
    allowed: `be one of ${Object.keys(options).join(", ")}`,
    read: String,
  });

  // The address names what differs from the first values, as #key=value&….
  function written() {
    const found = new URLSearchParams();
    for (const [key, { spec, values }] of own) {
      if (values[key] !== spec.first) found.set(key, String(values[key]));
    }
    return found.toString();
  }
  let timer = 0;
  function write() {
    clearTimeout(timer);
    timer = setTimeout(() => {
      const text = written();
      const address = text ? `#${text}` : location.pathname + location.search;
      history.replaceState(history.state, "", address);
    }, WRITTEN_AFTER);
  }
  // An anchor of the page is no setting.
  const isAnchor = () => location.hash && !location.hash.includes("=");

  // The settings of one figure. `values` holds them; `set` changes some; `draw` is called before
  // the next picture whenever some have changed.
  function settings(specs, draw) {
    const values = {};
    const complaint = html("p", { class: "np-complaint", role: "alert", hidden: true });
    const shows = [];
    const changed = beforePaint(() => {
      shows.forEach((show) => show());
      draw(values);
    });

    function read() {
      const said = new URLSearchParams(isAnchor() ? "" : location.hash.slice(1));
      const wrong = [];
      for (const [key, spec] of Object.entries(specs)) {
        const text = said.get(key);
        const value = text === null ? spec.first : spec.read(text);
        const fits = spec.accepts(value);
        values[key] = fits ? value : spec.first;
        if (!fits) wrong.push(`${key} must ${spec.allowed}; it was ${text}. Shown is ${spec.first}.`);
      }
      complaint.textContent = wrong.length ? `In this page's address, ${wrong.join(" ")}` : "";
      complaint.hidden = !wrong.length;
    }
    function set(some) {
      Object.assign(values, some);
      write();
      changed();
    }

    for (const [key, spec] of Object.entries(specs)) own.set(key, { spec, values });
    read();
    addEventListener("hashchange", () => {
      if (isAnchor()) return;
      read();
      changed();
    });

    // The control of one setting: label, value, slider or list, hint.
    function control(key) {
      const spec = specs[key];
      const [id, hint] = [fresh(), fresh()];
      const label = html("label", { for: id }, spec.title);
      const said = html("p", { class: "np-hint", id: hint }, spec.hint);
      const common = { id, name: key, "aria-describedby": hint };
      if (spec.kind === "choice") {
        const options = Object.entries(spec.options).map(([value, text]) =>
          html("option", { value }, text),
        );
        const select = html("select", common, ...options);
        select.addEventListener("change", () => set({ [key]: select.value }));
        shows.push(() => (select.value = values[key]));
        return html("div", { class: "np-control" }, label, select, said);
      }
      const places =
        spec.kind === "row"
          ? { min: 0, max: spec.values.length - 1, step: 1 }
          : { min: spec.min, max: spec.max, step: spec.step };
      const slider = html("input", { type: "range", ...common, ...places });
      const output = html("output", { for: id });
      const say = spec.say || ((x) => (spec.step < 1 ? fixed(x, 2) : String(x)));
      slider.addEventListener("input", () => {
        const place = Number(slider.value);
        set({ [key]: spec.kind === "row" ? spec.values[place] : place });
      });
      shows.push(() => {
        slider.value = spec.kind === "row" ? spec.values.indexOf(values[key]) : values[key];
        output.textContent = say(values[key]);
        slider.setAttribute("aria-valuetext", say(values[key]));
      });
      return html("div", { class: "np-control" }, label, output, slider, said);
    }

    return { values, set, control, complaint, changed };
  }

  return { settings, number, row, choice };
});
