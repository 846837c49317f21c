// Done once scripts, formulas, fonts and pictures have settled; answers with what went wrong, or null.
const done = arguments[arguments.length - 1];

async function settle() {
  if (window.MathJax?.startup?.promise) await window.MathJax.startup.promise;
  await document.fonts.ready;
  for (const image of document.images) image.loading = "eager";
  await Promise.all([...document.images].map((image) => image.decode().catch(() => null)));
}

settle().then(() => done(null), (error) => done(String(error)));
