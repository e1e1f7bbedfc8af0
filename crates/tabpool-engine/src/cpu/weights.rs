//! Weights on their way into the processor's memory: each block is widened to `f32` and put where it belongs as it arrives,
//! and what a living executable holds already is not fetched again. No copy stays on this side.

use std::cell::{OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::{Rc, Weak};

use tabpool_graph::{BlockRef, Graph, Op, ValueId, Weight};
use tabpool_kernels::packed_right_len;
use tabpool_kernels::weights::{Rows, Stored};
use tabpool_tensor::DType;

use super::processor::{Placement, Processor, Region};
use crate::backend::{EngineError, MemoryUse, WeightError, WeightSource};

/// How a weight lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// Row-major, as stored.
    Plain,
    /// Packed as the right operand of a product.
    Packed,
    /// The same of a weight that is stored the other way round.
    Turned,
}

const FORMS: [Form; 3] = [Form::Plain, Form::Packed, Form::Turned];

/// What makes two weights one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    blocks: Vec<BlockRef>,
    stored: DType,
    dims: Vec<usize>,
    form: Form,
}

/// A weight in memory, in one of its forms.
pub(crate) struct LoadedWeight {
    region: Region,
    /// Whether columns may be added, once somebody has looked.
    columns_alike: OnceCell<bool>,
}

impl LoadedWeight {
    pub(crate) fn address(&self) -> usize {
        self.region.address()
    }

    /// Whether columns of a packed weight `[n, k]` are alike enough to be added. It is looked at once, at the load of the first program
    /// that would add them.
    ///
    /// # Errors
    /// [`EngineError::DeviceLost`].
    pub(crate) fn columns_alike(&self, processor: &dyn Processor, n: usize, k: usize) -> Result<bool, EngineError> {
        if let Some(&known) = self.columns_alike.get() {
            return Ok(known);
        }
        let len = packed_right_len(processor.tile(), k, n);
        // SAFETY: the region was made for as many words, which were written before it became a loaded weight.
        let alike = unsafe { processor.columns_alike(self.address(), len, k)? };
        Ok(*self.columns_alike.get_or_init(|| alike))
    }
}

/// The weights of all living executables of one backend.
#[derive(Default)]
pub(crate) struct WeightCache {
    held: RefCell<HashMap<Key, Weak<LoadedWeight>>>,
}

/// The weights of one program: for each weight, in order, its forms where something needs them.
#[derive(Default)]
pub(crate) struct LoadedWeights {
    pub(crate) plain: Vec<Option<Rc<LoadedWeight>>>,
    pub(crate) packed: Vec<Option<Rc<LoadedWeight>>>,
    pub(crate) turned: Vec<Option<Rc<LoadedWeight>>>,
    pub(crate) memory: MemoryUse,
}

/// Which forms of each weight a graph needs, in order: packed where it is the weight of a linear node, turned where it is that
/// from the other side, plain where anything else reads it, a state becomes it or a run gives it back.
fn needs(graph: &Graph, turned: &HashMap<ValueId, ValueId>) -> Vec<[bool; 3]> {
    let mut needs = vec![[false; 3]; graph.values().len()];
    for node in graph.nodes() {
        for (position, id) in node.inputs.iter().enumerate() {
            let form = match node.op {
                Op::Linear { .. } if position == 1 => Form::Packed,
                _ if turned.contains_key(&node.output) => Form::Turned,
                _ => Form::Plain,
            };
            needs[id.index()][form as usize] = true;
        }
    }
    for id in graph.outputs().iter().map(|o| o.value).chain(graph.states().iter().map(|s| s.next)) {
        needs[id.index()][Form::Plain as usize] = true;
    }
    graph.weights().iter().map(|w| needs[w.value.index()]).collect()
}

