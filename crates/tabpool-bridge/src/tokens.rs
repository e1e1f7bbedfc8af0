//! Join tokens: who may become a worker, for how long, how often.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::TryRngCore;
use rand::rngs::OsRng;

/// Tokens valid at once at most; issuing one more forgets the one that expires first.
const MOST: usize = 4096;

/// What a token stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// A number of the issuer's, handed back when a worker joins: the pool's slot.
    pub tag: Option<u64>,
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

struct Token {
    grant: Grant,
    expires: Instant,
}

/// The tokens of one bridge.
#[derive(Default)]
pub struct Tokens {
    issued: Mutex<HashMap<String, Token>>,
}

impl Tokens {
    /// A new token: 128 random bits in hexadecimal digits.
    ///
    /// # Panics
    /// Where the operating system has no random numbers to give: then no token could be trusted.
    #[must_use]
    pub fn issue(&self, grant: Grant, lifetime: Duration) -> String {
        let token = random_name();
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        issued.retain(|_, t| t.expires > now);
        if issued.len() >= MOST
            && let Some(first) = issued.iter().min_by_key(|(_, t)| t.expires).map(|(name, _)| name.clone())
        {
            issued.remove(&first);
        }
        issued.insert(token.clone(), Token { grant, expires: now + lifetime });
        token
    }

    /// What a token stands for.
    ///
    /// # Errors
    /// [`TokenError`] where it lets nobody in.
    pub fn check(&self, token: &str) -> Result<Grant, TokenError> {
        let issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let found = issued.get(token).ok_or(TokenError::Unknown)?;
        if found.expires > Instant::now() { Ok(found.grant) } else { Err(TokenError::Expired) }
    }

    /// Makes a token worthless. Workers that joined with it stay.
    pub fn revoke(&self, token: &str) {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner).remove(token);
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

    use super::{Grant, TokenError, Tokens};

    #[test]
    fn tokens_end_by_time_and_by_revocation() {
        let tokens = Tokens::default();
        let grant = Grant { tag: Some(7) };
        let good = tokens.issue(grant, Duration::from_secs(60));
        assert_eq!(tokens.check(&good), Ok(grant));
        assert_eq!(tokens.check("guess"), Err(TokenError::Unknown));
        let old = tokens.issue(grant, Duration::ZERO);
        assert_eq!(tokens.check(&old), Err(TokenError::Expired));
        tokens.revoke(&good);
        assert_eq!(tokens.check(&good), Err(TokenError::Unknown));
    }
}
