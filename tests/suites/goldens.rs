//! Every family on every target: what PyTorch computes is what each browser, API and native worker computes.
//!
//! All targets are workers of one pool. The run ends with a table of the worst errors, as shares of the tolerance.

use std::collections::BTreeMap;
use std::time::Instant;

use tabpool_pool::{ModelHandle, ModelRequest, Profile, ResourcePool, Target, WorkerSpec};
use tabpool_protocol::ApiKind;
use tabpool_scheduler::WorkerKind;
use tabpool_tests::golden::{FAMILIES, Golden, error, ids, sentences, tensors};
use tabpool_tests::{Fault, Outcome, browsers, places, require, scene};

const CASE: &str = "goldens";

/// Each target with the model's worst share of the tolerance and the seconds it took.
type Errors = BTreeMap<(String, String), (f32, f64)>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_family_gives_its_golden_on_every_target() -> Outcome {
    let folder = tempfile::tempdir()?;
    let mut builder = ResourcePool::builder().data_dir(folder.path()).worker(WorkerSpec::native());
    for kind in browsers::kinds(CASE) {
        builder = builder.worker(scene::browser(kind, Profile::Fresh));
    }
    if let Some(shell) = browsers::webnn_shell(CASE) {
        builder = builder.worker(scene::browser(shell.kind, Profile::Fresh));
    }
    let pool = scene::ready(builder).await?;
    let targets = targets(&pool)?;
    let mut errors = Errors::new();
    for family in FAMILIES {
        let golden = Golden::read(family)?;
        let model = pool.model(ModelRequest::new(places::fixture_name(family))).await?;
        for target in &targets {
            let begun = Instant::now();
            let run = golden.run(&model.on(*target)).await;
            let worst = run.map_err(|e| format!("{family} on {target}: {e}"))?;
            errors.insert((family.to_owned(), target.to_string()), (worst, begun.elapsed().as_secs_f64()));
        }
    }
    if let Some(path) = places::minilm(CASE) {
        let model = pool.model(ModelRequest::new(path)).await?;
        for target in &targets {
            let begun = Instant::now();
            let worst = minilm(&model.on(*target)).await.map_err(|e| format!("minilm on {target}: {e}"))?;
            errors.insert(("minilm".to_owned(), target.to_string()), (worst, begun.elapsed().as_secs_f64()));
        }
    }
    pool.close().await?;
    show(&errors, &targets);
    for ((family, target), (worst, _)) in &errors {
        require(*worst <= 1.0, || format!("{family} on {target}: off by {worst} times the tolerance"))?;
    }
    Ok(())
}

/// Every API of every worker. One that a worker does not have is left out with its reason, except WebNN, which few have.
fn targets(pool: &ResourcePool) -> Result<Vec<Target>, Fault> {
    let mut targets = Vec::new();
    for worker in pool.workers() {
        for api in [ApiKind::WebGpu, ApiKind::WebNn, ApiKind::Cpu] {
            let target: Target = format!("{}:{api}", worker.kind).parse()?;
            let report = worker.capabilities.apis.iter().find(|r| r.api == api);
            match report.map(|r| &r.adapter) {
                Some(Ok(_)) => targets.push(target),
                _ if api == ApiKind::WebNn && worker.kind != WorkerKind::WebNnShell => {}
                Some(Err(reason)) => places::left_out(&format!("{CASE} on {target}"), reason),
                None => return Err(format!("{target}: the worker says nothing of {api}").into()),
            }
        }
    }
    Ok(targets)
}

/// Every sentence alone, as the reference was made, and the hidden states of two.
async fn minilm(model: &ModelHandle) -> Result<f32, Fault> {
    let mut worst = 0f32;
    for sentence in sentences()? {
        let answer = model.run_for(ids(&sentence.ids)?, &["sentence_embedding"]).await?;
        let got = answer.outputs[0].1.to_f32()?;
        worst = worst.max(error(&got, &sentence.embedding, |_| true));
    }
    let path = places::fixture("minilm").join("golden.safetensors");
    for sentence in ["sentence1", "sentence11"] {
        let inputs = tensors(&path, &format!("{sentence}.input."))?;
        let wanted = tensors(&path, &format!("{sentence}.output."))?;
        let (_, want) = wanted.first().ok_or("the golden has no output")?;
        let answer = model.run_for(inputs, &["last_hidden_state"]).await?;
        let (_, got) = answer.outputs.first().ok_or("no output came")?;
        require(got.shape() == want.shape(), || format!("{sentence}: {} is not {}", got.shape(), want.shape()))?;
        worst = worst.max(error(&got.to_f32()?, &want.to_f32()?, |_| true));
    }
    Ok(worst)
}

fn show(errors: &Errors, targets: &[Target]) {
    let mut text = format!("\nworst |got - want| / (1e-4 + 1e-4 |want|), and seconds with the load\n{:<12}", "");
    for target in targets {
        text.push_str(&format!("{:>20}", target.to_string()));
    }
    for family in FAMILIES.into_iter().chain(["minilm"]) {
        text.push_str(&format!("\n{family:<12}"));
        for target in targets {
            let cell = errors.get(&(family.to_owned(), target.to_string()));
            let cell = cell.map_or_else(|| "-".to_owned(), |(worst, took)| format!("{worst:.4} {took:>5.1} s"));
            text.push_str(&format!("{cell:>20}"));
        }
    }
    tabpool_tests::show(&format!("{text}\n"));
}
