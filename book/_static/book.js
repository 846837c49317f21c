// What a style sheet cannot do alone: formulas that fit, boxes that a keyboard can scroll, folded
// parts that print. Loaded with every page, before the formulas are typeset.

// A display formula that is wider than its column gets smaller type, down to this share of its size.
const SMALLEST = 0.7;

function fit(formula) {
  const math = formula.querySelector("mjx-math");
  if (!math || !formula.clientWidth) return;
  formula.dataset.size ??= parseFloat(formula.style.fontSize) || 100;
  const size = Number(formula.dataset.size);
  formula.style.fontSize = `${size}%`;
  const room = formula.clientWidth - 2;
  const width = math.getBoundingClientRect().width;
  if (width > room) formula.style.fontSize = `${size * Math.max(SMALLEST, room / width)}%`;
}

async function fitFormulas() {
  if (!window.MathJax?.startup?.promise) return;
  await window.MathJax.startup.promise;
  // Also called for a formula that appears when a box is unfolded.
  const watcher = new ResizeObserver((entries) => entries.forEach((entry) => fit(entry.target)));
  for (const formula of document.querySelectorAll('mjx-container[display="true"]')) {
    fit(formula);
    watcher.observe(formula);
  }
}

// What scrolls by itself must be reachable by keyboard, and say what it is.
const SCROLLING = [
  [".pst-scrollable-table-container", "table"],
  [".bd-content div.highlight pre", "code"],
  [".bd-content div.cell_output .output", "output"],
  ['.bd-content mjx-container[display="true"]', "formula"],
];

function markScrolling() {
  for (const [selector, name] of SCROLLING) {
    for (const box of document.querySelectorAll(selector)) {
      const scrolls = box.scrollWidth > box.clientWidth + 1;
      box.classList.toggle("scrolls", scrolls);
      if (scrolls && !box.hasAttribute("tabindex")) {
        box.tabIndex = 0;
        box.setAttribute("role", "group");
        box.setAttribute("aria-label", `${name}, scrolls sideways`);
      }
    }
  }
}

// Printed, a folded solution would be lost.
function unfold() {
  for (const folded of document.querySelectorAll("details:not([open])")) {
    folded.open = true;
    folded.dataset.folded = "";
  }
}

function refold() {
  for (const folded of document.querySelectorAll("details[data-folded]")) {
    folded.open = false;
    delete folded.dataset.folded;
  }
}

window.addEventListener("load", async () => {
  await fitFormulas();
  markScrolling();
  window.addEventListener("resize", markScrolling);
});
window.addEventListener("beforeprint", unfold);
window.addEventListener("afterprint", refold);
