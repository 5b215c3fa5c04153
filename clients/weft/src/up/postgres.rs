//! The PostgreSQL server, with one database and two roles for each service.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;
use uuid::Uuid;

use super::{
    process::{Program, User},
    programs::Programs,
    readiness,
    supervisor::Supervised,
};
use crate::{
    service::Service,
    workspace::{Workspace, write_private},
};

/// A running server.
pub(crate) struct Postgres {
    pub(crate) port: u16,
    /// The folder of its socket, if there is one: statements are cheaper than over TCP.
    socket: Option<String>,
    passwords: Passwords,
    psql: PathBuf,
    pub(crate) process: Supervised,
}

/// Passwords by role. Generated once, stored in a file that only the owner can read.
#[derive(Debug, Serialize, Deserialize)]
struct Passwords(BTreeMap<String, String>);

/// The longest folder of a socket, in bytes: the whole path may have 103.
const MAX_FOLDER_BYTES: usize = 85;

/// The superuser's role, which the services do not use.
const SUPERUSER: &str = "weft";

impl Postgres {
    /// Creates the data folder if there is none, starts the server, waits until it answers, and creates roles and
    /// databases.
    pub(crate) async fn start(
        workspace: &Workspace,
        programs: &Programs,
        port: u16,
    ) -> anyhow::Result<Postgres> {
        let user = find_unprivileged_user(workspace)?;
        let data = workspace.path().join("postgres");
        let passwords = Passwords::open_or_create(&workspace.config("postgres.json"))?;
        if !data.exists() {
            let (workspace, programs, password) = (
                workspace.clone(),
                programs.clone(),
                passwords.get(SUPERUSER)?.to_owned(),
            );
            tokio::task::spawn_blocking(move || initialize(&workspace, &programs, user, &password)).await??;
        }
        let socket = socket_folder(&data);
        let settings = [
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={port}"),
            format!(
                "unix_socket_directories={}",
                socket.as_deref().unwrap_or_default()
            ),
            "max_connections=200".to_owned(),
            // Memory for the hot rows, and checkpoints rare enough not to slow an import down.
            "shared_buffers=256MB".to_owned(),
            "max_wal_size=2GB".to_owned(),
            "checkpoint_timeout=15min".to_owned(),
            "password_encryption=scram-sha-256".to_owned(),
        ];
        let mut arguments = vec!["-D".to_owned(), data.display().to_string()];
        arguments.extend(
            settings
                .into_iter()
                .flat_map(|setting| ["-c".to_owned(), setting]),
        );
        let program = Program {
            name: "postgresql",
            path: programs.postgres.clone(),
            arguments,
            log: workspace.log("postgresql"),
            stop_signal: "INT",
            grace: Duration::from_secs(15),
            user,
        };
        let process = Supervised::start(program, workspace.pid_file("postgresql")).await?;
        let postgres = Postgres {
            port,
            socket,
            passwords,
            psql: programs.psql.clone(),
            process,
        };
        readiness::wait(
            "PostgreSQL",
            &postgres.process,
            &workspace.log("postgresql"),
            async || postgres.sql("select 1").await.is_ok(),
        )
        .await?;
        postgres
            .sql(&postgres.passwords.setup_sql())
            .await
            .context("roles and databases cannot be created")?;
        Ok(postgres)
    }

    /// The URL at which a service connects as one of its two roles, `owner` or `app`.
    pub(crate) fn url(&self, service: Service, role: &str) -> anyhow::Result<String> {
        let name = service.name();
        let user = format!("{name}_{role}");
        let (password, port) = (self.passwords.get(&user)?, self.port);
        let socket = self.socket.as_ref().map(|folder| format!("?host={folder}"));
        let socket = socket.unwrap_or_default();
        Ok(format!(
            "postgres://{user}:{password}@127.0.0.1:{port}/{name}{socket}"
        ))
    }

