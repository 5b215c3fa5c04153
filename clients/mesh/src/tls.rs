//! TLS to servers, with certificates that are rotated while the process runs.
//!
//! A server is verified by its SPIFFE id ([`SpiffeVerifier`]) or by its host name, as on the web. The files are read
//! again for every new connection. If they are invalid, as in the middle of a rotation, the last valid ones stay in
//! use and a warning is logged.

mod pem_file;
mod settings;
mod verifier;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{InvalidDnsNameError, ServerName},
    version::{TLS12, TLS13},
};
use tokio::{sync::Semaphore, time::timeout};

use crate::{Error, failure::error_chain};
use pem_file::{LoadError, PemFile};
pub use settings::Tls;
use verifier::SpiffeVerifier;

/// Timeout of reading the files.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// The contents of the files that the settings name.
#[derive(Debug, PartialEq, Eq)]
struct Files {
    authorities: Option<PemFile>,
    /// The certificate and its key.
    identity: Option<(PemFile, PemFile)>,
}

/// The identity and the authorities in use.
#[derive(Debug)]
pub(crate) struct Credentials {
    settings: Tls,
    current: Mutex<(Files, Arc<ClientConfig>)>,
    reading: Arc<Semaphore>,
}

impl Credentials {
    /// Reads the files for the first time.
    pub(crate) fn load(settings: &Tls) -> Result<Credentials, Error> {
        let load = || {
            let files = settings.read()?;
            let config = settings.config(&files)?;
            Ok((files, config))
        };
        let current = load().map_err(|error: LoadError| Error::Setting {
            setting: error.setting.to_owned(),
            reason: error_chain(&error),
        })?;
        Ok(Credentials {
            settings: settings.clone(),
            current: Mutex::new(current),
            reading: Arc::new(Semaphore::new(1)),
        })
    }

    /// The name to verify and to send as SNI for a target with `host`.
    pub(crate) fn server_name(&self, host: &str) -> Result<ServerName<'static>, InvalidDnsNameError> {
        let name = self.settings.server_name.as_deref().unwrap_or(host);
        ServerName::try_from(name.to_owned())
    }

    /// The configuration for the next connection. Waits at most a second for the files: a hanging volume must not
    /// block the handshakes of all connections, and blocks one thread, not one for each of them.
    pub(crate) async fn current(&self) -> Arc<ClientConfig> {
        if let Some(file) = self.settings.any_file() {
            match timeout(READ_TIMEOUT, self.read()).await {
                Ok(Some(result)) => self.update(file, result),
                Ok(None) => {}
                Err(_) => {
                    let file = file.display();
                    tracing::warn!(%file, "certificates cannot be read in time, the last good ones stay");
                }
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

    fn update(&self, file: &Path, result: Result<Files, LoadError>) {
        let fresh = match result {
            Ok(files) if files == self.lock().0 => return,
            Ok(files) => self.settings.config(&files).map(|config| (files, config)),
            Err(error) => Err(error),
        };
        match fresh {
            Ok(fresh) => {
                tracing::info!(file = %file.display(), "certificates rotated");
                *self.lock() = fresh;
            }
            Err(error) => {
                let setting = error.setting;
                let error = error_chain(&error);
                tracing::warn!(
                    setting,
                    error,
                    "certificates cannot be used, the last good ones stay"
                );
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, (Files, Arc<ClientConfig>)> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tls {
    fn read(&self) -> Result<Files, LoadError> {
        let read = |setting, path: &Option<_>| {
            let path: Option<&Path> = path.as_deref();
            path.map(|path| PemFile::read(setting, path)).transpose()
        };
        let authorities = read("tls.ca_file", &self.ca_file)?;
        let certificate = read("tls.cert_file", &self.cert_file)?;
        let key = read("tls.key_file", &self.key_file)?;
        Ok(Files {
            authorities,
            identity: certificate.zip(key),
        })
    }

    fn config(&self, files: &Files) -> Result<Arc<ClientConfig>, LoadError> {
        let mut authorities = RootCertStore::empty();
        match &files.authorities {
            Some(file) => {
                for authority in file.certificates()? {
                    authorities.add(authority).map_err(|error| file.rejected(error))?;
                }
            }
            None => authorities.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        }
        let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = if self.server_ids.is_empty() {
            let versions = builder.with_protocol_versions(&[&TLS13, &TLS12]);
            versions
                .expect("the provider supports both versions")
                .with_root_certificates(authorities)
        } else {
            let verifier = SpiffeVerifier::new(authorities, self.server_ids.clone(), &provider);
            let versions = builder.with_protocol_versions(&[&TLS13]);
            versions
                .expect("the provider supports TLS 1.3")
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
        };
        let mut config = match &files.identity {
            Some((certificate, key)) => builder
                .with_client_auth_cert(certificate.certificates()?, key.private_key()?)
                .map_err(|error| certificate.rejected(error))?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session would not verify the server's present certificate.
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

#[cfg(test)]
mod tests;
