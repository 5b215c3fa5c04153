//! Servers that are verified by their host name, as on the web, most of them without a client certificate.

use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc};

use rcgen::SanType;
use rustls::{
    ServerConfig, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    version::{TLS12, TLS13},
};
use tempfile::TempDir;
use tonic::{
    Code,
    transport::{Certificate, Identity, ServerTlsConfig},
};
use weft_mesh::{Channel, ChannelOptions, Tls};

use crate::{
    echo::{self, READ, Server},
    tls::{Authority, authority, issue_for},
};

const SERVER_ID: &str = "spiffe://weft.test/echo";

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

/// A server whose certificate is for `name`.
fn server(authority: &Authority, name: SanType) -> Server {
    server_at("127.0.0.1:0".parse().unwrap(), authority, name)
}

fn server_at(address: SocketAddr, authority: &Authority, name: SanType) -> Server {
    let (certificate, key) = issue_for(authority, vec![name]);
    let tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key));
    Server::with_tls_at(address, tls, |_| async { Ok("secured".to_owned()) })
}

/// A server for `echo.test` that is also [`SERVER_ID`], with one version of TLS.
fn server_of_version(
    authority: &Authority,
    version: &'static SupportedProtocolVersion,
    protocols: &[&str],
) -> Server {
    let names = vec![dns("echo.test"), SanType::URI(SERVER_ID.try_into().unwrap())];
    let (certificate, key) = issue_for(authority, names);
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let mut tls = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    tls.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Server::with_rustls(tls, |_| async { Ok("secured".to_owned()) })
}

/// The folder of a client, which trusts one authority.
struct Client(TempDir);

impl Client {
    fn new(trusted: &Authority) -> Client {
        let client = Client(tempfile::tempdir().unwrap());
        client.write("ca.pem", &trusted.pem());
        client
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// Settings that trust the authority, and nothing else.
    fn tls(&self) -> Tls {
        Tls {
            ca_file: Some(self.0.path().join("ca.pem")),
            ..Tls::default()
        }
    }

    fn named(&self, name: &str) -> Tls {
        Tls {
            server_name: Some(name.to_owned()),
            ..self.tls()
        }
    }
}

fn options(target: String, tls: Option<Tls>) -> ChannelOptions {
    let mut options = echo::options(&[]);
    options.target = target;
    options.tuning.tls = tls;
    options
}

fn channel(target: String, tls: Option<Tls>) -> Channel {
    Channel::connect(options(target, tls), &echo::policies()).unwrap()
}

fn to(server: &Server) -> String {
    format!("static:https://{}", server.address)
}

async fn assert_secured(channel: &Channel) {
    assert_eq!(echo::call_empty(channel, READ).await.unwrap(), "secured");
}

async fn assert_rejected(channel: &Channel, server: &Server, reason: &str) {
    let status = echo::call_empty(channel, READ).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains(reason), "{}", status.message());
    assert_eq!(server.calls(), 0);
}

#[tokio::test]
async fn a_server_is_verified_by_the_targets_host_without_a_client_certificate() {
    let authority = authority();
    let server = server(&authority, dns("localhost"));
    let client = Client::new(&authority);
    let port = server.address.port();
    for target in ["static", "dns"] {
        // A `dns:` target connects to addresses, and verifies the name that they were found by.
        let target = format!("{target}:https://localhost:{port}");
        assert_secured(&channel(target, Some(client.tls()))).await;
    }
}

#[tokio::test]
async fn a_server_is_verified_by_its_ip_address_if_the_target_has_one() {
    let authority = authority();
    let client = Client::new(&authority);
    let numbered = server(&authority, SanType::IpAddress("127.0.0.1".parse().unwrap()));
    assert_secured(&channel(to(&numbered), Some(client.tls()))).await;
    let named = server(&authority, dns("echo.test"));
    let reason = "not valid for name \"127.0.0.1\"";
    assert_rejected(&channel(to(&named), Some(client.tls())), &named, reason).await;
}

#[tokio::test]
async fn a_server_with_another_name_or_authority_is_rejected_with_the_reason() {
    let (ours, foreign) = (authority(), authority());
    let client = Client::new(&ours);
    let echo = server(&ours, dns("echo.test"));
    assert_secured(&channel(to(&echo), Some(client.named("echo.test")))).await;
    let wrong = server(&ours, dns("echo.test"));
    let reason = "not valid for name \"other.test\"";
    assert_rejected(
        &channel(to(&wrong), Some(client.named("other.test"))),
        &wrong,
        reason,
    )
    .await;
    let unknown = server(&foreign, dns("echo.test"));
    let named = Some(client.named("echo.test"));
    assert_rejected(&channel(to(&unknown), named), &unknown, "BadSignature").await;
}

