//! Weights on their way to constants: assembled block by block outside the module's memory.
//!
//! A constant is copied when a graph is made of it, and a graph keeps its constants to itself. What is shared between
//! programs is therefore the buffer a constant is made from, kept for as long as some executable holds it: the next
//! program of the same model fetches and verifies nothing. Where the page is isolated it is a `SharedArrayBuffer`, so
//! that all lanes make their constants from one.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};

use bytes::Bytes;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use js_sys::{Array, Function, Reflect, Uint8Array};
use tabpool_engine::{EngineError, WeightError, WeightSource};
use tabpool_graph::{BlockRef, Graph};
use tabpool_tensor::{DType, Shape};
use wasm_bindgen::prelude::{JsCast, JsValue};

use crate::context::{Context, Table};
use crate::ml::thrown;
use crate::recipe::Recipe;

/// How many elements are widened at once.
const WIDENED: usize = 64 << 10;

/// A weight in `f32`.
pub(crate) struct Weight {
    buffer: JsValue,
    bytes: u64,
    /// What lanes know it by.
    number: u32,
    /// It as a table on this worker's own context, while some graph there reads it.
    table: RefCell<Weak<Table>>,
}

/// What makes two weights the same.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    blocks: Vec<BlockRef>,
    stored: DType,
    shape: Shape,
}

/// The weights of a backend that some executable holds.
#[derive(Default)]
pub(crate) struct WeightCache {
    held: RefCell<HashMap<Key, Weak<Weight>>>,
    /// The next weight's number.
    next: Cell<u32>,
}

/// The weights of one program.
pub(crate) struct Weights {
    /// By position in [`Graph::weights`]; those that are not read are not here.
    held: HashMap<usize, Rc<Weight>>,
    /// The bytes of them all.
    pub(crate) bytes: u64,
    /// Of those, the ones that another executable held already.
    pub(crate) shared: u64,
}

impl Weights {
    /// The buffer of a weight, `undefined` for one that is not read.
    pub(crate) fn buffer(&self, position: usize) -> JsValue {
        self.held.get(&position).map_or(JsValue::UNDEFINED, |weight| weight.buffer.clone())
    }

    /// The buffers by position, with holes for those that are not read.
    pub(crate) fn buffers(&self, count: usize) -> Array {
        (0..count).map(|position| self.buffer(position)).collect()
    }
}

impl Weights {
    /// What lanes know the weights by, by position; with zeros for those that are not read.
    pub(crate) fn numbers(&self, count: usize) -> Array {
        let number = |position| self.held.get(&position).map_or(0, |weight| weight.number);
        (0..count).map(|position| JsValue::from(number(position))).collect()
    }

    /// The tables of a recipe on this worker's own context: those that are there, and the others brought there.
    ///
    /// # Errors
    /// [`EngineError`] as the browser says.
    pub(crate) async fn tables(
        &self,
        recipe: &Recipe,
        context: &Context,
    ) -> Result<Vec<(usize, Rc<Table>)>, EngineError> {
        let mut tables = Vec::new();
        for (position, step) in recipe.tables() {
            let Some(weight) = self.held.get(&position) else { continue };
            let known = weight.table.borrow().upgrade();
            let table = match known {
                Some(table) => table,
                None => context.table(step, &weight.buffer).await?,
            };
            weight.table.replace(Rc::downgrade(&table));
            tables.push((position, table));
        }
        Ok(tables)
    }
}

impl WeightCache {
    /// Finds or fetches the weights at these positions.
    ///
    /// # Errors
    /// [`EngineError::Weight`] or [`EngineError::OutOfMemory`]; what was fetched for this program alone is let go.
    pub(crate) async fn load(
        &self,
        graph: &Graph,
        positions: &[usize],
        source: &dyn WeightSource,
        shareable: bool,
    ) -> Result<Weights, EngineError> {
        self.held.borrow_mut().retain(|_, weight| weight.strong_count() > 0);
        let mut weights = Weights { held: HashMap::new(), bytes: 0, shared: 0 };
        let mut fresh: HashMap<Key, Rc<Weight>> = HashMap::new();
        let known = |key: &Key| self.held.borrow().get(key).and_then(Weak::upgrade);
        let missing = positions.iter().filter(|&&position| known(&key(graph, position)).is_none());
        let blocks = missing.flat_map(|&position| &graph.weights()[position].blocks).cloned().collect::<Vec<_>>();
        source.expect(&blocks);
        for &position in positions {
            let key = key(graph, position);
            let weight = if let Some(weight) = fresh.get(&key) {
                Rc::clone(weight)
            } else if let Some(weight) = known(&key) {
                weights.shared += weight.bytes;
                weight
            } else {
                let (buffer, bytes) = fetch(graph, position, source, shareable).await?;
                let number = self.next.replace(self.next.get().wrapping_add(1));
                let weight = Rc::new(Weight { buffer, bytes, number, table: RefCell::default() });
                fresh.insert(key, Rc::clone(&weight));
                weight
            };
            weights.bytes += weight.bytes;
            weights.held.insert(position, weight);
        }
        self.held.borrow_mut().extend(fresh.into_iter().map(|(key, weight)| (key, Rc::downgrade(&weight))));
        Ok(weights)
    }
}

