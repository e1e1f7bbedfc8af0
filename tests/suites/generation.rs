//! Generation on every target: the goldens' ids exactly, and the same text when the browser that writes it is killed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use tabpool::{
    Accelerator, AcceleratorBuilder, ApiKind, GenerateOptions, Model, Profile, Sampling, Target, TokenPrompt,
    WorkerKind, WorkerSpec,
};
use tabpool_scheduler::Config;
use tabpool_tests::processes::{Signal, send};
use tabpool_tests::scene::{self, JOINED_WITHIN};
use tabpool_tests::{Fault, Outcome, browsers, places, require};

use golden::{GENERATING, Golden, fixture};

#[path = "../../crates/tabpool/tests/generation/golden.rs"]
mod golden;

const CASE: &str = "generation";
/// Tokens of the text whose browser is killed, and when that happens.
const LONG: usize = 48;
const KILLED_AFTER: usize = 10;
/// Texts within which it is found out which API is the fastest, and how many of them follow then.
const MOST_TEXTS: usize = 1000;
const SETTLED: usize = 12;

fn exactly(tokens: usize) -> GenerateOptions {
    GenerateOptions { max_new_tokens: tokens, ignore_ends: true, ..GenerateOptions::default() }
}

async fn model(accelerator: &Accelerator, name: &str, target: Target) -> Result<Model, Fault> {
    Ok(accelerator.accelerate_model(fixture(name).to_string_lossy()).on(target).await?)
}

/// The first text's ids, and the seconds after its first token.
async fn ids(model: &Model, prompt: TokenPrompt, options: &GenerateOptions) -> Result<(Vec<i32>, f64), Fault> {
    let mut generation = model.generate_tokens(prompt, options)?;
    let mut said = Vec::new();
    while let Some(tokens) = generation.next().await? {
        said.extend(tokens.ids[0]);
    }
    Ok((said, generation.figures().stepping.as_secs_f64()))
}

