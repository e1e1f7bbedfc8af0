//! The cases, each a way in which a browser or its host ends.

use std::env;
use std::error::Error;
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tabpool_browser::{
    Browser, BrowserKind, ExitReason, GpuMode, Installed, LaunchError, LaunchOptions, ProfileError, ProfileKind,
    SearchPaths, discover, sweep,
};

use crate::Outcome;
use crate::page::Server;
use crate::traces;

/// What a case is given: a browser, and a profiles folder of its own.
#[derive(Clone, Copy)]
pub(crate) struct Scene<'a> {
    pub(crate) browser: &'a Installed,
    pub(crate) profiles: &'a Path,
}

pub(crate) type Case = for<'a> fn(Scene<'a>) -> Pin<Box<dyn Future<Output = Outcome> + 'a>>;

pub(crate) const ALL: [(&str, Case); 11] = [
    ("has_an_adapter_and_closes", |scene| Box::pin(has_an_adapter_and_closes(scene))),
    ("is_gone_when_dropped", |scene| Box::pin(is_gone_when_dropped(scene))),
    ("killed_from_outside_is_reported", |scene| Box::pin(killed_from_outside_is_reported(scene))),
    ("host_killed", |scene| Box::pin(host_ended(scene, signal_name::KILL))),
    ("host_killed_while_starting", |scene| Box::pin(host_killed_while_starting(scene))),
    ("host_terminated", |scene| Box::pin(host_ended(scene, signal_name::TERMINATE))),
    ("host_interrupted_with_its_group", |scene| Box::pin(host_ended(scene, signal_name::INTERRUPT))),
    ("host_and_guard_killed_then_swept", |scene| Box::pin(host_and_guard_killed_then_swept(scene))),
    ("kept_profile_outlives_a_killed_host", |scene| Box::pin(kept_profile_outlives_a_killed_host(scene))),
    ("kept_profile_is_locked_and_kept", |scene| Box::pin(kept_profile_is_locked_and_kept(scene))),
    ("what_cannot_start_says_why", |scene| Box::pin(cannot_start(scene))),
];

/// Names for the `kill` program, so that the tests need no unsafe code.
mod signal_name {
    pub(super) const KILL: &str = "KILL";
    pub(super) const TERMINATE: &str = "TERM";
    pub(super) const INTERRUPT: &str = "INT";
}

fn send(signal: &str, target: i64) -> Outcome {
    let status = Command::new("kill").args(["-s", signal, "--", &target.to_string()]).status()?;
    if status.success() { Ok(()) } else { Err(format!("kill -s {signal} {target}: {status}").into()) }
}

fn options(scene: Scene<'_>, url: &str) -> LaunchOptions {
    LaunchOptions::new(url, scene.profiles, GpuMode::detect())
}

fn require(condition: bool, what: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(what().into()) }
}

async fn has_an_adapter_and_closes(scene: Scene<'_>) -> Outcome {
    let mut server = Server::start().await?;
    let begun = Instant::now();
    let browser = Browser::launch(scene.browser, options(scene, &server.url)).await?;
    let report = server.report().await?;
    let ready = begun.elapsed();
    require(!report.contains("gpu=none") && report.contains("device=true"), || {
        format!("no WebGPU adapter: {report}; the browser wrote: {}", browser.log_tail())
    })?;
    let processes = browser.process_tree();
    require(processes.iter().any(|process| process.pid == browser.pid()), || format!("{processes:?}"))?;
    require(processes.len() > 3, || format!("a browser is more than {} processes", processes.len()))?;
    let memory = browser.resident_memory().ok_or("no memory figure")?;
    require((50 << 20..4_u64 << 30).contains(&memory), || format!("{memory} bytes are not believable"))?;
    println!(
        "        {} {}: ready after {:.2} s, {} processes, {} MiB, {report}",
        scene.browser.kind,
        scene.browser.version,
        ready.as_secs_f64(),
        processes.len(),
        memory >> 20
    );
    let profile = browser.profile().to_owned();
    let begun = Instant::now();
    let reason = browser.close(Duration::from_secs(10)).await;
    println!("        {}: closed in {:.2} s", scene.browser.kind, begun.elapsed().as_secs_f64());
    require(reason == ExitReason::Closed, || format!("{reason:?}"))?;
    require(!profile.exists(), || format!("{} is left", profile.display()))?;
    let left = traces::processes_naming(&profile);
    require(left.is_empty(), || format!("{left:?}"))
}

async fn is_gone_when_dropped(scene: Scene<'_>) -> Outcome {
    let mut server = Server::start().await?;
    let browser = Browser::launch(scene.browser, options(scene, &server.url)).await?;
    server.report().await?;
    let begun = Instant::now();
    drop(browser);
    println!("        {}: dropped in {:.2} s", scene.browser.kind, begun.elapsed().as_secs_f64());
    // Not a moment later: the drop itself must have done it.
    traces::none_left(scene.profiles, Duration::ZERO)
}

