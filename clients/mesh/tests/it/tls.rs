//! Mutual TLS: names, refusals, and rotation without a restart.

use std::fs;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use tempfile::TempDir;
use tonic::{
    Code,
    transport::{Certificate, Identity, ServerTlsConfig},
};
use weft_mesh::{Channel, Tls};

use crate::echo::{self, READ, Server};

const SERVER: &str = "spiffe://weft.test/echo";
const CLIENT: &str = "spiffe://weft.test/caller";

pub(crate) type Authority = CertifiedIssuer<'static, KeyPair>;

pub(crate) fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate and its key, both as PEM.
fn issue(authority: &Authority, name: &str) -> (String, String) {
    issue_names(authority, &[name])
}

fn issue_names(authority: &Authority, names: &[&str]) -> (String, String) {
    let names = names.iter().map(|name| SanType::URI((*name).try_into().unwrap()));
    issue_for(authority, names.collect())
}

pub(crate) fn issue_for(authority: &Authority, names: Vec<SanType>) -> (String, String) {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names;
    let key = KeyPair::generate().unwrap();
    (
        params.signed_by(&key, authority).unwrap().pem(),
        key.serialize_pem(),
    )
}

fn server(authority: &Authority, name: &str) -> Server {
    server_with(authority, &[name])
}

fn server_with(authority: &Authority, names: &[&str]) -> Server {
    let (certificate, key) = issue_names(authority, names);
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(certificate, key))
        .client_ca_root(Certificate::from_pem(authority.pem()));
    Server::with_tls(tls, |_| async { Ok("secured".to_owned()) })
}

/// The files of a client, and the settings that name them.
struct Client {
    folder: TempDir,
    tls: Tls,
}

impl Client {
    fn new(trusted: &Authority, issuer: &Authority) -> Client {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let server_ids = vec![SERVER.to_owned()];
        let tls = Tls::spiffe(file("ca.pem"), file("cert.pem"), file("key.pem"), server_ids);
        fs::write(file("ca.pem"), trusted.pem()).unwrap();
        let client = Client { folder, tls };
        client.rotate(issuer);
        client
    }

    fn write(&self, name: &str, content: String) {
        fs::write(self.folder.path().join(name), content).unwrap();
    }

    fn rotate(&self, issuer: &Authority) {
        let (certificate, key) = issue(issuer, CLIENT);
        self.write("cert.pem", certificate);
        self.write("key.pem", key);
    }

    fn channel(&self, server: &Server) -> Channel {
        let mut options = echo::options(&[]);
        options.target = format!("static:https://{}", server.address);
        options.tuning.tls = Some(self.tls.clone());
        Channel::connect(options, &echo::policies()).unwrap()
    }
}

#[tokio::test]
async fn both_sides_authenticate_each_other_by_their_uri_names() {
    let authority = authority();
    let server = server(&authority, SERVER);
    let channel = Client::new(&authority, &authority).channel(&server);
    assert_eq!(echo::call_empty(&channel, READ).await.unwrap(), "secured");
}

#[tokio::test]
async fn a_server_of_another_name_or_authority_is_rejected_with_the_reason() {
    let (ours, foreign) = (authority(), authority());
    for (server, reason) in [
        (
            server(&ours, "spiffe://weft.test/other"),
            "spiffe://weft.test/other",
        ),
        (server(&foreign, SERVER), "invalid peer certificate"),
        (
            server_with(&ours, &[SERVER, "spiffe://weft.test/other"]),
            "2 URI names",
        ),
        (server_with(&ours, &[]), "0 URI names"),
    ] {
        let channel = Client::new(&ours, &ours).channel(&server);
        let status = echo::call_empty(&channel, READ).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains(reason), "{}", status.message());
        assert_eq!(server.calls(), 0);
    }
}

#[tokio::test]
async fn certificates_are_rotated_without_a_restart_and_an_invalid_file_is_ignored() {
    let (ours, foreign) = (authority(), authority());
    let first = server(&ours, SERVER);
    let client = Client::new(&ours, &foreign);
    let channel = client.channel(&first);
    assert!(
        echo::call_empty(&channel, READ).await.is_err(),
        "the server does not know the client's authority"
    );

    client.rotate(&ours);
    while echo::call_empty(&channel, READ).await.is_err() {
        tokio::task::yield_now().await;
    }

    client.write("cert.pem", "half a certific".to_owned());
    let address = first.address;
    drop(first);
    while echo::call_empty(&channel, READ).await.is_ok() {}
    let (certificate, key) = issue(&ours, SERVER);
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(certificate, key))
        .client_ca_root(Certificate::from_pem(ours.pem()));
    let _second = Server::with_tls_at(address, tls, |_| async { Ok("again".to_owned()) });
    while echo::call_empty(&channel, READ).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn tls_settings_require_an_https_target() {
    let ours = authority();
    let client = Client::new(&ours, &ours);
    let mut options = echo::options(&["127.0.0.1:1".parse().unwrap()]);
    options.tuning.tls = Some(client.tls);
    let error = Channel::connect(options, &echo::policies()).unwrap_err();
    assert!(error.to_string().contains("must be https://"), "{error}");
}
