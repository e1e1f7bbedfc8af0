//! Fewer bits: what MiniLM loses where f16 or int8 is permitted, on variants that use them and wherever a pool chooses.
//!
//! Embeddings are of length 1. The limits below are some three times what is measured, so that another driver's roundings
//! pass and a wrong scale does not.

use async_trait::async_trait;
use bytes::Bytes;
use tabpool_content::{BlockStore as _, Cid, ImportOptions, MemoryStore, import_folder};
use tabpool_engine::{Backend as _, WeightError, WeightSource};
use tabpool_graph::BlockRef;
use tabpool_models::Model;
use tabpool_pool::{ModelRequest, Profile, ResourcePool, Target, WorkerSpec};
use tabpool_protocol::ApiKind;
use tabpool_tensor::Precision;
use tabpool_tests::golden::{Sentence, ids, sentences};
use tabpool_tests::{Fault, Outcome, browsers, places, require, scene};
use tabpool_webgpu::{GemmVariant, Options, WebGpuBackend};

const CASE: &str = "precision";
const OUTPUT: &str = "sentence_embedding";

/// The least cosine with the reference, and the most that a number may be off.
fn limits(precision: Precision) -> (f64, f64) {
    match precision {
        Precision::F32 => (0.999_999, 1e-4),
        Precision::F16 => (0.999_99, 1e-3),
        _ => (0.97, 6e-2),
    }
}

/// How far embeddings are from the reference at worst.
#[derive(Clone, Copy, Debug)]
struct Off {
    cosine: f64,
    number: f64,
}

impl Off {
    const NOTHING: Off = Off { cosine: 1.0, number: 0.0 };

    fn and(self, got: &[f32], want: &[f32]) -> Off {
        let pairs = || got.iter().zip(want).map(|(g, w)| (f64::from(*g), f64::from(*w)));
        let dot = |of: fn((f64, f64)) -> f64| pairs().map(of).sum::<f64>();
        let cosine = dot(|(g, w)| g * w) / (dot(|(g, _)| g * g) * dot(|(_, w)| w * w)).sqrt();
        let number = pairs().map(|(g, w)| (g - w).abs()).fold(0.0, |worst, e| if e > worst { e } else { worst });
        // What is no number is as far off as can be.
        let cosine = if cosine.is_nan() { -1.0 } else { cosine };
        Off { cosine: self.cosine.min(cosine), number: self.number.max(number) }
    }

    fn within(self, precision: Precision, what: &str) -> Outcome {
        let (cosine, number) = limits(precision);
        tabpool_tests::show(&format!("{what}: least cosine {:.7}, worst error {:.1e}", self.cosine, self.number));
        require(self.cosine >= cosine && self.number <= number, || format!("{what} in {precision}: {self:?}"))
    }
}

/// Blocks of a folder in memory.
struct Stored(MemoryStore);

#[async_trait(?Send)]
impl WeightSource for Stored {
    async fn block(&self, block: &BlockRef) -> Result<Bytes, WeightError> {
        let lacks = |reason: &str| WeightError { cid: format!("{:02x?}", block.cid), reason: reason.to_owned() };
        let cid = Cid::try_from(&*block.cid).map_err(|e| lacks(&e.to_string()))?;
        let found = self.0.get(&cid).map_err(|e| lacks(&e.to_string()))?;
        found.ok_or_else(|| lacks("is not in memory"))
    }
}

#[tokio::test]
async fn minilm_is_near_its_golden_on_variants_of_fewer_bits() -> Outcome {
    let _alone = scene::machine().await;
    let Some(path) = places::minilm(CASE) else { return Ok(()) };
    // A backend belongs to one thread.
    let checked = tokio::task::spawn_blocking(move || pollster::block_on(each_variant(&path)));
    checked.await?
}

async fn each_variant(path: &str) -> Outcome {
    let store = MemoryStore::new(1 << 30);
    let imported = import_folder(path.as_ref(), &store, &ImportOptions::default(), &mut |_| {})?;
    let model = Model::open(&store, &imported.root)?;
    let (source, sentences) = (Stored(store), sentences()?);
    for name in ["register_16x16", "f16_register_16x16", "half_register_16x8", "int8_register_8x8"] {
        let gemm = GemmVariant::named(name).ok_or_else(|| format!("there is no variant {name}"))?;
        match WebGpuBackend::new(Options { gemm: Some(gemm), ..Options::default() }).await {
            Ok(backend) => {
                let off = with_variant(&backend, gemm.precision(), &model, &source, &sentences).await?;
                off.within(gemm.precision(), &format!("native webgpu, {name}"))?;
            }
            Err(e) => places::left_out(&format!("{CASE} with {name}"), &e.to_string()),
        }
    }
    Ok(())
}

async fn with_variant(
    backend: &WebGpuBackend,
    precision: Precision,
    model: &Model,
    source: &Stored,
    sentences: &[Sentence],
) -> Result<Off, Fault> {
    let mut off = Off::NOTHING;
    for sentence in sentences {
        let request = model.prepare(&ids(&sentence.ids)?, &[OUTPUT.to_owned()])?;
        let program = model.program(request.bucket, &[OUTPUT])?.permitting(precision);
        let loaded = backend.load(&program, source).await?;
        require(loaded.report.precision == precision, || format!("came to {}", loaded.report.precision))?;
        let outputs = request.crop.apply(loaded.executable.run(&request.tensors).await?.tensors)?;
        off = off.and(&outputs[0].1.to_f32()?, &sentence.embedding);
    }
    Ok(off)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_keeps_to_what_is_permitted_and_says_what_it_used() -> Outcome {
    let Some(path) = places::minilm(CASE) else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let mut builder = ResourcePool::builder().data_dir(folder.path()).worker(WorkerSpec::native());
    for kind in browsers::kinds(CASE) {
        builder = builder.worker(scene::browser(kind, Profile::Fresh));
    }
    let pool = scene::ready(builder).await?;
    let sentences: Vec<Sentence> = sentences()?.into_iter().take(3).collect();
    let model = pool.model(ModelRequest::new(path)).await?;
    for worker in pool.workers() {
        for (api, _) in worker.capabilities.working() {
            let target: Target = format!("{}:{api}", worker.kind).parse()?;
            for permitted in Precision::ALL {
                let model = model.on(target).precision(permitted);
                let (mut off, mut used) = (Off::NOTHING, Precision::F32);
                for sentence in &sentences {
                    let answer = model.run_for(ids(&sentence.ids)?, &[OUTPUT]).await?;
                    used = used.max(answer.precision);
                    off = off.and(&answer.outputs[0].1.to_f32()?, &sentence.embedding);
                }
                require(used.within(permitted), || format!("{target}: {used} where {permitted} is permitted"))?;
                require(api == ApiKind::WebGpu || used == Precision::F32, || format!("{target}: {used}"))?;
                off.within(used, &format!("{target}, {permitted} permitted, {used} used"))?;
            }
        }
    }
    Ok(pool.close().await?)
}
