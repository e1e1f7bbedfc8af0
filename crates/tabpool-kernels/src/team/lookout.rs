//! How long a helper looks out for work before it sleeps.

use super::{LOOKS, Park};

/// A thread that was kept from looking for this long, in microseconds, was off its core meanwhile.
const AWAY: u32 = 300;

/// After this much looking, in microseconds, a helper judges whether somebody else wants its core.
const ACCOUNT: u32 = 20_000;

/// Only after a run that took this long, in microseconds, does a helper look out for longer than it must: what is over
/// sooner gains nothing by it, and whoever carries the answer away may be kept waiting.
const WORTH: u32 = 1_000;

/// For how long a helper whose core is wanted looks out no longer than it must, in microseconds.
const MODEST: u32 = 1_000_000;

/// A helper that has nothing to do.
///
/// Waking a thread takes a system tens of microseconds, and inside virtual machines milliseconds: Linux may put the woken
/// thread beside the one that wakes it, and move it later. So a helper that was told to be patient keeps looking for a while after a run,
/// when another is likely. It does so only while nobody else wants its core: one that was off its core for two fifths of the
/// time in which it looked shares it with somebody who computes. It sleeps, and for a second does not try again. Less than that is
/// what browsers and systems do for themselves, or its own leader, woken beside it.
#[derive(Debug)]
pub(super) struct Lookout {
    /// How long to look, in microseconds; at 0 no longer than the time between two steps.
    patience: u32,
    /// Looks since the clock was looked at.
    looks: u32,
    /// When looking began and when the clock was looked at last.
    since: Option<(u32, u32)>,
    /// Microseconds of looking since the last judgement, and of those, off the core.
    account: (u32, u32),
    /// Since when it is modest, as long as it is.
    modest: Option<u32>,
}

impl Lookout {
    pub(super) fn new(patience: u32) -> Self {
        Self { patience, looks: 0, since: None, account: (0, 0), modest: None }
    }

    /// There was something to do.
    pub(super) fn begin(&mut self) {
        self.looks = 0;
        self.since = None;
    }

    /// Whether to look once more, after a run that took so many microseconds.
    pub(super) fn goes_on(&mut self, latest: u32, park: &impl Park) -> bool {
        self.looks += 1;
        self.looks < LOOKS || self.patience > 0 && latest >= WORTH && self.looks_on(park.micros())
    }

    /// What the clock says of it.
    fn looks_on(&mut self, now: u32) -> bool {
        self.looks = 0;
        self.modest = self.modest.filter(|&at| now.wrapping_sub(at) < MODEST);
        let (begun, last) = self.since.unwrap_or((now, now));
        self.since = Some((begun, now));
        let passed = now.wrapping_sub(last);
        self.account.0 = self.account.0.saturating_add(passed);
        self.account.1 = self.account.1.saturating_add(if passed > AWAY { passed } else { 0 });
        if self.account.0 >= ACCOUNT {
            let (looked, away) = core::mem::take(&mut self.account);
            if away > looked / 5 * 2 {
                self.modest = Some(now);
            }
        }
        self.modest.is_none() && now.wrapping_sub(begun) < self.patience
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::{ACCOUNT, LOOKS, Lookout, MODEST, Park, WORTH};

    const PATIENCE: u32 = 50_000;

    /// Looks at the clock at each of these times.
    fn looks(lookout: &mut Lookout, times: impl IntoIterator<Item = u32>) -> Vec<bool> {
        times.into_iter().map(|now| lookout.looks_on(now)).collect()
    }

    #[test]
    fn patience_ends() {
        let mut lookout = Lookout::new(PATIENCE);
        // Across the clock's end.
        let begin = u32::MAX - 20_000;
        let looked = looks(&mut lookout, (0..=500).map(|i| begin.wrapping_add(i * 100)));
        assert!(looked[..500].iter().all(|on| *on));
        assert!(!looked[500]);
        lookout.begin();
        assert_eq!(looks(&mut lookout, [100_000, 100_100]), [true, true], "work makes it patient again");
    }

    #[test]
    fn who_shares_a_core_sleeps_and_is_modest_for_a_while() {
        let mut lookout = Lookout::new(PATIENCE);
        // Three milliseconds each, in turns, and work between them every now and then.
        let mut now = 0;
        let mut looked = 0;
        while *looks(&mut lookout, [now]).last().expect("one") {
            looked += 1;
            now += if looked % 30 == 0 { 3_100 } else { 100 };
            if looked % 45 == 0 {
                lookout.begin();
            }
            assert!(now < 2 * ACCOUNT, "it is found out");
        }
        lookout.begin();
        assert_eq!(looks(&mut lookout, [now + MODEST - 1]), [false]);
        lookout.begin();
        assert_eq!(looks(&mut lookout, [now + MODEST, now + MODEST + 40]), [true, true]);
    }

    #[test]
    fn a_leader_that_is_woken_beside_it_is_no_reason_to_sleep() {
        let mut lookout = Lookout::new(PATIENCE);
        let aside = 4_000;
        let times = (0..480).map(|i| if i < 100 { i * 100 } else { i * 100 + aside });
        assert!(looks(&mut lookout, times).iter().take(450).all(|on| *on));
    }

    /// A clock that goes on when it is looked at.
    struct Clock(core::cell::Cell<u32>);

    impl Park for Clock {
        fn wait(&self, _: &core::sync::atomic::AtomicU32, _: u32, _: u32) {}
        fn wake(&self, _: &core::sync::atomic::AtomicU32) {}
        fn gives_up(&self) -> bool {
            false
        }
        fn micros(&self) -> u32 {
            self.0.set(self.0.get() + 40);
            self.0.get()
        }
    }

    #[test]
    fn a_machine_that_slept_for_an_hour_is_no_trouble() {
        let mut lookout = Lookout::new(PATIENCE);
        assert_eq!(looks(&mut lookout, [0, 40, u32::MAX]), [true, true, false]);
    }

    #[test]
    fn short_runs_are_not_worth_looking_out_for() {
        let looks = |latest| {
            let (mut lookout, clock) = (Lookout::new(400), Clock(core::cell::Cell::new(0)));
            (0..).take_while(|_| lookout.goes_on(latest, &clock)).count()
        };
        assert_eq!(looks(WORTH - 1), LOOKS as usize - 1);
        assert!(looks(WORTH) > 5 * LOOKS as usize);
    }

    #[test]
    fn a_time_at_work_is_not_a_time_off_the_core() {
        let mut lookout = Lookout::new(PATIENCE);
        for at in 0..100 {
            assert_eq!(looks(&mut lookout, [at * 30_000, at * 30_000 + 40]), [true, true]);
            lookout.begin();
        }
    }
}