    async fn sql(&self, text: &str) -> anyhow::Result<()> {
        let mut command = tokio::process::Command::new(&self.psql);
        command
            .args([
                "--no-psqlrc",
                "--quiet",
                "--set=ON_ERROR_STOP=1",
                "--host=127.0.0.1",
                "--dbname=postgres",
            ])
            .args([format!("--port={}", self.port), format!("--username={SUPERUSER}")])
            .env("PGPASSWORD", self.passwords.get(SUPERUSER)?)
            .env("PGCONNECT_TIMEOUT", "5")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().context("psql cannot be started")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin
                .write_all(text.as_bytes())
                .await
                .context("psql does not read its input")?;
        }
        let output = child.wait_with_output().await?;
        if !output.status.success() {
            bail!("psql: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}

impl Passwords {
    fn open_or_create(path: &Path) -> anyhow::Result<Passwords> {
        if let Ok(text) = fs::read_to_string(path) {
            return serde_json::from_str(&text).with_context(|| format!("{} cannot be read", path.display()));
        }
        let roles = Service::ALL.iter().flat_map(|service| {
            [
                format!("{}_owner", service.name()),
                format!("{}_app", service.name()),
            ]
        });
        let password = |role: String| (role, Uuid::new_v4().simple().to_string());
        let passwords = Passwords(
            [SUPERUSER.to_owned()]
                .into_iter()
                .chain(roles)
                .map(password)
                .collect(),
        );
        write_private(path, serde_json::to_string_pretty(&passwords)?.as_bytes())?;
        Ok(passwords)
    }

    fn get(&self, role: &str) -> anyhow::Result<&str> {
        self.0
            .get(role)
            .map(String::as_str)
            .with_context(|| format!("there is no password for {role}"))
    }

    /// Creates missing roles and databases. Names and passwords are generated here and need no quoting.
    fn setup_sql(&self) -> String {
        let mut sql = "set client_min_messages to warning;\n".to_owned();
        for (role, password) in self.0.iter().filter(|(role, _)| *role != SUPERUSER) {
            sql.push_str(&format!(
                "select 'create role {role}' where not exists (select from pg_roles where rolname = '{role}') \\gexec\n\
                 alter role {role} login nosuperuser nocreatedb nocreaterole nobypassrls password '{password}';\n"
            ));
        }
        for name in Service::ALL.map(Service::name) {
            sql.push_str(&format!(
                "select 'create database \"{name}\" owner {name}_owner' \
                 where not exists (select from pg_database where datname = '{name}') \\gexec\n\
                 revoke all on database \"{name}\" from public;\n\
                 grant connect on database \"{name}\" to {name}_app;\n"
            ));
        }
        sql
    }
}

/// The data folder, which only the server can enter, if its socket can be there too: the path must be short enough
/// and without characters that have a meaning in a list of folders or a URL.
fn socket_folder(data: &Path) -> Option<String> {
    let folder = data.to_str()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    (data.is_absolute() && folder.len() <= MAX_FOLDER_BYTES && folder.bytes().all(plain))
        .then(|| folder.to_owned())
}

/// Creates the data folder under a draft name and renames it at the end, so that a killed `initdb` leaves no
/// incomplete data folder.
fn initialize(
    workspace: &Workspace,
    programs: &Programs,
    user: Option<User>,
    password: &str,
) -> anyhow::Result<()> {
    let draft = workspace.path().join("postgres.new");
    let _ = fs::remove_dir_all(&draft);
    fs::create_dir(&draft)?;
    let password_file = draft.join("password");
    write_private(&password_file, password.as_bytes())?;
    let mut command = Command::new(&programs.initdb);
    command
        .args([
            "--encoding=UTF8",
            "--locale=C",
            "--auth=scram-sha-256",
            "--no-instructions",
        ])
        .arg(format!("--username={SUPERUSER}"))
        .arg(format!("--pwfile={}", password_file.display()))
        .arg(format!("--pgdata={}", draft.join("data").display()));
    if let Some(User { uid, gid }) = user {
        chown(&draft, Some(uid), Some(gid))?;
        chown(&password_file, Some(uid), Some(gid))?;
        command.uid(uid).gid(gid).current_dir("/");
    }
    let output = command.output().context("initdb cannot be started")?;
    if !output.status.success() {
        bail!(
            "initdb failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    fs::rename(draft.join("data"), workspace.path().join("postgres"))?;
    fs::remove_dir_all(&draft)?;
    Ok(())
}

/// The user that PostgreSQL runs as, because it refuses root. `None` is this process's own user.
fn find_unprivileged_user(workspace: &Workspace) -> anyhow::Result<Option<User>> {
    let id = |arguments: &[&str]| {
        let output = Command::new("id")
            .args(arguments)
            .stderr(Stdio::null())
            .output()
            .ok()?;
        String::from_utf8_lossy(&output.stdout).trim().parse::<u32>().ok()
    };
    if id(&["-u"]) != Some(0) {
        return Ok(None);
    }
    let candidates = ["postgres", "nobody"];
    let found = candidates
        .iter()
        .find_map(|name| Some((name, id(&["-u", name])?, id(&["-g", name])?)));
    let (name, uid, gid) =
        found.context("PostgreSQL refuses root, and there is neither a user postgres nor nobody")?;
    let can_enter = Command::new("test")
        .arg("-x")
        .arg(workspace.path())
        .uid(uid)
        .gid(gid)
        .current_dir("/")
        .status();
    if !can_enter.is_ok_and(|status| status.success()) {
        bail!(
            "PostgreSQL refuses root and runs as {name}, who cannot enter {}: choose another folder, such as --dir /var/tmp/weft",
            workspace.path().display()
        );
    }
    Ok(Some(User { uid, gid }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_used_only_where_its_path_is_short_and_plain() {
        let is_usable = |folder: &str| socket_folder(Path::new(folder)).is_some();
        assert!(is_usable("/var/tmp/weft-1/.weft/postgres"));
        assert!(!is_usable("weft/postgres"));
        assert!(!is_usable("/home/a b/postgres") && !is_usable("/srv/a,b") && !is_usable("/srv/50%"));
        let deep = format!("/srv/{}", "d".repeat(MAX_FOLDER_BYTES - 5));
        assert!(is_usable(&deep) && !is_usable(&format!("{deep}d")));
    }
}