async fn killed_from_outside_is_reported(scene: Scene<'_>) -> Outcome {
    let mut server = Server::start().await?;
    let browser = Browser::launch(scene.browser, options(scene, &server.url)).await?;
    server.report().await?;
    send("KILL", i64::from(browser.pid()))?;
    let reason = tokio::time::timeout(Duration::from_secs(10), browser.wait()).await?;
    require(matches!(reason, ExitReason::Signalled { signal: 9, .. }), || format!("{reason:?}"))?;
    require(browser.exit_reason() == Some(reason), || "the reason is not kept".to_owned())?;
    traces::none_left(scene.profiles, Duration::ZERO)
}

/// Starts this program as a host of its own.
fn spawn_host(scene: Scene<'_>, profile: ProfileKind, url: &str) -> Result<Host, Box<dyn Error>> {
    let mut command = Command::new(env::current_exe()?);
    command
        .env("TABPOOL_TEST_HOST", scene.browser.kind.name())
        .env("TABPOOL_TEST_URL", url)
        // A folder's parent: the host's own environment must not look like a browser's on these profiles.
        .env("TABPOOL_TEST_PROFILES", scene.profiles.parent().ok_or("no parent")?)
        .env("TABPOOL_TEST_FOLDER", scene.profiles.file_name().ok_or("no name")?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    if let ProfileKind::Kept(name) = profile {
        command.env("TABPOOL_TEST_KEPT", name);
    }
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    Ok(Host(command.spawn()?))
}

/// Starts a host and waits until its browser has reported.
async fn start_host(scene: Scene<'_>, profile: ProfileKind) -> Result<(Host, PathBuf), Box<dyn Error>> {
    let mut server = Server::start().await?;
    let mut host = spawn_host(scene, profile, &server.url)?;
    server.report().await?;
    let mut line = String::new();
    BufReader::new(host.0.stdout.take().ok_or("no stdout")?).read_line(&mut line)?;
    let profile = PathBuf::from(line.trim_end());
    require(profile.is_dir(), || format!("the host says {line:?}"))?;
    require(!traces::processes_naming(&profile).is_empty(), || "no browser runs".to_owned())?;
    Ok((host, profile))
}

/// A host that does not outlive its case.
struct Host(Child);

impl Drop for Host {
    fn drop(&mut self) {
        // Both fail for a host that has ended, which is the usual case.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Waits for a host that was sent a signal.
async fn ended(host: &mut Host) -> Outcome {
    let deadline = Instant::now() + Duration::from_secs(10);
    while host.0.try_wait()?.is_none() {
        require(Instant::now() < deadline, || "the host outlives the signal by 10 s".to_owned())?;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

async fn host_ended(scene: Scene<'_>, signal: &str) -> Outcome {
    let (mut host, profile) = start_host(scene, ProfileKind::Ephemeral).await?;
    let pid = i64::from(host.0.id());
    // A terminal's Ctrl-C goes to the whole group; the browser must not be in it.
    send(signal, if signal == signal_name::INTERRUPT { -pid } else { pid })?;
    ended(&mut host).await?;
    let begun = Instant::now();
    traces::none_left(scene.profiles, Duration::from_secs(8))?;
    println!("        {}: clean {:.2} s after SIG{signal}", scene.browser.kind, begun.elapsed().as_secs_f64());
    require(!profile.exists(), || format!("{} is left", profile.display()))
}

/// The moments around the start of the guard and of the browser are the ones in which something could be missed.
/// Before there is a guard an empty folder may be left, which is what a sweep is for; a process never.
async fn host_killed_while_starting(scene: Scene<'_>) -> Outcome {
    for delay in [0, 2, 5, 10, 40, 150].map(Duration::from_millis) {
        let mut host = spawn_host(scene, ProfileKind::Ephemeral, "about:blank")?;
        while traces::ephemeral_files(scene.profiles).is_empty() {
            require(host.0.try_wait()?.is_none(), || "the host ended first".to_owned())?;
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(delay).await;
        send("KILL", i64::from(host.0.id()))?;
        ended(&mut host).await?;
        // A guard at work answers for the profile, so a sweep that finds nobody in charge finds nothing running.
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let report = sweep(scene.profiles);
            require(report.failed.is_empty() && report.ended.is_empty(), || format!("after {delay:?}: {report:?}"))?;
            if report.in_use == 0 {
                break;
            }
            require(Instant::now() < deadline, || format!("after {delay:?}: the guard does not end"))?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        traces::none_left(scene.profiles, Duration::ZERO)?;
    }
    Ok(())
}

async fn host_and_guard_killed_then_swept(scene: Scene<'_>) -> Outcome {
    let (mut host, profile) = start_host(scene, ProfileKind::Ephemeral).await?;
    let guards = traces::guards_of(host.0.id());
    require(guards.len() == 1, || format!("one guard per browser, not {guards:?}"))?;
    let spared = sweep(scene.profiles);
    require(spared.in_use == 1 && spared.ended.is_empty() && profile.exists(), || format!("{spared:?}"))?;
    send("KILL", i64::from(guards[0]))?;
    // It has no command line any more when it has closed its files, the lock among them.
    while !traces::guards_of(host.0.id()).is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    send("KILL", i64::from(host.0.id()))?;
    ended(&mut host).await?;
    require(!traces::processes_naming(&profile).is_empty(), || "the browser did not outlive its guard".to_owned())?;
    let report = sweep(scene.profiles);
    require(report.failed.is_empty() && report.removed == [profile], || format!("{report:?}"))?;
    require(report.ended.len() > 3, || format!("{report:?}"))?;
    traces::none_left(scene.profiles, Duration::ZERO)
}

async fn kept_profile_is_locked_and_kept(scene: Scene<'_>) -> Outcome {
    let mut server = Server::start().await?;
    let port: u16 = server.url.trim_end_matches('/').rsplit(':').next().ok_or("no port")?.parse()?;
    let kept = || options(scene, &format!("http://127.0.0.1:{port}/")).profile(ProfileKind::Kept("test".to_owned()));
    let browser = Browser::launch(scene.browser, kept()).await?;
    let first = server.report().await?;
    require(first.contains("stored=no"), || first.clone())?;
    let refused = Browser::launch(scene.browser, kept()).await.err().ok_or("two browsers on one profile")?;
    require(matches!(&refused, LaunchError::Profile { source: ProfileError::InUse { .. }, .. }), || {
        refused.to_string()
    })?;
    let profile = browser.profile().to_owned();
    browser.close(Duration::from_secs(10)).await;
    require(profile.is_dir(), || "the kept profile is gone".to_owned())?;
    let again = Browser::launch(scene.browser, kept()).await?;
    let second = server.report().await?;
    require(second.contains("stored=yes"), || format!("what the page stored is lost: {second}"))?;
    drop(again);
    require(profile.is_dir(), || "the kept profile is gone".to_owned())
}

async fn kept_profile_outlives_a_killed_host(scene: Scene<'_>) -> Outcome {
    let kind = ProfileKind::Kept("test".to_owned());
    let (mut host, profile) = start_host(scene, kind.clone()).await?;
    send("KILL", i64::from(host.0.id()))?;
    ended(&mut host).await?;
    traces::none_left(scene.profiles, Duration::from_secs(8))?;
    require(profile.is_dir(), || "the kept profile is gone".to_owned())?;
    let mut server = Server::start().await?;
    let browser = Browser::launch(scene.browser, options(scene, &server.url).profile(kind)).await?;
    server.report().await?;
    browser.kill();
    require(browser.wait().await == ExitReason::Killed, || format!("{:?}", browser.exit_reason()))
}

async fn cannot_start(scene: Scene<'_>) -> Outcome {
    let at = |path: &str| Installed { path: PathBuf::from(path), ..scene.browser.clone() };
    let missing = Browser::launch(&at("/nowhere/browser"), options(scene, "about:blank")).await;
    require(matches!(missing, Err(LaunchError::Start { .. })), || format!("{missing:?}"))?;
    traces::none_left(scene.profiles, Duration::ZERO)?;
    // `ls` does not know the options of a browser, says so and ends.
    let wrong = Browser::launch(&at("/bin/ls"), options(scene, "about:blank").settle(Duration::from_secs(5))).await;
    let Err(LaunchError::EndedAtOnce { reason: ExitReason::Exited { code, log_tail, .. }, .. }) = &wrong else {
        return Err(format!("{wrong:?}").into());
    };
    require(*code != 0 && log_tail.contains("option"), || format!("{code} {log_tail}"))?;
    traces::none_left(scene.profiles, Duration::ZERO)?;
    let page = Browser::launch(scene.browser, options(scene, "--version")).await;
    require(matches!(page, Err(LaunchError::Url { .. })), || format!("{page:?}"))
}

/// This program as a host: starts one browser, prints its profile and waits for the end.
pub(crate) struct HostRole {
    kind: BrowserKind,
    url: String,
    profiles: PathBuf,
    profile: ProfileKind,
}

impl HostRole {
    pub(crate) fn from_env() -> Option<Self> {
        let kind = env::var("TABPOOL_TEST_HOST").ok()?.parse().ok()?;
        let folder = env::var_os("TABPOOL_TEST_FOLDER")?;
        let profiles = PathBuf::from(env::var_os("TABPOOL_TEST_PROFILES")?).join(folder);
        let profile = env::var("TABPOOL_TEST_KEPT").map_or(ProfileKind::Ephemeral, ProfileKind::Kept);
        Some(Self { kind, url: env::var("TABPOOL_TEST_URL").ok()?, profiles, profile })
    }

    pub(crate) fn run(self) -> Outcome {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        runtime.block_on(async {
            // Tests that run in a shell's background ignore interrupts, and what they start inherits that.
            let mut interrupts = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
            let found = discover(&SearchPaths::from_env());
            let installed = found.of_kind(self.kind).ok_or("not installed")?;
            let options = LaunchOptions::new(self.url, self.profiles, GpuMode::detect()).profile(self.profile);
            let browser = Browser::launch(installed, options).await?;
            println!("{}", browser.profile().display());
            tokio::select! {
                reason = browser.wait() => Err(format!("the browser ended first: {reason}").into()),
                // At once, as the signal would: nothing is dropped, nobody is told.
                _ = interrupts.recv() => std::process::exit(130),
            }
        })
    }
}
