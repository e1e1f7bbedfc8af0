//! An endpoint for tabs of other machines: who is answered, what is served, and TLS. Everything is on loopback here; its second
//! address stands for another machine's.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use tabpool_pool::{EndpointError, JoinEndpoint, PoolError, ResourcePool};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

type Outcome = Result<(), Box<dyn Error>>;

const LINK: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                    Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";

/// A pool with an endpoint, and what the URLs of its tickets begin with.
async fn pool(data: &Path, endpoint: JoinEndpoint) -> Result<(ResourcePool, String), Box<dyn Error>> {
    let pool = ResourcePool::builder().data_dir(data).metrics_in_memory().join_from(endpoint).build().await?;
    let url = pool.join_url();
    let (origin, _) = url.split_once("/#token=").ok_or("a token")?;
    let origin = origin.to_owned();
    Ok((pool, origin))
}

/// The status of an answer, and its head.
async fn asked(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
    host: &str,
    more: &str,
) -> Result<(u16, String), Box<dyn Error>> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n").as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head)?;
    let status = head.split(' ').nth(1).ok_or("a status")?.parse()?;
    Ok((status, head))
}

#[tokio::test]
async fn an_endpoint_answers_under_its_names_to_its_own_pages() -> Outcome {
    let data = tempfile::tempdir()?;
    let endpoint = JoinEndpoint::on("127.0.0.2:0".parse()?).name("pool.example");
    let (pool, origin) = pool(data.path(), endpoint).await?;
    let host = origin.strip_prefix("http://").ok_or("plain")?;
    let port = host.strip_prefix("pool.example:").ok_or("the name comes first")?;
    let address = format!("127.0.0.2:{port}");
    let link = async |host: &str, more: &str| {
        let (status, _) = asked(TcpStream::connect(&address).await?, "/link", host, &format!("{LINK}{more}")).await?;
        Ok::<_, Box<dyn Error>>(status)
    };
    for known in [host, &address, &format!("localhost:{port}")] {
        assert_eq!(link(known, "").await?, 101, "{known}");
    }
    for foreign in ["evil.example", "pool.example", &format!("127.0.0.1:{port}"), ""] {
        assert_eq!(link(foreign, "").await?, 403, "{foreign}");
    }
    assert_eq!(link(host, &format!("Origin: {origin}\r\n")).await?, 101);
    assert_eq!(link(host, &format!("Origin: http://{address}\r\n")).await?, 101, "another name of its own");
    for foreign in ["http://evil.example", &format!("https://{host}"), "null"] {
        assert_eq!(link(host, &format!("Origin: {foreign}\r\n")).await?, 403, "{foreign}");
    }
    // Nobody has joined, so nobody is given blocks; the CID need not even be there.
    let cid = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy";
    for more in ["", "Authorization: Bearer guess\r\n"] {
        let (status, head) = asked(TcpStream::connect(&address).await?, &format!("/ipfs/{cid}"), host, more).await?;
        assert_eq!(status, 403, "{head}");
        assert!(head.contains("frame-ancestors 'none'"), "{head}");
    }
    drop(pool);
    Ok(())
}

#[tokio::test]
async fn an_endpoint_behind_a_proxy_answers_to_the_proxys_origin() -> Outcome {
    let data = tempfile::tempdir()?;
    // A port of the system's own choice: bound and let go.
    let address = tokio::net::TcpListener::bind("127.0.0.2:0").await?.local_addr()?;
    let (pool, origin) = pool(data.path(), JoinEndpoint::on(address).behind("https://pool.example")).await?;
    assert_eq!(origin, "https://pool.example");
    let link = format!("{LINK}Origin: https://pool.example\r\nX-Forwarded-For: 192.0.2.7\r\n");
    let (status, head) = asked(TcpStream::connect(address).await?, "/link", "pool.example", &link).await?;
    assert_eq!(status, 101, "{head}");
    drop(pool);
    Ok(())
}

