//! First runs after a load, beside the tenth: what is compiled, made or brought into memory at a first run belongs to the load.
//!
//! Once is not enough, since a single run may fall on whatever else the machine does: a browser is started several times, each time
//! with an empty profile and a pool of its own, and medians are compared.

use serde::Serialize;
use tabpool::ApiKind;
use tabpool_browser::Installed;

use super::case::Case;
use super::contender::{Entrant, Place, SETTLING, Surroundings};
use super::goals::FIRST_AT_MOST;
use super::ours;
use crate::Fault;
use crate::rig::host::{Host, Worker};
use crate::rig::percentile;

/// Runs of an opening.
const RUNS: usize = 10;

/// What is opened, and how often.
pub(super) struct First<'a> {
    pub(super) here: &'a Surroundings,
    pub(super) case: &'a Case,
    pub(super) openings: usize,
}

/// The runs of each opening, in milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct FirstRuns {
    openings_ms: Vec<Vec<f64>>,
    /// What went wrong, where something did.
    pub(super) failed: Option<String>,
}

impl FirstRuns {
    /// The median first run, in milliseconds; not a number where there is none.
    pub(super) fn first(&self) -> f64 {
        self.median(0)
    }

    /// The median tenth run, in milliseconds.
    pub(super) fn later(&self) -> f64 {
        self.median(RUNS - 1)
    }

    /// The first run over the tenth, where there are any.
    pub(super) fn ratio(&self) -> Option<f64> {
        Some(self.first() / self.later()).filter(|ratio| ratio.is_finite())
    }

    /// Whether every opening answered and first runs take no longer than so many times the tenth.
    pub(super) fn keep_to(&self, at_most: f64) -> bool {
        self.failed.is_none() && self.ratio().is_some_and(|ratio| ratio <= at_most)
    }

    fn median(&self, at: usize) -> f64 {
        let these: Vec<f64> = self.openings_ms.iter().filter_map(|runs| runs.get(at)).copied().collect();
        percentile(&these, 50)
    }

    fn take(&mut self, opened: Result<Vec<f64>, Fault>) {
        match opened {
            Ok(runs) => self.openings_ms.push(runs),
            Err(e) => self.failed = Some(e.to_string()),
        }
    }
}

impl First<'_> {
    /// Ours in a browser.
    pub(super) async fn tabs(&self, on: &Installed, api: ApiKind, threads: Option<usize>) -> FirstRuns {
        let mut all = FirstRuns::default();
        for _ in 0..self.openings {
            all.take(self.tab(on, api, threads).await);
        }
        all
    }

    /// Our native worker with so many threads.
    pub(super) async fn natives(&self, threads: usize) -> FirstRuns {
        let mut all = FirstRuns::default();
        for _ in 0..self.openings {
            all.take(self.native(threads).await);
        }
        all
    }

    /// The peer's, to compare with, where ours are slower than they ought to be.
    pub(super) async fn peers_where_slow(&self, ours: &FirstRuns, peer: Entrant) -> Option<FirstRuns> {
        if ours.keep_to(FIRST_AT_MOST) {
            return None;
        }
        let mut all = FirstRuns::default();
        for _ in 0..self.openings {
            let mut place = Place::new(self.here, peer.clone());
            all.take(self.place(&mut place).await);
            place.empty().await;
        }
        Some(all)
    }

    async fn tab(&self, on: &Installed, api: ApiKind, threads: Option<usize>) -> Result<Vec<f64>, Fault> {
        let data = tempfile::tempdir()?;
        let host = Host::start(data.path(), &[]).await?;
        let worker = host.tab(&self.here.starter, on, (api, threads)).await?;
        tokio::time::sleep(SETTLING).await;
        self.worker(host, worker).await
    }

    async fn native(&self, threads: usize) -> Result<Vec<f64>, Fault> {
        let data = tempfile::tempdir()?;
        let host = Host::start(data.path(), &[threads]).await?;
        let worker = host.native(0)?;
        self.worker(host, worker).await
    }

    async fn worker(&self, host: Host, mut worker: Worker) -> Result<Vec<f64>, Fault> {
        let mut runs = Vec::with_capacity(RUNS);
        for _ in 0..RUNS {
            runs.push(ours::run(&host, self.case, &mut worker, false).await?.ms);
        }
        worker.close().await;
        host.accelerator.close().await?;
        Ok(runs)
    }

    async fn place(&self, place: &mut Place<'_>) -> Result<Vec<f64>, Fault> {
        let mut runs = Vec::with_capacity(RUNS);
        for _ in 0..RUNS {
            runs.push(place.run(self.case, false).await?.ms);
        }
        Ok(runs)
    }
}
