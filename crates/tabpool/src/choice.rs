//! From where a person wants things to run to the slots a pool keeps filled.
//!
//! Targets name kinds of workers and APIs; a pool has slots, each with one worker and the APIs it may use. Somebody who
//! asks for `chromium:webgpu` and `native:cpu` wants exactly those two, so a slot gets no API that nobody asked for.

use tabpool_browser::{BrowserKind, Discovery};
use tabpool_pool::{Profile, Target, WorkerSpec};
use tabpool_protocol::ApiKind;
use tabpool_scheduler::WorkerKind;

/// Why targets cannot become slots.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChoiceError {
    /// A browser was asked for that is not installed, or does not start.
    #[error("{target} was asked for, but no {kind} was found{}", reason.as_ref().map(|r| format!(" ({r})")).unwrap_or_default())]
    NoBrowser {
        /// What was asked for.
        target: String,
        /// The browser.
        kind: BrowserKind,
        /// What was found and does not answer.
        reason: Option<String>,
    },
    /// Pages that others open cannot be started from here.
    #[error("{target} was asked for, but remote workers come by themselves: they cannot be started here")]
    Remote {
        /// What was asked for.
        target: String,
    },
    /// The native worker computes with WebGPU and on the processor.
    #[error("{target} was asked for, but the native worker has no WebNN")]
    NativeWebNn {
        /// What was asked for.
        target: String,
    },
}

impl ChoiceError {
    /// What a person can do about it, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoBrowser { kind, .. } => {
                Some(format!("install {kind}, or name its program in {}", kind.override_variable()))
            }
            Self::Remote { .. } => None,
            Self::NativeWebNn { .. } => Some("native:webgpu and native:cpu are there".to_owned()),
        }
    }
}

/// The slots for these targets, browsers in `profile`; for none at all, every kind of browser that was found, or the
/// native worker where there is none.
///
/// Targets of one kind share one slot. `any` stands for everything: each kind of browser found, and the native worker.
///
/// # Errors
///
/// [`ChoiceError`].
pub fn workers_for(targets: &[Target], found: &Discovery, profile: Profile) -> Result<Vec<WorkerSpec>, ChoiceError> {
    let browsers = || BrowserKind::ALL.into_iter().filter(|kind| found.of_kind(*kind).is_some());
    let mut slots = Slots::default();
    if targets.is_empty() {
        browsers().for_each(|kind| slots.add(Some(kind), None));
        if slots.0.is_empty() {
            slots.add(None, None);
        }
    }
    for target in targets {
        let Some(kind) = target.kind else {
            browsers().for_each(|kind| slots.add(Some(kind), target.api));
            if target.api != Some(ApiKind::WebNn) {
                slots.add(None, target.api);
            }
            continue;
        };
        let browser = match kind {
            WorkerKind::Chromium => BrowserKind::Chromium,
            WorkerKind::Chrome => BrowserKind::Chrome,
            WorkerKind::Edge => BrowserKind::Edge,
            WorkerKind::Firefox => BrowserKind::Firefox,
            WorkerKind::WebNnShell => BrowserKind::WebNnShell,
            WorkerKind::Native if target.api == Some(ApiKind::WebNn) => {
                return Err(ChoiceError::NativeWebNn { target: target.to_string() });
            }
            WorkerKind::Native => {
                slots.add(None, target.api);
                continue;
            }
            WorkerKind::Remote => return Err(ChoiceError::Remote { target: target.to_string() }),
        };
        if found.of_kind(browser).is_none() {
            let reason = found.unusable.iter().find(|one| one.kind == browser);
            return Err(ChoiceError::NoBrowser {
                target: target.to_string(),
                kind: browser,
                reason: reason.map(|one| format!("{}: {}", one.path.display(), one.reason)),
            });
        }
        slots.add(Some(browser), target.api);
    }
    Ok(slots.0.into_iter().map(|slot| slot.spec(profile)).collect())
}

#[derive(Default)]
struct Slots(Vec<Slot>);

/// A slot to be: `apis` is `None` once everything was asked for.
struct Slot {
    browser: Option<BrowserKind>,
    apis: Option<Vec<ApiKind>>,
}

