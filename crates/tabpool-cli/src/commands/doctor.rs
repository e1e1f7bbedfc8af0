//! `tabpool doctor`: what this machine offers, what is missing, and what to do about it.
//!
//! First what can be told without starting anything: browsers, drivers, the processor, disk and database. Then every
//! browser is started once and asked what its page can compute with, because only a running page knows.

use std::path::Path;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use tabpool::{Accelerator, Discovery, Profile, SearchPaths, Target, WorkerSpec, WorkerView, discover};
use tabpool_browser::{Machine, RenderNode, Severity, diagnose_on};

use crate::context::Context;
use crate::failure::Verdict;
use crate::quantity::milliseconds;
use crate::session::{Measuring, with_accelerator};

mod show;
mod tune;

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Do not start browsers: look at files and versions only
    #[arg(long)]
    no_launch: bool,

    /// Time every kernel's variants on every worker, keep the winners, and show them
    #[arg(long, conflicts_with = "no_launch")]
    tune: bool,

    #[command(flatten)]
    tuning: Tune,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `--tune` works with.
#[derive(Debug, Args)]
struct Tune {
    /// The sentence encoder whose kernels are tuned: a name in the library, or its folder
    #[arg(long, requires = "tune", default_value = "all-MiniLM-L6-v2", value_name = "NAME|FOLDER")]
    model: String,

    /// How long each load may take to time variants
    #[arg(long, requires = "tune", default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    budget: u64,

    /// Where to tune, as in chromium:webgpu; may be given several times [default: every browser found, and native]
    #[arg(long, requires = "tune", value_name = "TARGET")]
    on: Vec<Target>,
}

/// Everything found.
#[derive(Debug, Serialize)]
struct Findings {
    browsers: Vec<BrowserFound>,
    unusable: Vec<UnusableFound>,
    machine: MachineFound,
    /// Absent where nothing was started.
    workers: Option<Vec<WorkerFound>>,
    /// Why the pool itself did not start.
    failure: Option<String>,
}

#[derive(Debug, Serialize)]
struct BrowserFound {
    kind: &'static str,
    version: String,
    path: String,
    findings: Vec<Advice>,
}

#[derive(Debug, Serialize)]
struct Advice {
    severity: &'static str,
    what: String,
    remedy: Option<String>,
}

#[derive(Debug, Serialize)]
struct UnusableFound {
    kind: &'static str,
    path: String,
    reason: String,
}

