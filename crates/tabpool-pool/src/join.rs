//! Tickets: how tabs that the pool has not started are let in, and how that ends.
//!
//! A ticket is a token of the bridge with what people need of it: the URL to open, a label, a time at which it ends. The
//! token's secret is in the URL's fragment, which browsers send to no server, and nowhere else: not in a ticket's `Debug`,
//! not in an event, not in the database.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tabpool_bridge::{Bridge, Grant, TokenId};
use tabpool_content::Cid;

use crate::ModelHandle;

/// Tickets kept at once; one more makes the one that expires first worthless.
const MOST_TICKETS: usize = 1024;
/// How long a ticket is good for where nobody says.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long a ticket may be good for.
const YEAR: Duration = Duration::from_secs(366 * 24 * 3600);
/// Characters of a label: it is shown on a phone's screen and travels in a QR code.
const LONGEST_LABEL: usize = 80;

/// The number of a ticket, which is no secret and is never used again in its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TicketId(pub u64);

impl fmt::Display for TicketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ticket {}", self.0)
    }
}

impl From<TokenId> for TicketId {
    fn from(id: TokenId) -> Self {
        Self(id.0)
    }
}

/// What a ticket allows.
#[derive(Clone, Debug)]
#[must_use = "options do nothing until a pool is given them"]
pub struct JoinOptions {
    lifetime: Duration,
    most_tabs: Option<u32>,
    label: String,
    only: Option<BTreeSet<Cid>>,
}

impl Default for JoinOptions {
    fn default() -> Self {
        Self { lifetime: DAY, most_tabs: None, label: String::new(), only: None }
    }
}

impl JoinOptions {
    /// A ticket that lets any number of tabs in for a day.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long tabs may join; a day by default, a year at most. One that joined in time stays, and comes back when its link
    /// is cut.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// How many tabs there may be at once that came with it. A tab whose link is cut counts until it is lost.
    pub fn most_tabs(mut self, most: u32) -> Self {
        self.most_tabs = Some(most);
        self
    }

    /// What people call it: shown on the tab's page and in [`ResourcePool::tickets`](crate::ResourcePool::tickets).
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// The only models that tabs are given which come with it: for tabs that are not trusted with every model's weights, or
    /// whose answers are not to be relied on everywhere. A model counts by its folder's CID, whatever it is called.
    pub fn only<'a>(mut self, models: impl IntoIterator<Item = &'a ModelHandle>) -> Self {
        self.only = Some(models.into_iter().map(|model| *model.root()).collect());
        self
    }

    fn check(&self) -> Result<(), JoinError> {
        if self.lifetime.is_zero() || self.lifetime > YEAR {
            return Err(JoinError::Lifetime(self.lifetime));
        }
        if self.most_tabs == Some(0) {
            return Err(JoinError::NoTabs);
        }
        if self.only.as_ref().is_some_and(BTreeSet::is_empty) {
            return Err(JoinError::NoModels);
        }
        let length = self.label.chars().count();
        if length > LONGEST_LABEL {
            return Err(JoinError::Label { length });
        }
        Ok(())
    }
}

/// Why there is no ticket.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum JoinError {
    /// It would be good for no time, or for too long.
    #[error("a ticket cannot be good for {0:?}: more than nothing and at most {days} days", days = YEAR.as_secs() / (24 * 3600))]
    Lifetime(Duration),
    /// It would let nobody in.
    #[error("a ticket for no tabs lets nobody in")]
    NoTabs,
    /// What it lets in would be given nothing.
    #[error("a ticket for no models lets tabs in for nothing")]
    NoModels,
    /// Its label is too long.
    #[error("a ticket's label has {length} characters, at most {most} are shown", most = LONGEST_LABEL)]
    Label {
        /// How long it is.
        length: usize,
    },
}

/// What becomes of the workers that came with a ticket when it is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// They stay until they leave by themselves.
    KeepWorkers,
    /// They are sent home at once. What they were computing is computed elsewhere.
    EndWorkers,
}

/// A ticket as it was issued.
pub(crate) struct Issued {
    pub(crate) id: TicketId,
    token: TokenId,
    url: String,
    label: String,
    most_tabs: Option<u32>,
    expires: Instant,
    /// The names of the folders that its tabs are given; all where it does not say.
    only: Option<BTreeSet<String>>,
}

