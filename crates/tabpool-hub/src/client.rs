//! The HTTP client: how a hub is reached, who asks, how long to wait, how often to try.
//!
//! TLS is rustls with the ring provider, handed over explicitly: two providers in one process would otherwise panic at the
//! first connection. Certificates are checked by the platform's own store, where companies put those of their proxies.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Response, StatusCode, Url};
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls_platform_verifier::Verifier;

use crate::error::HubError;
use crate::listing::{self, Listing, MAX_LISTING_BYTES};
use crate::model::HubModel;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
const MAX_REDIRECTS: usize = 10;
/// However long a hub asks to wait, a person should hear of it before that.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// How much of an error's text is read.
const MAX_MESSAGE_BYTES: usize = 4096;

/// How a [`HubClient`] is made. Nothing is read from the environment unless [`HubClientBuilder::environment`] is called.
#[derive(Clone)]
#[must_use]
pub struct HubClientBuilder {
    endpoint: String,
    token: Option<String>,
    system_proxy: bool,
    proxies: Vec<String>,
    root_certificates: Vec<u8>,
    connect_timeout: Duration,
    read_timeout: Duration,
    retries: u32,
    first_pause: Duration,
}

impl Default for HubClientBuilder {
    fn default() -> Self {
        Self {
            endpoint: DEFAULT_ENDPOINT.to_owned(),
            token: None,
            system_proxy: false,
            proxies: Vec::new(),
            root_certificates: Vec::new(),
            connect_timeout: Duration::from_secs(15),
            read_timeout: Duration::from_secs(60),
            retries: 5,
            first_pause: Duration::from_millis(500),
        }
    }
}

impl HubClientBuilder {
    /// Takes `HF_ENDPOINT` and `HF_TOKEN` where they are set, and the system's proxies (`HTTPS_PROXY`, `HTTP_PROXY`,
    /// `ALL_PROXY`, `NO_PROXY`, the settings of macOS and Windows).
    pub fn environment(mut self) -> Self {
        let set =
            |name| std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        if let Some(endpoint) = set("HF_ENDPOINT") {
            self.endpoint = endpoint;
        }
        if let Some(token) = set("HF_TOKEN") {
            self.token = Some(token);
        }
        self.system_proxy = true;
        self
    }

    /// Where the hub is, by default `https://huggingface.co`. May have a path.
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = url.into();
        self
    }

    /// An access token. Sent to the endpoint and nowhere else, wherever the endpoint redirects to.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// A proxy for all requests, as `http://host:port`, in place of the system's.
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.proxies.push(url.into());
        self
    }

    /// Certificates (PEM) to trust besides the platform's: those of a hub or a proxy of one's own.
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.root_certificates = pem.into();
        self
    }

    /// How long connecting may take, and how long nothing may arrive. By default 15 and 60 seconds.
    pub fn timeouts(mut self, connect: Duration, read: Duration) -> Self {
        (self.connect_timeout, self.read_timeout) = (connect, read);
        self
    }

    /// How often a request that got nowhere is made again, and how long to wait the first time; the wait doubles each
    /// time, up to a minute. By default 5 times and half a second.
    pub fn retries(mut self, retries: u32, first_pause: Duration) -> Self {
        (self.retries, self.first_pause) = (retries, first_pause);
        self
    }

    /// Makes the client.
    ///
    /// # Errors
    ///
    /// [`HubError::BadSetting`], also where the platform has no certificates to trust.
    pub fn build(self) -> Result<HubClient, HubError> {
        let bad = |setting, reason: String| HubError::BadSetting { setting, reason };
        let endpoint = Url::parse(&self.endpoint).map_err(|error| bad("the hub's endpoint", error.to_string()))?;
        if !matches!(endpoint.scheme(), "https" | "http") || endpoint.host_str().is_none() {
            return Err(bad("the hub's endpoint", format!("{} is not an http or https address", self.endpoint)));
        }

        let mut http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(&self.root_certificates)?)
            .user_agent(concat!("tabpool-hub/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.connect_timeout)
            .read_timeout(self.read_timeout)
            .redirect(redirects());
        if !self.system_proxy || !self.proxies.is_empty() {
            http = http.no_proxy();
        }
        for proxy in &self.proxies {
            let proxy =
                reqwest::Proxy::all(proxy).map_err(|error| bad("the proxy", error.without_url().to_string()))?;
            http = http.proxy(proxy);
        }
        let http = http.build().map_err(|error| bad("the HTTP client", error.to_string()))?;

        let authorization = match &self.token {
            None => None,
            Some(token) => {
                let value = HeaderValue::from_str(&format!("Bearer {token}"));
                let mut value = value.map_err(|_| bad("the token", "it holds characters no token has".to_owned()))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(HubClient { http, endpoint, authorization, retries: self.retries, first_pause: self.first_pause })
    }
}

/// A client of one hub. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct HubClient {
    http: reqwest::Client,
    endpoint: Url,
    authorization: Option<HeaderValue>,
    retries: u32,
    first_pause: Duration,
}

impl std::fmt::Debug for HubClient {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("HubClient").field("endpoint", &self.plain(&self.endpoint)).finish_non_exhaustive()
    }
}

