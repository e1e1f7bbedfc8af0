// transformers.js as its users call it: a feature-extraction pipeline with mean pooling and normalisation, in the precision
// that the other side computes in. It loads nothing from elsewhere.

import { env, pipeline } from "/transformers/transformers.min.js";
import { serve } from "./line.js";

env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = "/models/";

let extract = null;

async function open(command) {
  const start = performance.now();
  env.backends.onnx.wasm.wasmPaths = "/transformers-onnxruntime-web/";
  env.backends.onnx.wasm.numThreads = command.threads;
  extract = await pipeline("feature-extraction", command.model, { device: command.device, dtype: "fp32" });
  return { figures: { create_ms: performance.now() - start, version: env.version } };
}

async function embed(command) {
  const start = performance.now();
  const output = await extract(command.texts, { pooling: "mean", normalize: true });
  const data = output.data;
  return { figures: { ms: performance.now() - start }, output: data };
}

await serve({ open, embed });
