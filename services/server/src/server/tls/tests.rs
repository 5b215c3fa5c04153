use std::os::unix::fs::OpenOptionsExt as _;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::*;

/// The files of an identity, in a folder that is deleted with the value.
fn identity() -> (tempfile::TempDir, Settings) {
    let folder = tempfile::tempdir().unwrap();
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &Issuer::new(params, authority_key))
        .unwrap();
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let settings = Settings {
        client_ca_file: write("ca.pem", authority.pem()),
        cert_file: write("cert.pem", certificate.pem()),
        key_file: write("key.pem", key.serialize_pem()),
        trust_domain: "weft".to_owned(),
        client_ids: Vec::new(),
        service_ids: BTreeMap::new(),
    };
    (folder, settings)
}

#[tokio::test]
async fn a_volume_that_hangs_stops_no_handshake_and_holds_one_thread() {
    let (_folder, settings) = identity();
    let acceptor = Acceptor::load(&settings).unwrap();
    let good = acceptor.current().config.clone();
    // A pipe without a writer: opening it for reading blocks, as on a hung mount.
    std::fs::remove_file(&settings.key_file).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(&settings.key_file)
        .status();
    assert!(made.unwrap().success());
    acceptor.current().checked_at -= 2 * CHECK_INTERVAL;

    let configs = futures_util::future::join_all((0..9).map(|_| acceptor.config())).await;
    assert!(configs.iter().all(|config| Arc::ptr_eq(config, &good)));
    assert_eq!(acceptor.reading.available_permits(), 0, "one reads");
    assert!(acceptor.current().error.is_some(), "it is logged");

    // The volume responds again, so that the blocked thread ends.
    let writer = std::fs::OpenOptions::new()
        .write(true)
        .custom_flags(0o4000)
        .open(&settings.key_file);
    drop(writer.unwrap());
}
