//! Every fixture on every target: what its reference implementation computes is what each browser, API and native worker
//! computes, in every case and at every entry point.
//!
//! All targets are workers of one pool, and what each fixture needs is asked of all of them at once. The run ends with the
//! exact errors, as shares of the tolerance; the table that the repository keeps of them is `error_table`'s.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tabpool_browser::GpuMode;
use tabpool_pool::{ModelHandle, ModelRequest, Profile, ResourcePool, Target, TuningPolicy, WorkerSpec};
use tabpool_protocol::ApiKind;
use tabpool_scheduler::WorkerKind;
use tabpool_tests::error_table::{ErrorTable, Found, Refusal, TARGETS};
use tabpool_tests::golden::{Golden, error, ids, models, sentences, tensors};
use tabpool_tests::{Fault, Outcome, browsers, places, require, scene};

const CASE: &str = "goldens";
/// The published model's row.
const MINILM: &str = "all-MiniLM-L6-v2";
/// Where `cargo xtask test` says the table is to be kept.
const TABLE: &str = "TABPOOL_GOLDENS_TABLE";
/// A first run compiles kernels, and here every browser of the machine does so at once.
const ANSWERED_WITHIN: Duration = Duration::from_secs(300);

/// Fixtures that a target cannot take, as `(fixture, target)`: it has to refuse them with node and reason. None other may.
const REFUSED: &[(&str, &str)] = &[];

/// What became of each fixture on each target.
#[derive(Default)]
struct Results {
    found: BTreeMap<(String, String), Vec<Found>>,
    failures: Vec<String>,
    table: ErrorTable,
}

impl Results {
    fn take(&mut self, family: &str, fixture: &str, what: &str, target: Target, result: Result<f32, Fault>) {
        let text = target.to_string();
        let found = match result {
            Ok(share) if share <= 1.0 => Found::Share(share),
            Ok(share) => {
                self.failures.push(format!("{fixture}{what} on {text}: off by {share} times the tolerance"));
                Found::Share(share)
            }
            Err(fault) => match target.api.and_then(|api| Refusal::read(&fault.to_string(), api.name())) {
                Some(refusal) if REFUSED.contains(&(fixture, &text)) => Found::Refused(refusal),
                Some(refusal) => return self.failures.push(format!("{fixture}{what} on {text} is refused: {refusal}")),
                None => return self.failures.push(format!("{fixture}{what} on {text}: {fault}")),
            },
        };
        self.table.put(family, fixture, &text, &found);
        self.found.entry((fixture.to_owned(), text)).or_default().push(found);
    }

