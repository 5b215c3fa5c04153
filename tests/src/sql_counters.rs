//! Cost of statements by PostgreSQL's own counters: statements, plans, rows, WAL and commits.
//!
//! Two readings are subtracted from each other. `pg_stat_statements` and the WAL are exact at once; a session
//! reports its commits and rows when it ends, or at the latest [`REPORTED_WITHIN`] after it became idle.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use sqlx::{AssertSqlSafe, Executor as _, PgPool, Row as _, postgres::PgRow};

/// Server settings that are required to count statements.
pub const SETTINGS: [&str; 4] = [
    "shared_preload_libraries=pg_stat_statements",
    "pg_stat_statements.track=all",
    "pg_stat_statements.track_planning=on",
    "pg_stat_statements.max=10000",
];

/// How long an idle session may delay the report of its commits and rows (`PGSTAT_IDLE_INTERVAL`).
pub const REPORTED_WITHIN: Duration = Duration::from_secs(10);

/// A reading of a server's counters, or the difference of two.
#[derive(Clone, Debug, Default)]
pub struct SqlCounters {
    statements: BTreeMap<Key, Statement>,
    tables: BTreeMap<(String, String), Table>,
    /// Commits by service, including those that wrote nothing.
    pub commits: BTreeMap<String, i64>,
    /// WAL of the whole server.
    pub wal: Wal,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    service: String,
    role: i64,
    query_id: i64,
    top_level: bool,
}

/// One statement, with constants replaced by parameters.
#[derive(Clone, Debug, Serialize)]
pub struct Statement {
    /// The service of the database it ran in.
    pub service: String,
    /// Its text, in one line.
    pub text: String,
    /// Whether a client sent it; otherwise a function or trigger ran it.
    pub top_level: bool,
    /// How often it ran.
    pub calls: i64,
    /// How often it was planned.
    pub plans: i64,
    /// Rows returned or changed.
    pub rows: i64,
    /// Planning and execution time, including statements inside it.
    pub milliseconds: f64,
    /// Bytes written to the WAL, including statements inside it.
    pub wal_bytes: i64,
}

/// Row changes of one table.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Table {
    /// Rows inserted.
    pub inserted: i64,
    /// Rows updated.
    pub updated: i64,
    /// Heap-only updates among these, which wrote no index entry.
    pub hot_updated: i64,
    /// Rows deleted.
    pub deleted: i64,
    /// Dead rows at the time of the later reading.
    pub dead: i64,
}

/// WAL written by the server.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Wal {
    /// Bytes, from the WAL position.
    pub bytes: i64,
    /// Records.
    pub records: i64,
    /// Full page images.
    pub full_pages: i64,
    /// Number of syncs to disk.
    pub syncs: i64,
}

const STATEMENTS: &str = "
    select s.userid::bigint as role, s.queryid, s.toplevel, regexp_replace(s.query, '\\s+', ' ', 'g') as text, s.calls,
           s.plans, s.rows, s.total_plan_time + s.total_exec_time as milliseconds, s.wal_bytes::bigint as wal_bytes
    from pg_stat_statements s
    where s.dbid = (select oid from pg_database where datname = current_database())
      and s.userid <> (select oid from pg_roles where rolname = current_user)";

const TABLES: &str = "
    select schemaname || '.' || relname as name, n_tup_ins, n_tup_upd, n_tup_hot_upd, n_tup_del, n_dead_tup
    from pg_stat_user_tables";

const WAL: &str = "
    select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint, wal_records, wal_fpi, wal_sync from pg_stat_wal";

impl SqlCounters {
    /// Creates the extension that [`SqlCounters::read`] needs in each service's database. The pools are a
    /// superuser's.
    ///
    /// # Errors
    /// When the server was not started with [`SETTINGS`].
    pub async fn prepare(databases: &BTreeMap<String, PgPool>) -> sqlx::Result<()> {
        for pool in databases.values() {
            pool.execute("create extension if not exists pg_stat_statements")
                .await?;
        }
        Ok(())
    }

