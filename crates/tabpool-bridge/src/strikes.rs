//! Failed joins by address: whoever fails too often is not listened to for a while.
//!
//! Tokens cannot be guessed; this keeps those who try from costing anything. Each address has a bucket that a failed join
//! fills by one and time empties. An IPv6 network of 64 bits counts as one address, since whoever has one has all of it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Addresses remembered at most; one more makes the one forgotten that has the least to answer for.
const MOST: usize = 4096;

/// How many failed joins are borne with.
#[derive(Clone, Copy, Debug)]
pub struct StrikeLimit {
    /// As many at once from one address.
    pub strikes: u32,
    /// How long it takes for one of them to be forgotten.
    pub forgotten_after: Duration,
}

impl Default for StrikeLimit {
    fn default() -> Self {
        Self { strikes: 10, forgotten_after: Duration::from_secs(6) }
    }
}

/// When a bucket is empty, if nothing is added: what it holds, in time.
type EmptyAt = Instant;

/// The failed joins of all addresses.
pub(crate) struct Strikes {
    limit: StrikeLimit,
    by_address: Mutex<HashMap<IpAddr, EmptyAt>>,
}

impl Strikes {
    pub(crate) fn new(limit: StrikeLimit) -> Self {
        Self { limit, by_address: Mutex::default() }
    }

    /// How long an address has to wait before it is listened to, where it has to.
    pub(crate) fn wait(&self, address: IpAddr) -> Option<Duration> {
        let empty_at = *self.by_address.lock().unwrap_or_else(PoisonError::into_inner).get(&network(address))?;
        // One strike less than the limit is borne with.
        let borne = self.limit.forgotten_after.saturating_mul(self.limit.strikes.saturating_sub(1));
        let over = empty_at.saturating_duration_since(Instant::now()).saturating_sub(borne);
        (!over.is_zero()).then_some(over)
    }

    /// A join from an address failed.
    pub(crate) fn add(&self, address: IpAddr) {
        let now = Instant::now();
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let address = network(address);
        if by_address.len() >= MOST && !by_address.contains_key(&address) {
            by_address.retain(|_, empty_at| *empty_at > now);
            if by_address.len() >= MOST
                && let Some(least) = by_address.iter().min_by_key(|(_, at)| **at).map(|(address, _)| *address)
            {
                by_address.remove(&least);
            }
        }
        let empty_at = by_address.entry(address).or_insert(now);
        // What was added while the address had to wait already does not make it wait for ever.
        let full = now + self.limit.forgotten_after.saturating_mul(self.limit.strikes);
        *empty_at = ((*empty_at).max(now) + self.limit.forgotten_after).min(full);
    }
}

/// The network that an address stands for.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    use super::{MOST, StrikeLimit, Strikes};

    const SECOND: Duration = Duration::from_secs(1);

    fn strikes() -> Strikes {
        Strikes::new(StrikeLimit { strikes: 3, forgotten_after: SECOND })
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[tokio::test(start_paused = true)]
    async fn who_fails_too_often_waits_and_nobody_else_does() {
        let strikes = strikes();
        let (one, other) = (address("10.0.0.1"), address("10.0.0.2"));
        for _ in 0..2 {
            strikes.add(one);
            assert_eq!(strikes.wait(one), None);
        }
        strikes.add(one);
        assert_eq!((strikes.wait(one), strikes.wait(other)), (Some(SECOND), None));
        for _ in 0..100 {
            strikes.add(one);
        }
        assert_eq!(strikes.wait(one), Some(SECOND), "it never grows beyond that");
        tokio::time::advance(SECOND).await;
        assert_eq!(strikes.wait(one), None);
        strikes.add(one);
        assert_eq!(strikes.wait(one), Some(SECOND), "what is forgotten is one strike at a time");
        tokio::time::advance(10 * SECOND).await;
        strikes.add(one);
        strikes.add(one);
        assert_eq!(strikes.wait(one), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_counts_as_one_address() {
        let strikes = strikes();
        for last in 1..=3 {
            strikes.add(address(&format!("2001:db8:0:1::{last}")));
        }
        assert!(strikes.wait(address("2001:db8:0:1:ffff::9")).is_some());
        assert!(strikes.wait(address("2001:db8:0:2::1")).is_none());
        (0..3).for_each(|_| strikes.add(address("::ffff:10.0.0.1")));
        assert!(strikes.wait(address("10.0.0.1")).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_is_bounded_and_keeps_the_worst() {
        let strikes = strikes();
        let worst = address("10.0.0.1");
        (0..3).for_each(|_| strikes.add(worst));
        for number in 0..2 * MOST as u32 {
            strikes.add(IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 + number)));
        }
        assert!(strikes.by_address.lock().expect("sound").len() <= MOST);
        assert!(strikes.wait(worst).is_some());
    }
}
