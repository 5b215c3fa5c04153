//! A certificate authority, and one certificate each for server and client.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use tempfile::TempDir;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

const SERVER: &str = "spiffe://weft.bench/echo";
const CLIENT: &str = "spiffe://weft.bench/bench";

pub(crate) struct Certificates {
    authority: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Certificates {
    pub(crate) fn new() -> Certificates {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Certificates {
            authority: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn server(&self) -> ServerTlsConfig {
        let (certificate, key) = self.issue(SERVER);
        ServerTlsConfig::new()
            .identity(Identity::from_pem(certificate, key))
            .client_ca_root(Certificate::from_pem(self.authority.pem()))
    }

    /// The client's files.
    pub(crate) fn client(&self) -> weft_mesh::Tls {
        let (certificate, key) = self.issue(CLIENT);
        let write = |name: &str, content: String| {
            let path = self.folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        weft_mesh::Tls::spiffe(
            write("ca.pem", self.authority.pem()),
            write("cert.pem", certificate),
            write("key.pem", key),
            vec![SERVER.to_owned()],
        )
    }

    fn issue(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(name.try_into().unwrap())];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}
