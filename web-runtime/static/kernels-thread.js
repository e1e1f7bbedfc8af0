// A thread of the CPU kernels: instantiates the module that its leader compiled, over the leader's memory, and helps until
// it is ended. Until it helps it hashes what it is sent; once it helps it handles no message any more.

import { imports } from "./kernels.js";

let exports = null;
/** The memory of all threads. */
let memory = null;

/** What the system gives memory in, in bytes. */
const PAGE = 4096;
/** Bytes touched between two looks at what else there is to do: less than a millisecond's. */
const TOUCHED_AT_ONCE = 1 << 20;

/** The SHA-256 of bytes, or null where it cannot be had. */
async function digest(bytes) {
  try {
    return await crypto.subtle.digest("SHA-256", bytes);
  } catch {
    return null;
  }
}

/** Comes back to this thread after what else has come meanwhile. */
const later = new MessageChannel();
later.port1.onmessage = ({ data }) => touch(data);

/** Touches memory, a part at a time. Somebody else may be writing there already. */
function touch({ address, end }) {
  const words = new Int32Array(memory.buffer);
  const until = Math.min(address + TOUCHED_AT_ONCE, end);
  // Not `Atomics.or` or `add`: V8 has them read first, and memory that was read before it is written is given twice, the second time
  // with a word to every processor that runs a thread of this browser.
  for (let at = address; at < until; at += PAGE) Atomics.compareExchange(words, at >>> 2, 0, 0);
  if (until < end) later.port2.postMessage({ address: until, end });
}

self.onmessage = (event) => {
  const message = event.data;
  if (message.kind === "prepare") {
    try {
      memory = message.memory;
      exports = new WebAssembly.Instance(message.module, imports(memory)).exports;
      self.postMessage({ kind: "ready" });
    } catch (error) {
      self.postMessage({ kind: "failed", reason: String(error?.message ?? error) });
    }
  } else if (message.kind === "digest") {
    const { id, bytes } = message;
    digest(bytes).then((hash) => self.postMessage({ kind: "digest", id, hash, bytes }, [bytes.buffer]));
  } else if (message.kind === "touch") {
    touch(message);
  } else if (message.kind === "join") {
    // The instance was made with the leader's stack; nothing has been called on it yet.
    exports.__stack_pointer.value = message.stack;
    try {
      exports.help(message.lane, message.patience);
    } catch (error) {
      // A trap. The leader must not wait for what this thread had taken.
      exports.abandon();
      throw error;
    }
  }
};
