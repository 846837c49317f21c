"use strict";
// Workers, made of the text of parts.
normprop.part("crew", [], () => {
  // One that runs the generator `job` of a part. `order` replaces what it is working on, and
  // `hear(found, done)` gets what the generator yields; `stop` makes it forget its order.
  async function hire(name, job) {
    const text = await normprop.source("activations", "bench", name);
    const start = `parts.bench(parts.${name}.${job}, parts.activations);`;
    const file = new Blob([`${text}\n${start}`], { type: "text/javascript" });
    const worker = new Worker(URL.createObjectURL(file));
    let id = 0;
    let heard = () => {};
    worker.onmessage = ({ data }) => {
      // What an older order has found may still be on its way.
      if (data.id === id) heard(data.found, data.done);
    };
    return {
      order(what, hear) {
        heard = hear;
        id += 1;
        worker.postMessage({ id, order: what });
      },
      stop() {
        id += 1;
        worker.postMessage({ id, order: null });
      },
    };
  }

  return { hire };
});
