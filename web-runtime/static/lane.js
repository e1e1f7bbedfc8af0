// A lane: a worker nested in the tab's worker, with a WebNN context of its own. A browser that computes WebNN on the
// processor uses one core for each worker that asks it, so the tab's worker spreads its runs over a few of these.
//
// The first message brings the compiled module, so that nothing is fetched or compiled twice; all others are for the module.

import initialise, { lane } from "./tabpool_web_runtime.js";

function died(reason) {
  self.postMessage({ died: String(reason?.message ?? reason) });
}

// After a trap the module's memory cannot be trusted: the tab's worker takes this for a lost device and starts anew.
self.addEventListener("error", (event) => died(event.error ?? event.message));
self.addEventListener("unhandledrejection", (event) => died(event.reason));

/** Calls that came before the module could take them. */
const early = [];

self.onmessage = async ({ data: { module } }) => {
  self.onmessage = (event) => early.push(event.data);
  try {
    await initialise({ module_or_path: module });
    lane(early);
  } catch (reason) {
    died(reason);
  }
};
