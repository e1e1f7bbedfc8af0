// The worker of a tab: loads the module and hands messages between it and the page. Everything that computes, waits or
// talks to the host happens in here, because browsers slow the timers of hidden pages but not those of their workers.

import initialise, * as runtime from "./tabpool_web_runtime.js";

/** Where the module is: beside this file. */
const MODULE = { module_or_path: new URL("tabpool_web_runtime_bg.wasm", import.meta.url) };

/** What is running, once it runs. */
let running = null;
/** What the page said before anything ran. */
const early = [];

function tell(message) {
  self.postMessage(message);
}

function died(reason) {
  tell({ kind: "died", reason: String(reason?.message ?? reason) });
}

// After a trap the module's memory cannot be trusted: whatever is thrown here and caught nowhere ends this worker, and
// the page starts another.
self.addEventListener("error", (event) => died(event.error ?? event.message));
self.addEventListener("unhandledrejection", (event) => died(event.reason));

const orders = {
  pause: () => running.pause(),
  leave: () => running.leave(),
  resume: () => running.resume(),
  hidden: (message) => running.setHidden(message.hidden),
  battery: (message) => running.setBattery(message.percent, message.charging),
};

async function start(message) {
  await initialise(MODULE);
  running = await runtime.start(message.config);
  for (const order of early.splice(0)) orders[order.kind](order);
}

async function conformance(message) {
  if (!runtime.conformance) throw new Error("this build of the runtime has no conformance suite");
  await initialise(MODULE);
  const { api, filter, kernels, threads } = message;
  tell({ kind: "conformance", result: await runtime.conformance(api, filter, kernels, threads) });
}

async function kernels({ kind, filter }) {
  if (!runtime[kind]) throw new Error(`this build of the runtime has no ${kind}`);
  await initialise(MODULE);
  tell({ kind, result: await runtime[kind](filter) });
}

async function measure({ api, kernels, threads, batch, sequence, rounds }) {
  if (!runtime.measure) throw new Error("this build of the runtime measures nothing");
  await initialise(MODULE);
  tell({ kind: "measure", result: await runtime.measure(api, kernels, threads, batch, sequence, rounds) });
}

self.addEventListener("message", (event) => {
  const message = event.data;
  if (message.kind === "start") start(message).catch(died);
  else if (message.kind === "conformance") conformance(message).catch(died);
  else if (message.kind === "measure") measure(message).catch(died);
  else if (message.kind === "variants" || message.kind === "rates") kernels(message).catch(died);
  else if (running) orders[message.kind](message);
  else early.push(message);
});
