//! The content of a PEM file, and the setting that names it.

use std::{
    io,
    path::{Path, PathBuf},
};

use rustls::pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject},
};

/// A file as it was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PemFile {
    setting: &'static str,
    path: PathBuf,
    content: Vec<u8>,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}", path.display())]
pub(super) struct LoadError {
    pub(super) setting: &'static str,
    path: PathBuf,
    source: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("cannot be read")]
    Read(#[source] io::Error),
    #[error("is not a PEM file of the expected kind")]
    Pem(#[source] pem::Error),
    #[error("cannot be used")]
    Tls(#[source] rustls::Error),
}

impl PemFile {
    pub(super) fn read(setting: &'static str, path: &Path) -> Result<PemFile, LoadError> {
        match std::fs::read(path) {
            Ok(content) => Ok(PemFile {
                setting,
                path: path.to_owned(),
                content,
            }),
            Err(error) => Err(LoadError {
                setting,
                path: path.to_owned(),
                source: Cause::Read(error),
            }),
        }
    }

    /// All certificates of the file, of which there must be one at least.
    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, LoadError> {
        let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.content).collect();
        match parsed {
            Ok(parsed) if parsed.is_empty() => Err(self.error(Cause::Pem(pem::Error::NoItemsFound))),
            parsed => parsed.map_err(|error| self.error(Cause::Pem(error))),
        }
    }

    pub(super) fn private_key(&self) -> Result<PrivateKeyDer<'static>, LoadError> {
        PrivateKeyDer::from_pem_slice(&self.content).map_err(|error| self.error(Cause::Pem(error)))
    }

    /// The error of a file with the right format, whose content is not accepted.
    pub(super) fn rejected(&self, error: rustls::Error) -> LoadError {
        self.error(Cause::Tls(error))
    }

    fn error(&self, source: Cause) -> LoadError {
        LoadError {
            setting: self.setting,
            path: self.path.clone(),
            source,
        }
    }
}
