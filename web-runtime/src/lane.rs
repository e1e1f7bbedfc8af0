//! WebNN in this tab: where its lanes come from, and what runs in one.

use js_sys::{Array, Reflect};
use tabpool_webnn::{LaneSource, Options, serve_lane};
use wasm_bindgen::prelude::wasm_bindgen;

use crate::navigator::scope;

/// The most lanes of a tab. Each holds every model's weights, and a pool has other tabs to feed.
const MOST_LANES: u32 = 4;

/// The script of a nested worker, beside this worker's own.
const SCRIPT: &str = "lane.js";

/// Serves the tab's worker from a nested one. `early` are messages that came before the module was there.
#[wasm_bindgen]
pub fn lane(early: &Array) {
    std::panic::set_hook(Box::new(|info| {
        // What a panic says reaches the tab's worker as the message of the trap that follows it.
        wasm_bindgen::throw_str(&info.to_string());
    }));
    serve_lane(early);
}

/// One lane for each core, as far as they are told and bounded.
pub(crate) fn lanes(cores: u32) -> usize {
    cores.clamp(1, MOST_LANES) as usize
}

/// How this tab opens WebNN.
pub(crate) fn options(cores: u32) -> Options {
    // A worker's address is that of its script; one that cannot tell it has one lane.
    let base = Reflect::get(&scope(), &"location".into()).and_then(|l| Reflect::get(&l, &"href".into()));
    let base = base.ok().and_then(|href| href.as_string()).unwrap_or_default();
    let script = base.rsplit_once('/').map(|(folder, _)| format!("{folder}/{SCRIPT}"));
    Options {
        lanes: lanes(cores),
        source: script.map(|script| LaneSource { script, module: wasm_bindgen::module() }),
        isolated: scope().cross_origin_isolated().unwrap_or(false),
    }
}
