//! Mutual TLS on the gRPC port; peers are identified by their SPIFFE ids.

mod verifier;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::NoServerSessionStorage,
};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpStream, sync::Semaphore, time::timeout};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use verifier::SpiffeVerifier;

use crate::Violations;

/// How long files count as unchanged after a check.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a handshake waits for the files; a volume may hang.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// This process's certificate, and which clients are accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// PEM file with this process's certificate and the intermediate ones. Read again when it changes.
    pub cert_file: PathBuf,
    /// PEM file with the certificate's private key. Read again when it changes.
    pub key_file: PathBuf,
    /// PEM file with the authorities of clients' certificates; several during a rotation. Read again when it
    /// changes.
    pub client_ca_file: PathBuf,
    /// The SPIFFE trust domain of clients: `weft` for `spiffe://weft/order`.
    pub trust_domain: String,
    /// The accepted SPIFFE ids. Default: all of the trust domain.
    #[serde(default)]
    pub client_ids: Vec<String>,
    /// The SPIFFE ids of services, where they are not `spiffe://<trust_domain>/<service>`. A service's token is
    /// accepted only from the process with this id. That process may forward tokens of people to methods that list
    /// the service as a caller, and to no others.
    #[serde(default)]
    pub service_ids: BTreeMap<String, String>,
}

impl Settings {
    pub(super) fn check(&self, violations: &mut Violations) {
        let domain = &self.trust_domain;
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
        violations.require(
            !domain.is_empty() && domain.chars().all(allowed),
            "trust_domain",
            "must be a SPIFFE trust domain, without spiffe://",
        );
        let prefix = format!("spiffe://{domain}/");
        violations.require(
            self.client_ids.iter().all(|id| id.starts_with(&prefix)),
            "client_ids",
            format!("must all begin with {prefix}"),
        );
        violations.require(
            self.service_ids.values().all(|id| id.starts_with(&prefix)),
            "service_ids",
            format!("must all begin with {prefix}"),
        );
        let distinct: BTreeSet<_> = self.service_ids.values().collect();
        violations.require(
            distinct.len() == self.service_ids.len(),
            "service_ids",
            "must give every service an id of its own",
        );
    }

    /// The SPIFFE id of a service's processes.
    pub(super) fn service_id(&self, service: &str) -> String {
        match self.service_ids.get(service) {
            Some(id) => id.clone(),
            None => format!("spiffe://{}/{service}", self.trust_domain),
        }
    }

    fn read(&self) -> Result<Files, Error> {
        let read = |path: &PathBuf| std::fs::read(path).map_err(|error| Error::Read(path.clone(), error));
        Ok(Files {
            authorities: read(&self.client_ca_file)?,
            certificate: read(&self.cert_file)?,
            key: read(&self.key_file)?,
        })
    }

    fn config(&self, files: &Files) -> Result<Arc<ServerConfig>, Error> {
        let mut authorities = RootCertStore::empty();
        for authority in certificates(&self.client_ca_file, &files.authorities)? {
            authorities.add(authority)?;
        }
        let own = certificates(&self.cert_file, &files.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&files.key)
            .map_err(|error| Error::Pem(self.key_file.clone(), error))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = SpiffeVerifier::new(authorities, self, provider.clone())?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_single_cert(own, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session would not present its certificate again, and could outlive it.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

/// The content of the files.
#[derive(PartialEq, Eq)]
struct Files {
    authorities: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// Accepts TLS connections with the current content of the files.
pub(super) struct Acceptor {
    settings: Settings,
    current: Mutex<Current>,
    /// Limits reads to one at a time. The permit is held until the volume responds, so that a volume that hangs
    /// blocks one thread only.
    reading: Arc<Semaphore>,
}

struct Current {
    checked_at: Instant,
    files: Files,
    config: Arc<ServerConfig>,
    /// The last error, so that it is logged once.
    error: Option<String>,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    #[error("{0} is no PEM file of the kind that is needed")]
    Pem(PathBuf, #[source] rustls::pki_types::pem::Error),
    #[error("the certificates cannot be used")]
    Tls(#[from] rustls::Error),
    #[error("the authorities cannot be used")]
    Authorities(#[from] rustls::server::VerifierBuilderError),
}

impl Acceptor {
    /// Reads the files for the first time.
    pub(super) fn load(settings: &Settings) -> anyhow::Result<Acceptor> {
        let files = settings.read()?;
        let config = settings.config(&files)?;
        Ok(Acceptor {
            settings: settings.clone(),
            current: Mutex::new(Current {
                checked_at: Instant::now(),
                files,
                config,
                error: None,
            }),
            reading: Arc::new(Semaphore::new(1)),
        })
    }

    /// Completes the handshake. The error says what is wrong with the client's certificate.
    pub(super) async fn accept(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = self.config().await;
        TlsAcceptor::from(config).accept(tcp).await
    }

    /// Checks the files at most once per [`CHECK_INTERVAL`]. Meanwhile other handshakes use the last content.
    async fn config(&self) -> Arc<ServerConfig> {
        if self.current().checked_at.elapsed() < CHECK_INTERVAL {
            return self.current().config.clone();
        }
        if let Ok(permit) = self.reading.clone().try_acquire_owned() {
            let settings = self.settings.clone();
            let read = tokio::task::spawn_blocking(move || {
                let read = settings.read();
                drop(permit);
                read
            });
            match timeout(READ_TIMEOUT, read).await {
                Ok(Ok(read)) => self.apply(read),
                Ok(Err(_)) => {}
                Err(_) => self.current().log_error("reading them timed out".to_owned()),
            }
        }
        self.current().config.clone()
    }

    fn apply(&self, read: Result<Files, Error>) {
        let fresh = match read {
            Ok(files) if files == self.current().files => None,
            Ok(files) => Some(self.settings.config(&files).map(|config| (files, config))),
            Err(error) => Some(Err(error)),
        };
        let mut current = self.current();
        current.checked_at = Instant::now();
        match fresh {
            None => current.error = None,
            Some(Ok((files, config))) => {
                tracing::info!(tls.cert_file = %self.settings.cert_file.display(), "certificates rotated");
                (current.files, current.config, current.error) = (files, config, None);
            }
            // A half-finished rotation also looks like this for a moment.
            Some(Err(error)) => current.log_error(describe(&error)),
        }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    /// Logs an error if it is a new one.
    fn log_error(&mut self, error: String) {
        if self.error.as_ref() != Some(&error) {
            tracing::warn!(
                error.message = error,
                "certificates cannot be used: the last good ones stay"
            );
            self.error = Some(error);
        }
    }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match parsed {
        Ok(parsed) if parsed.is_empty() => Err(Error::Pem(
            path.to_owned(),
            rustls::pki_types::pem::Error::NoItemsFound,
        )),
        parsed => parsed.map_err(|error| Error::Pem(path.to_owned(), error)),
    }
}

fn describe(error: &Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

/// The process at the other end of a TLS connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer(Arc<str>);

impl Peer {
    pub(super) fn from_stream(stream: &TlsStream<TcpStream>) -> Option<Peer> {
        let certificate = stream.get_ref().1.peer_certificates()?.first()?;
        let name = verifier::spiffe_id(certificate).ok()?;
        Some(Peer(name.into()))
    }

    /// Its SPIFFE id: `spiffe://weft/order`.
    pub fn name(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
pub(super) fn peer(name: &str) -> Peer {
    Peer(name.into())
}

#[cfg(test)]
mod tests;
