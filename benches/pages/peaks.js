// The most that this browser can do: arithmetic and memory in WebAssembly on so many threads, arithmetic on its WebGPU
// adapter, products of matrices in so many contexts of its WebNN. The best of several tries counts, for a peak is what nothing disturbed.

import { serve } from "./line.js";

function thread(script, command) {
  return new Promise((resolve, reject) => {
    const worker = new Worker(script);
    worker.addEventListener("message", ({ data }) => {
      worker.terminate();
      if (data.error) reject(new Error(data.error));
      else resolve(data.rate);
    });
    worker.addEventListener("error", (event) => reject(new Error(event.message)));
    worker.postMessage({ bytes: command.bytes, call: command.call, ms: command.ms });
  });
}

async function threads(script, command) {
  const rates = await Promise.all(Array.from({ length: command.threads }, () => thread(script, command)));
  return { figures: { rate: rates.reduce((sum, rate) => sum + rate, 0) } };
}

/** Turns a second of all threads together. */
const wasm = (command) => threads("peaks-worker.js", command);

/** Floating-point operations a second of all contexts together. */
const webnn = (command) => threads("peaks-webnn.js", command);

const SHADER = `
override turns: u32;
@group(0) @binding(0) var<storage, read_write> out: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let factor = vec4f(0.999);
  let term = vec4f(f32(id.x) * 1e-6);
  var a = vec4f(0.0); var b = vec4f(0.1); var c = vec4f(0.2); var d = vec4f(0.3);
  var e = vec4f(0.4); var f = vec4f(0.5); var g = vec4f(0.6); var h = vec4f(0.7);
  for (var i = 0u; i < turns; i++) {
    a = fma(a, factor, term); b = fma(b, factor, term); c = fma(c, factor, term); d = fma(d, factor, term);
    e = fma(e, factor, term); f = fma(f, factor, term); g = fma(g, factor, term); h = fma(h, factor, term);
  }
  let sum = a + b + c + d + e + f + g + h;
  out[id.x] = sum.x + sum.y + sum.z + sum.w;
}`;
const INVOCATIONS = 64 * 64;
const OPERATIONS_A_TURN = 8 * 4 * 2;

/** Floating-point operations a second on the WebGPU adapter. */
async function webgpu(command) {
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter) throw new Error("no WebGPU adapter");
  const device = await adapter.requestDevice();
  const module = device.createShaderModule({ code: SHADER });
  const out = device.createBuffer({ size: INVOCATIONS * 4, usage: GPUBufferUsage.STORAGE });
  let best = 0;
  let long = 0;
  for (let turns = 64; long < 5; ) {
    const pipeline = await device.createComputePipelineAsync({
      layout: "auto",
      compute: { module, entryPoint: "main", constants: { turns } },
    });
    const group = device.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: [{ binding: 0, resource: { buffer: out } }],
    });
    for (const tries = long + 2; ; ) {
      const encoder = device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(INVOCATIONS / 64);
      pass.end();
      const start = performance.now();
      device.queue.submit([encoder.finish()]);
      // Firefox looks for finished work seldom unless it is given more.
      const nudge = setInterval(() => device.queue.submit([]), 2);
      await device.queue.onSubmittedWorkDone();
      clearInterval(nudge);
      const took = performance.now() - start;
      best = Math.max(best, (INVOCATIONS * turns * OPERATIONS_A_TURN * 1000) / took);
      if (took < command.ms) {
        turns *= 2;
        break;
      }
      long += 1;
      if (long >= tries) break;
    }
  }
  device.destroy();
  return { figures: { rate: best } };
}

await serve({ wasm, webgpu, webnn });
