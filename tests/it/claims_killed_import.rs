//! A remittance import that is killed resumes where it was: nothing is booked twice or left out.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tests::{Options, Service, eventually};
use uuid::Uuid;

use crate::{
    claims_fixture::{Fixture, advice, file, filed, fils, import},
    cli_fixture::Weft,
    samples,
};

const FILED: usize = 60;
const UNKNOWN: usize = 540;
const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_import_resumes_where_it_was_and_books_nothing_twice() {
    let fixture = Fixture::with(Options::default().set(Service::Claims, "import.concurrency", "1")).await;
    stream::iter(0..FILED)
        .for_each_concurrent(8, |number| {
            let claims = fixture.claims.clone();
            async move { drop(filed(&claims, samples::claim(&format!("CLM-{number}"))).await) }
        })
        .await;
    let document = mixed_file();
    let request_id = Uuid::new_v4().to_string();
    let cut_short = {
        let (claims, request_id, document) = (fixture.claims.clone(), request_id.clone(), document.clone());
        tokio::spawn(async move { import(&claims, &request_id, &document).await })
    };
    let done = "select count(*) from claims.remittance_claim";
    eventually(SOON, || async { fixture.count(done).await >= 30 }).await;
    fixture.stack.kill9(Service::Claims);
    assert!(cut_short.await.unwrap().is_err());
    let before = fixture.count(done).await;
    assert!(
        before < (FILED + UNKNOWN) as i64,
        "it was killed in the middle, not after {before} claims"
    );
    fixture.stack.restart(Service::Claims).await;

    let report = import(&fixture.claims, &request_id, &document)
        .await
        .unwrap()
        .report
        .unwrap();
    assert!(!report.duplicate);
    assert_eq!(
        (report.booked_lines, report.parked_lines),
        (FILED as i32, UNKNOWN as i32)
    );
    let sums = [&report.total, &report.booked, &report.parked, &report.refused].map(|sum| fils(sum.as_ref()));
    assert_eq!(sums, [60_000, 6_000, 54_000, 0]);
    assert_eq!(
        fixture
            .count("select sum(payment)::bigint from claims.remittance_line")
            .await,
        6_000
    );
    assert_eq!(
        fixture.count("select count(*) from claims.parked_line").await,
        UNKNOWN as i64
    );
    let published = "select count(*) from events.event_log where type = 'claims.v1.ClaimRemitted'";
    assert_eq!(fixture.count(published).await, FILED as i64);

    let again = import(&fixture.claims, &request_id, &document)
        .await
        .unwrap()
        .report
        .unwrap();
    assert_eq!(again, report, "the same request has the same answer");
}

/// A file that pays one dirham for each claim; every tenth claim was submitted.
fn mixed_file() -> String {
    let claims: Vec<String> = (0..FILED + UNKNOWN)
        .map(|place| match place % 10 {
            0 => format!("CLM-{}", place / 10),
            _ => format!("EARLY-{place}"),
        })
        .map(|claim_id| advice(&claim_id, &[("A1", "100", "1", "PRCE-001")]))
        .collect();
    file(&claims)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_retries_an_import_when_the_claims_service_is_killed() {
    let fixture = Fixture::with(Options::default().set(Service::Claims, "import.concurrency", "1")).await;
    let path = fixture.stack.folder().join("advice.xml");
    std::fs::write(&path, mixed_file()).unwrap();
    let path = path.display().to_string();
    let weft = Weft::new(&fixture.stack, "al-noor", &["biller"]);
    let kill = async {
        let done = "select count(*) from claims.remittance_claim";
        eventually(SOON, || async { fixture.count(done).await >= 30 }).await;
        fixture.stack.kill9(Service::Claims);
        let before = fixture.count(done).await;
        assert!(
            before < (FILED + UNKNOWN) as i64,
            "it was killed too late, after {before}"
        );
        fixture.stack.restart(Service::Claims).await;
    };
    let arguments = ["remittance", "import", &path];
    let (report, ()) = tokio::join!(weft.json(&arguments), kill);
    let report = &report["report"];
    assert_eq!(
        (&report["parkedLines"], &report["duplicate"]),
        (&(FILED + UNKNOWN).into(), &false.into())
    );
    let parked = fixture.count("select count(*) from claims.parked_line").await;
    assert_eq!(parked, (FILED + UNKNOWN) as i64);
    assert_eq!(weft.json(&arguments).await["report"]["duplicate"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_of_one_file_at_once_book_it_once() {
    let fixture = Fixture::start().await;
    fixture.filed(samples::claim("CLM-0")).await;
    let document = mixed_file();
    let request_id = Uuid::new_v4().to_string();
    let same = (0..4).map(|_| import(&fixture.claims, &request_id, &document));
    let answers = futures_util::future::join_all(same).await;
    let first = answers[0].as_ref().unwrap();
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap() == first));
    assert_eq!(
        fixture
            .count("select sum(payment)::bigint from claims.remittance_line")
            .await,
        100
    );
    assert_eq!(
        fixture
            .count("select count(*) from events.event_log where type like '%.File%'")
            .await,
        1
    );
}
