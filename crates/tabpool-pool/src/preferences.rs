//! Which kinds of worker are tried first for what a model works on, until something is measured.

use tabpool_scheduler::{KindSet, WorkerKind};

use crate::ModelKind;

/// Kinds of worker by what models work on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Preferences {
    said: Vec<(ModelKind, WorkerKind)>,
}

impl Preferences {
    /// Prefers a kind of worker, too. What is said once stands in place of what would be taken otherwise.
    pub(crate) fn prefer(&mut self, kind: ModelKind, worker: WorkerKind) {
        self.said.push((kind, worker));
    }

    /// Firefox for sound, Chrome and Chromium for pictures, Edge for text, where nothing else was said.
    pub(crate) fn of(&self, kind: ModelKind) -> KindSet {
        let said: Vec<_> = self.said.iter().filter(|(of, _)| *of == kind).map(|(_, worker)| *worker).collect();
        let otherwise: &[WorkerKind] = match kind {
            ModelKind::Text => &[WorkerKind::Edge],
            ModelKind::Vision => &[WorkerKind::Chrome, WorkerKind::Chromium],
            ModelKind::Audio => &[WorkerKind::Firefox],
        };
        KindSet::of(if said.is_empty() { otherwise } else { &said })
    }
}

#[cfg(test)]
mod tests {
    use super::{KindSet, ModelKind, Preferences, WorkerKind};

    #[test]
    fn what_was_said_stands_in_place_of_what_is_taken_otherwise() {
        let mut preferences = Preferences::default();
        assert_eq!(preferences.of(ModelKind::Audio), KindSet::of(&[WorkerKind::Firefox]));
        preferences.prefer(ModelKind::Audio, WorkerKind::Chromium);
        preferences.prefer(ModelKind::Audio, WorkerKind::Edge);
        assert_eq!(preferences.of(ModelKind::Audio), KindSet::of(&[WorkerKind::Chromium, WorkerKind::Edge]));
        assert_eq!(preferences.of(ModelKind::Text), KindSet::of(&[WorkerKind::Edge]));
    }
}
