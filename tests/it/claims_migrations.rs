//! A filled database of the previous version is migrated while that version continues to serve.

use sqlx::PgPool;
use tests::{Database, Postgres};

/// Number of migrations of the previous version.
const BEFORE: usize = 6;

/// NUMBER-1 has a valid draft after two that were withdrawn before submission; NUMBER-2 was withdrawn after its
/// submission, and has a history.
const ROWS: &str = "insert into claims.claim (id, facility, order_id, provider_id, claim_id, payer_id, state, details,
         submitted_at, filing_epoch)
     select claim.id::uuid, 'al-noor', gen_random_uuid(), 'MF4252', claim.number, 'INS001', claim.state, '',
         case when claim.epoch > 0 then now() end, claim.epoch
     from (values ('00000000-0000-7000-8000-000000000001', 'NUMBER-1', 'WITHDRAWN', 0),
                  ('00000000-0000-7000-8000-000000000002', 'NUMBER-1', 'WITHDRAWN', 0),
                  ('00000000-0000-7000-8000-000000000003', 'NUMBER-1', 'VALIDATED', 0),
                  ('00000000-0000-7000-8000-000000000004', 'NUMBER-2', 'WITHDRAWN', 2)) claim (id, number, state, epoch);
     insert into claims.resubmission (facility, claim, cycle, type, comment, attachment)
     values ('al-noor', '00000000-0000-7000-8000-000000000004', 2, 1, 'again', '');
     insert into claims.remittance_file (id, facility, digest, file_name, state, report)
     values ('00000000-0000-4000-8000-000000000001', 'al-noor', sha256(''), 'f', 'ingested', '');
     insert into claims.remittance_line (facility, claim, file, ordinal, line, activity_id, payment, currency, denial_code,
         payment_reference, settled_at)
     values ('al-noor', '00000000-0000-7000-8000-000000000004', '00000000-0000-4000-8000-000000000001', 0, 0, 'A1', 100,
         'AED', '', 'CHQ', now())";

async fn previous_version() -> (Database, PgPool) {
    let server = Postgres::shared().await;
    let database = server.database("claims").await;
    database.migrate(&["chassis", "events"]).await;
    database.migrate_some("claims", ..BEFORE).await;
    let superuser = database.superuser().await;
    sqlx::raw_sql(ROWS).execute(&superuser).await.unwrap();
    (database, superuser)
}

/// Inserts a draft as the previous version does. Returns whether the number was free.
async fn draft(app: &PgPool, number: &str) -> bool {
    let mut tx = app.begin().await.unwrap();
    sqlx::raw_sql("select set_config('weft.facility', 'al-noor', true)")
        .execute(&mut *tx)
        .await
        .unwrap();
    let written = sqlx::query(
        "insert into claims.claim (id, facility, order_id, provider_id, claim_id, payer_id, state, details, version)
         values (gen_random_uuid(), 'al-noor', gen_random_uuid(), 'MF4252', $1, 'INS001', 'VALIDATED', '', 1)
         on conflict do nothing",
    )
    .bind(number)
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
    written.rows_affected() == 1
}

/// Withdraws the current claim of a number as the previous version does.
async fn withdraw(app: &PgPool, number: &str) {
    let mut tx = app.begin().await.unwrap();
    sqlx::raw_sql("select set_config('weft.facility', 'al-noor', true)")
        .execute(&mut *tx)
        .await
        .unwrap();
    sqlx::query(
        "update claims.claim set state = 'WITHDRAWN', version = version + 1, next_filing_at = null, updated_at = now(),
             filing_epoch = filing_epoch + case when filing_epoch > 0 then 1 else 0 end
         where claim_id = $1 and state <> 'WITHDRAWN'",
    )
    .bind(number)
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn claim_numbers_stay_reserved_or_free_through_the_migrations_and_after() {
    let (database, superuser) = previous_version().await;
    let app = database.app().await;
    for files in BEFORE..BEFORE + 10 {
        database.migrate_some("claims", files..=files).await;
        assert!(
            !draft(&app, "NUMBER-1").await && !draft(&app, "NUMBER-2").await,
            "after {files}"
        );
    }
    let freed: Vec<String> =
        sqlx::query_scalar("select right(id::text, 1) from claims.claim where freed = id order by id")
            .fetch_all(&superuser)
            .await
            .unwrap();
    assert_eq!(freed, ["1", "2"]);
    withdraw(&app, "NUMBER-1").await;
    assert!(draft(&app, "NUMBER-1").await, "it was never handed in");
    assert!(!draft(&app, "NUMBER-1").await, "once");
    // A history still belongs to an existing claim.
    let lost = sqlx::query("delete from claims.claim where claim_id = 'NUMBER-2'")
        .execute(&superuser)
        .await;
    assert!(lost.unwrap_err().to_string().contains("foreign key"));
}

#[tokio::test]
async fn a_lease_changes_no_column_of_an_index_on_claims() {
    let (database, superuser) = previous_version().await;
    database.migrate_some("claims", BEFORE..).await;
    let indexed: Vec<String> = sqlx::query_scalar(
        "select distinct c.relname || ' ' || a.attname
         from pg_index i
             join pg_class c on c.oid = i.indexrelid
             join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = i.indexrelid
                 and d.refobjid = i.indrelid and d.refobjsubid > 0
             join pg_attribute a on a.attrelid = i.indrelid and a.attnum = d.refobjsubid
         where i.indrelid = 'claims.claim'::regclass
             and a.attname in ('filing_epoch', 'filing_until', 'asks', 'submitted_at', 'version', 'updated_at')",
    )
    .fetch_all(&superuser)
    .await
    .unwrap();
    assert!(indexed.is_empty(), "{indexed:?}");
    let indexes: Vec<String> = sqlx::query_scalar(
        "select relname::text from pg_index join pg_class on oid = indexrelid
         where indrelid = 'claims.claim'::regclass and indisvalid order by relname",
    )
    .fetch_all(&superuser)
    .await
    .unwrap();
    assert_eq!(
        indexes,
        [
            "claim_due",
            "claim_number",
            "claim_order_once",
            "claim_payer",
            "claim_pkey",
            "claim_state"
        ]
    );
}
