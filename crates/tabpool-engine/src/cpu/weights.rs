//! Weights on their way into memory: each block is widened to `f32` and put where it belongs as it arrives, and what a
//! living executable holds already is not fetched again.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

use tabpool_graph::{BlockRef, Graph, Op, Weight};
use tabpool_tensor::DType;

use super::gemm::{packed_position, packed_right_len, tile_size};
use super::isa::Isa;
use super::words::Words;
use crate::backend::{EngineError, MemoryUse, WeightError, WeightSource};

/// How a weight lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// Row-major, as stored.
    Plain,
    /// Packed as the right operand of a product.
    Packed,
}

/// What makes two weights one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    blocks: Vec<BlockRef>,
    stored: DType,
    dims: Vec<usize>,
    form: Form,
}

/// The weights of all living executables of one backend.
#[derive(Default)]
pub(crate) struct WeightCache {
    held: RefCell<HashMap<Key, Weak<Words>>>,
}

/// The weights of one program: for each weight, in order, its forms where something needs them.
#[derive(Default)]
pub(crate) struct LoadedWeights {
    pub(crate) plain: Vec<Option<Arc<Words>>>,
    pub(crate) packed: Vec<Option<Arc<Words>>>,
    pub(crate) memory: MemoryUse,
}

/// Which forms of each weight a graph needs, in order: packed where it is the weight of a linear node, plain where
/// anything else reads it or a run gives it back.
fn needs(graph: &Graph) -> Vec<[bool; 2]> {
    let mut needs = vec![[false; 2]; graph.values().len()];
    for node in graph.nodes() {
        for (position, id) in node.inputs.iter().enumerate() {
            let packed = matches!(node.op, Op::Linear { .. }) && position == 1;
            needs[id.index()][usize::from(packed)] = true;
        }
    }
    for output in graph.outputs() {
        needs[output.value.index()][0] = true;
    }
    graph.weights().iter().map(|w| needs[w.value.index()]).collect()
}

impl WeightCache {
    /// Loads a graph's weights, or finds them.
    ///
    /// # Errors
    /// [`EngineError::Weight`] or [`EngineError::OutOfMemory`]; what was loaded for this graph alone is freed.
    pub(crate) async fn load(
        &self,
        isa: Isa,
        graph: &Graph,
        source: &dyn WeightSource,
    ) -> Result<LoadedWeights, EngineError> {
        self.held.borrow_mut().retain(|_, words| words.strong_count() > 0);
        let mut loaded = LoadedWeights::default();
        let mut own: HashMap<Key, Arc<Words>> = HashMap::new();
        let needs = needs(graph);
        let missing = |(weight, forms): &(&Weight, &[bool; 2])| {
            [Form::Plain, Form::Packed].iter().zip(*forms).any(|(&form, &need)| {
                need && self.held.borrow().get(&key(graph, weight, form)).is_none_or(|w| w.strong_count() == 0)
            })
        };
        let expected = graph.weights().iter().zip(&needs).filter(missing).flat_map(|(w, _)| &w.blocks).cloned();
        source.expect(&expected.collect::<Vec<_>>());
        for (weight, &[plain, packed]) in graph.weights().iter().zip(&needs) {
            let mut forms = [None, None];
            let mut fetch = Vec::new();
            for (form, _) in [(Form::Plain, plain), (Form::Packed, packed)].into_iter().filter(|(_, need)| *need) {
                let key = key(graph, weight, form);
                let shared = self.held.borrow().get(&key).and_then(Weak::upgrade);
                if let Some(words) = own.get(&key) {
                    forms[form as usize] = Some(words.clone());
                } else if let Some(words) = shared {
                    loaded.memory.weights += words.bytes();
                    loaded.memory.shared += words.bytes();
                    own.insert(key, words.clone());
                    forms[form as usize] = Some(words);
                } else {
                    fetch.push((form, empty(isa, graph, weight, form)?));
                }
            }
            if !fetch.is_empty() {
                fill(isa, graph, weight, source, &mut fetch).await?;
            }
            for (form, words) in fetch {
                let words = Arc::new(words);
                loaded.memory.weights += words.bytes();
                own.insert(key(graph, weight, form), words.clone());
                forms[form as usize] = Some(words);
            }
            let [plain, packed] = forms;
            loaded.plain.push(plain);
            loaded.packed.push(packed);
        }
        self.held.borrow_mut().extend(own.iter().map(|(key, words)| (key.clone(), Arc::downgrade(words))));
        Ok(loaded)
    }
}

