//! One service's database for one test.

use std::{fs, ops::RangeBounds, os::unix::fs::symlink, sync::Arc, time::Duration};

use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection, PgPool,
    postgres::PgPoolOptions,
};

use super::Postgres;
use crate::workspace_root;

/// A pool keeps trying to connect for this long; short, so that a stopped server is noticed quickly.
const ACQUIRE: Duration = Duration::from_secs(3);

/// A database `<service>_<random>`, owned by `<service>_owner`; `<service>_app` may connect and owns nothing. The
/// service applies the migrations (`order migrate`). The database is discarded when dropped.
#[derive(Debug)]
pub struct Database {
    server: Arc<Postgres>,
    service: String,
    name: String,
}

impl Database {
    pub(super) async fn create(server: Arc<Postgres>, service: &str) -> Database {
        let name = format!("{service}_{}", uuid::Uuid::new_v4().simple());
        let mut connection = server.connect("postgres").await.expect("the server is up");
        let discarded = std::mem::take(&mut *server.discarded());
        for old in discarded {
            run(
                &mut connection,
                format!("drop database if exists {old} with (force)"),
            )
            .await;
        }
        run(
            &mut connection,
            format!("create database {name} owner {service}_owner"),
        )
        .await;
        run(
            &mut connection,
            format!("revoke all on database {name} from public"),
        )
        .await;
        run(
            &mut connection,
            format!("grant connect on database {name} to {service}_app"),
        )
        .await;
        connection.close().await.expect("the server is up");
        Database {
            server,
            service: service.to_owned(),
            name,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// URL for `migrate`: as the owner of the schema.
    pub fn owner_url(&self) -> String {
        self.url(&format!("{}_owner", self.service))
    }

    /// URL for `serve`: as the role that row-level security binds.
    pub fn app_url(&self) -> String {
        self.url(&format!("{}_app", self.service))
    }

    /// URL for `serve` with a password, for a server on which [`Postgres::require_password`] was called.
    pub fn app_url_with(&self, password: &str) -> String {
        self.url(&format!("{}_app:{password}", self.service))
    }

    /// URL of the superuser, whom row-level security does not bind.
    pub fn superuser_url(&self) -> String {
        self.url("postgres")
    }

    /// Applies the sets of migrations in `migrations/<set>/`, as the service's `migrate` does.
    ///
    /// # Panics
    /// When one cannot be applied.
    pub async fn migrate(&self, sets: &[&str]) {
        for set in sets {
            self.migrate_some(set, ..).await;
        }
    }

    /// Applies the migrations of a set at the given positions; the first has 0.
    ///
    /// # Panics
    /// When one cannot be applied.
    pub async fn migrate_some(&self, set: &str, which: impl RangeBounds<usize>) {
        let owner = self.owner().await;
        let folder = workspace_root().join("migrations").join(set);
        let entries = fs::read_dir(&folder).expect("every set has a folder");
        let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        for (_, file) in files
            .iter()
            .enumerate()
            .filter(|(place, _)| which.contains(place))
        {
            let sql = fs::read_to_string(file).expect("a migration is text");
            let mut session = owner.acquire().await.expect("the server is up");
            let role = format!("set weft.app_role = '{}_app'", self.service);
            run(&mut session, role).await;
            // Each file is sent alone: some migrations must not run in a transaction, which several statements at
            // once would make them.
            let applied = session.execute(AssertSqlSafe(sql)).await;
            applied.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        }
    }

    /// A small pool as the service's role, for tests of what it may see.
    pub async fn app(&self) -> PgPool {
        self.pool(&format!("{}_app", self.service)).await
    }

    /// A small pool as the owner of the schema.
    pub async fn owner(&self) -> PgPool {
        self.pool(&format!("{}_owner", self.service)).await
    }

    /// A small pool as the superuser.
    pub async fn superuser(&self) -> PgPool {
        self.pool("postgres").await
    }

    /// Runs a query without parameters as the superuser and returns its one number: `database.count("select
    /// count(*) from orders.orders").await`.
    ///
    /// # Panics
    /// When the query fails or returns no bigint.
    pub async fn count(&self, query: &str) -> i64 {
        let mut connection = self.server.connect(&self.name).await.expect("the server is up");
        let count = sqlx::query_scalar(AssertSqlSafe(query))
            .fetch_one(&mut connection)
            .await;
        count.unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    /// Empties a table and keeps its file from growing, as on a full disk: PostgreSQL fails to extend it with
    /// SQLSTATE 53100. Truncating the table gives it a new file and ends this.
    pub async fn fill_disk_under(&self, table: &str) {
        let superuser = self.superuser().await;
        // The lock keeps other sessions from the new file until `/dev/full` stands in its place.
        let mut emptying = superuser.begin().await.expect("the server is up");
        run(&mut emptying, format!("truncate {table}")).await;
        let path = format!("select pg_relation_filepath('{table}')");
        let path: String = sqlx::query_scalar(AssertSqlSafe(path))
            .fetch_one(&mut *emptying)
            .await
            .expect("the table is there");
        let file = self.server.folder.path().join("data").join(path);
        fs::remove_file(&file).expect("the folder is the test's own");
        symlink("/dev/full", &file).expect("the folder is the test's own");
        emptying.commit().await.expect("the server is up");
    }

    fn url(&self, role: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/{}", self.server.port, self.name)
    }

    async fn pool(&self, role: &str) -> PgPool {
        let options = self.server.options(&self.name, role).disable_statement_logging();
        PgPoolOptions::new()
            .max_connections(4)
            .acquire_timeout(ACQUIRE)
            .connect_with(options)
            .await
            .expect("the server is up")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Dropping a database needs a connection, and a destructor cannot wait for one.
        self.server.discarded().push(std::mem::take(&mut self.name));
    }
}

async fn run(connection: &mut PgConnection, statement: String) {
    let done = connection.execute(AssertSqlSafe(statement.clone())).await;
    done.unwrap_or_else(|error| panic!("{statement}: {error}"));
}
