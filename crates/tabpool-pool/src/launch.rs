//! Starting and ending what fills a slot.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tabpool_browser::{Browser, GpuMode, Installed, LaunchOptions, ProfileKind};

/// How long a browser has to close by itself.
const GRACE: Duration = Duration::from_secs(3);

/// What fills a slot.
pub(crate) enum Running {
    Browser(Arc<Browser>),
    Native(JoinHandle<()>),
}

impl Running {
    pub(crate) fn pid(&self) -> Option<u32> {
        match self {
            Running::Browser(browser) => Some(browser.pid()),
            Running::Native(_) => None,
        }
    }

    /// Ends it and waits until it has.
    pub(crate) async fn end(self) {
        match self {
            Running::Browser(browser) => {
                browser.close(GRACE).await;
            }
            // Its link is closed; a thread in the middle of a run ends after it.
            Running::Native(thread) => {
                let _ = tokio::task::spawn_blocking(move || thread.join()).await;
            }
        }
    }
}

/// A browser to start for a slot.
#[derive(Clone)]
pub(crate) struct BrowserPlan {
    pub(crate) installed: Installed,
    pub(crate) profiles: PathBuf,
    /// The name of a profile that is kept.
    pub(crate) kept: Option<String>,
    pub(crate) gpu: GpuMode,
}

impl BrowserPlan {
    pub(crate) async fn launch(&self, url: String) -> Result<Browser, String> {
        let profile = self.kept.clone().map_or(ProfileKind::Ephemeral, ProfileKind::Kept);
        let options = LaunchOptions::new(url, &self.profiles, self.gpu).profile(profile);
        Browser::launch(&self.installed, options).await.map_err(|e| {
            let mut reason = e.to_string();
            let mut source = std::error::Error::source(&e);
            while let Some(cause) = source {
                reason = format!("{reason}: {cause}");
                source = cause.source();
            }
            reason
        })
    }
}
