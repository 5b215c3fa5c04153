//! Finds the programs that `weft up` starts.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use crate::service::Service;

/// The paths of all programs.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) initdb: PathBuf,
    pub(crate) postgres: PathBuf,
    pub(crate) psql: PathBuf,
    pub(crate) nats: PathBuf,
    services: PathBuf,
}

impl Programs {
    /// # Errors
    /// When a program is missing; the error says which, and how to get it.
    pub(crate) fn find() -> anyhow::Result<Programs> {
        let own = env::current_exe().context("the path of this program is unknown")?;
        let services = own.parent().map(Path::to_owned).unwrap_or_default();
        for service in Service::ALL {
            if !is_program(&services.join(service.name())) {
                bail!(
                    "the {} service is not built: {} does not exist; run `make build` (or cargo build --workspace)",
                    service.name(),
                    services.join(service.name()).display()
                );
            }
        }
        // All three from one installation: a client of another version may be incompatible.
        let folder = postgres_folders()
            .into_iter()
            .find(|folder| {
                ["initdb", "postgres", "psql"]
                    .iter()
                    .all(|name| is_program(&folder.join(name)))
            })
            .context("PostgreSQL 15 or newer is needed (initdb, postgres, psql): run `make setup`")?;
        let nats = path_folders()
            .chain(tool_folders(&own))
            .map(|folder| folder.join("nats-server"))
            .find(|program| is_program(program))
            .context("nats-server 2.12 or newer is needed: run `make setup`")?;
        let [initdb, postgres, psql] = ["initdb", "postgres", "psql"].map(|name| folder.join(name));
        Ok(Programs {
            initdb,
            postgres,
            psql,
            nats,
            services,
        })
    }

    pub(crate) fn service(&self, service: Service) -> PathBuf {
        self.services.join(service.name())
    }
}

/// Folders that may have PostgreSQL: PATH, Debian's and Homebrew's, newest version first. Links are resolved,
/// because PostgreSQL finds its libraries relative to the real folder.
fn postgres_folders() -> Vec<PathBuf> {
    let mut versions: Vec<PathBuf> = ["/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt"]
        .iter()
        .filter_map(|parent| fs::read_dir(parent).ok())
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| version(path) >= 15)
        .collect();
    versions.sort_by_key(|path| std::cmp::Reverse(version(path)));
    let resolved = path_folders().filter_map(|folder| {
        let program = fs::canonicalize(folder.join("initdb")).ok()?;
        program.parent().map(Path::to_owned)
    });
    resolved
        .chain(versions.into_iter().map(|path| path.join("bin")))
        .collect()
}

/// `15` for `/usr/lib/postgresql/15` and `/opt/homebrew/opt/postgresql@15`; 0 for any other path.
fn version(path: &Path) -> u32 {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    name.rsplit('@')
        .next()
        .and_then(|version| version.parse().ok())
        .unwrap_or(0)
}

fn path_folders() -> impl Iterator<Item = PathBuf> {
    env::var_os("PATH")
        .map(|path| env::split_paths(&path).collect::<Vec<_>>())
        .unwrap_or_default()
        .into_iter()
}

/// `.tools/bin`, where `make setup` installs, in this folder or above it, or above this program.
fn tool_folders(own: &Path) -> Vec<PathBuf> {
    let here = env::current_dir().unwrap_or_default();
    here.ancestors()
        .chain(own.ancestors())
        .map(|folder| folder.join(".tools/bin"))
        .collect()
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}
