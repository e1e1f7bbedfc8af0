//! Slots: places that are kept filled with a browser or a native worker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tabpool_bridge::{Grant, Token};
use tabpool_metrics::{Connection, ConnectionEvent, DecisionKind, Timestamp, WorkerIdentity};
use tabpool_scheduler::{Event, SlotId};
use tokio::task::JoinHandle;

use super::decisions::About;
use super::scaling::Membership;
use super::{Actor, Command, SlotPlan};
use crate::launch::{BrowserPlan, Running};
use crate::native::{self, NativeConfig};
use crate::{PoolEvent, Profile, WorkerSpec};

/// How long a worker that was started has to join with its token, and to come back with it.
const TOKEN: Duration = Duration::from_secs(24 * 3600);

/// A slot and what is in it.
pub(super) struct Slot {
    pub(super) spec: WorkerSpec,
    browser: Option<BrowserPlan>,
    /// Counts starts; tells what belongs to an earlier one.
    pub(super) starts: u32,
    pub(super) started: Option<Instant>,
    pub(super) running: Option<Running>,
    /// The end of what ran before, to be waited for before the next start.
    pub(super) ending: Option<JoinHandle<()>>,
    pub(super) token: Option<Token>,
    pub(super) set_aside: bool,
    pub(super) last_reason: String,
    pub(super) membership: Membership,
}

impl Slot {
    pub(super) fn new(plan: SlotPlan) -> Self {
        let SlotPlan { spec, browser } = plan;
        Self {
            spec,
            browser,
            starts: 0,
            started: None,
            running: None,
            ending: None,
            token: None,
            set_aside: false,
            last_reason: String::new(),
            membership: Membership::default(),
        }
    }

    /// What fills it.
    pub(super) fn into_plan(self) -> SlotPlan {
        SlotPlan { spec: self.spec, browser: self.browser }
    }

    /// Begins to end what runs here; the handle is the end of it and of what ran before.
    pub(super) fn end(&mut self) -> Option<JoinHandle<()>> {
        let running = self.running.take()?;
        let before = self.ending.take();
        Some(tokio::spawn(async move {
            if let Some(before) = before {
                let _ = before.await;
            }
            running.end().await;
        }))
    }

    pub(super) fn profile(&self) -> &'static str {
        match (&self.browser, self.spec.profile) {
            (None, _) => "",
            (Some(_), Profile::Fresh) => "fresh",
            (Some(_), Profile::Kept) => "kept",
        }
    }

    /// What is known of a worker before it has joined.
    pub(super) fn expected(&self) -> Arc<WorkerIdentity> {
        let version = self.browser.as_ref().map(|b| b.installed.version.clone()).unwrap_or_default();
        let browser = self.spec.kind().to_string();
        Arc::new(WorkerIdentity { browser, browser_version: version, ..WorkerIdentity::default() })
    }
}

impl Actor {
    /// Starts a slot's browser or native worker, after what ran there before has ended.
    pub(super) fn launch(&mut self, id: SlotId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if let Some(ending) = slot.end() {
            slot.ending = Some(ending);
        }
        if let Some(token) = slot.token.take() {
            self.setup.bridge.tokens().revoke(token.id);
            self.setup.bridge.expel(token.id, "its place is filled anew");
        }
        let token = self.setup.bridge.tokens().issue(Grant { tag: Some(id.0), most: None }, TOKEN);
        slot.token = Some(token.clone());
        let token = token.secret;
        slot.set_aside = false;
        slot.starts += 1;
        slot.started = Some(Instant::now());
        let (start, ending, kind) = (slot.starts, slot.ending.take(), slot.spec.kind());
        let event = if start == 1 { ConnectionEvent::Launched } else { ConnectionEvent::Restarting };
        let reason = slot.last_reason.clone();
        self.connection(id, event, reason, None);
        self.tell(PoolEvent::Launching { slot: id.0, kind, start });
        let Some(slot) = self.slots.get(&id) else { return };
        let commands = self.setup.commands.clone();
        match slot.browser.clone() {
            Some(plan) => {
                let threads = slot.spec.threads.map(|threads| format!("&threads={threads}")).unwrap_or_default();
                let url = format!("{}/#token={token}{threads}", self.setup.url);
                tokio::spawn(async move {
                    if let Some(ending) = ending {
                        let _ = ending.await;
                    }
                    let outcome = plan.launch(url).await.map(|browser| Running::Browser(Arc::new(browser)));
                    // Where the pool has closed meanwhile, dropping the browser ends it.
                    let _ = commands.send(Command::Launched { slot: id, start, outcome }).await;
                });
            }
            None => {
                let config = NativeConfig {
                    link: self.setup.bridge.connect_local(),
                    token,
                    store: Arc::clone(&self.setup.store),
                    apis: slot.spec.apis.clone(),
                    threads: slot.spec.threads,
                };
                tokio::spawn(async move {
                    if let Some(ending) = ending {
                        let _ = ending.await;
                    }
                    let outcome = native::start(config).map(Running::Native).map_err(|e| e.to_string());
                    let _ = commands.send(Command::Launched { slot: id, start, outcome }).await;
                });
            }
        }
    }