    /// What a person reads: one line a fixture, one column a target.
    fn show(&self, targets: &[Target], took: Duration) {
        let mut text = format!("\nworst |got - want| as a share of the tolerance, {:.0} s\n", took.as_secs_f64());
        text.push_str(&format!("{:<26}", ""));
        targets.iter().for_each(|target| text.push_str(&format!("{:>19}", target.to_string())));
        let mut fixtures: Vec<&String> = self.found.keys().map(|(fixture, _)| fixture).collect();
        fixtures.dedup();
        for fixture in fixtures {
            text.push_str(&format!("\n{fixture:<26}"));
            for target in targets {
                let found = self.found.get(&(fixture.clone(), target.to_string())).map_or(&[][..], Vec::as_slice);
                let worst = found.iter().filter_map(|found| match found {
                    Found::Share(share) => Some(*share),
                    Found::Refused(_) => None,
                });
                let worst = worst.reduce(f32::max).map(|worst| format!("{worst:.4}"));
                let refused =
                    found.iter().any(|found| matches!(found, Found::Refused(_))).then(|| "refused".to_owned());
                let cell = worst.into_iter().chain(refused).collect::<Vec<_>>().join(" ");
                text.push_str(&format!("{:>19}", if cell.is_empty() { "-" } else { &cell }));
            }
        }
        for ((fixture, target), found) in &self.found {
            for found in found {
                if let Found::Refused(refusal) = found {
                    text.push_str(&format!("\n{fixture} on {target} is refused: {refusal}"));
                }
            }
        }
        tabpool_tests::show(&format!("{text}\n"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fixture_gives_its_golden_on_every_target() -> Outcome {
    let begun = Instant::now();
    let folder = tempfile::tempdir()?;
    // What tuning would try is the conformance suite's to judge; here it would only keep the machine from the next fixture.
    let tuning = TuningPolicy::default().budget(Duration::ZERO);
    let mut builder = ResourcePool::builder().data_dir(folder.path()).tuning(tuning).worker(WorkerSpec::native());
    for kind in browsers::kinds(CASE) {
        builder = builder.worker(scene::browser(kind, Profile::Fresh));
    }
    if let Some(shell) = browsers::webnn_shell(CASE) {
        builder = builder.worker(scene::browser(shell.kind, Profile::Fresh));
    }
    let pool = scene::ready(builder).await?;
    let targets = targets(&pool)?;
    let mut results = Results::default();
    // Rows of what models generate join here, under a name such as `gpt2, generated`: a share of 0 where the ids are right.
    // For now the suite `generation` holds those ids.
    for fixture in models()? {
        forward_passes(&pool, &fixture, &targets, &mut results).await?;
    }
    let published = places::minilm(CASE);
    if let Some(path) = &published {
        let model = pool.model(ModelRequest::new(path).timeout(ANSWERED_WITHIN)).await?;
        let runs = targets.iter().map(|target| {
            let model = model.on(*target);
            async move { minilm(&model).await }
        });
        for (result, target) in join_all(runs).await.into_iter().zip(&targets) {
            results.take(MINILM, MINILM, "", *target, result);
        }
    }
    pool.close().await?;
    results.show(&targets, begun.elapsed());
    for (fixture, target) in REFUSED {
        let key = ((*fixture).to_owned(), (*target).to_owned());
        let takes = results.found.get(&key).is_some_and(|found| found.iter().all(|f| matches!(f, Found::Share(_))));
        require(!takes, || format!("{target} takes {fixture} now: it is no longer to be listed as refused"))?;
    }
    require(results.failures.is_empty(), || results.failures.join("\n"))?;
    keep(&results.table, published.is_some())
}

/// Every case of a fixture at every entry point, on every target.
async fn forward_passes(pool: &ResourcePool, fixture: &str, targets: &[Target], results: &mut Results) -> Outcome {
    let request = ModelRequest::new(places::fixture_name(fixture)).timeout(ANSWERED_WITHIN);
    let model = pool.model(request).await?;
    let family = model.model().architecture().to_owned();
    for (case, golden) in Golden::cases(fixture)? {
        let mut left: Vec<&str> = golden.outputs().collect();
        for entry in model.model().entries() {
            let part = golden.part(entry);
            left.retain(|output| !part.outputs().any(|compared| compared == *output));
            let what = format!(" {case} {}", entry.name());
            require(part.outputs().next().is_some(), || format!("{fixture}{what}: the golden has nothing of it"))?;
            let handle = model.entry(entry.name())?;
            let runs = targets.iter().map(|target| {
                let handle = handle.on(*target);
                let (golden, workers) = (&golden, pool.workers());
                async move {
                    let (share, answer) = golden.run(&handle).await?;
                    let worker = workers.iter().find(|worker| worker.id == Some(answer.worker));
                    let by = Target { kind: worker.map(|worker| worker.kind), api: Some(answer.api) };
                    require(by == *target, || format!("the answer is {by}'s"))?;
                    Ok(share)
                }
            });
            for (result, target) in join_all(runs).await.into_iter().zip(targets) {
                results.take(&family, fixture, &what, *target, result);
            }
        }
        require(left.is_empty(), || format!("{fixture} {case}: nothing is compared with {left:?}"))?;
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

/// Keeps the table in the repository's document, where this run was asked to and can speak for all of it.
fn keep(table: &ErrorTable, whole: bool) -> Outcome {
    let Some(path) = std::env::var_os(TABLE) else { return Ok(()) };
    let path = Path::new(&path);
    let missing = table.missing();
    let why_not = if GpuMode::detect() == GpuMode::Hardware {
        Some("it is of software adapters, and this machine has a GPU".to_owned())
    } else if !missing.is_empty() {
        Some(format!("it is of {}, and {} did not run", TARGETS.join(", "), missing.join(", ")))
    } else {
        (!whole).then(|| format!("{MINILM} did not run"))
    };
    if let Some(why_not) = why_not {
        tabpool_tests::show(&format!("{} is left as it is: {why_not}", path.display()));
        return Ok(());
    }
    let before = std::fs::read_to_string(path)?;
    let after = table.in_document(&before)?;
    if after != before {
        std::fs::write(path, after)?;
        tabpool_tests::show(&format!("{} is changed: commit it with what changed it", path.display()));
    }
    Ok(())
}
