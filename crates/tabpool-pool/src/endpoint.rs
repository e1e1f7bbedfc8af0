//! Where tabs of other machines join: an address to listen on, the names by which it is reached, and TLS.
//!
//! This is a second listener beside the pool's own, which stays on loopback. Browsers give a page WebGPU, threads and a store
//! of its own in a *secure context* only, which is HTTPS or localhost; so an endpoint beyond loopback has a certificate,
//! stands behind a proxy that has one, or says that it does without.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tabpool_bridge::Entrance;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A second way to a pool, for tabs of other machines.
///
/// ```no_run
/// use tabpool_pool::{JoinEndpoint, JoinOptions, ResourcePool};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let endpoint = JoinEndpoint::on("0.0.0.0:8600".parse()?).name("pool.example").tls("pool.pem", "pool-key.pem");
/// let pool = ResourcePool::builder().join_from(endpoint).build().await?;
/// println!("{}", pool.join(JoinOptions::new().most_tabs(3))?.url());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "an endpoint does nothing until a pool is built with it"]
pub struct JoinEndpoint {
    address: SocketAddr,
    names: Vec<String>,
    tls: Option<TlsFiles>,
    proxy: Option<String>,
    plain: bool,
}

#[derive(Clone, Debug)]
struct TlsFiles {
    certificate: PathBuf,
    key: PathBuf,
}

/// Why tabs cannot join from other machines as it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// It listens everywhere and has no name.
    #[error("tabs need a name by which they reach {0}")]
    Nameless(SocketAddr),
    /// It would be reached without TLS from beyond this machine.
    #[error("will not let tabs join over plain HTTP on {0}: tokens and data would be readable on the way")]
    Plain(SocketAddr),
    /// A name that is none.
    #[error("{0:?} is no host's name")]
    Name(String),
    /// An origin that is none.
    #[error("{0:?} is no origin: https, a host's name, and a port where it is not the usual one")]
    Origin(String),
    /// A file of the certificate or its key cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The certificate and the key do not serve.
    #[error("the certificate of {} does not serve: {reason}", certificate.display())]
    Certificate {
        /// The certificate's file.
        certificate: PathBuf,
        /// Why not.
        reason: String,
    },
}

impl EndpointError {
    /// What a person can do about it.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Nameless(_) => Some("give it a name, or the address of one network to listen on"),
            Self::Plain(_) => {
                Some("give it a certificate and its key, put it behind a proxy that has one, or allow plain HTTP")
            }
            Self::File { .. } => Some("name PEM files that this account may read"),
            Self::Certificate { .. } => {
                Some("name the certificate's chain first and the key that belongs to it second")
            }
            _ => None,
        }
    }
}

impl JoinEndpoint {
    /// An endpoint that listens here. A port of 0 takes any that is free.
    pub fn on(address: SocketAddr) -> Self {
        Self { address, names: Vec::new(), tls: None, proxy: None, plain: false }
    }

