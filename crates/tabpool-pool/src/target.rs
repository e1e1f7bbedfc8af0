//! Where a person wants something to run, as in `chromium:webgpu`.

use std::fmt;
use std::str::FromStr;

use tabpool_protocol::ApiKind;
use tabpool_scheduler::{Api, Placement, WorkerKind};

/// A kind of worker, an API, or both: `chromium:webgpu`, `native:cpu`, `any:cpu`, `firefox`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Target {
    /// The kind of worker; any where `None`.
    pub kind: Option<WorkerKind>,
    /// The API; whatever the worker likes best where `None`.
    pub api: Option<ApiKind>,
}

/// Why a text names no target.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} names no target: {part:?} is not {expected}")]
pub struct ParseTargetError {
    text: String,
    part: String,
    expected: String,
}

impl Target {
    /// What the scheduler is told.
    pub(crate) fn placement(self) -> Placement {
        let mut placement = Placement::ANY;
        if let Some(kind) = self.kind {
            placement = placement.on(&[kind]);
        }
        if let Some(api) = self.api {
            placement = placement.with(&[scheduler_api(api)]);
        }
        placement
    }
}

impl FromStr for Target {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, ParseTargetError> {
        let fail =
            |part: &str, expected: String| ParseTargetError { text: text.to_owned(), part: part.to_owned(), expected };
        let (kind, api) = text.split_once(':').map_or((text, None), |(kind, api)| (kind, Some(api)));
        let kinds = || WorkerKind::ALL.map(|k| k.to_string()).join(", ");
        let kind = match kind {
            "any" => None,
            name => {
                let known = WorkerKind::ALL.into_iter().find(|k| k.to_string() == name);
                Some(known.ok_or_else(|| fail(name, format!("any, {}", kinds())))?)
            }
        };
        let api = match api {
            None => None,
            Some(name) => Some(name.parse().map_err(|_| fail(name, "webgpu, webnn or cpu".to_owned()))?),
        };
        Ok(Self { kind, api })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Some(kind) => write!(f, "{kind}")?,
            None => f.write_str("any")?,
        }
        self.api.map_or(Ok(()), |api| write!(f, ":{api}"))
    }
}

pub(crate) fn scheduler_api(api: ApiKind) -> Api {
    match api {
        ApiKind::WebGpu => Api::WebGpu,
        ApiKind::WebNn => Api::WebNn,
        _ => Api::Cpu,
    }
}

pub(crate) fn protocol_api(api: Api) -> ApiKind {
    match api {
        Api::WebGpu => ApiKind::WebGpu,
        Api::WebNn => ApiKind::WebNn,
        Api::Cpu => ApiKind::Cpu,
    }
}

#[cfg(test)]
mod tests {
    use super::Target;

    #[test]
    fn targets_round_trip_and_errors_name_what_is_known() {
        for text in ["chromium:webgpu", "firefox", "webnn-shell:webnn", "native:cpu", "any:webnn", "any"] {
            assert_eq!(text.parse::<Target>().expect(text).to_string(), text);
        }
        let err = "netscape:cpu".parse::<Target>().expect_err("unknown");
        assert_eq!(
            err.to_string(),
            "\"netscape:cpu\" names no target: \"netscape\" is not any, chromium, chrome, edge, firefox, webnn-shell, native, remote"
        );
        assert!("chromium:cuda".parse::<Target>().is_err());
    }
}
