//! The local system's folder (`.weft`) with its keys, certificates, settings, logs and description.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::globals::Globals;

/// The folder. It may not exist yet.
#[derive(Clone, Debug)]
pub(crate) struct Workspace(PathBuf);

/// The running local system, written by `weft up` for the other commands (`weft.json`).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Description {
    /// The `weft up` process, which supervises the others.
    pub(crate) pid: u32,
    /// The files of mutual TLS; without them calls are plaintext.
    #[serde(default)]
    pub(crate) tls: Option<Tls>,
    /// Addresses of each service, by name.
    pub(crate) services: BTreeMap<String, Addresses>,
    /// `postgres://…` without a password, and `nats://…`.
    pub(crate) servers: BTreeMap<String, String>,
    /// The key that signs tokens.
    pub(crate) signing_key: PathBuf,
    /// The public keys that services verify tokens with.
    pub(crate) jwks: PathBuf,
}

/// The files that a client needs for mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tls {
    /// PEM: the authority that must have signed servers' certificates.
    pub(crate) ca: PathBuf,
    /// PEM: the client's own certificate.
    pub(crate) cert: PathBuf,
    /// PEM: the certificate's key.
    pub(crate) key: PathBuf,
}

/// The addresses of a service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Addresses {
    /// gRPC: `http://127.0.0.1:7101`, or with `https`.
    pub(crate) url: String,
    /// Probes: `http://127.0.0.1:7201`.
    pub(crate) probe_url: String,
}

impl Workspace {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Workspace {
        Workspace(path.into())
    }

    /// The folder of `--dir`; else `.weft` in the current folder or the nearest one above that has it; else
    /// `.weft` here.
    pub(crate) fn find(globals: &Globals) -> Workspace {
        if let Some(dir) = &globals.dir {
            return Workspace(dir.clone());
        }
        let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
        let existing = here
            .ancestors()
            .map(|folder| folder.join(".weft"))
            .find(|folder| folder.is_dir());
        Workspace(existing.unwrap_or_else(|| here.join(".weft")))
    }

    /// Creates the folder and makes the path absolute. Other users may traverse the folder, but not list it.
    pub(crate) fn create(&self) -> io::Result<Workspace> {
        fs::create_dir_all(&self.0)?;
        // PostgreSQL may run as another user, which must be able to traverse the folder.
        fs::set_permissions(&self.0, fs::Permissions::from_mode(0o711))?;
        for folder in ["keys", "config", "log", "run"] {
            fs::create_dir_all(self.0.join(folder))?;
            fs::set_permissions(self.0.join(folder), fs::Permissions::from_mode(0o700))?;
        }
        fs::canonicalize(&self.0).map(Workspace)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn signing_key(&self) -> PathBuf {
        self.0.join("keys/user.pem")
    }

    pub(crate) fn jwks(&self) -> PathBuf {
        self.0.join("keys/jwks.json")
    }

    /// The folder of the certificates of mutual TLS.
    pub(crate) fn certificate_folder(&self) -> PathBuf {
        self.0.join("tls")
    }

    pub(crate) fn ca_certificate(&self) -> PathBuf {
        self.certificate_folder().join("ca.pem")
    }

    pub(crate) fn certificate(&self, name: &str) -> PathBuf {
        self.certificate_folder().join(format!("{name}.pem"))
    }

    pub(crate) fn certificate_key(&self, name: &str) -> PathBuf {
        self.certificate_folder().join(format!("{name}.key"))
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.0.join("log").join(format!("{name}.log"))
    }

    pub(crate) fn pid_file(&self, name: &str) -> PathBuf {
        self.0.join("run").join(format!("{name}.pid"))
    }

    pub(crate) fn config(&self, file: &str) -> PathBuf {
        self.0.join("config").join(file)
    }

    /// Reads what runs here, or ran here last.
    pub(crate) fn read_description(&self) -> Option<Description> {
        let text = fs::read_to_string(self.0.join("weft.json")).ok()?;
        serde_json::from_str(&text).ok()
    }

    pub(crate) fn write_description(&self, description: &Description) -> io::Result<()> {
        let text = serde_json::to_string_pretty(description)?;
        write_private(&self.0.join("weft.json"), text.as_bytes())
    }
}

/// Writes a file atomically, readable by its owner only.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&draft, path)
}
