//! Certificates of receivers, and what they ask for of ours.

use super::*;

#[tokio::test]
async fn certificates_are_verified_before_a_byte_is_sent() {
    let authority = Authority::default();
    for (name, expired) in [("hooks.example", true), ("other.example", false)] {
        let receiver = Receiver::with_tls(
            Behaviour::Status(200),
            Some(authority.server(name, expired, &[])),
        )
        .await;
        let url = format!("https://hooks.example:{}/", receiver.address.port());
        assert_eq!(
            reason(&trusting(&authority).send(&to(&url)).await),
            UnreachableReason::Tls,
            "{name}, expired: {expired}"
        );
        assert_eq!(receiver.requests().len(), 0);
    }
    let receiver = Receiver::with_tls(
        Behaviour::Status(200),
        Some(authority.server("hooks.example", false, &[])),
    )
    .await;
    let url = format!("https://hooks.example:{}/", receiver.address.port());
    assert_eq!(
        reason(&local().send(&to(&url)).await),
        UnreachableReason::Tls,
        "an unknown authority"
    );
    let exchange = trusting(&authority).send(&to(&url)).await;
    assert_eq!(status(&exchange), Some(200));
    assert!(exchange.timings.tls_micros.is_some());
}

#[tokio::test]
async fn mistakes_of_certificates_are_told_apart() {
    let other = Authority::default();
    for (config, sentence) in [
        (self_signed("hooks.example"), "self-signed"),
        (other.server("hooks.example", false, &[]), "full chain"),
    ] {
        let receiver = Receiver::with_tls(Behaviour::Status(200), Some(config)).await;
        let url = format!("https://hooks.example:{}/", receiver.address.port());
        let exchange = local().send(&to(&url)).await;
        assert_eq!(reason(&exchange), UnreachableReason::Tls);
        let told = format!("{:?}", exchange.outcome);
        assert!(told.contains(sentence), "{told}");
    }
}

#[tokio::test]
async fn a_receiver_that_demands_a_client_certificate_is_told_so() {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::server::WebPkiClientVerifier;
    let authority = Authority::default();
    let (certificate, key) = authority.certified("hooks.example");
    let read = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(read(&authority.pem)).unwrap();
    let roots = Arc::new(roots);
    let transport = trusting(&authority);
    // The one refuses in its handshake, and the other when that has ended on our side.
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(
                vec![read(&certificate)],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap();
        let tls = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind((LOCAL, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let refusing = async {
            let (stream, _) = listener.accept().await.unwrap();
            let accepted = tls.accept(stream).into_fallible().await;
            let Err((_, mut stream)) = accepted else {
                panic!("nobody showed a certificate");
            };
            // To its end: what it says would be lost with a reset.
            drop(tokio::io::copy(&mut stream, &mut tokio::io::sink()).await);
        };
        let request = to(&format!("https://hooks.example:{port}/"));
        let (exchange, ()) = tokio::join!(transport.send(&request), refusing);
        assert_eq!(reason(&exchange), UnreachableReason::Tls, "{version:?}");
        let told = format!("{:?}", exchange.outcome);
        assert!(told.contains("demands a client certificate"), "{told}");
    }
}
