//! No claim of one facility is visible to another: neither through the API nor through SQL with the service's
//! role.

use proto::claims::v1::{GetClaimRequest, ListClaimsRequest, SubmitClaimRequest};
use sqlx::{AssertSqlSafe, PgPool};
use tests::Service;
use tonic::Code;
use uuid::Uuid;

use crate::{
    claims_fixture::{Fixture, advice, file},
    samples,
};

const TABLES: [&str; 9] = [
    "claim",
    "resubmission",
    "tombstone",
    "remittance_file",
    "remittance_claim",
    "remittance_line",
    "parked_line",
    "held_line",
    "sandbox_filing",
];

#[tokio::test(flavor = "multi_thread")]
async fn another_facilitys_claim_is_not_found_through_the_api() {
    let fixture = Fixture::start().await;
    let claim = fixture.filed(samples::claim("CLM-1")).await;
    let mut elsewhere = fixture.elsewhere();
    let by_id = GetClaimRequest {
        id: claim.id.clone(),
        ..GetClaimRequest::default()
    };
    let by_number = GetClaimRequest {
        provider_id: "TEST-FAC-1".to_owned(),
        claim_id: "CLM-1".to_owned(),
        ..GetClaimRequest::default()
    };
    for request in [by_id, by_number.clone()] {
        assert_eq!(
            elsewhere.get_claim(request).await.unwrap_err().code(),
            Code::NotFound
        );
    }
    let submit = SubmitClaimRequest {
        request_id: Uuid::new_v4().to_string(),
        id: claim.id.clone(),
    };
    assert_eq!(
        elsewhere.submit_claim(submit).await.unwrap_err().code(),
        Code::NotFound
    );
    let listed = elsewhere
        .list_claims(ListClaimsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(listed.claims.is_empty());

    let ours = fixture
        .claims
        .clone()
        .get_claim(by_number)
        .await
        .unwrap()
        .into_inner()
        .claim
        .unwrap();
    assert_eq!(ours.id, claim.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_services_role_sees_no_row_without_its_facility_and_changes_no_line() {
    let fixture = Fixture::start().await;
    fixture.filed(samples::claim("CLM-1")).await;
    let lines = [("A1", "100", "100", ""), ("A9", "5", "5", "")];
    fixture.import(&file(&[advice("CLM-1", &lines)])).await.unwrap();

    let app = fixture.stack.database(Service::Claims).app().await;
    for table in TABLES {
        assert_eq!(seen(&app, "", table).await, 0, "{table} without a facility");
        assert_eq!(
            seen(&app, "al-qamar", table).await,
            0,
            "{table} as another facility"
        );
    }
    for table in [
        "claim",
        "remittance_line",
        "remittance_file",
        "parked_line",
        "sandbox_filing",
    ] {
        assert_eq!(
            seen(&app, "al-noor", table).await,
            1,
            "{table} as its own facility"
        );
    }

    let superuser = fixture.stack.database(Service::Claims).superuser().await;
    for change in [
        "update claims.remittance_line set payment = 0",
        "delete from claims.remittance_line",
    ] {
        let refused = sqlx::query(change).execute(&superuser).await.unwrap_err();
        assert!(refused.to_string().contains("append-only"), "{refused}");
    }
}

async fn seen(app: &PgPool, facility: &str, table: &str) -> i64 {
    let mut tx = app.begin().await.unwrap();
    sqlx::query("select set_config('weft.facility', $1, true)")
        .bind(facility)
        .execute(&mut *tx)
        .await
        .unwrap();
    let query = format!("select count(*) from claims.{table}");
    sqlx::query_scalar(AssertSqlSafe(query))
        .fetch_one(&mut *tx)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_go_through_all_claims_once_newest_first() {
    let fixture = Fixture::start().await;
    let mut filed = Vec::new();
    for number in 0..5 {
        filed.push(fixture.filed(samples::claim(&format!("CLM-{number}"))).await.id);
    }
    filed.reverse();
    let (mut listed, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListClaimsRequest {
            page_size: 2,
            page_token,
            ..ListClaimsRequest::default()
        };
        let page = fixture
            .claims
            .clone()
            .list_claims(request)
            .await
            .unwrap()
            .into_inner();
        assert!(page.claims.len() <= 2);
        listed.extend(page.claims.into_iter().map(|claim| claim.id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, filed);
}
