"use strict";
// Elements, and when to draw.
normprop.part("page", [], () => {
  const NAMESPACE = "http://www.w3.org/2000/svg";
  const SPOKEN_AFTER = 500;

  function fill(element, attributes, children) {
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (value !== false) element.setAttribute(key, value === true ? "" : value);
    }
    element.append(...children);
    return element;
  }
  const html = (name, attributes = {}, ...children) =>
    fill(document.createElement(name), attributes, children);
  const svg = (name, attributes = {}, ...children) =>
    fill(document.createElementNS(NAMESPACE, name), attributes, children);

  // A function that is called once before the next picture, however often it was asked for.
  function beforePaint(draw) {
    let waits = false;
    return () => {
      if (waits) return;
      waits = true;
      requestAnimationFrame(() => {
        waits = false;
        draw();
      });
    };
  }

  // A summary of a figure: always the figure's name to who cannot see it, and read aloud when it
  // has stopped changing.
  function summary(figure) {
    const visible = html("p", { class: "np-summary" });
    const spoken = html("p", { class: "np-spoken", role: "status" });
    let timer = 0;
    return {
      elements: [visible, spoken],
      say(text) {
        if (visible.textContent === text) return;
        visible.textContent = text;
        figure.setAttribute("aria-label", text);
        clearTimeout(timer);
        timer = setTimeout(() => (spoken.textContent = text), SPOKEN_AFTER);
      },
    };
  }

  // Whether the reader has asked for no motion: figures then show results, not how they come about.
  const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

  let names = 0;
  const fresh = () => `np-${(names += 1)}`;

  return { html, svg, beforePaint, summary, still, fresh };
});
