// A page that brings a model's bytes into a worker's memory and hashes them, and computes nothing: the time that is left when
// everything else costs nothing.

import { serve } from "./line.js";

const worker = new Worker("bare-worker.js");

/** Gives the worker a command and waits for what comes of it. */
function asked(command) {
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => (data.error ? reject(new Error(data.error)) : resolve({ figures: data }));
    worker.onerror = (event) => reject(new Error(event.message));
    worker.postMessage(command);
  });
}

serve({ move: asked, keep: asked });
