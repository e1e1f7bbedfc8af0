// onnxruntime-web saying one token after another, as transformers.js has it do that: what a run gives as caches is what the
// next one takes. On WebGPU they stay in the device's buffers; only the last token's logits come back.

import { serve } from "./line.js";

let ort = null;
let session = null;
let sizes = null;
let onDevice = false;
/** Caches that runs go on from, by the number of their tokens. */
const bases = new Map();

const integers = (values) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);

const dispose = (caches) => Object.values(caches).forEach((tensor) => tensor.dispose());

function nothing() {
  const { heads, size, layers } = sizes;
  const names = Array.from({ length: layers }, (_, at) => [`${at}.key`, `${at}.value`]).flat();
  return Object.fromEntries(names.map((name) => [name, new ort.Tensor("float32", new Float32Array(0), [1, heads, 0, size])]));
}

function likeliest(logits) {
  let best = 0;
  for (let at = 1; at < logits.length; at += 1) if (logits[at] > logits[best]) best = at;
  return best;
}

/** Reads tokens after so many others, and gives the next with the caches. */
async function read(ids, past, caches) {
  const feeds = {
    input_ids: integers(ids),
    attention_mask: integers(new Array(past + ids.length).fill(1)),
    position_ids: integers(ids.map((_, at) => past + at)),
  };
  for (const [name, tensor] of Object.entries(caches)) feeds[`past_key_values.${name}`] = tensor;
  const { logits, ...present } = await session.run(feeds);
  const named = Object.entries(present).map(([name, tensor]) => [name.slice("present.".length), tensor]);
  return { id: likeliest(await logits.getData()), caches: Object.fromEntries(named) };
}

/** Loads the library at its first use and makes a session. */
async function open(command) {
  if (!ort) {
    const loaded = await import(command.library);
    ort = loaded.default?.InferenceSession ? loaded.default : loaded;
    ort.env.wasm.wasmPaths = command.library.slice(0, command.library.lastIndexOf("/") + 1);
    ort.env.wasm.numThreads = command.threads;
  }
  bases.forEach(dispose);
  bases.clear();
  await session?.release();
  session = null;
  sizes = command.sizes;
  onDevice = command.provider === "webgpu";
  const caches = Object.keys(nothing()).map((name) => [`present.${name}`, "gpu-buffer"]);
  session = await ort.InferenceSession.create(command.model, {
    executionProviders: [command.provider],
    graphOptimizationLevel: "all",
    ...(onDevice ? { preferredOutputLocation: { logits: "cpu", ...Object.fromEntries(caches) } } : {}),
  });
  return { figures: { version: ort.env.versions.web, isolated: crossOriginIsolated, threads: ort.env.wasm.numThreads } };
}

/** A prompt, to the first token. */
async function prefill({ ids, keep }) {
  const empty = nothing();
  const start = performance.now();
  const { id, caches } = await read(ids, 0, empty);
  const ms = performance.now() - start;
  if (keep) bases.set(ids.length, caches);
  else dispose(caches);
  return { figures: { ms, id } };
}

/** Tokens after a prompt that was kept. The first is the one that it said. */
async function steps({ prompt, first, count }) {
  const base = bases.get(prompt);
  let [caches, id] = [base, first];
  const [all, ids] = [[], []];
  for (let at = 0; at < count; at += 1) {
    const start = performance.now();
    const next = await read([id], prompt + at, caches);
    if (caches !== base) dispose(caches);
    all.push(performance.now() - start);
    ({ id, caches } = next);
    ids.push(id);
  }
  if (caches !== base) dispose(caches);
  return { figures: { all, ids } };
}

await serve({ open, prefill, steps });
