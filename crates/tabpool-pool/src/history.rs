//! What models took in earlier sessions, for the scheduler to begin with.

use std::collections::HashMap;
use std::time::Duration;

use tabpool_metrics::{Bucket, PastLatency};
use tabpool_scheduler::{Api, Event, WorkerKind};

use crate::model::ProgramEntry;

/// Latencies by the CID of the model's folder.
#[derive(Debug, Default)]
pub(crate) struct History {
    models: HashMap<String, Vec<Past>>,
}

#[derive(Debug)]
struct Past {
    kind: WorkerKind,
    api: Api,
    precision: String,
    bucket: Bucket,
    compute: Duration,
}

impl History {
    /// What is of no use is left out: kinds and APIs this program does not know, and guests, of which none is like another.
    pub(crate) fn new(found: Vec<PastLatency>) -> Self {
        let mut models: HashMap<String, Vec<Past>> = HashMap::new();
        for PastLatency { model_cid, browser, api, precision, bucket, compute } in found {
            let kind = WorkerKind::ALL.into_iter().find(|kind| kind.to_string() == browser);
            let api = Api::ALL.into_iter().find(|known| known.to_string() == api);
            if let (Some(kind), Some(api)) = (kind.filter(|kind| *kind != WorkerKind::Remote), api) {
                models.entry(model_cid).or_default().push(Past { kind, api, precision, bucket, compute });
            }
        }
        Self { models }
    }

    /// What is remembered of a program: of its very size, and of its model's other sizes.
    pub(crate) fn of(&self, program: &ProgramEntry, cost: impl Fn(usize) -> f32) -> Vec<Event> {
        let precision = crate::actor::metrics_precision(program.precision).as_str();
        let of_model = self.models.get(&program.identity.cid).into_iter().flatten();
        let size = (program.bucket.batch, program.bucket.sequence);
        let remembered = of_model.filter(|past| past.precision == precision).map(|past| {
            let (batch, sequence) = (past.bucket.batch as usize, past.bucket.sequence as usize);
            Event::Remembered {
                model: program.model,
                program: ((batch, sequence) == size).then_some(program.id),
                kind: past.kind,
                api: past.api,
                cost: cost(batch * sequence),
                compute: past.compute,
            }
        });
        remembered.collect()
    }
}
