// onnxruntime-web, as a person who wants it fast would set it up: the build made for the API, SIMD, as many threads as
// asked for, every graph optimisation, shapes fixed where that helps the API.

import { serve } from "./line.js";

let ort = null;
let session = null;

/** Input tensors. They are made outside the timed part, as the other side's inputs are. */
function feeds({ batch, sequence, ids }) {
  const tensor = (value) =>
    new ort.Tensor("int64", BigInt64Array.from({ length: batch * sequence }, (_, at) => BigInt(value(at))), [batch, sequence]);
  const wanted = { input_ids: tensor((at) => ids[at]), attention_mask: tensor(() => 1), token_type_ids: tensor(() => 0) };
  return Object.fromEntries(session.inputNames.map((name) => [name, wanted[name]]));
}

async function once(inputs) {
  const start = performance.now();
  const { last_hidden_state: output } = await session.run(inputs);
  // Awaiting the data brings it from a device that still holds it.
  const data = await output.getData();
  const ms = performance.now() - start;
  return { ms, data };
}

/** Loads the library at its first use and makes a session. */
async function open(command) {
  const start = performance.now();
  if (!ort) {
    const loaded = await import(command.library);
    ort = loaded.default?.InferenceSession ? loaded.default : loaded;
    ort.env.wasm.wasmPaths = command.library.slice(0, command.library.lastIndexOf("/") + 1);
    ort.env.wasm.numThreads = command.threads;
  }
  await session?.release();
  session = null;
  session = await ort.InferenceSession.create(command.model, {
    executionProviders: [command.provider],
    graphOptimizationLevel: "all",
    ...command.options,
  });
  return {
    figures: {
      create_ms: performance.now() - start,
      version: ort.env.versions.web,
      isolated: crossOriginIsolated,
      threads: ort.env.wasm.numThreads,
    },
  };
}

async function run(command) {
  const { ms, data } = await once(feeds(command));
  return { figures: { ms }, output: command.keep ? data : null };
}

/** Several runs of the same inputs, each timed. */
async function runs(command) {
  const inputs = feeds(command);
  const all = [];
  for (let at = 0; at < command.count; at += 1) all.push((await once(inputs)).ms);
  return { figures: { all } };
}

await serve({ open, run, runs });
