// A thread of the CPU kernels: instantiates the module that its leader compiled, over the leader's memory, and helps until
// it is ended. Until it helps it hashes what it is sent; once it helps it handles no message any more.

import { imports } from "./kernels.js";

let exports = null;

/** The SHA-256 of bytes, or null where it cannot be had. */
async function digest(bytes) {
  try {
    return await crypto.subtle.digest("SHA-256", bytes);
  } catch {
    return null;
  }
}

self.onmessage = (event) => {
  const message = event.data;
  if (message.kind === "prepare") {
    try {
      exports = new WebAssembly.Instance(message.module, imports(message.memory)).exports;
      self.postMessage({ kind: "ready" });
    } catch (error) {
      self.postMessage({ kind: "failed", reason: String(error?.message ?? error) });
    }
  } else if (message.kind === "digest") {
    const { id, bytes } = message;
    digest(bytes).then((hash) => self.postMessage({ kind: "digest", id, hash, bytes }, [bytes.buffer]));
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
