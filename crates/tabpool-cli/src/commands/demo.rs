//! `tabpool demo`: the main job on this machine. A real sentence encoder, on every worker there is, each measured alone
//! and then all together, every result held against a reference.
//!
//! Browsers run in profiles that are kept, so that the second demo finds the weights in their caches and fetches none.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use tabpool::{
    Accelerator, AcceleratorBuilder, BrowserKind, Discovery, Precision, Profile, Resolved, SearchPaths, Target,
    WorkerSpec, discover, workers_for,
};

use self::measure::{Measured, Together, measure, together};
use self::reference::{Reference, Source};
use self::show::Shown;
use crate::context::Context;
use crate::failure::{Hinted, Verdict};
use crate::session::{Measuring, with_accelerator, worker_name};

mod measure;
mod reference;
mod show;

/// How far an embedding may be from its reference, in any of its numbers. They are of vectors of length 1; what MiniLM comes
/// to in each precision stands in the documentation of `tabpool-webgpu`.
fn tolerance(permitted: Precision) -> f64 {
    match permitted {
        Precision::F32 => 1e-4,
        Precision::F16 => 1e-3,
        _ => 6e-2,
    }
}

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A sentence encoder's name in the library, or its folder
    #[arg(long, default_value = "all-MiniLM-L6-v2", value_name = "NAME|FOLDER")]
    model: String,

    /// How often each sentence is measured on each worker
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,

    /// How long one worker is measured at most; a slow one then gets fewer rounds
    #[arg(long, default_value_t = 20, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    patience: u64,

    /// Where to run it, as in chromium:webgpu or native:cpu; may be given several times [default: every browser found, and
    /// native]
    #[arg(long, value_name = "TARGET")]
    on: Vec<Target>,

    /// The least exact arithmetic that linear layers may be computed with: f32, f16 or int8
    ///
    /// Each worker takes what is fastest on its device among what is permitted, and says what that was.
    #[arg(long, value_name = "PRECISION", default_value_t = Precision::F32)]
    precision: Precision,

    /// Start browsers in new profiles, which have no weights yet
    #[arg(long)]
    fresh_profiles: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: &Arguments, context: &Context) -> Result<Verdict> {
    let library = context.library()?;
    let _in_use = library.in_use()?;
    let resolved = context.resolve(&library, &arguments.model).await?;
    let model = library.open_model(&resolved.root)?;
    tabpool::TextEncoder::open(library.store(), &resolved.root, &model)?;
    let reference = Reference::load()?;
    let known = reference.fits(library.store(), &resolved.root)?;

    let found = context
        .interrupt
        .guard(async { Ok(tokio::task::spawn_blocking(|| discover(&SearchPaths::from_env())).await?) })
        .await?;
    let profile = if arguments.fresh_profiles { Profile::Fresh } else { Profile::Kept };
    let specs = specs(&arguments.on, &found, profile)?;
    if !arguments.json && arguments.on.is_empty() && found.installed.is_empty() {
        context.terminal.warn(&no_browser(&found));
    }
    let builder = || -> AcceleratorBuilder {
        let builder = Accelerator::builder().data_dir(&context.data_dir);
        specs.iter().cloned().fold(builder, AcceleratorBuilder::worker)
    };
    let shown = with_accelerator(context, Measuring::Required, builder, async |accelerator| {
        work(arguments, context, accelerator, &resolved, &reference, known).await
    })
    .await?;
    let tolerance = tolerance(arguments.precision);
    let verdict = shown.verdict(tolerance);
    if arguments.json {
        context.terminal.print_json(&shown.json(tolerance, verdict))?;
    } else {
        context.terminal.print(&shown.text(&context.terminal, tolerance))?;
    }
    Ok(verdict)
}

