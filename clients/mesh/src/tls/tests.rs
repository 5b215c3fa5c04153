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
    let tls = Tls::spiffe(
        write("ca.pem", authority.pem()),
        write("cert.pem", certificate.pem()),
        write("key.pem", key.serialize_pem()),
        vec!["spiffe://weft/echo".to_owned()],
    );
    (folder, tls)
}

#[tokio::test]
async fn a_hanging_volume_blocks_no_handshake_and_only_one_thread() {
    let (_folder, tls) = identity();
    let credentials = Credentials::load(&tls).unwrap();
    // A pipe without a writer: opening it for reading blocks, as on a hung mount.
    let key_file = tls.key_file.unwrap();
    std::fs::remove_file(&key_file).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&key_file).status();
    assert!(made.unwrap().success());

    let first = credentials.current().await;
    let later = futures_util::future::join_all((0..8).map(|_| credentials.current())).await;
    assert!(later.iter().all(|config| Arc::ptr_eq(config, &first)));
    assert_eq!(credentials.reading.available_permits(), 0, "one read at a time");

    // A writer opens the pipe, so that the blocked thread ends.
    let writer = std::fs::OpenOptions::new()
        .write(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
        .open(&key_file);
    drop(writer.unwrap());
}

#[test]
fn the_error_of_a_file_names_its_setting() {
    let (folder, tls) = identity();
    let broken = |name: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, "half a certific").unwrap();
        Some(path)
    };
    let foreign_key = folder.path().join("foreign.pem");
    std::fs::write(&foreign_key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let absent = || Some(folder.path().join("absent.pem"));
    let expected = [
        (
            Tls {
                ca_file: absent(),
                ..tls.clone()
            },
            "tls.ca_file",
            "cannot be read",
        ),
        (
            Tls {
                ca_file: broken("a"),
                ..tls.clone()
            },
            "tls.ca_file",
            "not a PEM file",
        ),
        (
            Tls {
                cert_file: broken("b"),
                ..tls.clone()
            },
            "tls.cert_file",
            "not a PEM file",
        ),
        (
            Tls {
                key_file: broken("c"),
                ..tls.clone()
            },
            "tls.key_file",
            "not a PEM file",
        ),
        (
            Tls {
                key_file: Some(foreign_key),
                ..tls
            },
            "tls.cert_file",
            "cannot be used",
        ),
    ];
    for (tls, expected, text) in expected {
        let Err(Error::Setting { setting, reason }) = Credentials::load(&tls) else {
            panic!("{expected} is invalid")
        };
        assert_eq!(setting, expected);
        assert!(reason.contains(text), "{reason}");
    }
}

#[tokio::test]
async fn without_files_nothing_is_read_and_the_name_is_the_targets_host_unless_it_is_set() {
    let credentials = Credentials::load(&Tls::default()).unwrap();
    let first = credentials.current().await;
    assert!(Arc::ptr_eq(&credentials.current().await, &first));
    let name = |host: &str| {
        credentials
            .server_name(host)
            .map(|name| name.to_str().into_owned())
    };
    assert_eq!(name("api.example.com").unwrap(), "api.example.com");
    assert_eq!(name("::1").unwrap(), "::1");
    assert!(name("no name").is_err());
    let named = Tls {
        server_name: Some("echo.test".to_owned()),
        ..Tls::default()
    };
    let name = Credentials::load(&named)
        .unwrap()
        .server_name("10.0.0.7")
        .unwrap();
    assert_eq!(name.to_str(), "echo.test");
}