fn key(graph: &Graph, position: usize) -> Key {
    let weight = &graph.weights()[position];
    Key { blocks: weight.blocks.clone(), stored: weight.stored, shape: graph.value(weight.value).shape.clone() }
}

/// Fetches a weight's blocks and widens them into a buffer of their own.
async fn fetch(
    graph: &Graph,
    position: usize,
    source: &dyn WeightSource,
    shareable: bool,
) -> Result<(JsValue, u64), EngineError> {
    let weight = &graph.weights()[position];
    let value = graph.value(weight.value);
    let length = value.shape.elements() * 4;
    let out_of_memory = |e: JsValue| EngineError::OutOfMemory {
        doing: format!("keeping the weight {:?}", value.name),
        reason: thrown(&e),
    };
    let buffer = allocate(length, shareable).map_err(out_of_memory)?;
    let bytes = Uint8Array::new(&buffer);
    let mut end = 0;
    for block in &weight.blocks {
        let failed = |source| EngineError::Weight { name: value.name.clone(), source };
        let refused = |reason| failed(WeightError { cid: hex(&block.cid), reason });
        let content = source.block(block).await.map_err(failed)?;
        if content.len() != block.len as usize || content.len() % weight.stored.size() != 0 {
            return Err(refused(format!("holds {} bytes, the program says {}", content.len(), block.len)));
        }
        let start = end;
        end += content.len() / weight.stored.size() * 4;
        if end > length {
            return Err(refused(format!("goes past the {length} bytes of {}{}", weight.stored, value.shape)));
        }
        put(&bytes, start, weight.stored, &content);
    }
    if end != length {
        let reason = format!("is the last and leaves {} of {length} bytes empty", length - end);
        let cid = weight.blocks.last().map(|block| hex(&block.cid)).unwrap_or_default();
        return Err(EngineError::Weight { name: value.name.clone(), source: WeightError { cid, reason } });
    }
    Ok((buffer, length as u64))
}

/// A buffer of this many zeros, one that other workers may read where asked for.
pub(crate) fn allocate(length: usize, shareable: bool) -> Result<JsValue, JsValue> {
    let name = if shareable { "SharedArrayBuffer" } else { "ArrayBuffer" };
    let constructor: Function = Reflect::get(&js_sys::global(), &name.into())?.dyn_into()?;
    // A double holds every length there can be.
    Reflect::construct(&constructor, &Array::of1(&JsValue::from_f64(length as f64)))
}

/// Writes the elements of a block from byte `start` on, widened.
fn put(to: &Uint8Array, start: usize, stored: DType, content: &Bytes) {
    let write = |start: usize, bytes: &[u8]| {
        let (from, to_end) = (offset(start), offset(start + bytes.len()));
        to.subarray(from, to_end).copy_from(bytes);
    };
    if stored == DType::F32 {
        write(start, content);
        return;
    }
    let mut wide = Vec::with_capacity(WIDENED.min(content.len() / 2));
    for (n, piece) in content.chunks(WIDENED * 2).enumerate() {
        let bits = piece.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        wide.clear();
        if stored == DType::F16 {
            let halves: Vec<f16> = bits.map(f16::from_bits).collect();
            wide.resize(halves.len(), 0.0);
            halves.convert_to_f32_slice(&mut wide);
        } else {
            wide.extend(bits.map(|bits| bf16::from_bits(bits).to_f32()));
        }
        write(start + n * WIDENED * 4, bytemuck::cast_slice(&wide));
    }
}

/// An offset as JavaScript takes it here: the module's memory has 32-bit addresses, and no buffer is longer than it.
fn offset(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn hex(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from_digit(u32::from(n), 16).unwrap_or('?');
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}