#[tokio::test]
async fn without_tls_settings_an_https_server_is_verified_by_the_public_authorities() {
    let server = server(&authority(), dns("localhost"));
    let target = format!("static:https://localhost:{}", server.address.port());
    assert_rejected(&channel(target, None), &server, "UnknownIssuer").await;
}

#[tokio::test]
async fn a_server_without_tls_1_3_is_accepted_by_its_host_name_only() {
    let authority = authority();
    let client = Client::new(&authority);
    let spiffe = || Tls {
        server_ids: vec![SERVER_ID.to_owned()],
        ..client.tls()
    };
    for version in [&TLS12, &TLS13] {
        let server = server_of_version(&authority, version, &["h2"]);
        assert_secured(&channel(to(&server), Some(client.named("echo.test")))).await;
    }
    let modern = server_of_version(&authority, &TLS13, &["h2"]);
    assert_secured(&channel(to(&modern), Some(spiffe()))).await;
    let old = server_of_version(&authority, &TLS12, &["h2"]);
    assert_rejected(&channel(to(&old), Some(spiffe())), &old, "ProtocolVersion").await;
}

#[tokio::test]
async fn a_server_without_http_2_is_rejected() {
    let authority = authority();
    let client = Client::new(&authority);
    for (protocols, reason) in [
        (["http/1.1"].as_slice(), "TLS handshake failed"),
        (&[], "the server does not support HTTP/2"),
    ] {
        let server = server_of_version(&authority, &TLS12, protocols);
        let channel = channel(to(&server), Some(client.named("echo.test")));
        assert_rejected(&channel, &server, reason).await;
    }
}

#[tokio::test]
async fn a_client_certificate_is_sent_if_there_is_one() {
    let authority = authority();
    let (certificate, key) = issue_for(&authority, vec![dns("echo.test")]);
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(certificate, key))
        .client_ca_root(Certificate::from_pem(authority.pem()));
    let server = Server::with_tls(tls, |_| async { Ok("secured".to_owned()) });
    let client = Client::new(&authority);
    let anonymous = channel(to(&server), Some(client.named("echo.test")));
    let status = echo::call_empty(&anonymous, READ).await.unwrap_err();
    assert_eq!((status.code(), server.calls()), (Code::Unavailable, 0));

    let (certificate, key) = issue_for(&authority, vec![dns("caller.test")]);
    let mutual = Tls {
        cert_file: Some(client.write("cert.pem", &certificate)),
        key_file: Some(client.write("key.pem", &key)),
        ..client.named("echo.test")
    };
    assert_secured(&channel(to(&server), Some(mutual))).await;
}

#[tokio::test]
async fn the_authority_is_rotated_without_a_restart_and_an_invalid_file_is_ignored() {
    let (ours, foreign) = (authority(), authority());
    let first = server(&ours, dns("echo.test"));
    let client = Client::new(&foreign);
    let mut options = options(to(&first), Some(client.named("echo.test")));
    let channel = Channel::connect(options.clone(), &echo::policies()).unwrap();
    assert_rejected(&channel, &first, "BadSignature").await;

    options.tuning.wait_for_ready = true;
    let channel = Channel::connect(options, &echo::policies()).unwrap();
    client.write("ca.pem", &ours.pem());
    while echo::call_empty(&channel, READ).await.is_err() {}

    client.write("ca.pem", "half a certific");
    let address = first.address;
    drop(first);
    while echo::call_empty(&channel, READ).await.is_ok() {}
    let second = server_at(address, &ours, dns("echo.test"));
    while echo::call_empty(&channel, READ).await.is_err() {}
    assert!(second.calls() > 0);
}

#[tokio::test]
async fn errors_name_the_setting() {
    let client = Client::new(&authority());
    let file = || Some(client.0.path().join("absent.pem"));
    for (tls, setting) in [
        (
            Tls {
                ca_file: file(),
                ..Tls::default()
            },
            "`tls.ca_file`",
        ),
        (
            Tls {
                cert_file: file(),
                ..client.tls()
            },
            "`tls.key_file`",
        ),
        (
            Tls {
                server_ids: vec![SERVER_ID.to_owned()],
                ..Tls::default()
            },
            "`tls.ca_file`",
        ),
        (client.named("https://echo.test"), "`tls.server_name`"),
    ] {
        let options = options("dns:https://echo.test:1".to_owned(), Some(tls));
        let error = Channel::connect(options, &echo::policies()).unwrap_err();
        assert!(error.to_string().contains(setting), "{setting}: {error}");
    }
}