#[derive(Debug, Serialize)]
struct MachineFound {
    os: String,
    cores: usize,
    cpu_features: Vec<&'static str>,
    gpus: Vec<String>,
    vulkan_drivers: Vec<String>,
    vulkan_loader: bool,
    duckdb: Option<String>,
    duckdb_failure: Option<String>,
    data_dir: String,
    free_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct WorkerFound {
    kind: String,
    version: String,
    os: String,
    started_in_ms: Option<f64>,
    cores: u32,
    wasm_features: Vec<String>,
    apis: Vec<ApiFound>,
    failure: Option<String>,
}

#[derive(Debug, Serialize)]
struct ApiFound {
    api: &'static str,
    adapter: Option<String>,
    fallback: bool,
    features: Vec<String>,
    limits: Vec<(String, u64)>,
    missing: Option<String>,
}

pub(crate) async fn run(arguments: &Arguments, context: &Context) -> Result<Verdict> {
    if arguments.tune {
        return tune::run(&arguments.tuning, arguments.json, context).await;
    }
    let spinner = context.bars.spinner("looking for browsers");
    let folder = context.data_dir.clone();
    let looking = async {
        let looked = tokio::task::spawn_blocking(move || {
            let found = discover(&SearchPaths::from_env());
            let machine = Machine::look();
            let about = machine_found(&machine, &folder);
            (found, machine, about)
        });
        Ok(looked.await?)
    };
    let (found, machine, about) = context.interrupt.guard(looking).await?;
    spinner.clear();
    let mut findings = Findings {
        browsers: browsers(&found, &machine),
        unusable: found
            .unusable
            .iter()
            .map(|one| UnusableFound {
                kind: one.kind.name(),
                path: one.path.display().to_string(),
                reason: one.reason.clone(),
            })
            .collect(),
        machine: about,
        workers: None,
        failure: None,
    };
    if !arguments.no_launch {
        launch(&found, context, &mut findings).await?;
    }
    if arguments.json {
        context.terminal.print_json(&findings)?;
    } else {
        context.terminal.print(&show::text(&findings, &context.terminal))?;
    }
    Ok(verdict(&findings))
}

/// Without a start, what is installed has to do; with one, somebody must be able to compute.
fn verdict(findings: &Findings) -> Verdict {
    let works = match &findings.workers {
        Some(workers) => workers.iter().any(|worker| worker.apis.iter().any(|api| api.missing.is_none())),
        None => findings.failure.is_none(),
    };
    if works { Verdict::Fine } else { Verdict::Bad }
}

/// Starts one browser of each kind and the native worker. What the start itself fails with is a finding, not an error.
async fn launch(found: &Discovery, context: &Context, findings: &mut Findings) -> Result<()> {
    let mut kinds: Vec<_> = found.installed.iter().map(|browser| browser.kind).collect();
    kinds.dedup();
    let mut attempts = vec![kinds.clone()];
    // A program without the browser runtime, say, can still run the native worker.
    if !kinds.is_empty() {
        attempts.push(Vec::new());
    }
    for kinds in attempts {
        let builder = || {
            let builder = Accelerator::builder().data_dir(&context.data_dir).metrics_in_memory();
            let browsers = kinds.iter().map(|kind| WorkerSpec::browser(*kind).profile(Profile::Fresh));
            browsers.chain([WorkerSpec::native()]).fold(builder, tabpool::AcceleratorBuilder::worker)
        };
        let looked =
            with_accelerator(context, Measuring::Wanted, builder, async |accelerator| Ok(accelerator.pool().workers()))
                .await;
        match looked {
            Ok(workers) => {
                findings.workers = Some(workers.iter().map(worker_found).collect());
                return Ok(());
            }
            Err(error) if error.is::<tabpool::Error>() => {
                let hint = error.downcast_ref::<tabpool::Error>().and_then(tabpool::Error::hint);
                let hint = hint.map_or_else(String::new, |hint| format!(" ({hint})"));
                findings.failure.get_or_insert(format!("{error}{hint}"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn browsers(found: &Discovery, machine: &Machine) -> Vec<BrowserFound> {
    let advice = |finding: tabpool_browser::Finding| Advice {
        severity: match finding.severity {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        },
        what: finding.what,
        remedy: finding.remedy,
    };
    let browser = |browser: &tabpool_browser::Installed| BrowserFound {
        kind: browser.kind.name(),
        version: browser.version.clone(),
        path: browser.path.display().to_string(),
        findings: diagnose_on(browser, machine).into_iter().map(advice).collect(),
    };
    found.installed.iter().map(browser).collect()
}

fn machine_found(machine: &Machine, data_dir: &Path) -> MachineFound {
    let gpu = |node: &RenderNode| match node {
        RenderNode::Usable { node, driver } => format!("{} ({driver})", node.display()),
        RenderNode::SoftwareDriver { node, driver } => format!("{} ({driver}, no GPU)", node.display()),
        RenderNode::Forbidden { node, driver } => format!("{} ({driver}, not open to this user)", node.display()),
    };
    let (duckdb, duckdb_failure) = match duckdb_version() {
        Ok(version) => (Some(version), None),
        Err(error) => (None, Some(error.to_string())),
    };
    MachineFound {
        os: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        cpu_features: cpu_features(),
        gpus: machine.render_nodes.iter().map(gpu).collect(),
        vulkan_drivers: machine.vulkan_drivers.iter().map(|path| path.display().to_string()).collect(),
        vulkan_loader: machine.vulkan_loader,
        duckdb,
        duckdb_failure,
        data_dir: data_dir.display().to_string(),
        free_bytes: free_bytes(data_dir),
    }
}

/// The vector extensions of this processor that matrix products make use of.
fn cpu_features() -> Vec<&'static str> {
    #[allow(unused_mut, reason = "other processors than these have none to ask for")]
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let all = [
            ("sse4.2", std::arch::is_x86_feature_detected!("sse4.2")),
            ("avx2", std::arch::is_x86_feature_detected!("avx2")),
            ("fma", std::arch::is_x86_feature_detected!("fma")),
            ("f16c", std::arch::is_x86_feature_detected!("f16c")),
            ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
            ("avx512vnni", std::arch::is_x86_feature_detected!("avx512vnni")),
        ];
        found.extend(all.into_iter().filter_map(|(name, there)| there.then_some(name)));
    }
    #[cfg(target_arch = "aarch64")]
    {
        let all = [
            ("neon", std::arch::is_aarch64_feature_detected!("neon")),
            ("fp16", std::arch::is_aarch64_feature_detected!("fp16")),
            ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
            ("i8mm", std::arch::is_aarch64_feature_detected!("i8mm")),
        ];
        found.extend(all.into_iter().filter_map(|(name, there)| there.then_some(name)));
    }
    found
}

/// The version of the library that was found at run time, which may be another one than was linked against.
fn duckdb_version() -> duckdb::Result<String> {
    duckdb::Connection::open_in_memory()?.version()
}

/// What is free for this user where the data folder is, or will be.
fn free_bytes(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|folder| folder.exists())?;
    #[cfg(unix)]
    {
        let status = rustix::fs::statvfs(there).ok()?;
        Some(status.f_bavail.saturating_mul(status.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = there;
        None
    }
}

fn worker_found(worker: &WorkerView) -> WorkerFound {
    let capabilities = &worker.capabilities;
    let api = |report: &tabpool::ApiReport| match &report.adapter {
        Ok(adapter) => ApiFound {
            api: report.api.name(),
            adapter: Some(adapter.label()),
            fallback: adapter.fallback,
            features: adapter.features.clone(),
            limits: adapter.limits.clone(),
            missing: None,
        },
        Err(reason) => ApiFound {
            api: report.api.name(),
            adapter: None,
            fallback: false,
            features: Vec::new(),
            limits: Vec::new(),
            missing: Some(reason.clone()),
        },
    };
    let joined = worker.id.is_some();
    let silent = || if worker.last_reason.is_empty() { "did not join in time" } else { &worker.last_reason };
    WorkerFound {
        kind: worker.kind.to_string(),
        version: capabilities.version.clone(),
        os: capabilities.os.clone(),
        started_in_ms: worker.start_up.map(milliseconds),
        cores: capabilities.cores,
        wasm_features: capabilities.wasm_features.clone(),
        apis: capabilities.apis.iter().map(api).collect(),
        failure: (!joined).then(|| silent().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Advice, ApiFound, BrowserFound, Findings, MachineFound, WorkerFound, cpu_features, duckdb_version, free_bytes,
        show::text, verdict,
    };
    use crate::failure::Verdict;
    use crate::terminal::Terminal;

    fn machine() -> MachineFound {
        MachineFound {
            os: "linux x86_64".into(),
            cores: 2,
            cpu_features: vec!["avx2"],
            gpus: Vec::new(),
            vulkan_drivers: vec!["/usr/share/vulkan/icd.d/lvp_icd.json".into()],
            vulkan_loader: true,
            duckdb: Some("v1".into()),
            duckdb_failure: None,
            data_dir: "/data".into(),
            free_bytes: Some(1_000_000_000),
        }
    }

    fn api(api: &'static str, missing: Option<&str>) -> ApiFound {
        ApiFound {
            api,
            adapter: missing.is_none().then(|| "google swiftshader".into()),
            fallback: true,
            features: Vec::new(),
            limits: vec![("maxStorageBufferBindingSize".into(), 128 << 20)],
            missing: missing.map(str::to_owned),
        }
    }

    fn worker(apis: Vec<ApiFound>) -> WorkerFound {
        WorkerFound {
            kind: "chromium".into(),
            version: "156.0.1".into(),
            os: String::new(),
            started_in_ms: Some(440.0),
            cores: 2,
            wasm_features: Vec::new(),
            apis,
            failure: None,
        }
    }

    fn findings(workers: Option<Vec<WorkerFound>>) -> Findings {
        let advice = Advice { severity: "warning", what: "no driver".into(), remedy: Some("install one".into()) };
        let browser = BrowserFound {
            kind: "chromium",
            version: "156.0.1".into(),
            path: "/usr/bin/chromium".into(),
            findings: vec![advice],
        };
        Findings { browsers: vec![browser], unusable: Vec::new(), machine: machine(), workers, failure: None }
    }

    #[test]
    fn findings_remedies_adapters_and_limits_are_told() {
        let text = text(
            &findings(Some(vec![worker(vec![api("webgpu", None), api("webnn", Some("not here"))])])),
            &Terminal::plain(80),
        );
        for part in [
            "✓ chromium 156.0.1",
            "! no driver",
            "→ install one",
            "✓ webgpu  google swiftshader, in software",
            "bindings to 134 MB",
            "– webnn   not here",
            "started in 440 ms",
            "Vulkan: lvp_icd",
            "data in /data, 1.0 GB free",
        ] {
            assert!(text.contains(part), "{part:?} is missing from\n{text}");
        }
    }

    #[test]
    fn a_machine_where_nothing_computes_is_bad() {
        assert_eq!(verdict(&findings(Some(vec![worker(vec![api("webgpu", None)])]))), Verdict::Fine);
        assert_eq!(verdict(&findings(Some(vec![worker(vec![api("webgpu", Some("no"))])]))), Verdict::Bad);
        assert_eq!(verdict(&findings(Some(Vec::new()))), Verdict::Bad);
        assert_eq!(verdict(&findings(None)), Verdict::Fine, "nothing was tried");
        assert_eq!(verdict(&Findings { failure: Some("no port".into()), ..findings(None) }), Verdict::Bad);
    }

    #[test]
    fn this_machine_can_be_asked() {
        assert!(duckdb_version().expect("the library is linked").starts_with('v'));
        assert!(free_bytes(std::path::Path::new("/no/such/folder")).is_none_or(|free| free > 0));
        // Every processor of these families has at least one of them.
        assert!(!cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) || !cpu_features().is_empty());
    }
}
