// The worker of a tab: loads the module and hands messages between it and the page. Everything that computes, waits or
// talks to the host happens in here, because browsers slow the timers of hidden pages but not those of their workers.

// The module's code and what binds it come at once, and the connection and the store of blocks open meanwhile: a tab
// should be of use as soon as it can.
const compiled = WebAssembly.compileStreaming(fetch(new URL("tabpool_web_runtime_bg.wasm", import.meta.url)));
const bound = import("./tabpool_web_runtime.js");
const kernelsBound = import("./kernels.js");

/** What the page's address says after `#`; the page names this worker by it. */
const address = new URLSearchParams(self.name);
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
  close: () => running.close(),
  resume: () => running.resume(),
  hurry: () => running.hurry(),
  hidden: (message) => running.setHidden(message.hidden),
  battery: (message) => running.setBattery(message.percent, message.charging),
};

/** The module, ready to be called. */
async function initialised() {
  const runtime = await bound;
  await runtime.default({ module_or_path: await compiled });
  return runtime;
}

/** The first pack of blocks, where no other tab has it; the module looks for another one otherwise. */
async function openPack() {
  const root = await navigator.storage.getDirectory();
  const folder = await root.getDirectoryHandle("packs", { create: true });
  const file = await folder.getFileHandle("pack-0", { create: true });
  return file.createSyncAccessHandle();
}

/** Joins the pool that this script came from. */
async function start() {
  const link = new URL("link", import.meta.url);
  link.protocol = link.protocol === "https:" ? "wss:" : "ws:";
  const given = (name) => address.get(name) ?? "";
  const config = {
    url: link.href,
    gateway: new URL("ipfs/", import.meta.url).href,
    token: given("token"),
    apis: given("apis"),
    kernels: given("kernels"),
    threads: given("threads"),
  };
  const socket = new WebSocket(config.url);
  socket.binaryType = "arraybuffer";
  const pack = openPack().catch(() => null);
  // A page that may use the processor only will; others find out first whether there is something better. Asking for an
  // adapter starts the browser's process for it.
  if (config.apis === "cpu") kernelsBound.then((kernels) => kernels.expectKernels(config.kernels, config.threads));
  else navigator.gpu?.requestAdapter({ powerPreference: "high-performance" }).catch(() => null);
  const runtime = await initialised();
  running = await runtime.start({ ...config, socket, pack });
  for (const order of early.splice(0)) orders[order.kind](order);
}

async function conformance(message) {
  const runtime = await initialised();
  if (!runtime.conformance) throw new Error("this build of the runtime has no conformance suite");
  const { api, filter, kernels, threads } = message;
  tell({ kind: "conformance", result: await runtime.conformance(api, filter, kernels, threads) });
}

async function kernels({ kind, filter }) {
  const runtime = await initialised();
  if (!runtime[kind]) throw new Error(`this build of the runtime has no ${kind}`);
  tell({ kind, result: await runtime[kind](filter) });
}

async function measure({ api, kernels, threads, batch, sequence, rounds }) {
  const runtime = await initialised();
  if (!runtime.measure) throw new Error("this build of the runtime measures nothing");
  tell({ kind: "measure", result: await runtime.measure(api, kernels, threads, batch, sequence, rounds) });
}

self.addEventListener("message", (event) => {
  const message = event.data;
  if (message.kind === "conformance") conformance(message).catch(died);
  else if (message.kind === "measure") measure(message).catch(died);
  else if (message.kind === "variants" || message.kind === "rates") kernels(message).catch(died);
  else if (running) orders[message.kind](message);
  else early.push(message);
});

// An examination is ordered by the page; whatever is not one joins.
if (!["variants", "rates", "conformance", "measure"].some((kind) => address.has(kind))) start().catch(died);
