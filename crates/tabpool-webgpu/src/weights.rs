//! Weights on the device: shared between executables, filled block by block.
//!
//! Blocks arrive as stored and are converted into the layout that kernels read, so a model is never in memory twice: at
//! most [`UNDRAINED_BYTES`] of blocks wait to be uploaded. What becomes f32 is converted on the device by `unpack.wgsl`, what
//! becomes less exact on the processor by [`packer`].

mod packer;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};

use bytes::Bytes;
use tabpool_engine::{EngineError, WeightError, WeightSource};
use tabpool_graph::{BlockRef, Graph, Weight};
use tabpool_tensor::{DType, Precision, Shape};

use crate::device::Gpu;
use crate::kernels::gemm::{PANEL, Panels};
use crate::kernels::unpack::{self, Order, Piece};
use crate::kernels::{Launch, Variant};
use crate::lower::{Layout, WeightUse};

pub(crate) use packer::Packer;

/// How many bytes may be handed to the device before its work is waited for.
const UNDRAINED_BYTES: usize = 32 << 20;
/// How many bytes are converted by one launch.
const PIECE_BYTES: usize = 4 << 20;

/// A weight on the device.
pub(crate) struct WeightBuffer {
    pub(crate) buffer: wgpu::Buffer,
}

/// What makes two weights the same.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    blocks: Vec<BlockRef>,
    stored: DType,
    shape: Shape,
    layout: Layout,
}

/// The weights of a backend that some executable holds.
#[derive(Default)]
pub(crate) struct WeightCache(RefCell<HashMap<Key, Weak<WeightBuffer>>>);

impl WeightCache {
    fn get(&self, key: &Key) -> Option<Rc<WeightBuffer>> {
        self.0.borrow().get(key)?.upgrade()
    }

    /// Adds what a load has brought, and forgets what nobody holds any more.
    fn add(&self, filled: &[(Key, Rc<WeightBuffer>)]) {
        let mut cache = self.0.borrow_mut();
        cache.retain(|_, w| w.strong_count() > 0);
        cache.extend(filled.iter().map(|(k, w)| (k.clone(), Rc::downgrade(w))));
    }
}

/// The weights of one program, in the order of its uses.
pub(crate) struct Weights {
    pub(crate) buffers: Vec<Rc<WeightBuffer>>,
    /// Their bytes, and of those the ones that were there already.
    pub(crate) bytes: u64,
    pub(crate) shared: u64,
    missing: Vec<Missing>,
}

/// A stored weight that has to be loaded, with every buffer it goes to.
struct Missing {
    /// The position in [`Graph::weights`].
    weight: usize,
    to: Vec<(Key, Rc<WeightBuffer>)>,
}

/// The size of a weight's buffer.
fn size(shape: &[usize], layout: Layout) -> u64 {
    let bytes = match (layout, shape) {
        (Layout::Panels(precision), &[n, k]) => Panels::of(precision, n, k).bytes(),
        (Layout::TurnedPanels, &[k, n]) => Panels::of(Precision::F32, n, k).bytes(),
        _ => shape.iter().product::<usize>() * 4,
    };
    (bytes as u64).next_multiple_of(16)
}

/// Whether the device converts it.
fn on_device(layout: Layout) -> bool {
    matches!(layout, Layout::Natural | Layout::Panels(Precision::F32) | Layout::TurnedPanels)
}

/// In which order the device writes it.
fn order(layout: Layout) -> Order {
    match layout {
        Layout::Natural => Order::Natural,
        Layout::Panels(_) => Order::Panels,
        Layout::TurnedPanels => Order::TurnedPanels,
    }
}

/// The variants that loading these weights dispatches.
pub(crate) fn variants(graph: &Graph, uses: &[WeightUse]) -> Vec<Variant> {
    let of = |u: &WeightUse| unpack::variant(graph.weights()[u.weight].stored, order(u.layout));
    uses.iter().filter(|u| on_device(u.layout)).map(of).collect()
}

/// Says which blocks a load will likely ask for: those of the weights that are not there as these uses want them.
pub(crate) fn expect(gpu: &Gpu, graph: &Graph, uses: &[WeightUse], source: &dyn WeightSource) {
    let mut blocks = Vec::new();
    for (i, u) in uses.iter().enumerate() {
        let again = uses[..i].iter().any(|before| before.weight == u.weight);
        if !again && gpu.weights.get(&key(graph, *u)).is_none() {
            blocks.extend_from_slice(&graph.weights()[u.weight].blocks);
        }
    }
    source.expect(&blocks);
}