    /// A host name by which tabs reach it, besides its address. The first one stands in the URLs of tickets; requests under
    /// any other name are refused, so that no foreign name can be pointed here.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.names.push(name.into());
        self
    }

    /// The certificate's chain and its key, as PEM files.
    pub fn tls(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.tls = Some(TlsFiles { certificate: certificate.into(), key: key.into() });
        self
    }

    /// It stands behind a proxy that is reached under this origin, as in `https://pool.example`, passes WebSockets and the
    /// `Host` header on, and appends the address of its client to `X-Forwarded-For`.
    pub fn behind(mut self, origin: impl Into<String>) -> Self {
        self.proxy = Some(origin.into());
        self
    }

    /// Lets tabs join over plain HTTP from beyond this machine. Whoever is on the way reads tokens and data, and browsers
    /// compute with one thread and without WebGPU.
    pub fn allow_plain_http(mut self) -> Self {
        self.plain = true;
        self
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Checks what was said, before anything listens.
    pub(crate) fn check(&self) -> Result<Option<TlsAcceptor>, EndpointError> {
        let ip = self.address.ip();
        let proxy = self.proxy.as_deref().map(origin).transpose()?;
        if ip.is_unspecified() && self.names.is_empty() && proxy.is_none() {
            return Err(EndpointError::Nameless(self.address));
        }
        if let Some(bad) = self.names.iter().find(|name| !is_name(name)) {
            return Err(EndpointError::Name(bad.clone()));
        }
        let encrypted = self.tls.is_some() || proxy.is_some_and(|origin| origin.scheme == "https");
        if !ip.is_loopback() && !encrypted && !self.plain {
            return Err(EndpointError::Plain(self.address));
        }
        self.tls.as_ref().map(acceptor).transpose()
    }

    /// What it answers to, once it listens on `bound`. What was said has been [checked](Self::check).
    pub(crate) fn names_on(&self, bound: SocketAddr) -> Result<Names, EndpointError> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let usual = if self.tls.is_some() { 443 } else { 80 };
        // Browsers leave the usual port out of what they say.
        let port = if bound.port() == usual { String::new() } else { format!(":{}", bound.port()) };
        let mut hosts: Vec<String> =
            self.names.iter().map(|name| format!("{}{port}", name.to_ascii_lowercase())).collect();
        match bound.ip() {
            ip if ip.is_unspecified() => {}
            IpAddr::V4(ip) => hosts.push(format!("{ip}{port}")),
            IpAddr::V6(ip) => hosts.push(format!("[{ip}]{port}")),
        }
        if bound.ip().is_loopback() {
            hosts.push(format!("localhost{port}"));
        }
        let mut origins: Vec<String> = hosts.iter().map(|host| format!("{scheme}://{host}")).collect();
        if let Some(proxy) = self.proxy.as_deref().map(origin).transpose()? {
            hosts.insert(0, proxy.host.to_owned());
            origins.insert(0, format!("{}://{}", proxy.scheme, proxy.host));
        }
        let url = origins.first().cloned().ok_or(EndpointError::Nameless(bound))?;
        Ok(Names { url, hosts, entrance: Entrance { origins, proxied: self.proxy.is_some() } })
    }
}

/// What an endpoint answers to.
#[derive(Debug)]
pub(crate) struct Names {
    /// What the URLs of tickets begin with.
    pub(crate) url: String,
    /// The `Host` headers of requests that are answered.
    pub(crate) hosts: Vec<String>,
    /// The origins of the pages that may join.
    pub(crate) entrance: Entrance,
}

/// An origin's parts.
struct Origin<'a> {
    scheme: &'a str,
    host: &'a str,
}

fn origin(text: &str) -> Result<Origin<'_>, EndpointError> {
    let bad = || EndpointError::Origin(text.to_owned());
    let (scheme, host) = text.split_once("://").ok_or_else(bad)?;
    let (name, port) = host.rsplit_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    let usual = [("https", "443"), ("http", "80")];
    let sound_port = port.is_none_or(|port| port.parse::<u16>().is_ok() && !usual.contains(&(scheme, port)));
    let known = usual.iter().any(|(known, _)| *known == scheme);
    let lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    if known && sound_port && lower && is_name(name) { Ok(Origin { scheme, host }) } else { Err(bad()) }
}

