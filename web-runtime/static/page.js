// The page of a tab: starts the worker, tells it what only a page knows (hidden or not, the battery), and shows how things
// stand. Nothing here computes. What the address says after `#` never reaches a server:
//
//   token=…           what lets this tab join
//   label=…           what the pool calls this tab, shown to the person
//   apis=webgpu,cpu   the only APIs to use
//   threads=2         how many threads the processor's kernels use, where the page is isolated
//   pause             joins and computes nothing until somebody says so
//   kernels=simd128   which build of them is used, simd128 or relaxed-simd
//   conformance=webgpu&filter=…&report=/path   runs the engine's conformance suite instead of joining, and posts
//                     the result as JSON to a path of this host (tests only)
//   measure=cpu&batch=1&sequence=128&rounds=20&report=/path   times an encoder instead (tests only)
//   variants&report=/path   runs the cases of linear nodes on every GEMM variant of WebGPU (tests only)
//   rates&filter=…&report=/path   times every variant of the kernels on WebGPU (benchmarks only)

/** How often a worker that died is started again before a person has to ask for it. */
const RESTARTS = 3;
const RESTART_AFTER_MS = 2000;
/** A worker that lived this long was sound: those that died before it count no more. */
const SOUND_MS = 10 * 60_000;
/** Over how long the rate is taken. */
const RATE_WINDOW_MS = 10_000;

const address = new URLSearchParams(location.hash.slice(1));
const find = (id) => document.getElementById(id);

let worker = null;
/** The worker that the page started before this script came. */
let begun = globalThis.begun ?? null;
let ended = false;
let restarts = 0;
let startedAt = 0;
/** What the person wants, for a worker that takes the place of one that died. */
let paused = address.has("pause");
let samples = [];
let battery = null;
/** Why the last worker died, shown until something newer goes wrong. */
let death = null;

function put(id, text) {
  const element = find(id);
  if (element.textContent !== text) element.textContent = text;
}