impl Issued {
    /// Whether a tab that came with it may be given the model in this folder.
    pub(crate) fn admits(&self, root: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(root))
    }
}

/// What lets tabs join a pool until it expires or is revoked. Cloning gives another handle to the same ticket; dropping one
/// changes nothing.
#[derive(Clone)]
pub struct JoinTicket {
    issued: Arc<Issued>,
    tickets: Arc<Tickets>,
}

impl fmt::Debug for JoinTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Issued { id, label, most_tabs, .. } = &*self.issued;
        let ticket = &mut f.debug_struct("JoinTicket");
        ticket.field("id", id).field("label", label).field("most_tabs", most_tabs).finish_non_exhaustive()
    }
}

impl JoinTicket {
    /// Its number.
    #[must_use]
    pub fn id(&self) -> TicketId {
        self.issued.id
    }

    /// What a tab opens to join. Whoever has it can join: it is a secret.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.issued.url
    }

    /// What people call it.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.issued.label
    }

    /// How many tabs it lets in at once; any number where it does not say.
    #[must_use]
    pub fn most_tabs(&self) -> Option<u32> {
        self.issued.most_tabs
    }

    /// How long it lets tabs in from now, as far as it is not revoked.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.issued.expires.saturating_duration_since(Instant::now())
    }

    /// When it ends, by the clock on the wall.
    #[must_use]
    pub fn expires_at(&self) -> SystemTime {
        SystemTime::now() + self.remaining()
    }

    /// Whether it lets tabs in: it has not expired, was not revoked, and its pool is open.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let bridge = &self.tickets.bridge;
        bridge.admits() && bridge.tokens().is_valid(self.issued.token)
    }

    /// How many tabs are here that came with it, those whose links are cut included until they are lost.
    #[must_use]
    pub fn tabs(&self) -> usize {
        self.tickets.bridge.joined_with(self.issued.token)
    }

    /// Lets nobody join with it any more.
    pub fn revoke(&self, workers: Revocation) {
        let bridge = &self.tickets.bridge;
        // In this order: nobody joins in between.
        bridge.tokens().revoke(self.issued.token);
        if workers == Revocation::EndWorkers {
            bridge.expel(self.issued.token, "the ticket it joined with was revoked");
        }
    }
}

/// The tickets of a pool.
pub(crate) struct Tickets {
    bridge: Bridge,
    /// What URLs begin with.
    origin: String,
    issued: Mutex<BTreeMap<TicketId, Arc<Issued>>>,
}

impl Tickets {
    pub(crate) fn new(bridge: Bridge, origin: String) -> Self {
        Self { bridge, origin, issued: Mutex::default() }
    }

    /// Issues a ticket.
    pub(crate) fn issue(self: &Arc<Self>, options: JoinOptions) -> Result<JoinTicket, JoinError> {
        options.check()?;
        Ok(self.issue_unchecked(options))
    }

    /// Issues one with options that are known to be good.
    pub(crate) fn issue_unchecked(self: &Arc<Self>, options: JoinOptions) -> JoinTicket {
        let JoinOptions { lifetime, most_tabs, label, only } = options;
        let only = only.map(|roots| roots.iter().map(Cid::to_string).collect());
        let token = self.bridge.tokens().issue(Grant { tag: None, most: most_tabs }, lifetime);
        let mut url = format!("{}/#token={}", self.origin, token.secret);
        if !label.is_empty() {
            url.push_str("&label=");
            url.push_str(&encoded(&label));
        }
        let (id, token, expires) = (token.id.into(), token.id, Instant::now() + lifetime);
        let issued = Arc::new(Issued { id, token, url, label, most_tabs, expires, only });
        let mut all = self.lock();
        all.retain(|_, one| self.is_of_use(one));
        if all.len() >= MOST_TICKETS
            && let Some(first) = all.values().min_by_key(|one| one.expires).map(|one| one.id)
            && let Some(first) = all.remove(&first)
        {
            self.bridge.tokens().revoke(first.token);
        }
        all.insert(id, Arc::clone(&issued));
        JoinTicket { issued, tickets: Arc::clone(self) }
    }

    /// Those that let tabs in, and those that do not any more but brought workers that are here; oldest first.
    pub(crate) fn all(self: &Arc<Self>) -> Vec<JoinTicket> {
        let all = self.lock();
        let of_use = all.values().filter(|one| self.is_of_use(one));
        of_use.map(|one| JoinTicket { issued: Arc::clone(one), tickets: Arc::clone(self) }).collect()
    }