fn key(graph: &Graph, weight: &Weight, form: Form) -> Key {
    let dims = graph.value(weight.value).shape.dims().to_vec();
    Key { blocks: weight.blocks.clone(), stored: weight.stored, dims, form }
}

/// Memory for a weight.
fn empty(isa: Isa, graph: &Graph, weight: &Weight, form: Form) -> Result<Words, EngineError> {
    let value = graph.value(weight.value);
    let len = match (form, value.shape.dims()) {
        (Form::Packed, &[n, k]) => packed_right_len(isa, k, n),
        _ => value.shape.elements(),
    };
    Words::zeroed(len, &format!("loading the weight {:?}", value.name))
}

/// Fetches a weight's blocks in order and puts each into every form asked for.
async fn fill(
    isa: Isa,
    graph: &Graph,
    weight: &Weight,
    source: &dyn WeightSource,
    forms: &mut [(Form, Words)],
) -> Result<(), EngineError> {
    let value = graph.value(weight.value);
    let fail = |source| EngineError::Weight { name: value.name.clone(), source };
    let (nr, k) = (tile_size(isa).1, value.shape.last().copied().unwrap_or(1));
    let mut first = 0;
    for block in &weight.blocks {
        let bytes = source.block(block).await.map_err(fail)?;
        if bytes.len() != block.len as usize {
            let cid = block.cid.iter().map(|b| format!("{b:02x}")).collect();
            let reason = format!("has {} bytes, the program says {}", bytes.len(), block.len);
            return Err(fail(WeightError { cid, reason }));
        }
        let elements = bytes.len() / weight.stored.size();
        for (form, words) in forms.iter_mut() {
            let out = words.floats_mut();
            match form {
                Form::Plain => widen(weight.stored, &bytes, &mut out[first..][..elements]),
                Form::Packed => scatter(weight.stored, &bytes, first, (nr, k), out),
            }
        }
        first += elements;
    }
    Ok(())
}

/// Bytes as stored to `f32`.
fn widen(stored: DType, bytes: &[u8], out: &mut [f32]) {
    match stored {
        DType::F16 => {
            for (out, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *out = half::f16::from_le_bytes(*b).to_f32();
            }
        }
        DType::BF16 => {
            for (out, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *out = half::bf16::from_le_bytes(*b).to_f32();
            }
        }
        _ => {
            for (out, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *out = f32::from_le_bytes(*b);
            }
        }
    }
}

/// Bytes as stored, which begin at element `first` of a weight with rows of `k`, to their places in its packed form.
fn scatter(stored: DType, bytes: &[u8], first: usize, (nr, k): (usize, usize), out: &mut [f32]) {
    let mut buffer = [0.0f32; 256];
    let size = stored.size();
    let mut at = first;
    for chunk in bytes.chunks(buffer.len() * size) {
        let values = &mut buffer[..chunk.len() / size];
        widen(stored, chunk, values);
        let mut values = &*values;
        while !values.is_empty() {
            let (row, column) = (at / k, at % k);
            let run;
            (run, values) = values.split_at(values.len().min(k - column));
            let start = packed_position(nr, k, row, column);
            for (out, &v) in out[start..].iter_mut().step_by(nr).zip(run) {
                *out = v;
            }
            at += run.len();
        }
    }
}
