//! Outputs that stay where they were computed: one tower feeds the heads of two models, and an encoder a decoder, on every target.

use std::fs;

use safetensors::SafeTensors;
use tabpool_pool::{Keeping, ModelHandle, ModelRequest, Profile, ResourcePool, Target, TuningPolicy, WorkerSpec};
use tabpool_protocol::ApiKind;
use tabpool_scheduler::WorkerKind;
use tabpool_tensor::Tensor;
use tabpool_tests::golden::{Golden, Named, error};
use tabpool_tests::places::{fixture, fixture_name};
use tabpool_tests::{Fault, Outcome, browsers, require, scene};

const CASE: &str = "kept outputs";

async fn model(pool: &ResourcePool, name: &str, target: Target) -> Result<ModelHandle, Fault> {
    Ok(pool.model(ModelRequest::new(fixture_name(name)).on(target)).await?)
}

fn near(what: &str, got: &Tensor, want: &[f32]) -> Outcome {
    let worst = error(&got.to_f32()?, want, |_| true);
    require(worst <= 1.0, || format!("{what}: off by {worst} times the tolerance"))
}

fn one<'a>(outputs: &'a Named, name: &str) -> Result<&'a Tensor, Fault> {
    let found = outputs.iter().find(|(output, _)| output == name);
    Ok(&found.ok_or_else(|| format!("no {name} among the outputs"))?.1)
}

/// What the head of a classifier makes of the first vector of each picture, computed here.
fn classified(name: &str, vectors: &Tensor) -> Result<Vec<f32>, Fault> {
    let file = fs::read(fixture(name).join("model.safetensors"))?;
    let weights = SafeTensors::deserialize(&file)?;
    let read = |name: &str| -> Result<Vec<f32>, Fault> {
        let bytes = weights.tensor(name)?;
        Ok(bytes.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    };
    let (weight, bias) = (read("classifier.weight")?, read("classifier.bias")?);
    let values = vectors.to_f32()?;
    let (positions, width) = (vectors.shape()[1], vectors.shape()[2]);
    let first = values.chunks(positions * width).map(|picture| &picture[..width]);
    let class = |vector: &[f32], class: usize| {
        let row = &weight[class * width..][..width];
        bias[class] + row.iter().zip(vector).map(|(a, b)| a * b).sum::<f32>()
    };
    Ok(first.flat_map(|vector| (0..bias.len()).map(move |it| (vector, it))).map(|(v, it)| class(v, it)).collect())
}

/// A picture goes through one tower, and two models have what they make of it from there.
async fn one_tower_feeds_two_heads(pool: &ResourcePool, target: Target) -> Outcome {
    let (_, golden) = Golden::cases("vit")?.swap_remove(0);
    let tower = model(pool, "vit", target).await?;
    let whole = tower.run_for(golden.inputs.clone(), &["last_hidden_state", "pooler_output"]).await?.outputs;
    let kept = tower.keep(golden.inputs.clone(), &["last_hidden_state"], Keeping::default()).await?;
    let vectors = one(&whole, "last_hidden_state")?;
    let pooled = tower.go_on(&kept, Vec::new(), &["pooler_output"]).await?;
    near("pooled", one(&pooled.outputs, "pooler_output")?, &one(&whole, "pooler_output")?.to_f32()?)?;
    let fetched = tower.go_on(&kept, Vec::new(), &["last_hidden_state"]).await?;
    near("fetched", one(&fetched.outputs, "last_hidden_state")?, &vectors.to_f32()?)?;
    let other = model(pool, "vit_classifier", target).await?;
    let logits = other.go_on(&kept, Vec::new(), &["logits"]).await?;
    near("classified", one(&logits.outputs, "logits")?, &classified("vit_classifier", vectors)?)?;
    let places = [pooled.worker, fetched.worker, logits.worker];
    require(places == [kept.place().0; 3], || format!("{places:?}, and it is kept at {:?}", kept.place()))
}

/// A sound or a text is read once, and its decoder begins from there.
async fn an_encoder_feeds_a_decoder(pool: &ResourcePool, name: &str, target: Target) -> Outcome {
    let (_, golden) = Golden::cases(name)?.swap_remove(0);
    let whole = model(pool, name, target).await?;
    let encoder = whole.entry("encoder")?;
    let takes = |input: &&(String, Tensor)| encoder.signature().input(&input.0).is_some();
    let read: Named = golden.inputs.iter().filter(takes).cloned().collect();
    let vectors = encoder.signature().outputs.first().ok_or("an encoder gives something")?.name;
    let kept = encoder.keep(read, &[vectors], Keeping::default()).await?;
    let kept = kept.standing_for(vectors, "encoder_last_hidden_state")?;
    let said = whole.run_for(golden.inputs.clone(), &["logits"]).await?.outputs;
    // What the encoder was given is not wanted again, but for what the decoder reads as well.
    let rest = |input: &&(String, Tensor)| input.0.starts_with("decoder") || input.0 == "attention_mask";
    let rest: Named = golden.inputs.iter().filter(rest).cloned().collect();
    let again = whole.go_on(&kept, rest, &["logits"]).await?;
    near(name, one(&again.outputs, "logits")?, &one(&said, "logits")?.to_f32()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_feeds_others_on_every_target() -> Outcome {
    let _alone = scene::machine().await;
    let folder = tempfile::tempdir()?;
    let mut builder = ResourcePool::builder().data_dir(folder.path()).metrics_in_memory();
    builder = builder.tuning(TuningPolicy::default().budget(std::time::Duration::ZERO)).worker(WorkerSpec::native());
    for kind in browsers::kinds(CASE) {
        builder = builder.worker(scene::browser(kind, Profile::Fresh));
    }
    if let Some(shell) = browsers::webnn_shell(CASE) {
        builder = builder.worker(scene::browser(shell.kind, Profile::Fresh));
    }
    let pool = scene::ready(builder).await?;
    let mut tried = 0;
    for worker in pool.workers() {
        for (api, _) in worker.capabilities.working() {
            if api == ApiKind::WebNn && worker.kind != WorkerKind::WebNnShell {
                continue;
            }
            let target: Target = format!("{}:{api}", worker.kind).parse()?;
            let of = |e: Fault| format!("{target}: {e}");
            one_tower_feeds_two_heads(&pool, target).await.map_err(of)?;
            for name in ["t5", "whisper"] {
                an_encoder_feeds_a_decoder(&pool, name, target).await.map_err(of)?;
            }
            tried += 1;
        }
    }
    require(tried >= 2, || format!("{tried} targets were there"))?;
    let freed = || pool.workers().iter().all(|worker| worker.states == (0, 0)).then_some(());
    scene::eventually("an end of what was kept", std::time::Duration::from_secs(10), freed).await?;
    tabpool_tests::show(&format!("{CASE}: {tried} targets"));
    Ok(pool.close().await?)
}
