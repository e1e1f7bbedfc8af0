// Brings bytes from the server, or from where they were kept, into memory that a WebAssembly module could use, and hashes them
// in pieces as large as blocks are.

const PIECE = 1 << 20;
const FILE = "bare";

/** All bytes, once they have been brought. */
let bytes = null;

/** Hashes of the pieces of which all bytes are there. The browser computes them on threads of its own. */
class Hashes {
  #from;
  #pending = [];

  constructor(from) {
    this.#from = from;
  }

  upTo(end, whole) {
    while (end - this.#from >= PIECE || (whole && this.#from < end)) {
      const to = Math.min(this.#from + PIECE, end);
      this.#pending.push(crypto.subtle.digest("SHA-256", bytes.subarray(this.#from, to)));
      this.#from = to;
    }
  }

  done() {
    return Promise.all(this.#pending);
  }
}

async function fetched(from, length) {
  const response = await fetch(`/held?from=${from}&length=${length}`);
  if (!response.ok) throw new Error(`/held: ${response.status}`);
  return response;
}

/** One answer, taken as it comes. */
async function streamed(from, length) {
  const hashes = new Hashes(from);
  const reader = (await fetched(from, length)).body.getReader();
  let at = from;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    bytes.set(value, at);
    at += value.length;
    hashes.upTo(at, false);
  }
  if (at !== from + length) throw new Error(`${at - from} bytes came instead of ${length}`);
  hashes.upTo(at, true);
  await hashes.done();
}

/** One answer, taken when it is whole. */
async function whole(from, length) {
  const hashes = new Hashes(from);
  const body = new Uint8Array(await (await fetched(from, length)).arrayBuffer());
  if (body.length !== length) throw new Error(`${body.length} bytes came instead of ${length}`);
  bytes.set(body, from);
  hashes.upTo(from + length, true);
  await hashes.done();
}

/** As many answers as asked for side by side; a single one is taken as it comes. */
async function download(length, answers) {
  const part = Math.ceil(length / answers / PIECE) * PIECE;
  const starts = Array.from({ length: answers }, (_, at) => at * part).filter((from) => from < length);
  const bring = answers === 1 ? streamed : whole;
  await Promise.all(starts.map((from) => bring(from, Math.min(part, length - from))));
}

async function file(create) {
  const root = await navigator.storage.getDirectory();
  const handle = await root.getFileHandle(FILE, { create });
  return handle.createSyncAccessHandle();
}

async function read(length) {
  const kept = await file(false);
  const hashes = new Hashes(0);
  for (let at = 0; at < length; at += PIECE) {
    const to = Math.min(at + PIECE, length);
    if (kept.read(bytes.subarray(at, to), { at }) !== to - at) throw new Error("fewer bytes were kept");
    hashes.upTo(to, to === length);
  }
  kept.close();
  await hashes.done();
}

const commands = {
  /** Brings so many bytes, from where they were kept or from the server in so many answers at once. */
  async move({ length, answers, kept }) {
    const begun = performance.now();
    bytes = new Uint8Array(new WebAssembly.Memory({ initial: Math.ceil(length / 65536) }).buffer, 0, length);
    await (kept ? read(length) : download(length, answers));
    return { ms: performance.now() - begun };
  },
  /** Keeps them for another opening. */
  async keep() {
    const kept = await file(true);
    kept.write(bytes, { at: 0 });
    kept.flush();
    kept.close();
    return {};
  },
};

onmessage = ({ data: command }) => {
  commands[command.do](command).then(postMessage, (error) => postMessage({ error: String(error) }));
};
