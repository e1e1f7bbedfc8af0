//! Getting ready for guests. The host checks what they compute first; where it is on the same machine as theirs, loading the
//! model for that would take from them the cores that they load with. Between an invitation and the guest there is time.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tabpool_models::Bucket;
use tokio::runtime::Handle;

use crate::actor::Command;
use crate::model::{Made, ModelEntry, ModelHandle, ModelRequest, ProgramEntry};
use crate::pool::Shared;
use crate::referee::{LIGHT, MOST_KEPT};

impl Shared {
    /// Somebody was invited: the models opened last are loaded where answers are checked, and those that are opened from
    /// now on.
    pub(crate) fn expect_guests(self: &Arc<Self>) {
        self.invited.store(true, Ordering::Relaxed);
        let mut opened = self.opened();
        opened.sort_by_key(|entry| std::cmp::Reverse(entry.id));
        for entry in opened.into_iter().take(MOST_KEPT) {
            self.get_ready(entry);
        }
    }

    /// A model was opened.
    pub(crate) fn expect_model(self: &Arc<Self>, entry: &Arc<ModelEntry>) {
        if self.invited.load(Ordering::Relaxed) {
            self.get_ready(Arc::clone(entry));
        }
    }

    fn get_ready(self: &Arc<Self>, entry: Arc<ModelEntry>) {
        // Without a runtime nobody computes here.
        let Ok(runtime) = Handle::try_current() else { return };
        let shared = Arc::clone(self);
        runtime.spawn(async move {
            let handle = ModelHandle::new(Arc::clone(&shared), entry, &ModelRequest::new(String::new()));
            match handle.smallest().await {
                Some(program) if program.needs.weight_bytes() <= LIGHT => {
                    // A pool that has ended expects nobody.
                    let _ = shared.commands.send(Command::Expect(program)).await;
                }
                _ => {}
            }
        });
    }
}

impl ModelHandle {
    /// The smallest program that has all weights of the entry point that stands for the model.
    async fn smallest(&self) -> Option<Arc<ProgramEntry>> {
        let point = self.entry_point();
        let bucket = Bucket { batch: 1, sequence: point.sequence_buckets().first().copied()? };
        let outputs = point.signature().outputs.iter().map(|output| output.name.to_owned()).collect();
        let made = Made::Entry { entry: self.entry_name(), bucket, outputs };
        self.program(made)
            .await
            .inspect_err(|e| tracing::debug!(model = self.name(), error = %e, "cannot get ready for guests"))
            .ok()
    }
}