function bytes(count) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  while (count >= 999.5 && unit < units.length - 1) {
    count /= 1000;
    unit += 1;
  }
  return `${count < 10 && unit > 0 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

/** What a state means to the person who reads it, and what to do. */
const STATES = {
  starting: ["Starting", () => "This browser is being looked at."],
  connecting: ["Connecting", () => "Asking the pool whether it takes this tab."],
  joined: ["Joined", () => "This tab is ready. Work comes when the pool has some; leave the tab open."],
  working: ["Working", () => "Leave this tab open. It may be in the background."],
  waiting: ["Waiting for the pool", (status) =>
    `The connection broke: ${status.detail}. It is tried again by itself.`],
  paused: ["Paused", () => "This tab computes nothing. What it has loaded stays, so that it can go on at once."],
  left: ["You have left", () => "This tab does nothing any more, and has freed what it had loaded."],
  "refused-token": ["The pool said no", (status) => `${status.detail}. Ask whoever runs the pool for a new address.`],
  "refused-version": ["The pool said no", (status) => `${status.detail}. Reload this page.`],
  "refused-full": ["The pool is full", (status) => `${status.detail}. Try again later.`],
  "refused-closing": ["The pool is closing", (status) => `${status.detail}. You can close this tab.`],
  refused: ["The pool said no", (status) => `${status.detail}. Reload this page.`],
  dismissed: ["Done", (status) => `The pool sent this tab home: ${status.detail}. You can close it.`],
  "gave-up": ["The pool is gone", (status) =>
    `Nothing answered for a quarter of an hour: ${status.detail}.`],
  dead: ["This tab has stopped", (status) => status.detail],
};

/** States in which there is something to leave. */
const IN_TOUCH = ["connecting", "joined", "working", "waiting", "paused"];

/** What the button does in a state. */
const BUTTONS = {
  connecting: ["Pause", "pause"],
  joined: ["Pause", "pause"],
  working: ["Pause", "pause"],
  waiting: ["Try now", "hurry"],
  paused: ["Resume", "resume"],
  left: ["Join again", "resume"],
  "refused-token": ["Try again", "resume"],
  "refused-version": ["Try again", "resume"],
  "refused-full": ["Try again", "resume"],
  "refused-closing": ["Try again", "resume"],
  refused: ["Try again", "resume"],
  dismissed: ["Join again", "resume"],
  "gave-up": ["Try again", "resume"],
  dead: ["Start again", "restart"],
};

function showState(state, status) {
  const [headline, explain] = STATES[state];
  if (find("state").dataset.state !== state) performance.mark(`tabpool-${state}`);
  find("state").dataset.state = state;
  put("headline", headline);
  put("explanation", explain(status).replace(/^./, (letter) => letter.toUpperCase()));
  const button = find("toggle");
  const [text, action] = BUTTONS[state] ?? ["Pause", ""];
  put("toggle", text);
  button.disabled = action === "";
  button.dataset.action = action;
  find("leave").hidden = !IN_TOUCH.includes(state);
  document.title = `${headline} · ${address.get("label") ?? "tabpool"}`;
}

/** What to do about a problem, kept apart from what it is. */
function hint(problem) {
  if (/device is lost|lost its device/.test(problem)) return "The graphics driver started anew; the pool sends its work again.";
  if (/out of memory|Memory/.test(problem)) return "Close other tabs, or let this browser take smaller models.";
  if (/block /.test(problem)) return "A part of a model did not arrive. The pool tries again; check the network if it stays.";
  return "The pool knows of it and gives the work to another tab.";
}

function showStatus(status) {
  const now = performance.now();
  if (status.state !== "joined") samples = [];
  samples.push([now, status.runs]);
  samples = samples.filter(([when]) => now - when <= RATE_WINDOW_MS);
  const [[since, before]] = samples;
  const rate = now > since ? ((status.runs - before) * 1000) / (now - since) : 0;
  const busy = status.state === "joined" && (rate > 0 || status.loading);
  showState(busy ? "working" : status.state, status);
  put("runs", status.runs.toLocaleString());
  put("rate", rate >= 10 ? rate.toFixed(0) : rate.toFixed(1));
  put("received", bytes(status.received));
  put("sent", bytes(status.sent));
  put("memory", bytes(status.models.reduce((sum, model) => sum + model.bytes, status.memory)));
  showModels(status.models);
  const { loading } = status;
  find("loading").hidden = !loading;
  if (loading) {
    put("loading-name", `Loading ${loading.name || "a model"}`);
    put("loading-part", `${bytes(loading.done)} of ${bytes(loading.total)}`);
    find("loading-bar").value = loading.total > 0 ? loading.done / loading.total : 0;
  }
  if (status.error) showTrouble(status.error, status.errors);
  else showTrouble(death, restarts, "It was started again.");
  if (status.cacheTrouble) fact("Cache trouble", status.cacheTrouble);
  if (status.stored) fact("Kept here", `${bytes(status.stored.bytes)}; ${bytes(status.served.bytes)} of it read`);
}

/** What the models that are shown were when they were drawn. */
let drawn = "[]";

function showModels(models) {
  const now = JSON.stringify(models);
  if (now === drawn) return;
  drawn = now;
  find("no-models").hidden = models.length > 0;
  find("model-list").replaceChildren(
    ...models.map(({ name, api, bytes: size }) => {
      const line = document.createElement("li");
      line.className = "row";
      const [left, right] = [document.createElement("span"), document.createElement("span")];
      left.textContent = name || "a model";
      right.textContent = `${API_NAMES[api] ?? api}, ${bytes(size)}`;
      line.append(left, right);
      return line;
    }),
  );
}

function showTrouble(problem, count, whatNext = hint(problem ?? "")) {
  find("trouble").hidden = !problem;
  if (!problem) return;
  put("trouble-title", count > 1 ? `Last of ${count} problems` : "A problem");
  put("trouble-text", problem);
  put("trouble-hint", whatNext);
}

/** A row of the table, made where it is not there yet. */
function fact(name, text) {
  const id = `fact-${name.replaceAll(" ", "-").toLowerCase()}`;
  let cell = find(id);
  if (!cell) {
    const row = find("facts").insertRow();
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    cell = document.createElement("td");
    cell.id = id;
    row.append(head, cell);
  }
  if (cell.textContent !== text) cell.textContent = text;
}

const API_NAMES = { webgpu: "WebGPU", webnn: "WebNN", cpu: "Processor" };

function showFacts(facts) {
  const best = facts.apis.find((api) => !api.reason);
  const using = best ? `${API_NAMES[best.api] ?? best.api} (${best.adapter})` : "nothing to compute with";
  const browser = facts.browser.replace(/^./, (letter) => letter.toUpperCase());
  put("device", `${browser} ${facts.version.split(".")[0]} on ${facts.os}, ${using}`);
  fact("Browser", `${browser} ${facts.version}`);
  fact("System", `${facts.os}, ${facts.cores} ${facts.cores === 1 ? "core" : "cores"}`);
  for (const api of facts.apis) {
    fact(API_NAMES[api.api] ?? api.api, api.reason ?? `${api.adapter}${api.software ? " (in software)" : ""}`);
  }
  fact("Isolated", crossOriginIsolated ? "yes" : "no");
  if (facts.cacheTrouble) fact("Keeps models", `no: ${facts.cacheTrouble}`);
}

function dead(reason) {
  worker?.terminate();
  worker = null;
  if (performance.now() - startedAt >= SOUND_MS) restarts = 0;
  if (restarts < RESTARTS) {
    restarts += 1;
    death = `The worker stopped: ${reason}`;
    showTrouble(death, restarts, "It is started again by itself.");
    setTimeout(startWorker, RESTART_AFTER_MS);
    showState("starting", {});
  } else {
    showState("dead", { detail: reason });
  }
}

function receive(message) {
  if (message.kind === "status") showStatus(message);
  else if (message.kind === "facts") showFacts(message);
  else if (message.kind === "died") dead(message.reason);
}

function newWorker(onMessage, onDeath) {
  // The first one was started by the page itself, ahead of this script.
  const fresh = begun?.worker ?? new Worker(new URL("worker.js", location.href), { type: "module", name: location.hash.slice(1) });
  const early = begun?.early ?? [];
  begun = null;
  fresh.onmessage = null;
  fresh.onerror = null;
  // One that was ended may still have messages on their way.
  fresh.addEventListener("message", (event) => fresh === worker && onMessage(event.data));
  fresh.addEventListener("error", (event) => {
    if (fresh === worker) onDeath(event.message ?? "the worker's script could not be loaded; reload the page");
  });
  worker = fresh;
  for (const message of early) if (fresh === worker) onMessage(message);
}

function startWorker() {
  if (ended) return;
  startedAt = performance.now();
  newWorker(receive, dead);
  worker.postMessage({ kind: "hidden", hidden: document.hidden });
  if (paused) worker.postMessage({ kind: "pause" });
  tellBattery();
}

function tellBattery() {
  if (!battery) return;
  const percent = Math.round(battery.level * 100);
  find("battery-field").hidden = false;
  put("battery", `${percent} %`);
  put("battery-name", battery.charging ? "Battery, charging" : "Battery");
  worker?.postMessage({ kind: "battery", percent, charging: battery.charging });
}

async function watchBattery() {
  if (!navigator.getBattery) return;
  battery = await navigator.getBattery();
  battery.addEventListener("levelchange", tellBattery);
  battery.addEventListener("chargingchange", tellBattery);
  tellBattery();
}

/** A phone that darkens its screen sleeps, and its tabs with it. */
function offerWakeLock() {
  const box = find("awake");
  const note = (text, refused) => {
    put("awake-note", text);
    find("awake-note").classList.toggle("refused", refused);
  };
  if (!navigator.wakeLock) {
    box.disabled = true;
    note(isSecureContext ? "This browser offers no way to." : "Browsers allow that over https only.", true);
    return;
  }
  let lock = null;
  const follow = async () => {
    const wanted = box.checked && !document.hidden;
    try {
      if (wanted && (!lock || lock.released)) {
        lock = await navigator.wakeLock.request("screen");
        note("The screen stays on while this tab is in front.", false);
      } else if (!wanted && lock) {
        await lock.release();
      }
    } catch (error) {
      // The system refuses, for a nearly empty battery for example.
      box.checked = false;
      note(`The browser refuses: ${error.message || error.name}`, true);
    }
  };
  box.addEventListener("change", follow);
  document.addEventListener("visibilitychange", follow);
}

async function join() {
  if (!globalThis.Worker || !globalThis.WebAssembly) {
    showState("dead", { detail: "This browser is too old: it has no workers or no WebAssembly." });
    return;
  }
  startWorker();
  offerWakeLock();
  document.addEventListener("visibilitychange", () => worker?.postMessage({ kind: "hidden", hidden: document.hidden }));
  addEventListener("pagehide", (event) => {
    // Said while there is still time, so that the pool does not wait for this tab to come back.
    if (!event.persisted) worker?.postMessage({ kind: "close" });
  });
  find("toggle").addEventListener("click", () => {
    const { action } = find("toggle").dataset;
    if (action === "restart") {
      restarts = 0;
      startWorker();
    } else if (action) {
      if (action !== "hurry") paused = action === "pause";
      worker?.postMessage({ kind: action });
    }
  });
  find("leave").addEventListener("click", () => worker?.postMessage({ kind: "leave" }));
  await watchBattery().catch(() => {});
}

/** How an examination that is not the suite shows that it runs. */
const EXAMINING = { measure: "Measuring", rates: "Timing kernels", variants: "Conformance of every variant" };

/** Runs the suite, or times an encoder or the kernels, and reports; the text at the top says how it went as well. */
function examine(kind) {
  const report = address.get("report");
  const finish = async (result) => {
    ended = true;
    put("headline", result.error ? "Failed" : "Finished");
    if (report) await fetch(new URL(report, location.origin), { method: "POST", body: JSON.stringify(result) });
    put("explanation", result.error ?? (kind === "measure" ? `Runs of ${result.runs.join(", ")} ms`
      : `${(result.cases ?? result.rates).length} results`));
  };
  put("headline", EXAMINING[kind] ?? "Conformance");
  put("explanation", `Running on ${address.get(kind) || "webgpu"}.`);
  newWorker(
    (message) => {
      if (message.kind === kind) finish(JSON.parse(message.result));
      else if (message.kind === "died") finish({ error: message.reason });
    },
    (reason) => finish({ error: reason }),
  );
  const given = (name) => address.get(name) ?? "";
  worker.postMessage({
    kind,
    api: given(kind),
    filter: given("filter"),
    kernels: given("kernels"),
    threads: given("threads"),
    batch: Number(given("batch") || 1),
    sequence: Number(given("sequence") || 128),
    rounds: Number(given("rounds") || 20),
  });
}

const label = address.get("label");
if (label) {
  put("label", label);
  find("label").hidden = false;
}
const examined = ["variants", "rates", "conformance", "measure"].find((kind) => address.has(kind));
if (examined) examine(examined);
else join();
