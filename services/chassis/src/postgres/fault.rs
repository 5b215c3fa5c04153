//! Classifies database errors: the only table from SQLSTATE to meaning.
//!
//! Calls, event consumers, workers, the audit writer and imports decide by [`Fault::classify`]; no other code in
//! the workspace interprets classes of SQLSTATE. Violations of constraints by callers are mapped to domain errors
//! before. The codes are those of <https://www.postgresql.org/docs/current/errcodes-appendix.html>.

use std::sync::LazyLock;

use sqlx::{
    Error,
    error::DatabaseError,
    postgres::{PgDatabaseError, PgSeverity},
};

use super::SharedInstant;

/// The class of a database error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The database is unavailable: unreachable, stopping, full, read-only, or without the role, permission or
    /// schema that the service needs. The error does not concern the request. Wait until the database is back.
    Outage,
    /// A conflict with another transaction: a lock, a deadlock, a serialization failure. Retry.
    Contention,
    /// The statement or the transaction reached its time limit. Retry later.
    Timeout,
    /// A prepared statement does not match the schema any more, or is missing. The pool closes the sessions that
    /// may hold it. Retry at once.
    StalePlan,
    /// The data is rejected, and always will be.
    Refused,
    /// Any other error: a bug.
    Bug,
}

impl Fault {
    /// Classifies `error`. After a stale plan or a read-only error, older sessions are not used again.
    pub fn classify(error: &Error) -> Fault {
        match error {
            Error::Database(inner) => {
                let fault = classify_database_error(&**inner);
                invalidate_sessions(fault, &inner.code().unwrap_or_default());
                fault
            }
            // A protocol error makes the session unusable; the others end it or prevent it.
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

    /// Whether the same work may succeed when it is repeated unchanged.
    pub fn is_transient(self) -> bool {
        match self {
            Fault::Outage | Fault::Contention | Fault::Timeout | Fault::StalePlan => true,
            Fault::Refused | Fault::Bug => false,
        }
    }
}

/// read_only_sql_transaction: the server or the transaction is read-only.
const READ_ONLY: &str = "25006";

/// Whether the server is read-only: a standby, or a fenced former primary.
pub fn is_read_only(error: &Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    code.is_some_and(|code| code == READ_ONLY)
}

fn classify_database_error(error: &dyn DatabaseError) -> Fault {
    let severity = error
        .try_downcast_ref::<PgDatabaseError>()
        .map(PgDatabaseError::severity);
    // The session has ended or was rejected, for any reason: login, missing database, too many sessions.
    if matches!(severity, Some(PgSeverity::Fatal | PgSeverity::Panic)) {
        return Fault::Outage;
    }
    classify_code(&error.code().unwrap_or_default(), error.message())
}

fn classify_code(code: &str, message: &str) -> Fault {
    match code {
        // query_canceled: by statement_timeout, or by an administrator. 25P03, 25P04: idle or transaction timeout.
        "57014" | "25P03" | "25P04" => return Fault::Timeout,
        // lock_not_available, object_in_use
        "55P03" | "55006" => return Fault::Contention,
        // The only transient feature_not_supported; all others are unsupported statements.
        "0A000" if message.contains("cached plan") => return Fault::StalePlan,
        // invalid_sql_statement_name, duplicate_prepared_statement: not the session in which we prepared.
        "26000" | "42P05" => return Fault::StalePlan,
        READ_ONLY => return Fault::Outage,
        // transaction_integrity_constraint_violation
        "40002" => return Fault::Refused,
        // program_limit_exceeded: for example, a value too large for an index
        "54000" => return Fault::Refused,
        // Undefined table, column, function, object, schema: statements are checked against the migrations at
        // compile time, so the database is behind. `migrate` fixes it.
        "42P01" | "42703" | "42883" | "42704" | "3F000" => return Fault::Outage,
        _ => {}
    }
    match code.get(..2).unwrap_or_default() {
        // Connection, authorization, catalog name, resources, operator intervention, system and configuration
        // errors.
        "08" | "28" | "3D" | "53" | "57" | "58" | "F0" => Fault::Outage,
        "40" => Fault::Contention,
        // Data exception, integrity constraint violation.
        "22" | "23" => Fault::Refused,
        _ => Fault::Bug,
    }
}

/// When older sessions were last declared unusable. It is global to the process: an error does not carry its
/// session, and is classified where no pool is available.
static INVALIDATED_AT: LazyLock<SharedInstant> = LazyLock::new(SharedInstant::default);

/// A read-only server rejects many statements at once; its sessions are closed at most once in this time.
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

/// Whether a session of this age may hold a stale statement or be connected to a fenced server.
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
    fn a_changed_result_type_is_distinguished_from_unsupported_features() {
        let changed = "cached plan must not change result type";
        assert_eq!(classify_code("0A000", changed), Fault::StalePlan);
        assert_eq!(
            classify_code("0A000", "cannot truncate a foreign table"),
            Fault::Bug
        );
    }

    #[test]
    fn only_refused_data_and_bugs_are_permanent() {
        assert!(Fault::classify(&Error::PoolTimedOut).is_transient());
        assert!(Fault::classify(&Error::Io(std::io::ErrorKind::ConnectionReset.into())).is_transient());
        assert!(!Fault::classify(&Error::RowNotFound).is_transient());
        assert!(!Fault::Refused.is_transient() && Fault::Contention.is_transient());
    }
}
