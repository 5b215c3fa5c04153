//! Held and discarded lines are invisible to the previous version, which books every parked line.

use proto::claims::v1::{ClaimDetails, ParkedReason, ParkedResolution};
use tests::Postgres;
use tonic::Code;

use crate::{
    claims_fixture::{Fixture, advice, file, fils, parked, resolve},
    samples,
};

/// One early line is discarded, one waits, and one turns out to be another payer's when its claim is submitted.
#[tokio::test(flavor = "multi_thread")]
async fn the_previous_version_sees_only_the_early_lines() {
    let fixture = Fixture::start().await;
    for (number, claim) in ["GONE", "WAITS", "CLM-1"].into_iter().enumerate() {
        let document = file(&[advice(claim, &[("A1", "100", "40", "PRCE-001")])]);
        let document = document.replace("CHQ-1", &format!("CHQ-{number}"));
        fixture
            .import(&document.replace("TEST-TPA-1", "OTHER-TPA"))
            .await
            .unwrap();
    }
    let seen = "select count(*) from claims.parked_line";
    assert_eq!(fixture.count(seen).await, 3);
    let lines = parked(&fixture.claims, ParkedReason::Early).await;
    let gone = lines.iter().find(|line| line.claim_id == "GONE").unwrap();
    resolve(&fixture.claims, gone.id, ParkedResolution::Discard)
        .await
        .unwrap();
    assert_eq!(fixture.count(seen).await, 2);
    let again = resolve(&fixture.claims, gone.id, ParkedResolution::Discard).await;
    assert_eq!(again.unwrap_err().code(), Code::NotFound);

    let details = ClaimDetails {
        receiver_id: "TPA-OF-THE-FILE".to_owned(),
        ..samples::claim("CLM-1")
    };
    let claim = fixture.filed(details).await;
    assert_eq!(fils(claim.net_paid.as_ref()), 0);
    assert_eq!(fixture.count(seen).await, 1);
    let held = parked(&fixture.claims, ParkedReason::ForeignSender).await;
    let ids: Vec<_> = lines
        .iter()
        .filter(|line| line.claim_id == "CLM-1")
        .map(|line| line.id)
        .collect();
    assert_eq!(held.iter().map(|line| line.id).collect::<Vec<_>>(), ids);
    let all = parked(&fixture.claims, ParkedReason::Unspecified).await;
    assert_eq!(all.len(), 2, "newest first, of both tables: {all:?}");
    assert!(all[0].id > all[1].id);
    let booked = resolve(&fixture.claims, held[0].id, ParkedResolution::Book).await;
    assert_eq!(fils(booked.unwrap().unwrap().net_paid.as_ref()), 4_000);
}

/// A build between the two versions kept all lines in one table.
#[tokio::test]
async fn lines_that_were_held_or_discarded_before_the_migration_are_moved() {
    let server = Postgres::shared().await;
    let database = server.database("claims").await;
    database.migrate(&["chassis", "events"]).await;
    database.migrate_some("claims", ..5).await;
    let superuser = database.superuser().await;
    let rows = "insert into claims.remittance_file (id, facility, digest, file_name, state, report)
         values ('00000000-0000-4000-8000-000000000001', 'al-noor', sha256(''), 'f', 'ingested', '');
         insert into claims.parked_line (facility, provider_id, claim_id, id_payer, file, ordinal, line, activity_id,
             payment, currency, denial_code, payment_reference, settled_at, sender_id, reason, discarded_at)
         select 'al-noor', 'MF4252', c.claim, 'I', '00000000-0000-4000-8000-000000000001', 1, c.line, 'A1', 100, 'AED',
             '', 'CHQ', now(), 'TPA', c.reason, case when c.discarded then now() end
         from (values ('waits', 1, 'EARLY', false), ('gone', 2, 'EARLY', true), ('foreign', 3, 'FOREIGN_SENDER', false),
                      ('repeated', 4, 'REPEATED', true)) c (claim, line, reason, discarded)";
    sqlx::raw_sql(rows).execute(&superuser).await.unwrap();
    database.migrate_some("claims", 5..).await;
    let claims = async |query: &'static str| -> Vec<String> {
        sqlx::query_scalar(query).fetch_all(&superuser).await.unwrap()
    };
    assert_eq!(claims("select claim_id from claims.parked_line").await, ["waits"]);
    assert_eq!(
        claims("select claim_id from claims.held_line order by id").await,
        ["gone", "foreign", "repeated"]
    );
    assert_eq!(
        claims("select claim_id from claims.unbooked_line order by id").await,
        ["waits", "foreign"]
    );
}
