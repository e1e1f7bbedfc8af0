//! Join tokens: who may become a worker, for how long, and how many at once.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::TryRngCore;
use rand::rngs::OsRng;

/// Tokens valid at once at most; issuing one more forgets the one that expires first.
const MOST: usize = 4096;

/// The number of a token, which is no secret and is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId(pub u64);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token {}", self.0)
    }
}

/// What a token stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// A number of the issuer's, handed back when a worker joins: the pool's slot.
    pub tag: Option<u64>,
    /// How many workers that joined with it there may be at once; any number where it is not said.
    pub most: Option<u32>,
}

/// Why a token lets nobody in.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenError {
    /// It was never issued, or was revoked.
    #[error("the join token is not valid")]
    Unknown,
    /// Its time is over.
    #[error("the join token has expired")]
    Expired,
}

/// A token that was issued.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Its number, to revoke it by.
    pub id: TokenId,
    /// What a worker shows: 128 random bits in hexadecimal digits.
    pub secret: String,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("id", &self.id).finish_non_exhaustive()
    }
}

struct Issued {
    id: TokenId,
    grant: Grant,
    expires: Instant,
}

#[derive(Default)]
struct Table {
    by_secret: HashMap<String, Issued>,
    secrets: HashMap<TokenId, String>,
    last: u64,
}

impl Table {
    fn forget(&mut self, id: TokenId) {
        if let Some(secret) = self.secrets.remove(&id) {
            self.by_secret.remove(&secret);
        }
    }
}

/// The tokens of one bridge.
#[derive(Default)]
pub struct Tokens(Mutex<Table>);

impl Tokens {
    /// A new token. A lifetime that no clock can count to lasts a century.
    ///
    /// # Panics
    /// Where the operating system has no random numbers to give: then no token could be trusted.
    #[must_use]
    pub fn issue(&self, grant: Grant, lifetime: Duration) -> Token {
        let secret = random_name();
        let now = Instant::now();
        let century = Duration::from_secs(100 * 365 * 24 * 3600);
        let expires = now.checked_add(lifetime).unwrap_or_else(|| now + century);
        let mut table = self.lock();
        table.last += 1;
        let id = TokenId(table.last);
        if table.by_secret.len() >= MOST
            && let Some(first) = table.by_secret.values().min_by_key(|t| t.expires).map(|t| t.id)
        {
            table.forget(first);
        }
        table.secrets.insert(id, secret.clone());
        table.by_secret.insert(secret.clone(), Issued { id, grant, expires });
        Token { id, secret }
    }

    /// What a token stands for.
    ///
    /// # Errors
    /// [`TokenError`] where it lets nobody in.
    pub fn check(&self, secret: &str) -> Result<(TokenId, Grant), TokenError> {
        let table = self.lock();
        let found = table.by_secret.get(secret).ok_or(TokenError::Unknown)?;
        if found.expires > Instant::now() { Ok((found.id, found.grant)) } else { Err(TokenError::Expired) }
    }

    /// Whether a token lets somebody in, now.
    #[must_use]
    pub fn is_valid(&self, id: TokenId) -> bool {
        let table = self.lock();
        let found = table.secrets.get(&id).and_then(|secret| table.by_secret.get(secret));
        found.is_some_and(|t| t.expires > Instant::now())
    }

    /// Makes a token worthless. Workers that joined with it stay, and come back when their links are cut;
    /// [`Bridge::expel`](crate::Bridge::expel) ends them.
    pub fn revoke(&self, id: TokenId) {
        self.lock().forget(id);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 128 random bits in hexadecimal digits: unguessable, so it may stand for the right to join or resume.
pub(crate) fn random_name() -> String {
    let mut bits = [0u8; 16];
    #[expect(clippy::expect_used, reason = "documented: without randomness no secret can be made")]
    OsRng.try_fill_bytes(&mut bits).expect("the operating system gives random numbers");
    bits.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Grant, MOST, TokenError, Tokens};

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn tokens_end_by_time_and_by_revocation() {
        let tokens = Tokens::default();
        let grant = Grant { tag: Some(7), most: Some(2) };
        let good = tokens.issue(grant, MINUTE);
        assert_eq!(tokens.check(&good.secret), Ok((good.id, grant)));
        assert_eq!(tokens.check("guess"), Err(TokenError::Unknown));
        let old = tokens.issue(grant, Duration::ZERO);
        assert_eq!(tokens.check(&old.secret), Err(TokenError::Expired));
        assert_eq!([good.id, old.id].map(|id| tokens.is_valid(id)), [true, false]);
        tokens.revoke(good.id);
        assert_eq!(tokens.check(&good.secret), Err(TokenError::Unknown));
        assert!(!tokens.is_valid(good.id));
        assert!(tokens.check(&tokens.issue(grant, Duration::MAX).secret).is_ok());
    }

    #[test]
    fn one_token_too_many_costs_the_one_that_expires_first() {
        let tokens = Tokens::default();
        let lasting: Vec<_> = (1..MOST).map(|_| tokens.issue(Grant::default(), 2 * MINUTE)).collect();
        let first = tokens.issue(Grant::default(), MINUTE);
        assert!(tokens.is_valid(first.id));
        let last = tokens.issue(Grant::default(), 2 * MINUTE);
        assert!(!tokens.is_valid(first.id));
        assert!(lasting.iter().chain([&last]).all(|token| tokens.is_valid(token.id)));
    }

    #[test]
    fn a_secret_is_not_shown_by_accident() {
        let token = Tokens::default().issue(Grant::default(), MINUTE);
        assert!(!format!("{token:?}").contains(&token.secret));
    }
}