/// A certificate for these names, and its key, as files.
fn certificate(folder: &Path) -> Result<CertificateDer<'static>, Box<dyn Error>> {
    let made = rcgen::generate_simple_self_signed(["pool.example".to_owned()])?;
    fs::write(folder.join("certificate.pem"), pem("CERTIFICATE", made.cert.der()))?;
    fs::write(folder.join("key.pem"), pem("PRIVATE KEY", &made.signing_key.serialize_der()))?;
    Ok(made.cert.der().clone())
}

/// Bytes as PEM, in lines of 64 characters of base64.
fn pem(what: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in der.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let letter = ALPHABET[(bits >> (18 - 6 * place)) as usize & 63] as char;
            text.push(if place <= chunk.len() { letter } else { '=' });
        }
    }
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line)).collect();
    format!("-----BEGIN {what}-----\n{}\n-----END {what}-----\n", lines.join("\n"))
}

#[tokio::test]
async fn with_a_certificate_only_tls_is_spoken() -> Outcome {
    let (data, files) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let trusted = certificate(files.path())?;
    let endpoint = JoinEndpoint::on("127.0.0.2:0".parse()?)
        .name("pool.example")
        .tls(files.path().join("certificate.pem"), files.path().join("key.pem"));
    let (pool, origin) = pool(data.path(), endpoint).await?;
    let host = origin.strip_prefix("https://").ok_or("TLS")?;
    let port = host.strip_prefix("pool.example:").ok_or("the name")?;
    let address = format!("127.0.0.2:{port}");

    let mut roots = RootCertStore::empty();
    roots.add(trusted)?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    // One that says nothing holds nobody up.
    let _silent = TcpStream::connect(&address).await?;
    for _ in 0..2 {
        let stream =
            connector.connect(ServerName::try_from("pool.example")?, TcpStream::connect(&address).await?).await?;
        let (status, head) = asked(stream, "/link", host, &format!("{LINK}Origin: {origin}\r\n")).await?;
        assert_eq!(status, 101, "{head}");
    }
    let other = connector.connect(ServerName::try_from("other.example")?, TcpStream::connect(&address).await?).await;
    assert!(other.is_err(), "the certificate is of no other name");
    let plain = asked(TcpStream::connect(&address).await?, "/", host, "").await;
    assert!(plain.is_err(), "{plain:?}");
    drop(pool);
    Ok(())
}

#[tokio::test]
async fn files_that_are_no_certificate_or_not_its_key_are_named() -> Outcome {
    let (data, files, others) = (tempfile::tempdir()?, tempfile::tempdir()?, tempfile::tempdir()?);
    certificate(files.path())?;
    certificate(others.path())?;
    fs::write(files.path().join("empty.pem"), "nothing\n")?;
    let refused = async |certificate: &Path, key: &Path| {
        let endpoint = JoinEndpoint::on("127.0.0.1:0".parse()?).tls(certificate, key);
        let built = ResourcePool::builder().data_dir(data.path()).metrics_in_memory().join_from(endpoint).build().await;
        match built {
            Err(error @ PoolError::Endpoint(EndpointError::File { .. } | EndpointError::Certificate { .. })) => {
                Ok::<_, Box<dyn Error>>((error.to_string(), error.hint().ok_or("a hint")?))
            }
            other => Err(format!("{other:?}").into()),
        }
    };
    let [good, key, empty] = ["certificate.pem", "key.pem", "empty.pem"].map(|name| files.path().join(name));
    let (error, _) = refused(&empty, &key).await?;
    assert!(error.ends_with("empty.pem: it holds no certificate as PEM"), "{error}");
    let (error, _) = refused(&good, &empty).await?;
    assert!(error.ends_with("empty.pem: it holds no private key as PEM"), "{error}");
    let (error, hint) = refused(&good, &others.path().join("key.pem")).await?;
    assert!(error.contains("certificate.pem does not serve") && hint.contains("belongs to it"), "{error} {hint}");
    Ok(())
}
