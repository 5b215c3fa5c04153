//! Verifies a server's certificate: the chain as usual, and its URI name as SPIFFE defines it.
//!
//! Pods have no stable DNS names, so the host name does not identify such a server.

use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use webpki::EndEntityCert;

/// Accepts certificates issued by one of the authorities for one of the names.
#[derive(Debug)]
pub(super) struct SpiffeVerifier {
    authorities: RootCertStore,
    names: Vec<String>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl SpiffeVerifier {
    pub(super) fn new(
        authorities: RootCertStore,
        names: Vec<String>,
        provider: &CryptoProvider,
    ) -> SpiffeVerifier {
        SpiffeVerifier {
            authorities,
            names,
            algorithms: provider.signature_verification_algorithms,
        }
    }
}

impl ServerCertVerifier for SpiffeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = ParsedCertificate::try_from(end_entity)?;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &chain,
            &self.authorities,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        let certificate = EndEntityCert::try_from(end_entity)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let presented: Vec<_> = certificate.valid_uri_names().collect();
        // X509-SVID, section 2, and gRFC A87: with more than one URI name the identity is ambiguous.
        let text = match presented.as_slice() {
            [name] if self.names.iter().any(|allowed| allowed == name) => {
                return Ok(ServerCertVerified::assertion());
            }
            [_] => format!("the server is {presented:?}, and not one of {:?}", self.names),
            names => format!(
                "the server has {} URI names {names:?}, and must have one",
                names.len()
            ),
        };
        Err(Error::General(text))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
