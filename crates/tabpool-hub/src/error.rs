//! What can go wrong between asking for a model and having its folder.
//!
//! URLs appear without their query: those that a hub redirects to carry signatures that are as good as a password.

use std::path::PathBuf;
use std::time::Duration;

/// Why a model could not be listed or downloaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The text does not name a model.
    #[error("{name:?} is not a model's name like hf:org/name@revision: {reason}")]
    BadName {
        /// The text.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A setting of the client cannot be used.
    #[error("{setting} cannot be used: {reason}")]
    BadSetting {
        /// Which setting.
        setting: &'static str,
        /// What is wrong with it; a token is never repeated.
        reason: String,
    },
    /// The hub wants to know who asks (401).
    #[error("{url} asks for a token: {message}")]
    Unauthorized {
        /// What was asked for.
        url: String,
        /// The hub's own words.
        message: String,
        /// Whether a token was sent.
        token_sent: bool,
    },
    /// The hub does not let this user at the model (403).
    #[error("{url} is not open to this user: {message}")]
    Forbidden {
        /// What was asked for.
        url: String,
        /// The hub's own words.
        message: String,
        /// Where a person can ask for access.
        page: String,
    },
    /// There is no such model, revision or file (404).
    #[error("{url} does not exist: {message}")]
    NotFound {
        /// What was asked for.
        url: String,
        /// The hub's own words.
        message: String,
    },
    /// The hub answered with another status than success.
    #[error("{url} answered {status}: {message}")]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The beginning of the answer.
        message: String,
        /// How long the hub asked to wait, if it did.
        retry_after: Option<Duration>,
    },
    /// The network failed, again and again.
    #[error("cannot reach {url} ({attempts} attempts)")]
    Network {
        /// What was asked for.
        url: String,
        /// How often it was tried.
        attempts: u32,
        /// What failed the last time.
        source: reqwest::Error,
    },
    /// An answer ended before the file did, again and again.
    #[error("the answer of {url} ended after {actual} of {expected} bytes")]
    Short {
        /// What was asked for.
        url: String,
        /// The file's size.
        expected: u64,
        /// How much of it is here.
        actual: u64,
    },
    /// The hub's answer makes no sense.
    #[error("the answer of {url} cannot be used: {reason}")]
    BadAnswer {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The hub lists a file that would be written outside of the model's folder, or nowhere.
    #[error("{model} lists a file {path:?}, which leads out of its folder; nothing was downloaded")]
    UnsafePath {
        /// The model.
        model: String,
        /// The file.
        path: String,
    },
    /// The model has no weights that can be used here.
    #[error("{model} has no safetensors files (it has {found})")]
    NoSafetensors {
        /// The model.
        model: String,
        /// The kinds of weights it does have.
        found: String,
    },
    /// A file that arrived is not the one that the hub listed. What had arrived was removed.
    #[error("{path} arrived damaged: its {what} should be {expected}, but is {actual}")]
    Mismatch {
        /// The file.
        path: String,
        /// What differs, as in `sha256`.
        what: &'static str,
        /// What the hub's list says.
        expected: String,
        /// What arrived.
        actual: String,
    },
    /// Another process is downloading the same file into the same folder.
    #[error("{} is being downloaded by another process", path.display())]
    Busy {
        /// The file it is writing.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was being done, as in `write`.
        action: &'static str,
        /// The file or folder it was done to.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
}

impl HubError {
    /// What a person can do about it, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unauthorized { token_sent: false, .. } => {
                Some("check the model's name; if it is private or gated, set HF_TOKEN to an access token".into())
            }
            Self::Unauthorized { token_sent: true, .. } => {
                Some("check the model's name, and that HF_TOKEN is valid and may read this model".into())
            }
            Self::Forbidden { page, .. } => {
                Some(format!("open {page}, accept the model's terms, and set HF_TOKEN to a token of that account"))
            }
            Self::NotFound { .. } => Some("check the model's name and the revision after the @".into()),
            Self::Network { source, .. } if is_distrust(source) => Some(
                "the certificate is not trusted here: if it is your own hub's or proxy's, add its issuer to the system's \
                 certificates"
                    .into(),
            ),
            Self::Network { source, .. } if source.is_timeout() => {
                Some("the connection is too slow or blocked; what has arrived is kept, run the same again".into())
            }
            Self::Short { .. } => Some("what has arrived is kept, run the same again".into()),
            Self::Network { .. } => {
                Some("check the network, HTTPS_PROXY and HF_ENDPOINT; what has arrived is kept, run the same again".into())
            }
            Self::Status { status: 429, .. } => Some("the hub limits this address; wait a while, or set HF_TOKEN".into()),
            Self::Status { .. } => Some("the hub has trouble; what has arrived is kept, run the same again later".into()),
            Self::NoSafetensors { .. } => {
                Some("choose a revision or a model with safetensors; many have one as refs/pr/… on the hub".into())
            }
            Self::Mismatch { .. } => Some("run the same again; if it recurs, something between here and the hub \
                                           changes files"
                .into()),
            Self::Busy { .. } => Some("wait for the other download to end".into()),
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                Some("free some disk space; what has arrived is kept, run the same again".into())
            }
            _ => None,
        }
    }

    /// A failure of the network. reqwest's own message would repeat the URL with its query.
    pub(crate) fn network(url: &str, source: reqwest::Error) -> Self {
        Self::Network { url: url.to_owned(), attempts: 1, source: source.without_url() }
    }

    /// The same error, saying how often it was tried.
    pub(crate) fn after(mut self, tried: u32) -> Self {
        if let Self::Network { attempts, .. } = &mut self {
            *attempts = tried;
        }
        self
    }

    /// Whether trying again soon can help.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Network { source, .. } => !source.is_redirect() && !source.is_builder() && !is_distrust(source),
            Self::Short { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }
}

/// Whether a connection failed because the other side's certificate is not trusted, which no repetition changes.
fn is_distrust(error: &reqwest::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        // TLS errors travel inside of I/O errors, which name what they hold as their own cause's cause.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let tls = inner.and_then(|inner| inner.downcast_ref()).or_else(|| error.downcast_ref::<rustls::Error>());
        if matches!(tls, Some(rustls::Error::InvalidCertificate(_))) {
            return true;
        }
        cause = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    false
}
