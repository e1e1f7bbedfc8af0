//! Find, start, profile, watch and end real browsers.
//!
//! A host that runs models on browsers needs them to be there when it wants one and gone when it does not. This
//! crate finds the installed ones ([`discover`]), says what each lacks for WebGPU ([`diagnose`]), and starts them
//! with a profile of their own ([`Browser::launch`]). It knows nothing of what the page they open does.
//!
//! *Invariant*: no browser process and no ephemeral profile outlives the host, however it ends. While the host
//! lives, a thread per browser cleans up ([`Browser`]); when it dies, SIGKILL included, a guard process does; and
//! what neither could is left to [`sweep`] at the next start.
//!
//! ```no_run
//! use std::time::Duration;
//! use tabpool_browser::{Browser, BrowserKind, GpuMode, LaunchOptions, SearchPaths, discover};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let found = discover(&SearchPaths::from_env());
//! let firefox = found.of_kind(BrowserKind::Firefox).ok_or("firefox is not installed")?;
//! let options = LaunchOptions::new("http://127.0.0.1:8080/", "/var/lib/tabpool/profiles", GpuMode::detect());
//! let browser = Browser::launch(firefox, options).await?;
//! println!("{} runs as process {}", browser.kind(), browser.pid());
//! browser.close(Duration::from_secs(5)).await;
//! # Ok(())
//! # }
//! ```

mod arguments;
mod browser;
mod diagnose;
mod discover;
mod gpu;
mod guard;
mod kind;
mod log;
mod options;
mod process;
mod profile;
mod sweep;

#[cfg(unix)]
mod signal;
#[cfg(not(unix))]
#[path = "signal_absent.rs"]
mod signal;

pub use browser::{Browser, BrowserId, ExitReason, LaunchError};
pub use diagnose::{Finding, Machine, Severity, diagnose, diagnose_on};
pub use discover::{Discovery, Installed, SearchPaths, Source, Unusable, discover};
pub use gpu::{GpuMode, RenderNode, render_nodes};
pub use kind::{BrowserKind, EngineFamily, UnknownBrowser};
pub use options::{LaunchOptions, WindowMode};
pub use process::ProcessInfo;
pub use profile::{ProfileError, ProfileKind};
pub use sweep::{SweepReport, sweep};
