use std::os::unix::fs::OpenOptionsExt;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::*;

/// The files of an identity, in a temporary folder.
fn identity() -> (tempfile::TempDir, Tls) {
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
    let tls = Tls {
        ca_file: write("ca.pem", authority.pem()),
        cert_file: write("cert.pem", certificate.pem()),
        key_file: write("key.pem", key.serialize_pem()),
        server_ids: vec!["spiffe://weft/echo".to_owned()],
    };
    (folder, tls)
}

#[tokio::test]
async fn a_hanging_volume_blocks_no_handshake_and_only_one_thread() {
    let (_folder, tls) = identity();
    let credentials = Credentials::load(&tls).unwrap();
    // A pipe without a writer: opening it for reading blocks, as on a hung mount.
    std::fs::remove_file(&tls.key_file).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&tls.key_file).status();
    assert!(made.unwrap().success());

    let first = credentials.current().await;
    let later = futures_util::future::join_all((0..8).map(|_| credentials.current())).await;
    assert!(later.iter().all(|config| Arc::ptr_eq(config, &first)));
    assert_eq!(credentials.reading.available_permits(), 0, "one read at a time");

    // A writer opens the pipe, so that the blocked thread ends.
    let writer = std::fs::OpenOptions::new()
        .write(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
        .open(&tls.key_file);
    drop(writer.unwrap());
}
