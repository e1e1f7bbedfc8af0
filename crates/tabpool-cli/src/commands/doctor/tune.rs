//! `tabpool doctor --tune`: times the variants of every kernel on every worker, keeps the winners in the database, and shows
//! them. A pool does the same by itself, a second at a time, as models are loaded; here it takes the time it needs.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;
use tabpool::{
    Accelerator, AcceleratorBuilder, ApiKind, Model, PoolBuilder, PoolEvent, Profile, SearchPaths, Target, TunedClass,
    TuningPolicy, WorkerSpec, WorkerView, discover, workers_for,
};
use tokio::sync::broadcast::error::TryRecvError;

use super::Tune;
use crate::context::Context;
use crate::failure::Verdict;
use crate::quantity::duration;
use crate::session::{Measuring, with_accelerator, worker_name};
use crate::table::{Mark, Side, Table};
use crate::terminal::{Terminal, shortened};

/// Texts given together, and words of the longer ones: between them the shapes of small and of large requests.
const BATCH: usize = 8;
const WORDS: [usize; 2] = [10, 100];

/// What one worker's device was tuned to.
#[derive(Debug, Serialize)]
struct Tuned {
    worker: String,
    api: &'static str,
    adapter: String,
    classes: Vec<Class>,
    /// Why the model did not run there.
    failure: Option<String>,
}

#[derive(Debug, Serialize)]
struct Class {
    class: String,
    winner: String,
    /// Every variant that was timed, with nanoseconds for one launch; `null` where it failed or gave wrong numbers.
    timings: Vec<(String, Option<u64>)>,
}

pub(super) async fn run(arguments: &Tune, json: bool, context: &Context) -> Result<Verdict> {
    let library = context.library()?;
    let _in_use = library.in_use()?;
    let resolved = context.resolve(&library, &arguments.model).await?;
    let found = context
        .interrupt
        .guard(async { Ok(tokio::task::spawn_blocking(|| discover(&SearchPaths::from_env())).await?) })
        .await?;
    let mut specs = workers_for(&arguments.on, &found, Profile::Kept)?;
    if arguments.on.is_empty() && !found.installed.is_empty() {
        specs.push(WorkerSpec::native());
    }
    let policy = TuningPolicy::default().budget(Duration::from_secs(arguments.budget)).forget();
    let builder = || -> AcceleratorBuilder {
        let builder = Accelerator::builder().data_dir(&context.data_dir);
        let builder = builder.pool(|pool: PoolBuilder| pool.tuning(policy));
        specs.iter().cloned().fold(builder, AcceleratorBuilder::worker)
    };
    let tuned = with_accelerator(context, Measuring::Required, builder, async |accelerator| {
        let model = accelerator.accelerate_model(&resolved.name).root(resolved.root).await?;
        let mut tuned = Vec::new();
        let spinner = context.bars.spinner("");
        for worker in accelerator.pool().workers() {
            for api in worker.apis.clone() {
                spinner.say(format!("tuning {} {api}", worker_name(&worker)));
                tuned.extend(tune(accelerator, &model, &worker, api).await);
            }
        }
        spinner.clear();
        Ok(tuned)
    })
    .await?;
    if tuned.is_empty() {
        bail!("no worker joined, so nothing was tuned: `tabpool doctor` says why");
    }
    if json {
        context.terminal.print_json(&tuned)?;
    } else {
        context.terminal.print(&text(&tuned, &context.terminal))?;
    }
    let failed = tuned.iter().any(|one| one.failure.is_some());
    Ok(if failed { Verdict::Bad } else { Verdict::Fine })
}

/// Runs the model on one worker in small and in large, and gathers what its loads found.
async fn tune(accelerator: &Accelerator, model: &Model, worker: &WorkerView, api: ApiKind) -> Option<Tuned> {
    let id = worker.id?;
    let mut events = accelerator.pool().events();
    let mut classes: BTreeMap<String, TunedClass> = BTreeMap::new();
    let mut failure = None;
    let pinned = model.on(Target { kind: Some(worker.kind), api: Some(api) }).pinned(id);
    for words in WORDS {
        let text = vec!["pool"; words].join(" ");
        for copies in [1, BATCH] {
            if let Err(error) = pinned.embed(&vec![&*text; copies]).await {
                failure.get_or_insert(error.to_string());
            }
            loop {
                match events.try_recv() {
                    Ok(PoolEvent::Tuned { worker, api: on, found }) if worker == id && on == api => {
                        classes.extend(found.into_iter().map(|one| (one.class.clone(), one)));
                    }
                    Ok(_) | Err(TryRecvError::Lagged(_)) => {}
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                }
            }
        }
    }
    let class = |one: TunedClass| Class { class: one.class, winner: one.variant, timings: one.timings };
    Some(Tuned {
        worker: worker_name(worker),
        api: api.name(),
        adapter: worker.adapter(api).unwrap_or_default(),
        classes: classes.into_values().map(class).collect(),
        failure,
    })
}