impl Slots {
    fn add(&mut self, browser: Option<BrowserKind>, api: Option<ApiKind>) {
        match self.0.iter_mut().find(|slot| slot.browser == browser) {
            None => self.0.push(Slot { browser, apis: api.map(|api| vec![api]) }),
            Some(slot) => match (&mut slot.apis, api) {
                (Some(apis), Some(api)) if !apis.contains(&api) => apis.push(api),
                (_, Some(_)) => {}
                (apis, None) => *apis = None,
            },
        }
    }
}

impl Slot {
    fn spec(self, profile: Profile) -> WorkerSpec {
        let spec = match self.browser {
            Some(kind) => WorkerSpec::browser(kind).profile(profile),
            None => WorkerSpec::native(),
        };
        match self.apis {
            Some(apis) => spec.apis(&apis),
            None => spec,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tabpool_browser::{BrowserKind, Discovery, Installed, Source, Unusable};
    use tabpool_pool::{Profile, Target};

    use super::{ChoiceError, workers_for};

    fn found(kinds: &[BrowserKind]) -> Discovery {
        let installed = kinds.iter().map(|&kind| Installed {
            kind,
            path: PathBuf::from("/nowhere"),
            version: "150.0".to_owned(),
            source: Source::SearchPath,
            aliases: Vec::new(),
        });
        Discovery { installed: installed.collect(), unusable: Vec::new() }
    }

    /// Slots as text: specs show what they are by `Debug` alone.
    fn slots(targets: &[&str], kinds: &[BrowserKind]) -> Vec<String> {
        let targets: Vec<Target> = targets.iter().map(|text| text.parse().expect("a target")).collect();
        let specs = workers_for(&targets, &found(kinds), Profile::Kept).expect("possible");
        let one = |spec: &tabpool_pool::WorkerSpec| {
            let text = format!("{spec:?}");
            let kind = BrowserKind::ALL.into_iter().find(|kind| text.contains(&format!("Some({kind:?})")));
            let apis = ["WebGpu", "WebNn", "Cpu"].into_iter().filter(|api| text.contains(api)).collect::<Vec<_>>();
            format!("{}:{}", kind.map_or("native".to_owned(), |kind| kind.to_string()), apis.join("+"))
        };
        specs.iter().map(one).collect()
    }

    #[test]
    fn without_a_wish_all_browsers_serve_and_the_native_worker_only_where_there_is_none() {
        let both = [BrowserKind::Chromium, BrowserKind::Firefox];
        assert_eq!(slots(&[], &both), ["chromium:", "firefox:"]);
        assert_eq!(slots(&[], &[]), ["native:"]);
    }

    #[test]
    fn targets_of_one_kind_share_a_slot_with_only_the_apis_asked_for() {
        let both = [BrowserKind::Chromium, BrowserKind::Firefox];
        assert_eq!(
            slots(&["chromium:webgpu", "native:cpu", "chromium:webnn", "chromium:webgpu"], &both),
            ["chromium:WebGpu+WebNn", "native:Cpu"]
        );
        assert_eq!(slots(&["firefox:webgpu", "firefox"], &both), ["firefox:"], "the wider wish holds");
        assert_eq!(slots(&["any:cpu"], &both), ["chromium:Cpu", "firefox:Cpu", "native:Cpu"]);
        assert_eq!(slots(&["any:webnn"], &both), ["chromium:WebNn", "firefox:WebNn"]);
    }

    #[test]
    fn what_cannot_be_started_is_refused_with_a_remedy() {
        let target = |text: &str| [text.parse::<Target>().expect("a target")];
        let mut found = found(&[]);
        found.unusable.push(Unusable {
            kind: BrowserKind::Edge,
            path: PathBuf::from("/opt/edge"),
            source: Source::SearchPath,
            reason: "it crashed".to_owned(),
        });
        let error = workers_for(&target("edge:webgpu"), &found, Profile::Fresh).expect_err("broken");
        assert_eq!(error.to_string(), "edge:webgpu was asked for, but no edge was found (/opt/edge: it crashed)");
        assert!(error.hint().is_some_and(|hint| hint.contains("TABPOOL_EDGE")));
        let error = workers_for(&target("remote"), &found, Profile::Fresh).expect_err("not ours to start");
        assert!(matches!(error, ChoiceError::Remote { .. }));
        let error = workers_for(&target("native:webnn"), &found, Profile::Fresh).expect_err("no such thing");
        assert!(matches!(error, ChoiceError::NativeWebNn { .. }));
    }
}
