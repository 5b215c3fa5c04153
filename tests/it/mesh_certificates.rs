//! Certificates change under load, and the wrong ones are refused, between processes.

use std::{fs, path::PathBuf, time::Duration};

use mesh::{ChannelOptions, Tls};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType, date_time_ymd,
};
use tests::{Hop, Hops, eventually};

use crate::mesh_fixture::{Caller, Load, hops, turn};

const SERVER: &str = "spiffe://weft.test/order";
const CLIENT: &str = "spiffe://weft.test/tests";

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

/// One process's identity on disk.
struct Files(PathBuf);

impl Files {
    fn new(
        hops: &Hops,
        name: &str,
        trusted: &[&Authority],
        issuer: &Authority,
        params: &CertificateParams,
    ) -> Files {
        let files = Files(hops.folder().join(name));
        fs::create_dir(&files.0).unwrap();
        files.trust(trusted);
        files.issue(issuer, params);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn trust(&self, authorities: &[&Authority]) {
        let bundle: String = authorities.iter().map(|authority| authority.pem()).collect();
        fs::write(self.path("ca.pem"), bundle).unwrap();
    }

    /// Certificate and key change one after the other, as they do on a disk.
    fn issue(&self, issuer: &Authority, params: &CertificateParams) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, issuer).unwrap();
        fs::write(self.path("cert.pem"), certificate.pem()).unwrap();
        fs::write(self.path("key.pem"), key.serialize_pem()).unwrap();
    }

    fn caller(&self, hops: &Hops, called: &[&Hop]) -> Caller {
        let uris: Vec<_> = called
            .iter()
            .map(|hop| format!("https://{}", hop.address()))
            .collect();
        let mut options = ChannelOptions::new(format!("static:{}", uris.join(",")), "order", "tests");
        options.tuning.tls = Some(Tls::spiffe(
            self.path("ca.pem"),
            self.path("cert.pem"),
            self.path("key.pem"),
            vec![SERVER.to_owned()],
        ));
        Caller::with(hops, options)
    }
}

/// A hop that accepts clients trusted by `files`, with a connection age of a second, so that every change takes
/// effect.
async fn secured(hops: &Hops, files: &Files) -> Hop {
    let path = |name: &str| files.path(name).to_string_lossy().into_owned();
    hops.start(&[
        ("grpc.tls.cert_file", &path("cert.pem")),
        ("grpc.tls.key_file", &path("key.pem")),
        ("grpc.tls.client_ca_file", &path("ca.pem")),
        ("grpc.tls.trust_domain", "weft.test"),
        ("grpc.max_connection_age_s", "1"),
    ])
    .await
}

#[tokio::test]
async fn certificates_and_their_authority_are_rotated_under_load_without_a_failed_call() {
    let _turn = turn().await;
    let hops = hops();
    let (old, new) = (authority("old"), authority("new"));
    let server = Files::new(&hops, "server", &[&old], &old, &named(SERVER));
    let client = Files::new(&hops, "client", &[&old], &old, &named(CLIENT));
    let (first, second) = tokio::join!(secured(&hops, &server), secured(&hops, &server));
    let caller = client.caller(&hops, &[&first, &second]);
    caller.connected(2).await;
    let load = Load::start(60, move || {
        let caller = caller.clone();
        async move { caller.list().await }
    });
    let rotations = |hop: &Hop| hop.log().matches("certificates rotated").count();
    let taken = async |count: usize| {
        eventually(Duration::from_secs(10), || async {
            rotations(&first) >= count && rotations(&second) >= count
        })
        .await;
    };
    load.go_on_for(Duration::from_millis(300)).await;
    // New certificates of the same authority.
    server.issue(&old, &named(SERVER));
    client.issue(&old, &named(CLIENT));
    taken(1).await;
    // First both ends trust both authorities, then the certificates are replaced, then the old authority is
    // removed.
    server.trust(&[&old, &new]);
    client.trust(&[&old, &new]);
    taken(2).await;
    server.issue(&new, &named(SERVER));
    client.issue(&new, &named(CLIENT));
    taken(3).await;
    // No earlier connection may remain when the old authority is removed.
    load.go_on_for(Duration::from_millis(1_300)).await;
    server.trust(&[&new]);
    client.trust(&[&new]);
    taken(4).await;
    load.go_on_for(Duration::from_millis(1_300)).await;
    let calls = load.stop().await;
    println!(
        "certificates rotated and an authority rolled over: {} calls, {} failed, p99 {:.1?}, {} rotations seen",
        calls.len(),
        calls.len() - calls.good(),
        calls.quantile(0.99),
        rotations(&first) + rotations(&second),
    );
    assert_eq!(calls.good(), calls.len(), "{:?}", calls.failures());
}

#[tokio::test]
async fn expired_untrusted_and_nameless_certificates_are_refused_and_the_reason_is_logged() {
    let _turn = turn().await;
    let hops = hops();
    let (ours, foreign) = (authority("ours"), authority("foreign"));
    let server = Files::new(&hops, "server", &[&ours], &ours, &named(SERVER));
    let hop = secured(&hops, &server).await;
    let mut expired = named(CLIENT);
    expired.not_before = date_time_ymd(2020, 1, 1);
    expired.not_after = date_time_ymd(2021, 1, 1);
    for (name, issuer, params, reason) in [
        ("expired", &ours, expired, "certificate expired"),
        ("foreign", &foreign, named(CLIENT), "UnknownIssuer"),
        (
            "nameless",
            &ours,
            CertificateParams::new(["tests".to_owned()]).unwrap(),
            "has no URI name",
        ),
    ] {
        let before = hop.log().lines().count();
        let caller = Files::new(&hops, name, &[&ours], issuer, &params).caller(&hops, &[&hop]);
        assert!(caller.list().await.is_err(), "{name}");
        let line = eventually(Duration::from_secs(5), || async {
            let log = hop.log();
            let refusal = log
                .lines()
                .skip(before)
                .find(|line| line.contains("a connection was refused"));
            refusal.map(str::to_owned)
        })
        .await;
        println!("{name}: {line}");
        assert!(line.contains(reason), "{name}: {line}");
    }
    assert_eq!(hop.stats().await.started, 0);
    let caller = Files::new(&hops, "good", &[&ours], &ours, &named(CLIENT)).caller(&hops, &[&hop]);
    caller.list().await.unwrap();
}