fn builder(data: &std::path::Path) -> AcceleratorBuilder {
    Accelerator::builder().data_dir(data).metrics_in_memory().ready_within(JOINED_WITHIN)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_family_says_its_golden_on_every_target() -> Outcome {
    let _alone = scene::machine().await;
    let folder = tempfile::tempdir()?;
    let mut builder = builder(folder.path()).worker(WorkerSpec::native());
    for kind in browsers::kinds(CASE) {
        builder = builder.worker(scene::browser(kind, Profile::Fresh));
    }
    if let Some(shell) = browsers::webnn_shell(CASE) {
        builder = builder.worker(scene::browser(shell.kind, Profile::Fresh));
    }
    let accelerator = builder.build().await?;
    let mut told = "\nseconds to the first token with the load, and milliseconds a token after it\n".to_owned();
    for worker in accelerator.pool().workers() {
        for api in [ApiKind::WebGpu, ApiKind::WebNn, ApiKind::Cpu] {
            let target: Target = format!("{}:{api}", worker.kind).parse()?;
            match worker.capabilities.apis.iter().find(|report| report.api == api).map(|report| &report.adapter) {
                Some(Ok(_)) => {}
                _ if api == ApiKind::WebNn && worker.kind != WorkerKind::WebNnShell => continue,
                Some(Err(reason)) => {
                    places::left_out(&format!("{CASE} on {target}"), reason);
                    continue;
                }
                None => return Err(format!("{target}: the worker says nothing of {api}").into()),
            }
            write!(told, "{:>20}", target.to_string())?;
            for name in GENERATING {
                let begun = Instant::now();
                let (model, golden) = (model(&accelerator, name, target).await?, Golden::read(name));
                let said = ids(&model, golden.prompt.clone(), &exactly(golden.tokens.len())).await;
                let (said, stepping) = said.map_err(|e| format!("{name} on {target}: {e}"))?;
                let first = begun.elapsed().as_secs_f64() - stepping;
                require(said == golden.tokens, || format!("{name} on {target}: {said:?}, not {:?}", golden.tokens))?;
                write!(told, "  {name} {first:.1} s {:.1} ms", 1e3 * stepping / (said.len() - 1) as f64)?;
            }
            told.push('\n');
        }
    }
    tabpool_tests::show(&told);
    accelerator.close().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_goes_on_elsewhere_when_its_browser_is_killed() -> Outcome {
    let _alone = scene::machine().await;
    let case = "generation with its browser killed";
    let kinds = browsers::kinds(case);
    let [_, _] = kinds[..] else {
        places::left_out(case, "two browsers are wanted");
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let mut builder = builder(folder.path());
    for kind in &kinds {
        builder = builder.worker(scene::browser(*kind, Profile::Fresh).apis(&[ApiKind::Cpu]));
    }
    let accelerator = builder.build().await?;
    let warm = Sampling { temperature: 0.8, top_k: 40, seed: 11, ..Sampling::default() };
    for (name, sampling) in [("llama", Sampling::default()), ("llama", warm), ("t5", Sampling::default())] {
        let (model, golden) = (model(&accelerator, name, Target::default()).await?, Golden::read(name));
        let options = GenerateOptions { sampling, ..exactly(LONG) };
        let (undisturbed, _) = ids(&model, golden.prompt.clone(), &options).await?;

        let mut generation = model.generate_tokens(golden.prompt.clone(), &options)?;
        let (mut said, mut killed) = (Vec::new(), None);
        while let Some(tokens) = generation.next().await? {
            said.extend(tokens.ids[0]);
            if said.len() == KILLED_AFTER {
                let (place, _) = generation.figures().place.ok_or("somebody computes")?;
                let victim = accelerator.pool().workers().into_iter().find(|w| w.id == Some(place));
                let victim = victim.ok_or("the victim is there")?;
                send(Signal::Kill, i64::from(victim.pid.ok_or("a browser has a process")?))?;
                // A text of a tiny model would be whole before the kill is noticed; who does not read holds it up.
                let gone = || accelerator.pool().workers().iter().all(|w| w.id != Some(place)).then_some(());
                scene::eventually("the victim's loss", Duration::from_secs(10), gone).await?;
                killed = Some((victim.slot, place));
            }
        }
        let (slot, place) = killed.ok_or("the text was long enough")?;
        let figures = *generation.figures();
        require(said == undisturbed, || format!("{name}: {said:?} after the kill, not {undisturbed:?}"))?;
        require(figures.moved >= 1 && figures.place.map(|(at, _)| at) != Some(place), || format!("{figures:?}"))?;
        drop(generation);
        // What the survivor kept is freed, and the victim is started anew.
        let settled = || {
            let workers = accelerator.pool().workers();
            let back = workers.iter().any(|w| w.slot == slot && w.id.is_some_and(|id| id != place));
            (back && workers.iter().all(|w| w.states == (0, 0))).then_some(())
        };
        scene::eventually("the victim's return and no states", Duration::from_secs(90), settled).await?;
    }
    accelerator.close().await?;
    Ok(())
}

/// A tab without a GPU reads prompts with WebNN first; where tokens are said fastest is measured.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_is_said_with_the_api_whose_tokens_are_measured_to_be_fastest() -> Outcome {
    let _alone = scene::machine().await;
    let Some(shell) = browsers::webnn_shell("generation with the API that is found out") else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let mut config = Config::default();
    config.exploring.share = 1.0;
    config.priors.load = Duration::from_millis(10);
    config.priors.compute_otherwise = [Duration::from_millis(1); 3];
    let builder = builder(folder.path()).worker(scene::browser(shell.kind, Profile::Fresh));
    let accelerator = builder.pool(|pool| pool.scheduler(config)).build().await?;
    let worker = accelerator.pool().workers().into_iter().next().ok_or("a worker")?;
    let apis = worker.capabilities.working().count();
    let (model, golden) = (model(&accelerator, "gpt2", Target::default()).await?, Golden::read("gpt2"));
    // What a token took with each API, each text by itself, and with which the latest texts were said.
    let mut tokens: BTreeMap<ApiKind, Vec<f64>> = BTreeMap::new();
    let (mut latest, mut left) = (Vec::new(), SETTLED);
    while left > 0 {
        require(latest.len() < MOST_TEXTS, || format!("after {MOST_TEXTS} texts only {:?}", tokens.keys()))?;
        let mut generation = model.generate_tokens(golden.prompt.clone(), &exactly(golden.tokens.len()))?;
        let mut said = Vec::new();
        while let Some(next) = generation.next().await? {
            said.extend(next.ids[0]);
        }
        let figures = generation.figures();
        let (_, api) = figures.place.ok_or("somebody computed it")?;
        require(said == golden.tokens, || format!("{api}: {said:?}, not {:?}", golden.tokens))?;
        tokens.entry(api).or_default().push(figures.stepping.as_secs_f64() / (said.len() - 1) as f64);
        latest.push(api);
        left -= usize::from(tokens.len() == apis);
    }
    // The first text with an API waits for a load in its middle.
    let least = |times: &Vec<f64>| times.iter().copied().fold(f64::INFINITY, f64::min);
    let least: BTreeMap<ApiKind, f64> = tokens.iter().map(|(api, times)| (*api, least(times))).collect();
    tabpool_tests::show(&format!("seconds a token: {least:?}; in the end by {:?}", latest.last()));
    // Of those that are about as fast any may say it.
    let last = &latest[latest.len() - SETTLED / 2..];
    let is_slow = |api: &ApiKind| least.values().any(|fastest| least[api] > 2.0 * fastest);
    require(!last.iter().any(is_slow), || format!("{last:?} say it in the end; {least:?}"))?;
    accelerator.close().await?;
    Ok(())
}
