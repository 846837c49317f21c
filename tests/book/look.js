// What a reader could see wrong on a page that has settled.
const article = document.querySelector("article.bd-article") || document.body;
const width = document.documentElement.clientWidth;
const visible = (element) => element.getClientRects().length > 0;
const show = (element) => element.outerHTML.slice(0, 160);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// A macro that MathJax does not know is no error to it: it prints the name in red.
const wrong = [];
for (const formula of window.MathJax?.startup?.document?.math || []) {
  formula.root?.walkTree((node) => {
    const red = node.attributes?.getExplicit?.("mathcolor") === "red";
    if (node.isKind("merror") || red) wrong.push(formula.math);
  });
}

// TeX and roles that reached the page as text.
const MARKUP = /\\\(|\\\[|\$\$|\\[a-zA-Z]{2,}|\{(glue|numref|eq|cite|ref)[:}]/;
const NOT_PROSE = "code, pre, script, style, noscript, mjx-container, .highlight";
const raw = [];
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  const text = texts.currentNode;
  if (!text.parentElement.closest(NOT_PROSE) && MARKUP.test(text.data))
    raw.push(text.data.trim().slice(0, 160));
}

// What is wider than the page, unless it scrolls by itself.
const SCROLLS = ".pst-scrollable-table-container, .cell_output .output, mjx-container";
const wide = all("img, svg, table, figure", article)
  .filter(visible)
  .filter((element) => !element.closest(SCROLLS))
  .filter((element) => element.getBoundingClientRect().right > width + 1);

// Formulas that are cut off, or so small that they cannot be read.
const FORMULAS = 'mjx-container[display="true"]';
const cut = all(FORMULAS, article)
  .filter(visible)
  .filter((e) => e.scrollWidth > e.clientWidth + 1 || parseFloat(getComputedStyle(e).fontSize) < 12);

// Figures of the chapters are drawn 480 pixels wide, with labels of 15 pixels.
const small = all("figure img", article)
  .filter((image) => image.naturalWidth >= 400)
  .filter((image) => image.getBoundingClientRect().width < 0.8 * image.naturalWidth);

return {
  cut: cut.map(show),
  small: small.map(show),
  wrong,
  raw,
  untypeset: all("span.math, div.math").filter((e) => !e.querySelector("mjx-container")).map(show),
  broken: all("img").filter((image) => !(image.complete && image.naturalWidth)).map(show),
  wide: wide.map(show),
  overflow: document.documentElement.scrollWidth - width,
  searchFields: all("input[type=search], .search-button-field")
    .filter(visible)
    .filter((element) => !element.closest("dialog")).length,
  theme: document.documentElement.dataset.theme,
};
