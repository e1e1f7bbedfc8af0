//! A peer's page in a browser of its own: opened, told what to do, listened to.

use std::time::Duration;

use serde_json::Value;
use tabpool_browser::{Browser, GpuMode, Installed, LaunchOptions, ProfileKind};

use super::server::{Line, PageAnswer, PeerServer};
use crate::Fault;

/// How long a browser has to end by itself.
const GRACE: Duration = Duration::from_secs(3);

/// How browsers are started here: the same way for every contender, by what starts tabpool's own.
#[derive(Clone, Debug)]
pub(crate) struct Starter {
    pub(crate) profiles: std::path::PathBuf,
    pub(crate) gpu: GpuMode,
}

impl Starter {
    /// Starts a browser on a URL. A kept profile has a name.
    pub(crate) async fn start(&self, on: &Installed, url: &str, kept: Option<&str>) -> Result<Browser, Fault> {
        let profile = kept.map_or(ProfileKind::Ephemeral, |name| ProfileKind::Kept(name.to_owned()));
        let options = LaunchOptions::new(url, &self.profiles, self.gpu).profile(profile);
        Ok(Browser::launch(on, options).await?)
    }

    /// Forgets what a kept profile kept. Its browser must have ended.
    pub(crate) fn forget(&self, name: &str) -> Result<(), Fault> {
        match std::fs::remove_dir_all(self.profiles.join(format!("keep-{name}"))) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        }
    }
}

/// A page that serves commands.
#[derive(Debug)]
pub(crate) struct Page {
    browser: Browser,
    line: Line,
}

impl Page {
    /// Opens a page of the server in a browser.
    pub(crate) async fn open(
        server: &PeerServer,
        starter: &Starter,
        on: &Installed,
        page: &str,
    ) -> Result<Self, Fault> {
        let line = server.line();
        let url = server.url(&format!("pages/{page}?page={}", line.id));
        Ok(Self { browser: starter.start(on, &url, None).await?, line })
    }

    /// A page that is opened by other means, with a line that was made before.
    pub(crate) fn of(browser: Browser, line: Line) -> Self {
        Self { browser, line }
    }

    /// Gives a command and waits for its answer.
    ///
    /// # Errors
    /// What the page says went wrong, the browser's end, or that the limit is over.
    pub(crate) async fn ask(&mut self, command: &Value, limit: Duration) -> Result<PageAnswer, Fault> {
        self.line.tell(command).await?;
        self.answer(limit).await
    }

    /// Waits for the answer to a command that was given before.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub(crate) async fn answer(&mut self, limit: Duration) -> Result<PageAnswer, Fault> {
        let answer = tokio::select! {
            answer = tokio::time::timeout(limit, self.line.answers.recv()) => answer,
            reason = self.browser.ended() => return Err(format!("{} ended: {reason}", self.browser.kind()).into()),
        };
        let answer = answer.map_err(|_| format!("no answer within {} s", limit.as_secs()))?;
        let answer = answer.ok_or("the page's line is cut")?;
        match answer.figures["error"].as_str() {
            Some(error) => Err(error.into()),
            None => Ok(answer),
        }
    }

    pub(crate) async fn close(self, server: &PeerServer) {
        server.hang_up(self.line.id);
        self.browser.close(GRACE).await;
    }
}