fn key(graph: &Graph, WeightUse { weight, layout }: WeightUse) -> Key {
    let Weight { value, stored, blocks } = &graph.weights()[weight];
    Key { blocks: blocks.clone(), stored: *stored, shape: graph.value(*value).shape.clone(), layout }
}

/// Finds or makes the buffers. Nothing is in the new ones yet. Call within error scopes.
pub(crate) fn allocate(gpu: &Gpu, graph: &Graph, uses: &[WeightUse]) -> Weights {
    let mut weights = Weights { buffers: Vec::new(), bytes: 0, shared: 0, missing: Vec::new() };
    let mut here: HashMap<Key, Rc<WeightBuffer>> = HashMap::new();
    for u in uses {
        let key = key(graph, *u);
        let bytes = size(&key.shape, u.layout);
        let known = gpu.weights.get(&key).inspect(|_| weights.shared += bytes).or_else(|| here.get(&key).cloned());
        weights.bytes += bytes;
        let buffer = known.unwrap_or_else(|| {
            let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
            let buffer = crate::device::buffer(&gpu.device, bytes, usage);
            let buffer = Rc::new(WeightBuffer { buffer });
            here.insert(key.clone(), buffer.clone());
            weights.await_blocks(u.weight, key, buffer.clone());
            buffer
        });
        weights.buffers.push(buffer);
    }
    weights
}

impl Weights {
    fn await_blocks(&mut self, weight: usize, key: Key, buffer: Rc<WeightBuffer>) {
        // The same stored tensor in two layouts is fetched once.
        let same = |m: &&mut Missing| {
            let other = &m.to[0].0;
            (&other.blocks, other.stored, &other.shape) == (&key.blocks, key.stored, &key.shape)
        };
        if let Some(missing) = self.missing.iter_mut().find(same) {
            missing.to.push((key, buffer));
        } else {
            self.missing.push(Missing { weight, to: vec![(key, buffer)] });
        }
    }

    /// Fetches the blocks and fills the buffers, then shares them. Gives the weights, as positions in [`Graph::weights`],
    /// that do not fit the format they were to have; their buffers are not shared and must not be used.
    pub(crate) async fn fill(
        &mut self,
        gpu: &Gpu,
        graph: &Graph,
        source: &dyn WeightSource,
    ) -> Result<Vec<usize>, EngineError> {
        let mut missing = std::mem::take(&mut self.missing);
        let mut uploader = None;
        let mut undrained = 0;
        let mut unfit = Vec::new();
        for m in &mut missing {
            let weight = &graph.weights()[m.weight];
            let mut first = 0;
            let mut packers: Vec<_> = m.to.iter().map(|(key, _)| packer_of(key)).collect();
            for block in &weight.blocks {
                let bytes = fetch(source, block, &graph.value(weight.value).name).await?;
                gpu.health.alive()?;
                let count = bytes.len() / weight.stored.size();
                for (to, packer) in m.to.iter().zip(&mut packers) {
                    match packer {
                        Some(packer) => packer.push(&bytes, &mut writer(gpu, &to.1)),
                        None => write(gpu, &mut uploader, &bytes, first, weight.stored, to),
                    }
                }
                first += count;
                undrained += bytes.len();
                if undrained >= UNDRAINED_BYTES {
                    gpu.drained().await?;
                    undrained = 0;
                }
            }
            let mut packers = packers.into_iter();
            m.to.retain(|(_, to)| {
                let fits = packers.next().flatten().is_none_or(|packer| packer.finish(&mut writer(gpu, to)));
                unfit.extend((!fits).then_some(m.weight));
                fits
            });
        }
        gpu.drained().await?;
        for m in &missing {
            gpu.weights.add(&m.to);
        }
        Ok(unfit)
    }
}

/// What makes the panels, where the device does not.
fn packer_of(key: &Key) -> Option<Packer> {
    match (key.layout, key.shape.dims()) {
        (Layout::Panels(precision), &[n, k]) if !on_device(key.layout) => {
            Some(Packer::new(precision, key.stored, n, k))
        }
        _ => None,
    }
}

fn writer<'a>(gpu: &'a Gpu, to: &'a WeightBuffer) -> impl FnMut(u64, &[u8]) + 'a {
    |offset, bytes| gpu.queue.write_buffer(&to.buffer, offset, bytes)
}

