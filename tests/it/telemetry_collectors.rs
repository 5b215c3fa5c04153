//! Export of telemetry by the `OTEL_*` variables: to collectors with TLS, and to no untrusted one.

use std::{collections::BTreeMap, fs, process::Command};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tests::{Collector, Hops};

use crate::mesh_fixture::{Caller, hops};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for this name, and its key, as PEM.
fn issued(issuer: &Authority, name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new([name.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    (certificate.pem(), key.serialize_pem())
}

/// The variables and files with which the collector accepts a service, in the hops' folder.
fn variables(
    hops: &Hops,
    collector: &Collector,
    trusted: &Authority,
    own: &Authority,
) -> BTreeMap<String, String> {
    let (certificate, key) = issued(own, "weft");
    let file = |name: &str, pem: &str| {
        let path = hops.folder().join(name);
        fs::write(&path, pem).unwrap();
        path.to_string_lossy().into_owned()
    };
    BTreeMap::from(
        [
            ("ENDPOINT", collector.endpoint()),
            ("COMPRESSION", "gzip".to_owned()),
            ("CERTIFICATE", file("collector-ca.pem", &trusted.pem())),
            ("CLIENT_CERTIFICATE", file("client.pem", &certificate)),
            ("CLIENT_KEY", file("client-key.pem", &key)),
        ]
        .map(|(name, value)| (format!("OTEL_EXPORTER_OTLP_{name}"), value)),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn all_signals_reach_a_collector_that_takes_tls_and_client_certificates_alone() {
    let (collectors, clients) = (authority("collectors"), authority("clients"));
    let (certificate, key) = issued(&collectors, "127.0.0.1");
    let collector = Collector::secured(&certificate, &key, &clients.pem()).await;
    let hops = hops();
    let mut environment = variables(&hops, &collector, &collectors, &clients);
    environment.insert("OTEL_SERVICE_NAME".to_owned(), "front".to_owned());
    environment.insert("OTEL_PROPAGATORS".to_owned(), "b3".to_owned());
    let hop = hops.start_in(&environment, &[]).await;
    Caller::new(&hops, [&hop]).list().await.unwrap();
    assert!(hop.stop().await.success(), "{}", hop.log());
    let log = hop.log();
    assert!(
        collector.spans().iter().any(|seen| seen.service == "front"),
        "{log}"
    );
    assert!(
        collector.logs().iter().any(|(service, _)| service == "front"),
        "{log}"
    );
    assert!(collector.has_metric("front", "rpc.server.call.duration"), "{log}");
    let warned: Vec<_> = log
        .lines()
        .filter(|line| line.contains("has no effect"))
        .collect();
    assert!(
        matches!(warned[..], [line] if line.contains("OTEL_PROPAGATORS")),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_trusted_gets_nothing_and_the_service_serves_and_stops() {
    let (collectors, clients) = (authority("collectors"), authority("clients"));
    let (certificate, key) = issued(&collectors, "127.0.0.1");
    let collector = Collector::secured(&certificate, &key, &clients.pem()).await;
    let hops = hops();
    let foreign = variables(&hops, &collector, &authority("foreign"), &clients);
    let mut public = foreign.clone();
    public.remove("OTEL_EXPORTER_OTLP_CERTIFICATE");
    for environment in [foreign, public] {
        let hop = hops.start_in(&environment, &[]).await;
        Caller::new(&hops, [&hop]).list().await.unwrap();
        assert!(hop.stop().await.success(), "{}", hop.log());
        assert_eq!((collector.spans().len(), collector.logs().len()), (0, 0));
    }
}

#[test]
fn an_unsupported_otel_variable_is_refused_by_serve_and_named_by_check_config() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.pem");
    fs::write(&empty, "nothing").unwrap();
    let empty = empty.to_str().unwrap();
    let certificate = "OTEL_EXPORTER_OTLP_CERTIFICATE";
    for (name, value, message) in [
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "collector:4317",
            "must be http:// or https:// with a host",
        ),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "must be grpc"),
        (certificate, "/nowhere/ca.pem", "cannot read /nowhere/ca.pem"),
        (certificate, empty, "the file holds no certificate in PEM"),
    ] {
        for verb in ["serve", "check-config"] {
            let output = Command::new(env!("CARGO_BIN_EXE_hop"))
                .arg(verb)
                .env_clear()
                .env("OTEL_EXPORTER_OTLP_ENDPOINT", "https://localhost:4317")
                .env(name, value)
                .output()
                .unwrap();
            let errors = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{verb}: {errors}");
            assert_eq!(
                errors.matches(&format!("{name}: {message}")).count(),
                1,
                "{verb}: {errors}"
            );
        }
    }
}