    /// A launch has come to something.
    pub(super) fn launched(&mut self, id: SlotId, start: u32, outcome: Result<Running, String>) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if slot.starts != start {
            // A later start has taken over; what this one brought is ended by its drop.
            return;
        }
        match outcome {
            Ok(running) => {
                if let Running::Browser(browser) = &running {
                    let (ended, commands) = (browser.ended(), self.setup.commands.clone());
                    tokio::spawn(async move {
                        let reason = ended.await.to_string();
                        let _ = commands.send(Command::Exited { slot: id, start, reason }).await;
                    });
                }
                slot.running = Some(running);
            }
            Err(reason) => {
                slot.last_reason.clone_from(&reason);
                self.tell(PoolEvent::LaunchFailed { slot: id.0, reason: reason.clone() });
                self.connection(id, ConnectionEvent::Lost, reason.clone(), None);
                self.handle(Event::LaunchFailed { slot: id, reason });
            }
        }
    }

    /// A browser has ended by itself: its worker is lost at once, without waiting for its link to fall silent.
    pub(super) fn exited(&mut self, id: SlotId, start: u32, reason: &str) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if slot.starts != start || slot.running.is_none() {
            return;
        }
        slot.running = None;
        let reason = format!("the browser ended: {reason}");
        slot.last_reason.clone_from(&reason);
        let worker = self.workers.iter().find(|(_, w)| w.slot == Some(id)).map(|(worker, _)| *worker);
        match worker {
            Some(worker) => {
                self.close_link(worker, &reason);
                self.lost(tabpool_bridge::WorkerId(worker.0), reason);
            }
            None => {
                self.tell(PoolEvent::LaunchFailed { slot: id.0, reason: reason.clone() });
                self.connection(id, ConnectionEvent::Lost, reason.clone(), None);
                self.handle(Event::LaunchFailed { slot: id, reason });
            }
        }
    }

    /// Ends what a slot has started and nobody has joined from.
    pub(super) fn stop_slot(&mut self, id: SlotId, reason: &str) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        reason.clone_into(&mut slot.last_reason);
        // What is still being launched belongs to an earlier start from now on.
        slot.starts += 1;
        if let Some(ending) = slot.end() {
            slot.ending = Some(ending);
        }
    }

    pub(super) fn set_aside(&mut self, id: SlotId, reason: String) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.set_aside = true;
            slot.last_reason.clone_from(&reason);
            self.connection(id, ConnectionEvent::SetAside, reason.clone(), None);
            self.decided(DecisionKind::SetAside, About::slot(id), reason.clone());
            self.tell(PoolEvent::SetAside { slot: id.0, reason });
        }
    }

    /// Records a step in the life of a slot's connection.
    pub(super) fn connection(&self, id: SlotId, event: ConnectionEvent, reason: String, start_up: Option<Duration>) {
        let Some(slot) = self.slots.get(&id) else { return };
        let joined = self.workers.values().find(|w| w.slot == Some(id)).map(|w| Arc::clone(&w.identity));
        self.setup.recorder.record(Connection {
            at: Timestamp::now(),
            worker: joined.unwrap_or_else(|| slot.expected()),
            slot: u32::try_from(id.0).ok(),
            profile: slot.profile().to_owned(),
            event,
            reason,
            pid: slot.running.as_ref().and_then(Running::pid),
            start_up,
        });
    }
}
