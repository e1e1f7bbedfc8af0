// One context's share of WebNN's peak: products of matrices alone, of the shapes of a small encoder's feed-forward layers,
// with the same weights again and again, so that they stay in the processor's caches.

const ROWS = 128;
const NARROW = 384;
const WIDE = 1536;
const PAIRS = 8;
const OPERATIONS = 2 * ROWS * NARROW * WIDE * 2 * PAIRS;

const floats = (shape, more) => ({ dataType: "float32", shape, dimensions: shape, ...more });

async function graph(context) {
  const builder = new MLGraphBuilder(context);
  // Small enough that no chain of products overflows or becomes denormal: slow numbers are no peak.
  const constant = (shape) => builder.constant(floats(shape), new Float32Array(shape[0] * shape[1]).fill(0.02));
  const [up, down] = [constant([WIDE, NARROW]), constant([NARROW, WIDE])];
  let x = builder.input("x", floats([ROWS, NARROW]));
  for (let pair = 0; pair < PAIRS; pair++) {
    x = builder.gemm(builder.gemm(x, up, { bTranspose: true }), down, { bTranspose: true, alpha: 0.2 });
  }
  return builder.build({ y: x });
}

self.addEventListener("message", async ({ data: { ms } }) => {
  try {
    const context = await navigator.ml.createContext();
    const made = await graph(context);
    const x = await context.createTensor(floats([ROWS, NARROW], { writable: true }));
    const y = await context.createTensor(floats([ROWS, NARROW], { readable: true }));
    context.writeTensor(x, new Float32Array(ROWS * NARROW).fill(0.5));
    const run = async () => {
      const start = performance.now();
      context.dispatch(made, { x }, { y });
      await context.readTensor(y);
      return performance.now() - start;
    };
    await run();
    let best = Infinity;
    for (const end = performance.now() + ms * 10; performance.now() < end; ) {
      best = Math.min(best, await run());
    }
    context.destroy();
    self.postMessage({ rate: (OPERATIONS / best) * 1000 });
  } catch (error) {
    self.postMessage({ error: String(error) });
  }
});
