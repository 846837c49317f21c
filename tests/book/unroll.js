// Done once all pictures have loaded, those too that no reader has come near yet.
const done = arguments[arguments.length - 1];

async function unroll() {
  for (const image of document.images) image.loading = "eager";
  await Promise.all([...document.images].map((image) => image.decode().catch(() => null)));
}

unroll().then(() => done(null), (error) => done(String(error)));