    /// The ticket that a token is of.
    pub(crate) fn of(&self, token: TokenId) -> Option<Arc<Issued>> {
        self.lock().get(&token.into()).cloned()
    }

    fn is_of_use(&self, one: &Issued) -> bool {
        self.bridge.tokens().is_valid(one.token) || self.bridge.joined_with(one.token) > 0
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TicketId, Arc<Issued>>> {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A text as part of a URL's fragment that is read as a form's fields.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for &byte in text.as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tabpool_bridge::{Bridge, BridgeConfig};

    use super::{DAY, JoinError, JoinOptions, LONGEST_LABEL, MOST_TICKETS, Revocation, Tickets, YEAR};

    fn tickets() -> (Arc<Tickets>, tabpool_bridge::Events) {
        let (bridge, events) = Bridge::new(BridgeConfig::default());
        (Arc::new(Tickets::new(bridge, "http://127.0.0.1:8600".to_owned())), events)
    }

    #[test]
    fn a_ticket_says_what_it_allows_and_hides_its_secret() {
        let (tickets, _events) = tickets();
        let options = JoinOptions::new().label("Ada's phone & co").most_tabs(2).lifetime(Duration::from_secs(600));
        let ticket = tickets.issue(options).expect("sound");
        let (page, rest) = ticket.url().split_once("/#token=").expect("a token");
        let (secret, label) = rest.split_once("&label=").expect("a label");
        assert_eq!((page, label), ("http://127.0.0.1:8600", "Ada%27s%20phone%20%26%20co"));
        assert_eq!((ticket.label(), ticket.most_tabs(), ticket.tabs()), ("Ada's phone & co", Some(2), 0));
        assert!(ticket.remaining() <= Duration::from_secs(600) && ticket.remaining() > Duration::from_secs(590));
        assert!(ticket.is_valid() && !format!("{ticket:?}").contains(secret));
        let plain = tickets.issue(JoinOptions::new()).expect("sound");
        assert!(!plain.url().contains('&') && plain.id() != ticket.id());
    }

    #[test]
    fn what_lets_nobody_in_is_refused_with_the_reason() {
        let (tickets, _events) = tickets();
        let refused = |options| tickets.issue(options).expect_err("of no use");
        assert_eq!(refused(JoinOptions::new().lifetime(Duration::ZERO)), JoinError::Lifetime(Duration::ZERO));
        assert_eq!(refused(JoinOptions::new().lifetime(Duration::MAX)), JoinError::Lifetime(Duration::MAX));
        assert_eq!(refused(JoinOptions::new().most_tabs(0)), JoinError::NoTabs);
        let long = "ü".repeat(LONGEST_LABEL + 1);
        assert_eq!(refused(JoinOptions::new().label(&long)), JoinError::Label { length: LONGEST_LABEL + 1 });
        let edge = JoinOptions::new().label(&long[2..]).lifetime(YEAR).most_tabs(1);
        assert!(tickets.issue(edge).is_ok());
    }

    #[test]
    fn revoked_and_expired_tickets_are_listed_no_more() {
        let (tickets, _events) = tickets();
        let [kept, revoked] = [1, 2].map(|_| tickets.issue(JoinOptions::new()).expect("sound"));
        let short = tickets.issue(JoinOptions::new().lifetime(Duration::from_nanos(1))).expect("sound");
        revoked.revoke(Revocation::EndWorkers);
        assert_eq!([&kept, &revoked, &short].map(|ticket| ticket.is_valid()), [true, false, false]);
        let listed: Vec<_> = tickets.all().iter().map(super::JoinTicket::id).collect();
        assert_eq!(listed, [kept.id()]);
        tickets.bridge.stop_admission();
        assert!(!kept.is_valid());
    }

    #[test]
    fn one_ticket_too_many_costs_the_one_that_expires_first() {
        let (tickets, _events) = tickets();
        let first = tickets.issue(JoinOptions::new().lifetime(DAY / 2)).expect("sound");
        for _ in 0..MOST_TICKETS {
            tickets.issue(JoinOptions::new()).expect("sound");
        }
        assert!(!first.is_valid());
        assert_eq!(tickets.all().len(), MOST_TICKETS);
    }
}
