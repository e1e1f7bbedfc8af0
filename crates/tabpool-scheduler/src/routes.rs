//! What is remembered of the APIs with which kinds of worker could serve a model: which have been tried, what that has cost, and
//! what follows a run where it was computed. The rules are in `scheduler/routing.rs`.

use std::collections::BTreeMap;

use crate::id::{Api, ModelId, ProgramId, WorkerId, WorkerKind};

/// How many requests a trial gives an API that nobody has measured: the first run may meet what is not warm yet.
pub(crate) const TRIAL: u32 = 3;

/// Everything remembered. Bounded by the caller's models and programs.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// Of each model and kind of worker.
    served: BTreeMap<(ModelId, WorkerKind), Served>,
    /// What is run where a program has run, and how many times for each of its runs.
    followed: BTreeMap<ProgramId, (ProgramId, f64)>,
}

/// How a kind of worker has served a model.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Served {
    /// Seconds that its runs took, trials and all.
    pub(crate) computed: f64,
    /// Seconds that trials took, their loads included.
    pub(crate) tried: f64,
    trials: [Trial; 3],
}

/// How far an API that nobody has measured is on the way to being known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Trial {
    #[default]
    Never,
    /// So many requests for this program are still to be sent to this worker.
    Going { worker: WorkerId, program: ProgramId, left: u32 },
    /// Whatever came of it.
    Over,
}

impl Served {
    pub(crate) fn trial(&self, api: Api) -> Trial {
        self.trials[api.index()]
    }

    pub(crate) fn is_trying(&self) -> bool {
        self.trials.iter().any(|trial| matches!(trial, Trial::Going { .. }))
    }

    /// Whether requests for a program are to be sent to a worker on trial of an API.
    pub(crate) fn tries(&self, worker: WorkerId, program: ProgramId, api: Api) -> bool {
        let here = |trial| matches!(trial, Trial::Going { worker: w, program: p, .. } if (w, p) == (worker, program));
        here(self.trial(api))
    }

    /// Takes note that one of them is sent. Whether it was the last.
    pub(crate) fn send_on_trial(&mut self, api: Api) -> bool {
        let trial = &mut self.trials[api.index()];
        match trial {
            Trial::Going { left, .. } if *left > 1 => *left -= 1,
            _ => *trial = Trial::Over,
        }
        *trial == Trial::Over
    }

    /// Begins a trial, whose load is expected to take so many seconds.
    pub(crate) fn begin_trial(&mut self, worker: WorkerId, program: ProgramId, api: Api, load: f64) {
        self.trials[api.index()] = Trial::Going { worker, program, left: TRIAL };
        self.tried += load;
    }

    /// Nothing more is sent on trial of an API. Whether anything was to be.
    pub(crate) fn end_trial(&mut self, api: Api) -> bool {
        matches!(std::mem::replace(&mut self.trials[api.index()], Trial::Over), Trial::Going { .. })
    }
}

impl Routes {
    /// A run of `program` is followed by so many of `by`, where its own was computed.
    pub(crate) fn follow(&mut self, program: ProgramId, by: ProgramId, times: f64) {
        self.followed.insert(program, (by, times));
    }

    pub(crate) fn followed(&self, program: ProgramId) -> Option<(ProgramId, f64)> {
        self.followed.get(&program).copied()
    }

    pub(crate) fn served(&self, model: ModelId, kind: WorkerKind) -> Served {
        self.served.get(&(model, kind)).copied().unwrap_or_default()
    }

    pub(crate) fn served_mut(&mut self, model: ModelId, kind: WorkerKind) -> &mut Served {
        self.served.entry((model, kind)).or_default()
    }
}