async fn fetch(source: &dyn WeightSource, block: &BlockRef, name: &str) -> Result<Bytes, EngineError> {
    let failed = |source| EngineError::Weight { name: name.to_owned(), source };
    let bytes = source.block(block).await.map_err(failed)?;
    if bytes.len() != block.len as usize {
        let reason = format!("holds {} bytes, the program says {}", bytes.len(), block.len);
        return Err(failed(WeightError { cid: hex(&block.cid), reason }));
    }
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from_digit(u32::from(n), 16).unwrap_or('?');
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

/// Writes the elements of one block, from element `first` of the weight on.
fn write(
    gpu: &Gpu,
    uploader: &mut Option<Uploader>,
    bytes: &Bytes,
    first: usize,
    stored: DType,
    (key, to): &(Key, Rc<WeightBuffer>),
) {
    if stored == DType::F32 && key.layout == Layout::Natural {
        gpu.queue.write_buffer(&to.buffer, first as u64 * 4, bytes);
        return;
    }
    let uploader = uploader.get_or_insert_with(|| Uploader::new(gpu));
    for (i, piece) in bytes.chunks(PIECE_BYTES).enumerate() {
        let first = first + i * (PIECE_BYTES / stored.size());
        uploader.unpack(gpu, piece, first, stored, key, &to.buffer);
    }
}

/// The buffers that pieces pass through on their way to a weight.
struct Uploader {
    words: wgpu::Buffer,
    params: wgpu::Buffer,
}

impl Uploader {
    fn new(gpu: &Gpu) -> Self {
        let usage = wgpu::BufferUsages::COPY_DST;
        let words = crate::device::buffer(&gpu.device, PIECE_BYTES as u64, usage | wgpu::BufferUsages::STORAGE);
        let params = crate::device::buffer(&gpu.device, 16, usage | wgpu::BufferUsages::UNIFORM);
        Self { words, params }
    }

    fn unpack(&self, gpu: &Gpu, piece: &[u8], first: usize, stored: DType, key: &Key, to: &wgpu::Buffer) {
        let count = piece.len() / stored.size();
        let panels = match (key.layout, key.shape.dims()) {
            (Layout::Panels(precision), &[n, k]) => Some((k, Panels::of(precision, n, k).rows)),
            (Layout::TurnedPanels, &[k, n]) => Some((n, Panels::of(Precision::F32, n, k).rows)),
            _ => None,
        };
        // A weight may be larger than a binding: only what this piece goes to is bound, from an aligned offset on.
        let (start, end, first) = match panels {
            // Each row goes to every panel; such weights are bound whole.
            Some(_) if key.layout == Layout::TurnedPanels => (0, usize::try_from(to.size()).unwrap_or(0), first),
            // A panel of f32 has rows by fours, so that its bytes are a multiple of every alignment.
            Some((k, rows)) => {
                let (panel, bytes) = (first / k / PANEL, rows * PANEL * 4);
                let after = (first + count).div_ceil(k).div_ceil(PANEL);
                (panel * bytes, after * bytes, first - panel * PANEL * k)
            }
            None => {
                let unit = usize::try_from(gpu.capabilities.alignment / 4).unwrap_or(64).max(1);
                let aligned = first / unit * unit;
                (aligned * 4, (first + count) * 4, first - aligned)
            }
        };
        let size = std::num::NonZeroU64::new((end - start) as u64);
        let bound = wgpu::BufferBinding { buffer: to, offset: start as u64, size };
        write_padded(gpu, &self.words, piece);
        let Launch { variant, params, groups } =
            unpack::launch(Piece { stored, first, count, order: order(key.layout), panels });
        gpu.queue.write_buffer(&self.params, 0, bytemuck::cast_slice(&params));
        let pipeline = gpu.pipelines.get(&gpu.device, &variant);
        let resources =
            [self.params.as_entire_binding(), self.words.as_entire_binding(), wgpu::BindingResource::Buffer(bound)];
        let entries: Vec<_> =
            (0..).zip(resources).map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource }).collect();
        let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.layout,
            entries: &entries,
        });
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(&pipeline.pipeline);
            pass.set_bind_group(0, &group, &[]);
            // A piece of 4 MiB needs fewer than 65,536 workgroups of 64.
            let [x, y] = groups.folded(gpu.capabilities.groups).unwrap_or_default();
            pass.dispatch_workgroups(x, y, 1);
        }
        gpu.queue.submit([encoder.finish()]);
    }
}

/// Writes bytes that need not be whole words.
fn write_padded(gpu: &Gpu, buffer: &wgpu::Buffer, bytes: &[u8]) {
    let whole = bytes.len() / 4 * 4;
    gpu.queue.write_buffer(buffer, 0, &bytes[..whole]);
    let rest = &bytes[whole..];
    if !rest.is_empty() {
        let mut word = [0; 4];
        word[..rest.len()].copy_from_slice(rest);
        gpu.queue.write_buffer(buffer, whole as u64, &word);
    }
}