    /// Reads the counters of the services' databases. The superuser's own statements are not counted.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn read(databases: &BTreeMap<String, PgPool>) -> sqlx::Result<SqlCounters> {
        let mut read = SqlCounters::default();
        for (service, pool) in databases {
            for row in pool.fetch_all(STATEMENTS).await? {
                let (key, statement) = statement(service, &row)?;
                read.statements.insert(key, statement);
            }
            for row in pool.fetch_all(TABLES).await? {
                let table = Table {
                    inserted: row.try_get(1)?,
                    updated: row.try_get(2)?,
                    hot_updated: row.try_get(3)?,
                    deleted: row.try_get(4)?,
                    dead: row.try_get(5)?,
                };
                read.tables.insert((service.clone(), row.try_get(0)?), table);
            }
            let commits = "select xact_commit from pg_stat_database where datname = current_database()";
            let commits = pool.fetch_one(AssertSqlSafe(commits)).await?;
            read.commits.insert(service.clone(), commits.try_get(0)?);
            let wal = pool.fetch_one(WAL).await?;
            read.wal = Wal {
                bytes: wal.try_get(0)?,
                records: wal.try_get(1)?,
                full_pages: wal.try_get(2)?,
                syncs: wal.try_get(3)?,
            };
        }
        Ok(read)
    }

    /// The difference to an earlier reading.
    #[must_use]
    pub fn since(mut self, earlier: &SqlCounters) -> SqlCounters {
        for (key, statement) in &mut self.statements {
            if let Some(before) = earlier.statements.get(key) {
                statement.calls -= before.calls;
                statement.plans -= before.plans;
                statement.rows -= before.rows;
                statement.milliseconds -= before.milliseconds;
                statement.wal_bytes -= before.wal_bytes;
            }
        }
        self.statements.retain(|_, statement| statement.calls > 0);
        for (key, table) in &mut self.tables {
            if let Some(before) = earlier.tables.get(key) {
                table.inserted -= before.inserted;
                table.updated -= before.updated;
                table.hot_updated -= before.hot_updated;
                table.deleted -= before.deleted;
            }
        }
        for (service, commits) in &mut self.commits {
            *commits -= earlier.commits.get(service).copied().unwrap_or_default();
        }
        self.wal.bytes -= earlier.wal.bytes;
        self.wal.records -= earlier.wal.records;
        self.wal.full_pages -= earlier.wal.full_pages;
        self.wal.syncs -= earlier.wal.syncs;
        self
    }

    /// Takes the statements and the WAL, which are exact at once, from an earlier reading, where this one had to
    /// wait for the rest.
    pub fn take_statements_and_wal(&mut self, earlier: SqlCounters) {
        self.statements = earlier.statements;
        self.wal = earlier.wal;
    }

    /// The statements, the longest total time first.
    pub fn statements(&self) -> Vec<&Statement> {
        let mut all: Vec<_> = self.statements.values().collect();
        all.sort_by(|one, other| other.milliseconds.total_cmp(&one.milliseconds));
        all
    }

    /// The tables by service and name.
    pub fn tables(&self) -> impl Iterator<Item = (&str, &str, &Table)> {
        let tables = self.tables.iter();
        tables.map(|((service, name), table)| (service.as_str(), name.as_str(), table))
    }

    /// The sum over all tables.
    pub fn rows(&self) -> Table {
        let mut sum = Table::default();
        for table in self.tables.values() {
            sum.inserted += table.inserted;
            sum.updated += table.updated;
            sum.hot_updated += table.hot_updated;
            sum.deleted += table.deleted;
            sum.dead += table.dead;
        }
        sum
    }
}

impl Table {
    /// Share of heap-only updates: 1 when there were no updates.
    pub fn hot_share(&self) -> f64 {
        if self.updated == 0 {
            1.0
        } else {
            self.hot_updated as f64 / self.updated as f64
        }
    }
}

fn statement(service: &str, row: &PgRow) -> sqlx::Result<(Key, Statement)> {
    let key = Key {
        service: service.to_owned(),
        role: row.try_get("role")?,
        query_id: row.try_get("queryid")?,
        top_level: row.try_get("toplevel")?,
    };
    let statement = Statement {
        service: service.to_owned(),
        text: row.try_get("text")?,
        top_level: key.top_level,
        calls: row.try_get("calls")?,
        plans: row.try_get("plans")?,
        rows: row.try_get("rows")?,
        milliseconds: row.try_get("milliseconds")?,
        wal_bytes: row.try_get("wal_bytes")?,
    };
    Ok((key, statement))
}
