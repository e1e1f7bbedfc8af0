//! However a host ends, it leaves no browser process and no fresh profile behind.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use tabpool_pool::{Profile, ResourcePool, WorkerSpec};
use tabpool_protocol::ApiKind;
use tabpool_tests::host::Host;
use tabpool_tests::processes::{Signal, fresh_profiles, naming, none_left};
use tabpool_tests::{Outcome, browsers, require, scene};

/// How long cleaning may take after the host's end, on a loaded machine.
const CLEAN_WITHIN: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
enum End {
    /// An order over the pipe.
    Order(&'static str),
    Signal(Signal),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_pool_leaves_nothing() -> Outcome {
    ended("a dropped pool", End::Order("drop")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_pool_leaves_nothing() -> Outcome {
    ended("a closed pool", End::Order("close")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_host_leaves_nothing() -> Outcome {
    ended("an interrupted host", End::Signal(Signal::Interrupt)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminated_host_leaves_nothing() -> Outcome {
    ended("a terminated host", End::Signal(Signal::Terminate)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_host_leaves_nothing() -> Outcome {
    ended("a killed host", End::Signal(Signal::Kill)).await
}

async fn ended(case: &str, end: End) -> Outcome {
    let _alone = scene::machine().await;
    let kinds = browsers::kinds(case);
    if kinds.is_empty() {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let data = folder.path();
    let names: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
    let mut host = Host::start(OsStr::new(env!("CARGO_BIN_EXE_pool-host")), data, &names).await?;
    let profiles = data.join("profiles");
    let running = naming(&profiles, None).len();
    // Otherwise nothing is shown by there being none afterwards.
    require(running > kinds.len(), || format!("only {running} processes name the profiles"))?;
    require(!fresh_profiles(data).is_empty(), || "no profile is there".to_owned())?;
    match end {
        End::Order(order) => host.tell(order)?,
        End::Signal(signal) => host.signal(signal)?,
    }
    let begun = Instant::now();
    let status = host.ended(Duration::from_secs(20)).await?;
    let gone = begun.elapsed();
    require(status.success() == matches!(end, End::Order(_)), || format!("the host ended with {status}"))?;
    if matches!(end, End::Order(_)) {
        // An orderly end has cleaned up before the process ends.
        none_left(data, Duration::from_secs(1)).await?;
    }
    none_left(data, CLEAN_WITHIN).await?;
    let clean = begun.elapsed();
    tabpool_tests::show(&format!(
        "{case}: {running} processes; ended after {:.2} s, clean after {:.2} s",
        secs(gone),
        secs(clean)
    ));
    Ok(())
}

fn secs(time: Duration) -> f64 {
    time.as_secs_f64()
}

/// What even a guard could not clean up, because it was killed as well, the next start does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_start_sweeps_what_no_guard_could() -> Outcome {
    let _alone = scene::machine().await;
    let folder = tempfile::tempdir()?;
    let stale = stale_profile(folder.path())?;
    let spec = WorkerSpec::native().apis(&[ApiKind::Cpu]);
    let pool = scene::ready(ResourcePool::builder().data_dir(folder.path()).worker(spec)).await?;
    require(!stale.exists(), || format!("{} is still there", stale.display()))?;
    pool.close().await?;
    Ok(())
}

/// A profile that nobody answers for, as a host and a guard leave it that were killed together.
fn stale_profile(data: &Path) -> std::io::Result<std::path::PathBuf> {
    let stale = data.join("profiles").join("ephemeral-1-0123456789abcdef");
    fs::create_dir_all(&stale)?;
    fs::write(stale.join("Cookies"), "x")?;
    Ok(stale)
}

/// A kept profile is there after its pool, and another pool may have it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_profile_stays_and_is_free_again() -> Outcome {
    let _alone = scene::machine().await;
    let Some(kind) = browsers::kinds("a kept profile").into_iter().next() else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    for _ in 0..2 {
        let builder = ResourcePool::builder().data_dir(folder.path()).worker(scene::browser(kind, Profile::Kept));
        let pool = scene::ready(builder).await?;
        pool.close().await?;
        none_left(folder.path(), Duration::from_secs(1)).await?;
        let kept = folder.path().join("profiles").join(format!("keep-{kind}-0"));
        require(kept.is_dir(), || format!("{} is gone", kept.display()))?;
    }
    Ok(())
}
