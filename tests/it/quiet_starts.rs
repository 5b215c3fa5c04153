//! What is passing at a start is no warning in a service's log; what lasts, or is lost, is one.

use std::time::Duration;

use serde_json::Value;
use tests::{Options, Service, Stack, eventually};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

const LONG: Duration = Duration::from_secs(60);
/// How long an endpoint may take to start.
const TOLERATED: time::Duration = time::Duration::seconds(10);

/// A line of the order service's log about an endpoint of another service.
#[derive(Clone, Debug)]
struct Told {
    at: OffsetDateTime,
    warns: bool,
    endpoint: String,
}

fn told(stack: &Stack) -> Vec<Told> {
    let log = stack.log(Service::Order);
    let lines = log.lines().filter_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        line["message"]
            .as_str()?
            .starts_with("endpoint takes no calls")
            .then(|| Told {
                at: OffsetDateTime::parse(line["time"].as_str().unwrap(), &Rfc3339).unwrap(),
                warns: line["level"] == "WARN",
                endpoint: line["server.address"].as_str().unwrap().to_owned(),
            })
    });
    lines.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_starts_late_is_a_warning_only_when_it_takes_long_and_a_lost_one_at_once() {
    let options = Options::default().only(&[Service::Order, Service::Payment]);
    let stack = Stack::with(options).await;
    let late = eventually(LONG, || async {
        let told = told(&stack);
        told.iter()
            .find(|told| told.warns)
            .cloned()
            .ok_or_else(|| format!("{told:?}"))
    })
    .await;
    let before = told(&stack);
    let first = before.iter().find(|told| told.endpoint == late.endpoint).unwrap();
    assert!(!first.warns && late.at - first.at >= TOLERATED, "{before:?}");

    stack.kill9(Service::Payment);
    let lost = eventually(LONG, || async {
        let told = told(&stack);
        told.iter()
            .find(|told| told.warns && told.endpoint != late.endpoint)
            .cloned()
            .ok_or_else(|| format!("{told:?}"))
    })
    .await;
    let gently = |all: &[Told]| {
        all.iter()
            .filter(|told| !told.warns && told.endpoint == lost.endpoint)
            .count()
    };
    assert_eq!(
        gently(&told(&stack)),
        gently(&before),
        "it is told as if it were starting"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_a_collector_logs_no_error() {
    let stack = Stack::start().await;
    for service in Service::ALL {
        let log = stack.log(service);
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let (errors, others): (Vec<_>, Vec<_>) = lines.partition(|line| line["level"] == "ERROR");
        assert!(!others.is_empty(), "{service} logs nothing");
        assert!(errors.is_empty(), "{service}: {errors:?}");
    }
}