fn text(tuned: &[Tuned], terminal: &Terminal) -> String {
    let mut out = String::new();
    for one in tuned {
        if !out.is_empty() {
            out.push('\n');
        }
        let title = format!("{} {}", one.worker, one.api);
        out.push_str(&format!("{}  {}\n", terminal.bold(&title), terminal.dim(&shortened(&one.adapter, 80))));
        if let Some(failure) = &one.failure {
            out.push_str(&format!("  {} {}\n", terminal.styled("✗", "1;31"), shortened(failure, 200)));
        }
        if one.classes.is_empty() && one.failure.is_none() {
            out.push_str("  one way to compute only: nothing to choose\n");
        }
        if one.classes.is_empty() {
            continue;
        }
        let columns = [
            ("  kernel and shapes", Side::Left),
            ("winner", Side::Left),
            ("time", Side::Right),
            ("next best", Side::Left),
            ("slower by", Side::Right),
            ("tried", Side::Right),
        ];
        let mut table = Table::new(terminal, &columns);
        for class in &one.classes {
            table.row(cells(class));
        }
        out.push_str(&table.render());
    }
    out
}

fn cells(class: &Class) -> Vec<(String, Mark)> {
    let time = |wanted: &str| class.timings.iter().find(|(variant, _)| variant == wanted).and_then(|(_, ns)| *ns);
    let won = time(&class.winner);
    let others = class.timings.iter().filter(|(variant, _)| *variant != class.winner);
    let next = others.filter_map(|(variant, ns)| Some((variant, (*ns)?))).min_by_key(|(_, ns)| *ns);
    let failed = class.timings.iter().filter(|(_, ns)| ns.is_none()).count();
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    let slower = won.zip(next).map(|(won, (_, ns))| format!("{:.2}×", ns as f64 / won.max(1) as f64));
    let tried = match failed {
        0 => class.timings.len().to_string(),
        failed => format!("{} ({failed} failed)", class.timings.len()),
    };
    let plain = |text: String| (text, Mark::None);
    vec![
        plain(format!("  {}", class.class)),
        (class.winner.clone(), Mark::Good),
        plain(won.map_or_else(|| "–".to_owned(), |ns| duration(Duration::from_nanos(ns)))),
        plain(next.map_or_else(|| "–".to_owned(), |(variant, _)| variant.clone())),
        plain(slower.unwrap_or_else(|| "–".to_owned())),
        (tried, if failed > 0 { Mark::Bad } else { Mark::Faint }),
    ]
}

#[cfg(test)]
mod tests {
    use super::{Class, Tuned, text};
    use crate::terminal::Terminal;

    #[test]
    fn winners_their_lead_and_failures_are_shown() {
        let timings = [("wide", Some(2_000_000)), ("tall", Some(3_000_000)), ("bad", None)];
        let timings = timings.map(|(variant, ns)| (variant.to_owned(), ns)).to_vec();
        let class = Class { class: "gemm m128 n384 k384".into(), winner: "wide".into(), timings };
        let one = |classes, failure| Tuned {
            worker: "chromium 156".into(),
            api: "webgpu",
            adapter: "google swiftshader".into(),
            classes,
            failure,
        };
        let text = text(&[one(vec![class], None), one(Vec::new(), Some("it broke".into()))], &Terminal::plain(100));
        for part in [
            "chromium 156 webgpu",
            "gemm m128 n384 k384",
            "wide",
            "2.00 ms",
            "tall",
            "1.50×",
            "3 (1 failed)",
            "✗ it broke",
        ] {
            assert!(text.contains(part), "{part:?} is missing from\n{text}");
        }
    }
}