/// Whether browsers would take it for a host's name as it stands.
fn is_name(text: &str) -> bool {
    let part = |part: &str| {
        let inside = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        inside && (1..=63).contains(&part.len()) && !part.starts_with('-') && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(part)
}

/// The server's end of TLS, with the files read now.
fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, EndpointError> {
    let TlsFiles { certificate, key } = files;
    let unread = |path: &Path, error: pem::Error| {
        let reason = match error {
            pem::Error::Io(error) => told(&error),
            pem::Error::NoItemsFound => "it holds no private key as PEM".to_owned(),
            other => other.to_string(),
        };
        EndpointError::File { path: path.to_owned(), reason }
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
    let chain = chain.map_err(|e| unread(certificate, e))?;
    if chain.is_empty() {
        let reason = "it holds no certificate as PEM".to_owned();
        return Err(EndpointError::File { path: certificate.clone(), reason });
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| unread(key, e))?;
    let unfit = |e: tokio_rustls::rustls::Error| EndpointError::Certificate {
        certificate: certificate.clone(),
        reason: e.to_string(),
    };
    // The provider is handed over: two in one process would otherwise panic at the first use.
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unfit)?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(unfit)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// What the system says, without its number.
fn told(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "it may not be read".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::{EndpointError, JoinEndpoint, is_name};

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn refused(endpoint: &JoinEndpoint) -> EndpointError {
        endpoint.check().err().expect("not to be had like this")
    }

    #[test]
    fn what_tabs_could_not_reach_or_nobody_should_listen_to_is_refused_before_anything_listens() {
        let everywhere = JoinEndpoint::on(address("0.0.0.0:8600"));
        assert!(matches!(refused(&everywhere), EndpointError::Nameless(_)));
        assert!(matches!(refused(&everywhere.clone().name("pool.example")), EndpointError::Plain(_)));
        assert!(everywhere.clone().name("pool.example").allow_plain_http().check().is_ok());
        assert!(everywhere.clone().behind("https://pool.example").check().is_ok());
        assert!(matches!(refused(&everywhere.behind("http://pool.example")), EndpointError::Plain(_)));
        assert!(matches!(refused(&JoinEndpoint::on(address("192.0.2.1:8600"))), EndpointError::Plain(_)));
        assert!(JoinEndpoint::on(address("127.0.0.2:0")).check().is_ok());
        let named = |name: &str| JoinEndpoint::on(address("127.0.0.1:0")).name(name);
        assert!(matches!(refused(&named("pool.example:80")), EndpointError::Name(_)));
        let files = JoinEndpoint::on(address("127.0.0.1:0")).tls("/no/such/file", "/no/such/key");
        assert_eq!(refused(&files).to_string(), "cannot read /no/such/file: there is no such file");
    }

    #[test]
    fn origins_are_written_as_browsers_write_them() {
        let behind = |origin: &str| JoinEndpoint::on(address("127.0.0.1:0")).behind(origin).check().is_ok();
        for good in ["https://pool.example", "https://pool.example:8443", "http://localhost:8600", "https://10.0.0.1"] {
            assert!(behind(good), "{good}");
        }
        for bad in [
            "pool.example",
            "https://",
            "https://pool.example/",
            "https://pool.example/path",
            "https://pool.example:443",
            "https://Pool.example",
            "ftp://pool.example",
            "https://pool.example:99999",
            "https://user@pool.example",
            "https://pool example",
        ] {
            assert!(!behind(bad), "{bad}");
        }
        assert!(is_name("a") && is_name("pool-1.local") && !is_name("") && !is_name("-a") && !is_name("a..b"));
    }

    #[test]
    fn an_endpoint_answers_to_its_names_and_its_address() {
        let endpoint = JoinEndpoint::on(address("127.0.0.2:0")).name("Pool.example");
        let names = endpoint.names_on(address("127.0.0.2:8600")).expect("checked");
        assert_eq!(names.url, "http://pool.example:8600");
        assert_eq!(names.hosts, ["pool.example:8600", "127.0.0.2:8600", "localhost:8600"]);
        assert_eq!(names.entrance.origins[1], "http://127.0.0.2:8600");
        assert!(!names.entrance.proxied);

        let usual = JoinEndpoint::on(address("0.0.0.0:443")).name("pool.example").tls("c", "k");
        let names = usual.names_on(address("0.0.0.0:443")).expect("checked");
        assert_eq!((names.url.as_str(), names.hosts), ("https://pool.example", vec!["pool.example".to_owned()]));

        let proxied = JoinEndpoint::on(address("[::1]:80")).behind("https://pool.example");
        let names = proxied.names_on(address("[::1]:80")).expect("checked");
        assert_eq!(names.url, "https://pool.example");
        assert_eq!(names.hosts, ["pool.example", "[::1]", "localhost"]);
        assert!(names.entrance.proxied);
    }
}
