// One thread's share of a peak: calls a function of a module for a while and says how often and how long.

self.addEventListener("message", async ({ data: { bytes, call, ms } }) => {
  try {
    const { instance } = await WebAssembly.instantiate(new Uint8Array(bytes));
    const work = instance.exports[call];
    new Float32Array(instance.exports.memory.buffer).fill(1);
    // Long enough to be compiled by the better compiler, and to find how many turns fill a good part of the time.
    let turns = 1;
    for (let took = 0; took < ms / 4; turns *= 2) {
      const start = performance.now();
      work(turns);
      took = performance.now() - start;
    }
    let best = 0;
    for (const end = performance.now() + ms * 4; performance.now() < end; ) {
      const start = performance.now();
      work(turns);
      best = Math.max(best, turns / (performance.now() - start));
    }
    self.postMessage({ rate: best * 1000 });
  } catch (error) {
    self.postMessage({ error: String(error) });
  }
});
