//! How errors of PostgreSQL are mapped: one table for calls and consumers.

use chassis::{postgres::Fault, status};
use events::HandlerError;
use sqlx::{AssertSqlSafe, PgPool};
use tests::Postgres;
use tonic::Code;
use tonic_types::StatusExt as _;

async fn raised(pool: &PgPool, sqlstate: &str) -> sqlx::Error {
    let raise = format!("do $$ begin raise sqlstate '{sqlstate}' using message = 'as a test'; end $$");
    sqlx::query(AssertSqlSafe(raise)).execute(pool).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_class_of_sqlstate_has_one_meaning_for_callers_and_consumers() {
    let server = Postgres::shared().await;
    let database = server.database("order").await;
    let pool = database.app().await;
    let outage = (Code::Unavailable, "DATABASE_UNAVAILABLE");
    let table: &[(&[&str], Fault, (Code, &str))] = &[
        (&["08006", "08P01"], Fault::Outage, outage),
        (&["28000", "28P01", "3D000", "25006"], Fault::Outage, outage),
        (&["53100", "53200", "53300", "53400"], Fault::Outage, outage),
        (
            &["57P01", "57P02", "57P03", "57P05", "58030"],
            Fault::Outage,
            outage,
        ),
        // A database that lacks a migration.
        (&["42P01", "42703", "42883", "3F000"], Fault::Outage, outage),
        (
            &["40001", "40P01", "55P03"],
            Fault::Contention,
            (Code::Aborted, "LOST_RACE"),
        ),
        (
            &["57014", "25P03"],
            Fault::Timeout,
            (Code::Unavailable, "DATABASE_SLOW"),
        ),
        (
            &["26000", "42P05"],
            Fault::StalePlan,
            (Code::Unavailable, "DATABASE_PLAN_CHANGED"),
        ),
        (
            &["22001", "22003", "22021", "22P02", "54000"],
            Fault::Refused,
            (Code::InvalidArgument, "INVALID_REQUEST"),
        ),
        (
            &["23502", "23503", "23514", "23P01"],
            Fault::Refused,
            (Code::FailedPrecondition, "CONSTRAINT_VIOLATED"),
        ),
        (
            &["23505"],
            Fault::Refused,
            (Code::AlreadyExists, "ALREADY_EXISTS"),
        ),
        (
            &["42501", "42601", "P0001", "0A000", "XX000"],
            Fault::Bug,
            (Code::Internal, "INTERNAL"),
        ),
    ];
    for (codes, fault, (code, reason)) in table {
        for sqlstate in *codes {
            let error = raised(&pool, sqlstate).await;
            assert_eq!(Fault::classify(&error), *fault, "{sqlstate}");
            let status = status::database(&error);
            let actual = status
                .get_error_details()
                .error_info()
                .map(|info| info.reason.clone());
            assert_eq!(
                (status.code(), actual.as_deref()),
                (*code, Some(*reason)),
                "{sqlstate}"
            );
            let may_come_again = status.get_error_details().retry_info().is_some();
            assert_eq!(may_come_again, fault.is_transient(), "{sqlstate}: {status:?}");
            assert!(!status.message().contains("as a test"), "{status:?}");
            let waits = matches!(HandlerError::from(error), HandlerError::Unavailable(..));
            assert_eq!(waits, fault.is_transient(), "{sqlstate}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_postgresql_cannot_store_is_refused_for_good() {
    let server = Postgres::shared().await;
    let database = server.database("order").await;
    let pool = database.app().await;
    let error = sqlx::query("select $1::text")
        .bind("a\0b")
        .execute(&pool)
        .await
        .unwrap_err();
    assert_eq!(status::database(&error).code(), Code::InvalidArgument);
    assert!(matches!(HandlerError::from(error), HandlerError::Permanent(..)));
}
