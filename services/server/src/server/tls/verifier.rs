//! Verifies a client's certificate: the chain with webpki, and its SPIFFE id.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, UnixTime},
    server::{
        VerifierBuilderError, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use webpki::EndEntityCert;

use super::Settings;

/// Accepts clients with a certificate from one of the authorities and a SPIFFE id of the trust domain.
#[derive(Debug)]
pub(super) struct SpiffeVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    prefix: String,
    allowed_ids: Vec<String>,
}

impl SpiffeVerifier {
    pub(super) fn new(
        authorities: RootCertStore,
        settings: &Settings,
        provider: Arc<CryptoProvider>,
    ) -> Result<SpiffeVerifier, VerifierBuilderError> {
        Ok(SpiffeVerifier {
            chain: WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider).build()?,
            prefix: format!("spiffe://{}/", settings.trust_domain),
            allowed_ids: settings.client_ids.clone(),
        })
    }

    fn check_id(&self, id: &str) -> Result<(), Error> {
        if !id.starts_with(&self.prefix) {
            return Err(Error::General(format!(
                "the client is {id}, and not of {}",
                self.prefix
            )));
        }
        if self.allowed_ids.is_empty() || self.allowed_ids.iter().any(|allowed| allowed == id) {
            return Ok(());
        }
        Err(Error::General(format!(
            "the client is {id}, and not one of {:?}",
            self.allowed_ids
        )))
    }
}

/// The SPIFFE id: a certificate has exactly one URI name (X509-SVID, section 2).
pub(super) fn spiffe_id(certificate: &CertificateDer<'_>) -> Result<String, Error> {
    let certificate = EndEntityCert::try_from(certificate)
        .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let mut names = certificate.valid_uri_names();
    match (names.next(), names.next()) {
        (Some(name), None) => Ok(name.to_owned()),
        (None, _) => Err(Error::General(
            "the client's certificate has no URI name".to_owned(),
        )),
        (Some(_), Some(_)) => Err(Error::General(
            "the client's certificate has more than one URI name".to_owned(),
        )),
    }
}

impl ClientCertVerifier for SpiffeVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        self.check_id(&spiffe_id(end_entity)?)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
