//! Over TLS, with certificates of its own.

use super::*;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// A certificate of its own for `localhost`, as PEM, and a server's end of TLS with it.
fn certificate() -> (String, TlsAcceptor) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let der = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![der.clone()], key)
        .expect("the key is the certificate's");
    (pem(&der), TlsAcceptor::from(Arc::new(config)))
}

/// The certificate as PEM, in lines of 64 characters of base64.
fn pem(der: &[u8]) -> String {
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
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[tokio::test]
async fn only_trusted_certificates_are_accepted() {
    let repository = Repository::new(2 * MIB);
    let (pem, tls) = certificate();
    let hub = Server::start_with(
        {
            let repository = repository.clone();
            move |request| repository.answer(request)
        },
        Some(tls),
    )
    .await;
    let endpoint = format!("https://localhost:{}", hub.address.port());

    let target = folder();
    let error = download(client(&endpoint), target.path()).await.expect_err("nobody vouches for it");
    assert!(matches!(error, HubError::Network { attempts: 1, .. }), "not tried again: {error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("certificate")), "{:?}", error.hint());
    assert_eq!(hub.seen().len(), 0);

    download(client(&endpoint).root_certificates(pem.clone()), target.path()).await.expect("trusted");
    assert_whole(target.path(), &repository);

    // And through a proxy, which sees a tunnel and nothing else.
    let address = hub.address;
    let proxy = Server::start(move |request| match request.method.as_str() {
        "CONNECT" => Answer::new(200, "").cut(0, Ending::Tunnel(address)),
        _ => Answer::new(400, "not a tunnel"),
    })
    .await;
    let through = client("https://localhost").root_certificates(pem).proxy(proxy.url());
    let target = folder();
    download(through, target.path()).await.expect("through the tunnel");
    assert_whole(target.path(), &repository);
    assert!(proxy.seen().iter().all(|request| request.target == "localhost:443"));
}

#[tokio::test]
async fn an_encrypted_hub_cannot_redirect_to_an_open_address() {
    let open = Server::start(|_| Answer::new(200, "anything")).await;
    let (pem, tls) = certificate();
    let location = open.url();
    let hub = Server::start_with(move |_| Answer::new(302, "").with("location", location.clone()), Some(tls)).await;
    let endpoint = format!("https://localhost:{}", hub.address.port());
    let target = folder();
    let error = download(client(endpoint).root_certificates(pem), target.path()).await.expect_err("downgraded");
    assert!(matches!(error, HubError::Network { attempts: 1, .. }), "{error}");
    assert_eq!((hub.seen().len(), open.seen().len()), (1, 0));
}
