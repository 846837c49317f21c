"use strict";
// Finds the parts of the live figures by name, and starts those that a page has room for.
//
// Modules (`import`) load from a server only, and this book has to work where its folder of files is
// opened by a double click. So each file is a plain script that says what it is and what it needs:
//
//     normprop.part("maps", ["quadrature"], (quadrature) => { …; return { … }; });
//
// A page has places `<div data-live="NAME">`; the part of that name returns a function that fills one.
(() => {
  const folder = new URL(".", document.currentScript.src).href;
  const known = new Map(); // name → what it needs, and the function that makes it
  const loads = new Map(); // name → promise that it and all that it needs are known
  const made = new Map(); // name → what that function returned

  function part(name, needs, make) {
    known.set(name, { needs, make });
  }

  function script(name) {
    return new Promise((resolve, reject) => {
      const element = document.createElement("script");
      element.src = `${folder}${name}.js`;
      element.onload = resolve;
      element.onerror = () =>
        reject(new Error(`${name}.js must lie beside parts.js; it did not load`));
      document.head.append(element);
    });
  }

  function load(name) {
    if (!loads.has(name)) {
      const all = script(name).then(() => Promise.all(known.get(name).needs.map(load)));
      loads.set(name, all);
    }
    return loads.get(name);
  }

  function value(name) {
    if (!made.has(name)) {
      const { needs, make } = known.get(name);
      made.set(name, make(...needs.map(value)));
    }
    return made.get(name);
  }

  // What a part returns, once everything that it needs has loaded.
  async function use(name) {
    await load(name);
    return value(name);
  }

  // A part and all that it needs, those first that need no other.
  function order(name, before) {
    known.get(name).needs.forEach((need) => order(need, before));
    return before.add(name);
  }

  // The text of a script that makes parts and all that they need, as fields of `parts`. A worker
  // cannot be loaded from a folder of files; it can be made of text.
  async function source(...names) {
    await Promise.all(names.map(load));
    const all = new Set();
    names.forEach((name) => order(name, all));
    const lines = [...all].map((name) => {
      const { needs, make } = known.get(name);
      return `parts.${name} = (${make})(${needs.map((need) => `parts.${need}`).join(", ")});`;
    });
    return ['"use strict";', "const parts = {};", ...lines].join("\n");
  }

  window.normprop = { part, use, source };
  for (const place of document.querySelectorAll("[data-live]")) {
    use(place.dataset.live).then((fill) => fill(place));
  }
})();
