// Done once scripts, formulas and fonts have settled; answers with what went wrong, or null.
const done = arguments[arguments.length - 1];

async function settle() {
  if (window.MathJax?.startup?.promise) await window.MathJax.startup.promise;
  await document.fonts.ready;
}

settle().then(() => done(null), (error) => done(String(error)));
