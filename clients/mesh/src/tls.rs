//! Mutual TLS between services, with SPIFFE names and certificates that are rotated while the process runs.
//!
//! The files are read again for every new connection. If they are invalid, as in the middle of a rotation, the
//! last valid ones stay in use and a warning is logged.

mod verifier;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde::{Deserialize, Serialize};
use tokio::{sync::Semaphore, time::timeout};

use crate::{Error, failure::error_chain};
use verifier::ServerNameVerifier;

/// Timeout of reading the files.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// The identity of this process, and the accepted servers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file with the CA certificates for verifying servers; several while one is being replaced by another.
    pub ca_file: PathBuf,
    /// PEM file with this process's certificate and its intermediate certificates.
    pub cert_file: PathBuf,
    /// PEM file with the certificate's private key.
    pub key_file: PathBuf,
    /// The URI names accepted in the server's certificate, such as `spiffe://weft/payment`.
    pub server_ids: Vec<String>,
}

/// The contents of the files.
#[derive(Debug, PartialEq, Eq)]
struct Files {
    authorities: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// The identity in use.
#[derive(Debug)]
pub(crate) struct Credentials {
    settings: Tls,
    current: Mutex<(Files, Arc<ClientConfig>)>,
    reading: Arc<Semaphore>,
}

#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    #[error("{0} is not a PEM file of the expected kind")]
    Pem(PathBuf, #[source] rustls::pki_types::pem::Error),
    #[error("the certificates cannot be used")]
    Tls(#[from] rustls::Error),
}

impl Credentials {
    /// Reads the files for the first time.
    pub(crate) fn load(settings: &Tls) -> Result<Credentials, Error> {
        let setting = |setting: &str, reason| Error::Setting {
            setting: setting.to_owned(),
            reason,
        };
        if settings.server_ids.is_empty() {
            return Err(setting(
                "tls.server_ids",
                "must name at least one server".to_owned(),
            ));
        }
        let files = settings
            .read()
            .map_err(|error| setting("tls", error_chain(&error)))?;
        let config = settings
            .config(&files)
            .map_err(|error| setting("tls", error_chain(&error)))?;
        Ok(Credentials {
            settings: settings.clone(),
            current: Mutex::new((files, config)),
            reading: Arc::new(Semaphore::new(1)),
        })
    }

    /// The configuration for the next connection. Waits at most a second for the files: a hanging volume must not
    /// block the handshakes of all connections, and blocks one thread, not one for each of them.
    pub(crate) async fn current(&self) -> Arc<ClientConfig> {
        match timeout(READ_TIMEOUT, self.read()).await {
            Ok(Some(result)) => self.update(result),
            Ok(None) => {}
            Err(_) => {
                let file = self.settings.cert_file.display();
                tracing::warn!(%file, "certificates cannot be read in time, the last good ones stay");
            }
        }
        Arc::clone(&self.lock().1)
    }

    /// Reads the files in a blocking thread, because a disk may hang. One read at a time: the permit is held until
    /// the read ends.
    async fn read(&self) -> Option<Result<Files, LoadError>> {
        let permit = Arc::clone(&self.reading).acquire_owned().await.ok()?;
        let settings = self.settings.clone();
        let read = tokio::task::spawn_blocking(move || {
            let files = settings.read();
            drop(permit);
            files
        });
        read.await.ok()
    }

    fn update(&self, result: Result<Files, LoadError>) {
        let fresh = match result {
            Ok(files) if files == self.lock().0 => return,
            Ok(files) => self.settings.config(&files).map(|config| (files, config)),
            Err(error) => Err(error),
        };
        match fresh {
            Ok(fresh) => {
                tracing::info!(file = %self.settings.cert_file.display(), "certificates rotated");
                *self.lock() = fresh;
            }
            Err(error) => {
                tracing::warn!(error = %error_chain(&error), "certificates cannot be used, the last good ones stay");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, (Files, Arc<ClientConfig>)> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tls {
    fn read(&self) -> Result<Files, LoadError> {
        let read = |path: &PathBuf| std::fs::read(path).map_err(|error| LoadError::Read(path.clone(), error));
        Ok(Files {
            authorities: read(&self.ca_file)?,
            certificate: read(&self.cert_file)?,
            key: read(&self.key_file)?,
        })
    }

    fn config(&self, files: &Files) -> Result<Arc<ClientConfig>, LoadError> {
        let certificates = |path: &PathBuf, pem: &[u8]| {
            let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
            match parsed {
                Ok(parsed) if parsed.is_empty() => Err(LoadError::Pem(
                    path.clone(),
                    rustls::pki_types::pem::Error::NoItemsFound,
                )),
                parsed => parsed.map_err(|error| LoadError::Pem(path.clone(), error)),
            }
        };
        let mut authorities = RootCertStore::empty();
        for authority in certificates(&self.ca_file, &files.authorities)? {
            authorities.add(authority)?;
        }
        let own = certificates(&self.cert_file, &files.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&files.key)
            .map_err(|error| LoadError::Pem(self.key_file.clone(), error))?;
        let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
        let verifier = ServerNameVerifier::new(authorities, self.server_ids.clone(), &provider);
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(own, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

#[cfg(test)]
mod tests;
