// Opens the CPU kernels: one of four builds of a small WebAssembly module apart from the runtime's (see the crate
// `tabpool-kernel-module`). Which one is decided here: relaxed SIMD where the engine knows it, shared memory and helper
// threads where the page is isolated from other origins. The runtime calls this from its worker.

/** One relaxed fused multiplication and addition: an engine without them rejects the module. */
const RELAXED_PROBE = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 19, 1, 17, 0, 65, 1, 253, 15, 65, 2, 253, 15, 65, 3,
  253, 15, 253, 133, 2, 11,
]);
/** Pages of the shared memory at its start: what `build-web` tells the linker. */
const INITIAL_PAGES = 16;
/** How far it may grow. Some systems reserve all of it at once; where they refuse, less is asked for. */
const MAXIMUM_PAGES = [65536, 32768, 16384, 8192];
/** How long a helper has to start. The first run waits for no helper that comes later. */
const HELPER_START_MS = 5000;
/** A helper's stack. The kernels use a few kilobytes. */
const STACK_BYTES = 65536;
/**
 * For how many microseconds a helper looks out for more work before it sleeps, as long as nobody else wants its core. Phones
 * save their batteries.
 */
const PATIENCE = /\bMobile\b/.test(navigator.userAgent) ? 0 : 50_000;

export function hasRelaxedSimd() {
  return WebAssembly.validate(RELAXED_PROBE);
}

export function canShareMemory() {
  return globalThis.crossOriginIsolated === true && typeof SharedArrayBuffer === "function";
}

/** How many threads are used where nobody says, however many cores there are: beyond these, an encoder keeps them no longer busy. */
const MOST_THREADS = 8;

/** What is being opened ahead: with which instructions, for how many threads, and its promise. */
let ahead = null;

function fileOf(relaxed, shared) {
  return `kernels-${relaxed ? "relaxed-simd" : "simd128"}${shared ? "-shared" : ""}.wasm`;
}

export function threadsHere(wanted) {
  return canShareMemory() ? wanted || Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS) : 1;
}

/** Opens what `openKernels` will be asked for, from the same words of the page's address. */
export function expectKernels(kernels, threads) {
  const relaxed = kernels ? kernels === "relaxed-simd" : hasRelaxedSimd();
  const count = threadsHere(Number(threads));
  const opened = openKernels(relaxed, count);
  ahead = { relaxed, count, opened };
  // Where it fails, whoever asks for it is told.
  opened.catch(() => {});
}

/**
 * Compiles and instantiates the kernels: `relaxed` says with which instructions, `threads` how many are wanted, the
 * calling one included. Gives the instance's exports, its memory, and a promise of the helpers that came up, which wait
 * for `join`: starting a worker takes a browser longer than everything else here, and weights can be brought into place meanwhile.
 */
export async function openKernels(relaxed, threads) {
  const early = ahead;
  ahead = null;
  if (early?.relaxed === relaxed && early.count === threads) return early.opened;
  early?.opened.then(async ({ helpers }) => (await helpers).forEach((helper) => helper.end())).catch(() => {});
  const shared = threads > 1 && canShareMemory();
  const begun = shared ? Array.from({ length: threads - 1 }, newThread) : [];
  try {
    const module = await compile(new URL(fileOf(relaxed, shared), import.meta.url));
    if (!shared) {
      const instance = await WebAssembly.instantiate(module, {});
      return { exports: instance.exports, memory: instance.exports.memory, helpers: Promise.resolve([]) };
    }
    const memory = sharedMemory();
    const starting = Promise.all(begun.map((thread) => prepared(thread, module, memory)));
    const instance = await WebAssembly.instantiate(module, imports(memory));
    const helpers = starting.then((all) => all.filter((helper) => helper !== null));
    return { exports: instance.exports, memory, helpers };
  } catch (error) {
    for (const thread of begun) {
      thread.worker.terminate();
      coming.delete(thread);
    }
    throw error;
  }
}

/** Threads that are starting. */
const coming = new Set();

/** A worker that is starting, and why it does not, where that is known already. */
function newThread() {
  const thread = { worker: new Worker(new URL("kernels-thread.js", import.meta.url), { type: "module" }), broken: null };
  coming.add(thread);
  thread.worker.onerror = (event) => (thread.broken = event.message ?? "its script could not be loaded");
  return thread;
}

