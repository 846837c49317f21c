"use strict";
// What a worker does: one order at a time, each a generator, which a newer order replaces.
normprop.part("bench", [], () => {
  // Milliseconds between two looks at what has arrived.
  const SLICE = 24;

  return (job, activations) => {
    let current = null;

    function work() {
      if (!current) return;
      const { id, results } = current;
      const until = performance.now() + SLICE;
      const found = [];
      let next;
      do {
        next = results.next();
        if (!next.done) found.push(next.value);
      } while (!next.done && performance.now() < until);
      postMessage({ id, found, done: next.done });
      if (next.done) current = null;
      else setTimeout(work);
    }

    onmessage = ({ data: { id, order } }) => {
      const idle = !current;
      current = order && { id, results: job({ ...order, f: activations[order.f] }) };
      if (idle) work();
    };
  };
});