async fn work(
    arguments: &Arguments,
    context: &Context,
    accelerator: &Accelerator,
    resolved: &Resolved,
    reference: &Reference,
    known: bool,
) -> Result<Shown> {
    let texts: Vec<&str> = reference.texts().collect();
    let model = accelerator.accelerate_model(&resolved.name).root(resolved.root);
    let model = model.precision(arguments.precision).await?;
    let workers = accelerator.pool().workers();
    let missing = workers.iter().filter(|worker| worker.id.is_none());
    let missing: Vec<String> = missing.map(|worker| worker.kind.to_string()).collect();

    // The native worker's processor comes first: where there is no published reference, it is one.
    let mut places: Vec<_> = workers
        .iter()
        .filter_map(|worker| Some((worker.id?, worker)))
        .flat_map(|(id, worker)| worker.apis.iter().map(move |api| (id, worker, *api)))
        .collect();
    places.sort_by_key(|(_, worker, api)| {
        let native_processor = worker.kind == tabpool::WorkerKind::Native && *api == tabpool::ApiKind::Cpu;
        std::cmp::Reverse(native_processor)
    });

    let mut expected = known.then(|| (Source::Published, reference.embeddings()));
    let mut measured: Vec<Measured> = Vec::new();
    let spinner = context.bars.spinner("");
    for (number, (id, worker, api)) in places.iter().enumerate() {
        let name = format!("{} {api}", worker_name(worker));
        spinner.say(format!("measuring {name} ({} of {})", number + 1, places.len()));
        let pinned = model.on(Target { kind: Some(worker.kind), api: Some(*api) }).pinned(*id);
        let patience = Duration::from_secs(arguments.patience);
        let one = measure(accelerator, &pinned, worker, *api, &texts, arguments.rounds, patience).await;
        if expected.is_none()
            && let Ok(run) = &one.result
        {
            expected = Some((Source::Worker(name), run.embeddings.clone()));
        }
        measured.push(one);
    }
    spinner.say("measuring all of them together");
    let Some((source, expected)) = expected.filter(|_| measured.iter().any(|one| one.result.is_ok())) else {
        let reasons: Vec<String> = measured.iter().filter_map(Measured::failure).collect();
        bail!("no worker could run {}: {}", resolved.name, reasons.join("; "));
    };
    let all: Option<Together> = if measured.iter().filter(|one| one.result.is_ok()).count() > 1 {
        Some(together(accelerator, &model, &texts, arguments.rounds).await?)
    } else {
        None
    };
    spinner.clear();
    // Workers are listed as the pool has them, browsers first.
    measured.sort_by_key(|one| one.native);
    Ok(Shown {
        model: resolved.name.clone(),
        root: resolved.root.to_string(),
        texts: texts.into_iter().map(str::to_owned).collect(),
        expected,
        source,
        measured,
        together: all,
        missing,
        database: context.metrics_file(),
    })
}

/// The slots: those asked for, or each kind of browser found, and the native worker beside them.
fn specs(targets: &[Target], found: &Discovery, profile: Profile) -> Result<Vec<WorkerSpec>> {
    let mut specs = workers_for(targets, found, profile)?;
    if targets.is_empty() && !found.installed.is_empty() {
        specs.push(WorkerSpec::native());
    }
    if specs.is_empty() {
        return Err(Hinted::new("there is nothing to run on", "tabpool doctor says what is missing").into());
    }
    Ok(specs)
}

/// What to install where there is no browser at all.
fn no_browser(found: &Discovery) -> String {
    let how = match std::env::consts::OS {
        "linux" => "install one, as by `apt install chromium firefox-esr mesa-vulkan-drivers` on Debian",
        "macos" => "install one, as by `brew install --cask google-chrome firefox`",
        _ => "install Chrome, Edge or Firefox",
    };
    let kinds = BrowserKind::ALL.map(BrowserKind::name).join(", ");
    let broken = found.unusable.iter().map(|one| format!("; {} does not start: {}", one.path.display(), one.reason));
    let broken: String = broken.collect();
    format!("no browser was found (looked for {kinds}){broken}; {how}. This demo runs on the native worker alone.")
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use tabpool::{Discovery, Profile};

    use super::{no_browser, specs};
    use crate::arguments::Arguments;

    #[test]
    fn without_browsers_the_native_worker_serves_and_the_way_to_browsers_is_told() {
        let none = Discovery::default();
        assert_eq!(specs(&[], &none, Profile::Kept).expect("native").len(), 1);
        let text = no_browser(&none);
        assert!(text.contains("chromium, chrome, edge, firefox") && text.contains("install"), "{text}");
        let edge = ["edge:webgpu".parse().expect("a target")];
        assert!(specs(&edge, &none, Profile::Kept).is_err(), "what was asked for is not replaced");
    }

    #[test]
    fn rounds_are_counted_from_one() {
        for rounds in ["0", "1001", "-1", "x"] {
            assert!(Arguments::try_parse_from(["tabpool", "demo", &format!("--rounds={rounds}")]).is_err(), "{rounds}");
        }
        assert!(
            Arguments::try_parse_from(["tabpool", "demo", "--rounds=1", "--on=native:cpu", "--on=firefox"]).is_ok()
        );
    }
}
