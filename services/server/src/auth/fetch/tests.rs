use std::sync::Mutex;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::*;

/// Answers every connection with the same bytes, over TLS if there is a certificate, and returns the requests
/// received.
async fn serve(answer: &'static str, tls: Option<TlsAcceptor>) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let received = Arc::new(Mutex::new(Vec::new()));
    let requests = received.clone();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            match &tls {
                None => respond(tcp, answer, &requests).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(tcp).await {
                        respond(stream, answer, &requests).await;
                    }
                }
            }
        }
    });
    (port, received)
}

async fn respond(mut io: impl AsyncRead + AsyncWrite + Unpin, answer: &str, requests: &Mutex<Vec<String>>) {
    let mut received = vec![0; 4096];
    let length = io.read(&mut received).await.unwrap_or(0);
    requests
        .lock()
        .unwrap()
        .push(String::from_utf8_lossy(&received[..length]).into_owned());
    let _ = io.write_all(answer.as_bytes()).await;
    let _ = io.shutdown().await;
}

fn settings(url: String) -> Settings {
    Settings {
        jwks_url: SecretUrl::new(url),
        jwks_allow_http: true,
        ..Settings::default()
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

#[tokio::test]
async fn the_user_of_a_url_is_sent_as_basic_authentication_and_always_masked() {
    let (port, received) = serve(OK, None).await;
    let location = Location::new(&settings(format!("http://u:s%2Fcret@127.0.0.1:{port}/keys?a=b"))).unwrap();
    assert_eq!(location.get().await.unwrap(), "{}");
    let received = received.lock().unwrap()[0].to_ascii_lowercase();
    let basic = STANDARD.encode("u:s/cret").to_ascii_lowercase();
    assert!(received.starts_with("get /keys?a=b http/1.1\r\n"), "{received}");
    assert!(
        received.contains(&format!("authorization: basic {basic}")),
        "{received}"
    );
    assert!(
        received.contains(&format!("host: 127.0.0.1:{port}\r\n")),
        "{received}"
    );
    assert_eq!(
        location.masked_url(),
        format!("http://u:***@127.0.0.1:{port}/keys?a=***")
    );
}

#[tokio::test]
async fn redirects_errors_and_large_documents_are_refused() {
    let moved = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    let (port, _) = serve(moved, None).await;
    let answer = Location::new(&settings(format!("http://127.0.0.1:{port}/")))
        .unwrap()
        .get()
        .await;
    assert!(matches!(answer, Err(Error::Redirect(_))), "{answer:?}");
    let (port, _) = serve("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", None).await;
    let answer = Location::new(&settings(format!("http://127.0.0.1:{port}/")))
        .unwrap()
        .get()
        .await;
    assert!(matches!(answer, Err(Error::Status(_))), "{answer:?}");
    let large = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {0}\r\n\r\n{1}",
        MAX_BYTES + 1,
        "x".repeat(MAX_BYTES + 1)
    );
    let (port, _) = serve(large.leak(), None).await;
    let answer = Location::new(&settings(format!("http://127.0.0.1:{port}/")))
        .unwrap()
        .get()
        .await;
    assert!(matches!(answer, Err(Error::Body)), "{answer:?}");
}

#[tokio::test]
async fn a_private_authority_is_trusted_when_its_file_is_configured() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let (port, _) = serve(OK, Some(TlsAcceptor::from(Arc::new(config)))).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority.pem()).unwrap();
    let mut settings = settings(format!("https://localhost:{port}/"));
    let public = Location::new(&settings).unwrap().get().await;
    assert!(matches!(public, Err(Error::Connect(_))), "{public:?}");
    settings.jwks_ca_file = Some(file.path().to_owned());
    assert_eq!(Location::new(&settings).unwrap().get().await.unwrap(), "{}");
}

#[test]
fn plaintext_must_be_allowed_by_the_setting() {
    let mut plain = settings("http://idp.test/keys".to_owned());
    assert!(Location::new(&plain).is_ok());
    plain.jwks_allow_http = false;
    assert!(matches!(Location::new(&plain), Err(Error::Url)));
    for odd in ["ftp://idp.test/", "https://", "idp.test", "https:///keys"] {
        assert!(Location::new(&settings(odd.to_owned())).is_err(), "{odd}");
    }
}
