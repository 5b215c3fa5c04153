//! The gRPC port under mutual TLS, called by the mesh's own client.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use proto::order::v1::order_service_client::OrderServiceClient;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use tempfile::TempDir;
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tracing::subscriber::DefaultGuard;

use super::{fixture::get, test_server::TestServer};
use crate::server::{Settings, tls};

const SERVER: &str = "spiffe://weft.test/order";
const CLIENT: &str = "spiffe://weft.test/clinic";

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(name.try_into().unwrap())];
    params
}

/// The files of one process.
struct Files(TempDir);

impl Files {
    fn new(trusted: &[&Authority], issuer: &Authority, params: &CertificateParams) -> Files {
        let files = Files(tempfile::tempdir().unwrap());
        files.trust(trusted);
        files.issue(issuer, params);
        files
    }

    fn trust(&self, authorities: &[&Authority]) {
        let bundle: String = authorities.iter().map(|authority| authority.pem()).collect();
        fs::write(self.0.path().join("ca.pem"), bundle).unwrap();
    }

    fn issue(&self, issuer: &Authority, params: &CertificateParams) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, issuer).unwrap();
        fs::write(self.0.path().join("cert.pem"), certificate.pem()).unwrap();
        fs::write(self.0.path().join("key.pem"), key.serialize_pem()).unwrap();
    }

    fn server(&self) -> Settings {
        let file = |name| self.0.path().join(name);
        let tls = tls::Settings {
            cert_file: file("cert.pem"),
            key_file: file("key.pem"),
            client_ca_file: file("ca.pem"),
            trust_domain: "weft.test".to_owned(),
            client_ids: vec![CLIENT.to_owned()],
            service_ids: BTreeMap::new(),
        };
        Settings {
            tls: Some(tls),
            // A client treats a connection that lasts less than a second as a broken server.
            max_connection_age_s: 2,
            ..Settings::default()
        }
    }

    fn channel(&self, server: &TestServer) -> mesh::Channel {
        let file = |name| self.0.path().join(name);
        let target = format!("static:https://{}", server.address);
        let mut options = mesh::ChannelOptions::new(target, "order", "claims");
        options.tuning.tls = Some(mesh::Tls::spiffe(
            file("ca.pem"),
            file("cert.pem"),
            file("key.pem"),
            vec![SERVER.to_owned()],
        ));
        let policies = mesh::Policies::from_descriptors(proto::SCHEMA).unwrap();
        mesh::Channel::connect(options, &policies).unwrap()
    }
}

/// The log of this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn capture() -> (Log, DefaultGuard) {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    fn count(&self, text: &str) -> usize {
        self.text().matches(text).count()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn ask(server: &TestServer, channel: &mesh::Channel) -> Result<(), Status> {
    let request = server.request(get(), "");
    OrderServiceClient::new(channel.clone())
        .get_order(request)
        .await
        .map(|_| ())
}

#[tokio::test]
async fn both_ends_are_authenticated_and_the_probe_port_stays_plaintext() {
    let ours = authority("ours");
    let files = Files::new(&[&ours], &ours, &named(SERVER));
    let server = TestServer::with(files.server()).await;
    let client = Files::new(&[&ours], &ours, &named(CLIENT));
    let channel = client.channel(&server);
    ask(&server, &channel).await.unwrap();
    assert_eq!(server.health("readiness").await, Ok(ServingStatus::Serving));

    let bearer = server.issuer.service_token("payment");
    let mut request = tonic::Request::new(get());
    request
        .metadata_mut()
        .insert("authorization", format!("Bearer {bearer}").parse().unwrap());
    let refused = OrderServiceClient::new(channel)
        .get_order(request)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
}

#[tokio::test]
async fn every_invalid_certificate_is_rejected_with_its_reason_in_the_log() {
    let (log, _capturing) = Log::capture();
    let (ours, foreign) = (authority("ours"), authority("foreign"));
    let files = Files::new(&[&ours], &ours, &named(SERVER));
    let server = TestServer::with(files.server()).await;
    let mut expired = named(CLIENT);
    expired.not_before = rcgen::date_time_ymd(2020, 1, 1);
    expired.not_after = rcgen::date_time_ymd(2021, 1, 1);
    for (issuer, params, reason) in [
        (&ours, expired, "certificate expired"),
        (&foreign, named(CLIENT), "UnknownIssuer"),
        (
            &ours,
            CertificateParams::new(["order".to_owned()]).unwrap(),
            "has no URI name",
        ),
        (
            &ours,
            named("spiffe://other.test/claims"),
            "not of spiffe://weft.test/",
        ),
        (&ours, named("spiffe://weft.test/payment"), "not one of"),
    ] {
        let client = Files::new(&[&ours], issuer, &params);
        let channel = client.channel(&server);
        let status = ask(&server, &channel).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{reason}: {status}");
        assert!(log.count(reason) > 0, "{reason} is not in the log");
    }
    let good = Files::new(&[&ours], &ours, &named(CLIENT)).channel(&server);
    ask(&server, &good).await.unwrap();
}

#[tokio::test]
async fn certificates_and_the_authority_itself_change_under_steady_calls_and_none_fails() {
    let (log, _capturing) = Log::capture();
    let (old, new) = (authority("old"), authority("new"));
    let files = Files::new(&[&old], &old, &named(SERVER));
    let client = Files::new(&[&old], &old, &named(CLIENT));
    let server = TestServer::with(files.server()).await;
    let channel = client.channel(&server);
    let mut calls = 0_u32;
    let mut until = async |rotations: usize| {
        // Connections are at most two seconds old, so every state of the files is used.
        while log.count("certificates rotated tls.cert_file") < rotations {
            let answer = ask(&server, &channel).await;
            assert!(answer.is_ok(), "{answer:?} after {calls} calls\n{}", log.text());
            calls += 1;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    until(0).await;
    files.trust(&[&old, &new]);
    client.trust(&[&old, &new]);
    until(1).await;
    files.issue(&new, &named(SERVER));
    client.issue(&new, &named(CLIENT));
    until(2).await;
    files.trust(&[&new]);
    client.trust(&[&new]);
    until(3).await;
    fs::write(files.0.path().join("key.pem"), "half a ke").unwrap();
    let old_client = Files::new(&[&new], &old, &named(CLIENT)).channel(&server);
    while log.count("the last good ones stay") == 0 {
        assert!(
            ask(&server, &old_client).await.is_err(),
            "the old authority is out"
        );
        ask(&server, &channel).await.unwrap();
    }
    assert!(calls > 100, "{calls}");
}
