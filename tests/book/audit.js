// What axe-core finds wrong with the page, and calls serious or critical.
const [options, done] = arguments;
const heavy = ({ impact }) => impact === "serious" || impact === "critical";
const told = ({ id, impact, nodes }) => ({
  rule: id,
  impact,
  at: nodes.map((node) => node.html.slice(0, 160)),
});

// A colour on its way to another is neither.
const still = document.createElement("style");
still.textContent = "* { transition: none !important; animation: none !important; }";
document.head.append(still);

axe
  .run(document, { ...options, resultTypes: ["violations"] })
  .then((result) => done(result.violations.filter(heavy).map(told)))
  .catch((error) => done(String(error)));