impl WeightCache {
    /// Loads a graph's weights, or finds them. Activations will take so many bytes beside them.
    ///
    /// # Errors
    /// [`EngineError::Weight`] or [`EngineError::OutOfMemory`]; what was loaded for this graph alone is freed.
    pub(crate) async fn load(
        &self,
        processor: &Rc<dyn Processor>,
        graph: &Graph,
        source: &dyn WeightSource,
        turned: &HashMap<ValueId, ValueId>,
        activations: u64,
    ) -> Result<LoadedWeights, EngineError> {
        self.held.borrow_mut().retain(|_, words| words.strong_count() > 0);
        let mut loaded = LoadedWeights::default();
        let mut own: HashMap<Key, Rc<LoadedWeight>> = HashMap::new();
        let needs = needs(graph, turned);
        let missing = |(weight, forms): &(&Weight, &[bool; 3])| {
            FORMS.iter().zip(*forms).any(|(&form, &need)| {
                need && self.held.borrow().get(&key(graph, weight, form)).is_none_or(|w| w.strong_count() == 0)
            })
        };
        let expected = graph.weights().iter().zip(&needs).filter(missing).flat_map(|(w, _)| &w.blocks).cloned();
        source.expect(&expected.collect::<Vec<_>>());
        let missing = self.missing_words(processor, graph, &needs).saturating_mul(size_of::<f32>());
        processor.expect(missing.saturating_add(usize::try_from(activations).unwrap_or(usize::MAX)));
        for (weight, wanted) in graph.weights().iter().zip(&needs) {
            let mut forms = [None, None, None];
            let mut fetch = Vec::new();
            for form in FORMS.into_iter().filter(|form| wanted[*form as usize]) {
                let key = key(graph, weight, form);
                let shared = self.held.borrow().get(&key).and_then(Weak::upgrade);
                if let Some(words) = own.get(&key) {
                    forms[form as usize] = Some(words.clone());
                } else if let Some(words) = shared {
                    loaded.memory.weights += words.region.bytes();
                    loaded.memory.shared += words.region.bytes();
                    own.insert(key, words.clone());
                    forms[form as usize] = Some(words);
                } else {
                    fetch.push((form, empty(processor, graph, weight, form)?));
                }
            }
            if !fetch.is_empty() {
                fill(processor, graph, weight, source, &fetch).await?;
            }
            for (form, region) in fetch {
                loaded.memory.weights += region.bytes();
                let words = Rc::new(LoadedWeight { region, columns_alike: OnceCell::new() });
                own.insert(key(graph, weight, form), words.clone());
                forms[form as usize] = Some(words);
            }
            let [plain, packed, turned] = forms;
            loaded.plain.push(plain);
            loaded.packed.push(packed);
            loaded.turned.push(turned);
        }
        self.held.borrow_mut().extend(own.iter().map(|(key, words)| (key.clone(), Rc::downgrade(words))));
        Ok(loaded)
    }
}

impl WeightCache {
    /// Words of the weights of a graph that are not here.
    fn missing_words(&self, processor: &Rc<dyn Processor>, graph: &Graph, needs: &[[bool; 3]]) -> usize {
        let held = self.held.borrow();
        let mut counted = HashSet::new();
        let mut sum = 0usize;
        for (weight, wanted) in graph.weights().iter().zip(needs) {
            for form in FORMS.into_iter().filter(|form| wanted[*form as usize]) {
                let key = key(graph, weight, form);
                if held.get(&key).is_none_or(|words| words.strong_count() == 0) && counted.insert(key) {
                    sum = sum.saturating_add(words(processor, graph, weight, form));
                }
            }
        }
        sum
    }
}

fn key(graph: &Graph, weight: &Weight, form: Form) -> Key {
    let dims = graph.value(weight.value).shape.dims().to_vec();
    Key { blocks: weight.blocks.clone(), stored: weight.stored, dims, form }
}

/// Memory for a weight.
fn empty(processor: &Rc<dyn Processor>, graph: &Graph, weight: &Weight, form: Form) -> Result<Region, EngineError> {
    let value = graph.value(weight.value);
    Region::words(processor, words(processor, graph, weight, form), &format!("loading the weight {:?}", value.name))
}

/// The words of a weight in a form.
fn words(processor: &Rc<dyn Processor>, graph: &Graph, weight: &Weight, form: Form) -> usize {
    let shape = &graph.value(weight.value).shape;
    match (form, shape.dims()) {
        (Form::Packed, &[n, k]) | (Form::Turned, &[k, n]) => packed_right_len(processor.tile(), k, n),
        _ => shape.elements(),
    }
}

/// Fetches a weight's blocks in order and puts each into every form asked for.
async fn fill(
    processor: &Rc<dyn Processor>,
    graph: &Graph,
    weight: &Weight,
    source: &dyn WeightSource,
    forms: &[(Form, Region)],
) -> Result<(), EngineError> {
    let value = graph.value(weight.value);
    let fail = |source| EngineError::Weight { name: value.name.clone(), source };
    let stored = match weight.stored {
        DType::F32 => Stored::F32,
        DType::F16 => Stored::F16,
        DType::BF16 => Stored::BF16,
        other => {
            let cid = weight.blocks.first().map(|b| hexadecimal(&b.cid)).unwrap_or_default();
            return Err(fail(WeightError { cid, reason: format!("is stored as {other}, which is no weight's dtype") }));
        }
    };
    let mut first = 0;
    for block in &weight.blocks {
        let bytes = source.block(block).await.map_err(fail)?;
        if bytes.len() != block.len as usize {
            let reason = format!("has {} bytes, the program says {}", bytes.len(), block.len);
            return Err(fail(WeightError { cid: hexadecimal(&block.cid), reason }));
        }
        let elements = bytes.len() / stored.size();
        if elements > value.shape.elements() - first {
            let reason = format!("has {elements} elements, more than are left of the weight's {}", value.shape);
            return Err(fail(WeightError { cid: hexadecimal(&block.cid), reason }));
        }
        for (form, region) in forms {
            let row = value.shape.last().copied().unwrap_or(1);
            let packed = match form {
                Form::Plain => None,
                Form::Packed => Some(Rows::Of(row)),
                Form::Turned => Some(Rows::Turned(row)),
            };
            let (address, len) = (region.address(), words(processor, graph, weight, *form));
            // SAFETY: the region was made for this form of this weight, and the part was seen to lie inside it.
            unsafe { processor.place(Placement { stored, first, packed, address, len }, &bytes)? };
        }
        first += elements;
    }
    Ok(())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
