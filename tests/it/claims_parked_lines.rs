//! Remittance lines that arrive before their claim is submitted, and are booked when it is.

use proto::claims::v1::{ParkedReason, ParkedResolution};
use tests::Service;

use crate::{
    claims_fixture::{Fixture, advice, file, fils, parked, reason, resolve},
    claims_remittance_files::{get, outcome},
    samples,
};

#[tokio::test(flavor = "multi_thread")]
async fn early_lines_that_repeat_one_another_are_booked_once_when_their_claim_is_filed() {
    let fixture = Fixture::start().await;
    let document = file(&[advice("CLM-1", &[("A1", "100", "40", "PRCE-001")])]);
    let early = fixture.import(&document).await.unwrap();
    assert_eq!(outcome(&early), "parked 1");
    let again = fixture.import(&document.replace("><", ">\r\n<")).await.unwrap();
    assert_eq!(outcome(&again), "repeated 1 REPEATED");
    let id = parked(&fixture.claims, ParkedReason::Early).await[0].id;
    let refused = resolve(&fixture.claims, id, ParkedResolution::Book)
        .await
        .unwrap_err();
    assert_eq!(reason(&refused), "CLAIM_NOT_FILED");
    let claim = fixture.filed(samples::claim("CLM-1")).await;
    assert_eq!(fils(claim.net_paid.as_ref()), 4_000);
    assert!(parked(&fixture.claims, ParkedReason::Early).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_is_not_left_behind_by_a_claim_that_is_filed_while_it_is_parked() {
    let fixture = Fixture::start().await;
    // The import has found no claim, and is blocked from writing its lines while the claim is submitted.
    let owner = fixture.stack.database(Service::Claims).owner().await;
    let mut blocked = owner.begin().await.unwrap();
    sqlx::query("lock table claims.remittance_claim in exclusive mode")
        .execute(&mut *blocked)
        .await
        .unwrap();
    let document = file(&[advice("CLM-1", &[("A1", "100", "40", "PRCE-001")])]);
    let importing = fixture.import(&document);
    let filing = async {
        let waits = "select count(*) from pg_locks where relation = 'claims.remittance_claim'::regclass and not granted";
        tests::eventually(std::time::Duration::from_secs(20), || async {
            fixture.count(waits).await == 1
        })
        .await;
        let filing = fixture.filed(samples::claim("CLM-1"));
        let release = async {
            let queued = "select count(*) from pg_locks where locktype = 'advisory' and not granted";
            tests::eventually(std::time::Duration::from_secs(20), || async {
                fixture.count(queued).await >= 1
            })
            .await;
            blocked.rollback().await.unwrap();
        };
        tokio::join!(filing, release).0
    };
    let (report, claim) = tokio::join!(importing, filing);
    assert_eq!(report.unwrap().parked_lines, 1);
    assert_eq!(
        fils(get(&fixture.claims, &claim.id).await.net_paid.as_ref()),
        4_000
    );
    assert!(
        parked(&fixture.claims, ParkedReason::Unspecified)
            .await
            .is_empty()
    );
}
