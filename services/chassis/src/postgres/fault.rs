//! What an error of the database means for the work that met it: the one table from SQLSTATE to meaning.
//!
//! Calls, event consumers, workers, the audit writer and imports all decide by [`Fault::classify`]; nothing else in the
//! workspace reads a class of SQLSTATE. Constraints that callers can break are turned into errors of the domain before.
//! The codes are those of <https://www.postgresql.org/docs/current/errcodes-appendix.html>.

use std::sync::LazyLock;

use sqlx::{
    Error,
    error::DatabaseError,
    postgres::{PgDatabaseError, PgSeverity},
};

use super::SharedInstant;

/// What an error of the database means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The database cannot be used now: unreachable, stopping, full, read-only, without the role, the right or the
    /// schema that this service needs. It says nothing about what was asked. Wait until it is back.
    Outage,
    /// Another transaction was in the way: a lock, a deadlock, a serialization failure. Once more.
    Contention,
    /// The statement or the transaction ran into its limit of time. Once more, later.
    Timeout,
    /// A prepared statement does not fit the schema any more, or is gone. The sessions that may hold such a statement
    /// are closed when the pool hands them out next. Once more, at once.
    StalePlan,
    /// The data is refused, and will be refused every time.
    Refused,
    /// Neither the database's state nor the data is to blame.
    Bug,
}

impl Fault {
    /// The meaning of `error`. Sessions that `error` gives a reason to doubt are not used again.
    pub fn classify(error: &Error) -> Fault {
        match error {
            Error::Database(inner) => {
                let fault = classify_database_error(&**inner);
                invalidate_sessions(fault, &inner.code().unwrap_or_default());
                fault
            }
            // A protocol error leaves a session that nobody can use; the others end or never begin one.
            Error::Io(_)
            | Error::Tls(_)
            | Error::Protocol(_)
            | Error::PoolTimedOut
            | Error::PoolClosed
            | Error::WorkerCrashed
            | Error::BeginFailed => Fault::Outage,
            _ => Fault::Bug,
        }
    }

    /// Whether the same work may succeed when it is done again, without any change to it.
    pub fn is_transient(self) -> bool {
        match self {
            Fault::Outage | Fault::Contention | Fault::Timeout | Fault::StalePlan => true,
            Fault::Refused | Fault::Bug => false,
        }
    }
}

/// The server has refused a write because it or the transaction is read-only.
const READ_ONLY: &str = "25006";

/// Whether the server takes reads only: a standby, or a primary that was fenced off.
pub fn is_read_only(error: &Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    code.is_some_and(|code| code == READ_ONLY)
}

fn classify_database_error(error: &dyn DatabaseError) -> Fault {
    let severity = error
        .try_downcast_ref::<PgDatabaseError>()
        .map(PgDatabaseError::severity);
    // The session has ended, or was not let in, for whatever reason: logged out, database gone, too many sessions.
    if matches!(severity, Some(PgSeverity::Fatal | PgSeverity::Panic)) {
        return Fault::Outage;
    }
    classify_code(&error.code().unwrap_or_default(), error.message())
}

fn classify_code(code: &str, message: &str) -> Fault {
    match code {
        // query_canceled: by statement_timeout, or by an administrator. 25P03, 25P04: idle or too long in a transaction.
        "57014" | "25P03" | "25P04" => return Fault::Timeout,
        // lock_not_available, object_in_use
        "55P03" | "55006" => return Fault::Contention,
        // The only feature_not_supported that passes; the others are statements that no server takes.
        "0A000" if message.contains("cached plan") => return Fault::StalePlan,
        // invalid_sql_statement_name, duplicate_prepared_statement: the session is not the one that we prepared in.
        "26000" | "42P05" => return Fault::StalePlan,
        READ_ONLY => return Fault::Outage,
        // transaction_integrity_constraint_violation
        "40002" => return Fault::Refused,
        // program_limit_exceeded: a value too large for an index, for one
        "54000" => return Fault::Refused,
        // Undefined table, column, function, object, schema: statements are checked against the migrations when they are
        // compiled, so the database is behind them. `migrate` mends it.
        "42P01" | "42703" | "42883" | "42704" | "3F000" => return Fault::Outage,
        _ => {}
    }
    match code.get(..2).unwrap_or_default() {
        // Connection, authorization, catalog name, resources, operator intervention, system and configuration trouble.
        "08" | "28" | "3D" | "53" | "57" | "58" | "F0" => Fault::Outage,
        "40" => Fault::Contention,
        // Data exception, integrity constraint violation.
        "22" | "23" => Fault::Refused,
        _ => Fault::Bug,
    }
}

/// When sessions of before were last found to be of no more use. It belongs to the process: an error does not say which
/// session it came from, and is judged where no pool is at hand.
static INVALIDATED_AT: LazyLock<SharedInstant> = LazyLock::new(SharedInstant::default);

/// A read-only server refuses many at once; its sessions are closed once in this time.
const READ_ONLY_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

fn invalidate_sessions(fault: Fault, code: &str) {
    let read_only = code == READ_ONLY
        && INVALIDATED_AT
            .elapsed()
            .is_none_or(|since| since > READ_ONLY_INTERVAL);
    if fault == Fault::StalePlan || read_only {
        INVALIDATED_AT.set_now();
    }
}

/// Whether a session of this age may hold a stale statement or lead to a server that was given up.
pub(super) fn is_invalidated(age: std::time::Duration) -> bool {
    INVALIDATED_AT.elapsed().is_some_and(|since| age >= since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_of_sqlstate_has_one_meaning() {
        let cases = [
            (Fault::Outage, "08000 08003 08006 08P01 28000 28P01 3D000"),
            (Fault::Outage, "53000 53100 53200 53300 53400 58000 58030 F0000"),
            (Fault::Outage, "57000 57P01 57P02 57P03 57P04 57P05 25006"),
            (Fault::Outage, "42P01 42703 42883 42704 3F000"),
            (Fault::Contention, "40000 40001 40003 40P01 55P03 55006"),
            (Fault::Timeout, "57014 25P03 25P04"),
            (Fault::StalePlan, "26000 42P05"),
            (Fault::Refused, "22001 22003 22021 22P02 22P05 23502 23503"),
            (Fault::Refused, "23505 23514 23P01 40002 54000"),
            (
                Fault::Bug,
                "0A000 21000 25001 25P02 42501 42601 P0001 XX000 XX001 ",
            ),
        ];
        for (fault, codes) in cases {
            for code in codes.split(' ') {
                assert_eq!(classify_code(code, ""), fault, "{code}");
            }
        }
    }

    #[test]
    fn a_changed_result_type_is_told_from_what_no_server_supports() {
        let changed = "cached plan must not change result type";
        assert_eq!(classify_code("0A000", changed), Fault::StalePlan);
        assert_eq!(
            classify_code("0A000", "cannot truncate a foreign table"),
            Fault::Bug
        );
    }

    #[test]
    fn only_what_is_refused_and_bugs_do_not_pass() {
        assert!(Fault::classify(&Error::PoolTimedOut).is_transient());
        assert!(Fault::classify(&Error::Io(std::io::ErrorKind::ConnectionReset.into())).is_transient());
        assert!(!Fault::classify(&Error::RowNotFound).is_transient());
        assert!(!Fault::Refused.is_transient() && Fault::Contention.is_transient());
    }
}