async function compile(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url.pathname}: ${response.status} ${response.statusText}`);
  return WebAssembly.compileStreaming(response);
}

function sharedMemory() {
  let refused;
  for (const maximum of MAXIMUM_PAGES) {
    try {
      return new WebAssembly.Memory({ initial: INITIAL_PAGES, maximum, shared: true });
    } catch (error) {
      refused = error;
    }
  }
  throw refused;
}

/** What the module asks of JavaScript. The words it waits for are among its statics, which the first view covers. */
export function imports(memory) {
  const words = new Int32Array(memory.buffer);
  return {
    env: {
      memory,
      park: (address, seen, milliseconds) => {
        Atomics.wait(words, address >>> 2, seen, milliseconds < 0 ? Infinity : milliseconds);
      },
      wake: (address) => Atomics.notify(words, address >>> 2),
      micros: () => (performance.now() * 1000) >>> 0,
    },
  };
}

/** A worker given an instance of its own, or null where it does not come up: then there is one thread less. */
function prepared(thread, module, memory) {
  const { worker, broken } = thread;
  return new Promise((resolve) => {
    const settle = (helper, why) => {
      clearTimeout(timer);
      coming.delete(thread);
      if (helper === null) {
        worker.terminate();
        console.warn(`tabpool: a thread of the kernels did not start: ${why}`);
      }
      resolve(helper);
    };
    const timer = setTimeout(() => settle(null, `silent for ${HELPER_START_MS} ms`), HELPER_START_MS);
    if (broken !== null) return settle(null, broken);
    worker.onerror = (event) => settle(null, event.message ?? "its script could not be loaded");
    worker.onmessage = (event) => {
      if (event.data.kind === "ready") settle(new Helper(worker), "");
      else settle(null, event.data.reason);
    };
    worker.postMessage({ kind: "prepare", module, memory });
  });
}

/**
 * Lets whatever has come to this thread be handled, as long as helpers are on their way; undefined where none is. A load of blocks
 * that the browser keeps has no pause otherwise in which a helper could say that it is there.
 */
export function pauseForHelpers() {
  if (coming.size === 0) return undefined;
  return new Promise((resolve) => {
    turns.push(resolve);
    turn.port2.postMessage(null);
  });
}

const turns = [];
const turn = new MessageChannel();
turn.port1.onmessage = () => turns.shift()();

/**
 * Has a helper that has nothing else to do yet touch memory, so that whoever writes there does not wait until the system has
 * cleared it, page by page. Nothing is changed by it.
 */
export function touchAside(address, bytes) {
  const [helper] = idle;
  helper?.touch(address, bytes);
}

/** Helpers that wait for their work to come, and can do something else until then. */
const idle = new Set();

/** Buffers that were used for hashing and are free. A new one is memory that the system has to clear first. */
const spare = [];
/** How many are kept. */
const MOST_SPARE = 32;

/** A copy of bytes in a buffer of its own. */
function copyOf(bytes) {
  const at = spare.findIndex((buffer) => buffer.byteLength >= bytes.length);
  const [buffer] = at < 0 ? [new ArrayBuffer(bytes.length)] : spare.splice(at, 1);
  const copy = new Uint8Array(buffer, 0, bytes.length);
  copy.set(bytes);
  return copy;
}

/** Takes back a copy that came with a hash and is not needed. */
export function takeBack(bytes) {
  if (spare.length < MOST_SPARE) spare.push(bytes.buffer);
}

/**
 * The SHA-256 of bytes, computed by a helper that has nothing else to do yet: a promise of the buffer `hash`, or of null in
 * its place where the helper could not, and of `bytes`, the copy that was taken at once. Undefined where there is no such
 * helper.
 */
export function digestAside(bytes) {
  let freest;
  for (const helper of idle) if (!freest || helper.digesting < freest.digesting) freest = helper;
  return freest?.digest(bytes);
}

class Helper {
  #worker;
  /** What hashes in the making are wanted by, under their numbers. */
  #digests = new Map();
  #lastDigest = 0;
  /** Joins, once no hash is in the making. */
  #joining = null;

  constructor(worker) {
    this.#worker = worker;
    worker.onmessage = ({ data }) => {
      this.#digests.get(data.id)?.(data);
      this.#digests.delete(data.id);
      this.#joinIfFree();
    };
    idle.add(this);
  }

  get digesting() {
    return this.#digests.size;
  }

  digest(bytes) {
    const copy = copyOf(bytes);
    this.#lastDigest += 1;
    this.#worker.postMessage({ kind: "digest", id: this.#lastDigest, bytes: copy }, [copy.buffer]);
    return new Promise((resolve) => this.#digests.set(this.#lastDigest, resolve));
  }

  touch(address, bytes) {
    this.#worker.postMessage({ kind: "touch", address, end: address + bytes });
  }

  /** Becomes the thread of a lane, with a stack that ends at this address. It helps until it is ended. */
  join(lane, stack) {
    idle.delete(this);
    this.#joining = { kind: "join", lane, stack, patience: PATIENCE };
    this.#joinIfFree();
  }

  #joinIfFree() {
    if (this.#joining === null || this.#digests.size > 0) return;
    this.#worker.postMessage(this.#joining);
    this.#joining = null;
  }

  end() {
    idle.delete(this);
    this.#worker.terminate();
    for (const resolve of this.#digests.values()) resolve({ hash: null });
    this.#digests.clear();
  }
}

export function stackBytes() {
  return STACK_BYTES;
}