impl HubClient {
    /// Begins a client of `https://huggingface.co` without token and proxies.
    pub fn builder() -> HubClientBuilder {
        HubClientBuilder::default()
    }

    /// A client with the endpoint, token and proxies that the environment gives: see [`HubClientBuilder::environment`].
    ///
    /// # Errors
    ///
    /// As [`HubClientBuilder::build`].
    pub fn from_env() -> Result<Self, HubError> {
        Self::builder().environment().build()
    }

    /// Asks which commit a model's revision is, and which of its files are needed here.
    ///
    /// # Errors
    ///
    /// See [`HubError`].
    pub async fn files(&self, model: &HubModel) -> Result<Listing, HubError> {
        let mut url = self.url(["api", "models"].into_iter().chain(model.repository().split('/')));
        extend(&mut url, ["revision", model.revision()].into_iter());
        url.set_query(Some("blobs=true"));
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.small_answer(&url).await {
                Ok(answer) => return listing::read(model, &self.plain(&url), &answer),
                Err(error) if error.is_transient() && attempt <= self.retries => self.pause(&error, attempt).await,
                Err(error) => return Err(error.after(attempt)),
            }
        }
    }

    async fn small_answer(&self, url: &Url) -> Result<Vec<u8>, HubError> {
        let mut response = self.get(url, 0).await?;
        let url = self.plain(response.url());
        let mut answer = Vec::new();
        while let Some(bytes) = response.chunk().await.map_err(|source| HubError::network(&url, source))? {
            if answer.len() + bytes.len() > MAX_LISTING_BYTES {
                let reason = format!("it is longer than {MAX_LISTING_BYTES} bytes");
                return Err(HubError::BadAnswer { url, reason });
            }
            answer.extend_from_slice(&bytes);
        }
        Ok(answer)
    }

    /// Where a file's bytes are. A commit instead of a branch, so that all files are of one version.
    pub(crate) fn file_url(&self, model: &HubModel, commit: &str, path: &str) -> Url {
        let mut url = self.url(model.repository().split('/'));
        extend(&mut url, ["resolve", commit].into_iter().chain(path.split('/')));
        url
    }

    /// Makes one request, for all bytes or those from `from` on. Success, and 416 for a range, come back as answers.
    pub(crate) async fn get(&self, url: &Url, from: u64) -> Result<Response, HubError> {
        let mut headers = HeaderMap::new();
        // A compressed answer would have another length and other ranges than the file.
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(authorization) = &self.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        let mut request = self.http.get(url.clone()).headers(headers);
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        let response = request.send().await.map_err(|source| HubError::network(&self.plain(url), source))?;
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::RANGE_NOT_SATISFIABLE if from > 0 => Ok(response),
            _ => Err(self.refusal(response).await),
        }
    }

    pub(crate) fn retries(&self) -> u32 {
        self.retries
    }

    /// Waits before the next attempt: as long as the hub asked for, otherwise twice as long each time.
    pub(crate) async fn pause(&self, error: &HubError, failures: u32) {
        let doubled = self.first_pause.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let asked = match error {
            HubError::Status { retry_after, .. } => *retry_after,
            _ => None,
        };
        let pause = asked.unwrap_or(doubled).min(MAX_PAUSE);
        tracing::warn!(%error, failures, pause_ms = pause.as_millis() as u64, "the hub failed, trying again");
        tokio::time::sleep(pause).await;
    }

    /// A URL as people may see it: without passwords, and without a query, which may hold a signature.
    pub(crate) fn plain(&self, url: &Url) -> String {
        let mut url = url.clone();
        url.set_query(None);
        url.set_fragment(None);
        // Both fail only for URLs that cannot have a user.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.to_string()
    }

    fn url<'a>(&self, segments: impl Iterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.clone();
        url.set_query(None);
        url.set_fragment(None);
        extend(&mut url, segments);
        url
    }

    /// Turns an answer that is no success into an error that says what to do.
    async fn refusal(&self, mut response: Response) -> HubError {
        let status = response.status();
        let url = self.plain(response.url());
        let same_origin = response.url().origin() == self.endpoint.origin();
        let message = message(&mut response).await;
        match status {
            StatusCode::UNAUTHORIZED if same_origin => {
                HubError::Unauthorized { url, message, token_sent: self.authorization.is_some() }
            }
            StatusCode::FORBIDDEN if same_origin => {
                HubError::Forbidden { page: self.page_of(response.url()), url, message }
            }
            StatusCode::NOT_FOUND => HubError::NotFound { url, message },
            status => {
                let seconds = response.headers().get(header::RETRY_AFTER);
                let seconds = seconds.and_then(|value| value.to_str().ok()?.parse().ok());
                let retry_after = seconds.map(Duration::from_secs);
                HubError::Status { url, status: status.as_u16(), message, retry_after }
            }
        }
    }

    /// The page of the model that a URL belongs to, where access can be asked for.
    fn page_of(&self, url: &Url) -> String {
        let path = url.path().strip_prefix(self.endpoint.path().trim_end_matches('/')).unwrap_or(url.path());
        let path = path.trim_start_matches('/');
        let path = path.strip_prefix("api/models/").unwrap_or(path);
        let repository: Vec<_> = path.split('/').take_while(|part| !matches!(*part, "revision" | "resolve")).collect();
        self.plain(&self.url(repository.into_iter()))
    }
}

/// Appends path segments, encoding what would otherwise be read as something else; `/` in a revision becomes `%2F`.
fn extend<'a>(url: &mut Url, segments: impl Iterator<Item = &'a str>) {
    // Only URLs like mailto: have no path; the builder lets none through.
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
}

/// What the hub says about its refusal: a header, the `error` of a JSON answer, or the beginning of the text.
async fn message(response: &mut Response) -> String {
    let said = response.headers().get("x-error-message").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut body = Vec::new();
    while body.len() < MAX_MESSAGE_BYTES
        && let Ok(Some(bytes)) = response.chunk().await
    {
        body.extend_from_slice(&bytes[..bytes.len().min(MAX_MESSAGE_BYTES - body.len())]);
    }
    let in_json = || {
        let json: serde_json::Value = serde_json::from_slice(&body).ok()?;
        json.get("error")?.as_str().map(str::to_owned)
    };
    let in_text = || {
        let text = String::from_utf8_lossy(&body);
        (!text.trim_start().starts_with(['<', '{']) && !text.trim().is_empty()).then(|| text.into_owned())
    };
    let said = said.or_else(in_json).or_else(in_text);
    let said = said.or_else(|| response.status().canonical_reason().map(str::to_owned)).unwrap_or_default();
    said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect::<String>().trim().to_owned()
}

/// Follows redirects, but never from an encrypted connection to an open one. reqwest takes the token off where the host, the
/// port or the scheme changes.
fn redirects() -> reqwest::redirect::Policy {
    reqwest::redirect::Policy::custom(|attempt| {
        let leaves_tls =
            attempt.previous().iter().any(|url| url.scheme() == "https") && attempt.url().scheme() != "https";
        if leaves_tls {
            attempt.error("the hub redirects from https to an unencrypted address")
        } else if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("the hub redirects in circles")
        } else {
            attempt.follow()
        }
    })
}

fn tls(extra_roots: &[u8]) -> Result<ClientConfig, HubError> {
    let bad = |setting, reason: String| HubError::BadSetting { setting, reason };
    let roots: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(extra_roots)
        .collect::<Result<_, _>>()
        .map_err(|error| bad("the root certificates", error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier::new_with_extra_roots(roots, Arc::clone(&provider)).map_err(|error| {
        bad("the platform's certificates", format!("{error}; install ca-certificates or set SSL_CERT_FILE"))
    })?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad("TLS", error.to_string()))?;
    Ok(config.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
}
